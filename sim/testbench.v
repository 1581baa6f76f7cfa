// External memory and bench around the generated core, for sim/bench_core.py.
//
// Plusargs: memory=FILE (readmemh, before the first run), latency=CYCLES, stalls=SEED (each handshake waits a cycle with probability 1/4, again
// and again; the bench then keeps the stream rules), error=BEAT (reads and writes of that beat answer error), trace (write the trace files).

// Accepts every request at once. A read's first beat comes `latency` cycles after the request was accepted, or right after the burst before it,
// then a beat a cycle. Written beats are accepted from the cycle after their request on, a beat a cycle; the response comes `latency` cycles
// after the last one. A beat beyond the memory answers error, too.
module external_memory #(
    parameter PORT_BYTES = 16,
    parameter ADDRESS_BITS = 32,
    parameter BEATS = 1024,
    parameter DEPTH = 256
) (
    input wire clk,
    input wire rst,
    input wire load,
    input wire dump,
    input wire [31:0] run,
    input wire read_request__valid,
    output wire read_request__ready,
    input wire [ADDRESS_BITS+5:0] read_request__payload,
    output wire read_data__valid,
    input wire read_data__ready,
    output wire [8*PORT_BYTES:0] read_data__payload,
    input wire write_request__valid,
    output wire write_request__ready,
    input wire [ADDRESS_BITS+5:0] write_request__payload,
    input wire write_data__valid,
    output wire write_data__ready,
    input wire [8*PORT_BYTES:0] write_data__payload,
    output wire write_response__valid,
    input wire write_response__ready,
    output wire [0:0] write_response__payload
);
  reg [8*PORT_BYTES-1:0] memory[0:BEATS-1];
  reg [31:0] latency, now, random, first, last, error_beat;
  string file;

  initial begin
    if (!$value$plusargs("latency=%d", latency)) latency = 30;
    if (!$value$plusargs("stalls=%d", random)) random = 0;
    if (!$value$plusargs("error=%d", error_beat)) error_beat = ~0;
    if ($value$plusargs("memory=%s", file)) $readmemh(file, memory);
    if (!$value$plusargs("first=%d", first)) first = 0;
    if (!$value$plusargs("last=%d", last)) last = 0;
  end

  // A run's input replaces what is in memory; the beats `first` to `last` are what it leaves.
  always @(posedge clk) begin
    if (load) $readmemh($sformatf("input_%0d.hex", run), memory);
    if (dump) $writememh($sformatf("output_%0d.hex", run), memory, first, last);
  end

  // xorshift; 0 stays 0, and nothing stalls. A beat that was offered stays offered.
  wire [31:0] mixed = random ^ (random << 13);
  wire [31:0] stirred = mixed ^ (mixed >> 17);
  reg read_held, response_held;
  wire [4:0] stall = {5{random != 0}} & {&random[9:8], &random[7:6], &random[5:4], &random[3:2], &random[1:0]};
  always @(posedge clk) begin
    now <= rst ? 0 : now + 1;
    random <= stirred ^ (stirred << 5);
    read_held <= !rst && read_data__valid && !read_data__ready;
    response_held <= !rst && write_response__valid && !write_response__ready;
  end

  function fails(input [ADDRESS_BITS-1:0] address);
    fails = address >= BEATS || address == error_beat[ADDRESS_BITS-1:0];
  endfunction

  // Reads: a queue of bursts, the oldest at read_head with read_beat beats done.
  reg [ADDRESS_BITS+5:0] reads[0:DEPTH-1];
  reg [31:0] read_due[0:DEPTH-1];
  reg [31:0] read_head, read_tail;
  reg [5:0] read_beat;
  wire [5:0] read_last = reads[read_head%DEPTH][ADDRESS_BITS+:6];
  wire [ADDRESS_BITS-1:0] read_address = reads[read_head%DEPTH][0+:ADDRESS_BITS] + {{ADDRESS_BITS - 6{1'b0}}, read_beat};
  assign read_request__ready = read_tail - read_head < DEPTH && !stall[0];
  assign read_data__valid = read_head != read_tail && now >= read_due[read_head%DEPTH] && (!stall[1] || read_held);
  assign read_data__payload = {fails(read_address), memory[read_address%BEATS]};
  always @(posedge clk) begin
    if (read_request__valid && read_request__ready) begin
      reads[read_tail%DEPTH] <= read_request__payload;
      read_due[read_tail%DEPTH] <= now + latency;
      read_tail <= read_tail + 1;
    end
    if (read_data__valid && read_data__ready) begin
      read_beat <= read_beat == read_last ? 0 : read_beat + 1;
      if (read_beat == read_last) read_head <= read_head + 1;
    end
    if (rst) {read_head, read_tail, read_beat} <= 0;
  end

  // Writes: a queue of bursts, and a queue of responses.
  reg [ADDRESS_BITS+5:0] writes[0:DEPTH-1];
  reg [32:0] responses[0:DEPTH-1];
  reg [31:0] write_head, write_tail, response_head;
  reg [5:0] write_beat;
  reg write_failed;
  wire [5:0] write_last = writes[write_head%DEPTH][ADDRESS_BITS+:6];
  wire [ADDRESS_BITS-1:0] write_address = writes[write_head%DEPTH][0+:ADDRESS_BITS] + {{ADDRESS_BITS - 6{1'b0}}, write_beat};
  assign write_request__ready = write_tail - response_head < DEPTH && !stall[2];
  assign write_data__ready = write_head != write_tail && !stall[3];
  assign write_response__valid = response_head != write_head && now >= responses[response_head%DEPTH][31:0] && (!stall[4] || response_held);
  assign write_response__payload = responses[response_head%DEPTH][32];
  always @(posedge clk) begin
    if (write_request__valid && write_request__ready) begin
      writes[write_tail%DEPTH] <= write_request__payload;
      write_tail <= write_tail + 1;
    end
    if (write_data__valid && write_data__ready) begin
      if (write_data__payload[8*PORT_BYTES] != (write_beat == write_last)) begin
        $display("the last beat of a write burst is not where its request says");
        $fatal;
      end
      if (!fails(write_address)) memory[write_address%BEATS] <= write_data__payload[0+:8*PORT_BYTES];
      write_beat <= write_beat == write_last ? 0 : write_beat + 1;
      write_failed <= write_beat != write_last && (write_failed || fails(write_address));
      if (write_beat == write_last) begin
        responses[write_head%DEPTH] <= {write_failed || fails(write_address), now + latency};
        write_head <= write_head + 1;
      end
    end
    if (write_response__valid && write_response__ready) response_head <= response_head + 1;
    if (rst) {write_head, write_tail, response_head, write_beat, write_failed} <= 0;
  end
endmodule

// `prepare` loads the input of run number `run` and opens its trace files; `finish` closes them and writes the output region. The trace files
// have records of 32-bit little-endian numbers: events (cycle, start << 4 | done, a bit a queue), and for the two engines that write results
// (scratchpad address, eighths of the word that are written, data).
module testbench #(
    parameter WORD_BYTES = 16,
    parameter PORT_BYTES = 16,
    parameter ADDRESS_BITS = 32,
    parameter BEATS = 1024
) (
    input wire clk,
    input wire rst,
    input wire [17:0] control__address,
    input wire control__write,
    input wire [31:0] control__write_data,
    input wire control__read,
    output wire [31:0] control__read_data,
    output wire interrupt,
    input wire prepare,
    input wire finish,
    input wire [31:0] run
);
  wire read_request__valid, read_request__ready, read_data__valid, read_data__ready;
  wire write_request__valid, write_request__ready, write_data__valid, write_data__ready;
  wire write_response__valid, write_response__ready, write_response__payload;
  wire [ADDRESS_BITS+5:0] read_request__payload, write_request__payload;
  wire [8*PORT_BYTES:0] read_data__payload, write_data__payload;
  wire [3:0] start, done;
  wire [31:0] cycle;
  wire array_enable, rows_enable;
  wire [19:0] array_address, rows_address;
  wire [7:0] array_parts;
  wire [8*WORD_BYTES-1:0] array_data, rows_data;

`ifdef SDRAM  // a controller and its chip: sim/sdram.py
  wire [31:0] refreshes;
  sdram_memory memory (
      .load(prepare),
      .dump(finish),
      .*
  );
`else
  external_memory #(
      .PORT_BYTES(PORT_BYTES),
      .ADDRESS_BITS(ADDRESS_BITS),
      .BEATS(BEATS)
  ) memory (
      .load(prepare),
      .dump(finish),
      .*
  );
`endif

  core core (
      .clk(clk),
      .rst(rst),
      .control__address(control__address),
      .control__write(control__write),
      .control__write_data(control__write_data),
      .control__read(control__read),
      .control__read_data(control__read_data),
      .interrupt(interrupt),
      .memory__read_request__valid(read_request__valid),
      .memory__read_request__ready(read_request__ready),
      .memory__read_request__payload(read_request__payload),
      .memory__read_data__valid(read_data__valid),
      .memory__read_data__ready(read_data__ready),
      .memory__read_data__payload(read_data__payload),
      .memory__write_request__valid(write_request__valid),
      .memory__write_request__ready(write_request__ready),
      .memory__write_request__payload(write_request__payload),
      .memory__write_data__valid(write_data__valid),
      .memory__write_data__ready(write_data__ready),
      .memory__write_data__payload(write_data__payload),
      .memory__write_response__valid(write_response__valid),
      .memory__write_response__ready(write_response__ready),
      .memory__write_response__payload(write_response__payload),
      .trace__start(start),
      .trace__done(done),
      .trace__cycle(cycle),
      .trace__array__enable(array_enable),
      .trace__array__address(array_address),
      .trace__array__data(array_data),
      .trace__rows__enable(rows_enable),
      .trace__rows__address(rows_address),
      .trace__rows__data(rows_data),
      .trace__parts(array_parts)
  );

  integer events = 0, array_writes = 0, rows_writes = 0;
  reg traced;
  initial traced = $test$plusargs("trace") != 0;
  always @(posedge clk) begin
    if (events != 0) begin
      if ((start | done) != 0) $fwrite(events, "%u%u", cycle, {24'b0, start, done});
      if (array_enable) $fwrite(array_writes, "%u%u%u", {12'b0, array_address}, {24'b0, array_parts}, array_data);
      if (rows_enable) $fwrite(rows_writes, "%u%u%u", {12'b0, rows_address}, 32'hFF, rows_data);
    end
    if (prepare && traced) begin
      events <= $fopen($sformatf("events_%0d.bin", run), "wb");
      array_writes <= $fopen($sformatf("array_%0d.bin", run), "wb");
      rows_writes <= $fopen($sformatf("rows_%0d.bin", run), "wb");
    end
    if (finish && events != 0) begin
      $fclose(events);
      $fclose(array_writes);
      $fclose(rows_writes);
      events <= 0;
    end
  end
endmodule
