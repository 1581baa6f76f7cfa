// A single-data-rate SDRAM chip of four banks as its data sheet describes it. The first rule that is broken ends the simulation with a sentence.
//
// The pins are high-active and seen from the controller, as in boards/sdram.py, and sampled at the clock edge that ends the cycle in which
// they change. Beyond BEATS words of 16 bits it forgets what is written.
//
// Plusargs, all but the first needed: memory=FILE (readmemh), period= (ps), cas= and mrd= (cycles), rcd= rp= rc= ras= rfc= wr= refresh_interval=
// startup= (ps). `load` replaces what is in memory by the file input_RUN.hex, `dump` writes words `first` to `last` (plusargs) to output_RUN.hex.
module sdram_chip #(
    parameter ROW_BITS = 13,
    parameter COLUMN_BITS = 9,
    parameter ADDRESS_PINS = 13,
    parameter BEATS = 1024
) (
    input wire clk,
    input wire rst,
    input wire load,
    input wire dump,
    input wire [31:0] run,
    input wire clk_en,
    input wire ras,
    input wire cas,
    input wire we,
    input wire [1:0] ba,
    input wire [ADDRESS_PINS-1:0] a,
    input wire [1:0] dqm,
    input wire [15:0] dq_o,
    input wire dq_oe,
    output reg [15:0] dq_i,
    output reg [31:0] refreshes
);
  localparam [2:0] NOP = 0, ACTIVATE = 1, READ = 2, REFRESH = 3, PRECHARGE = 5, WRITE = 6, MODE = 7;
  localparam longint NEVER = -64'd1 << 60;
  localparam ALL = 10;

  longint PERIOD, RCD, RP, RC, RAS, RFC, WR, REFRESH_INTERVAL, STARTUP;
  integer CAS, MRD, given;
  initial begin
    given = $value$plusargs("period=%d", PERIOD) + $value$plusargs("cas=%d", CAS) + $value$plusargs("mrd=%d", MRD)
        + $value$plusargs("rcd=%d", RCD) + $value$plusargs("rp=%d", RP) + $value$plusargs("rc=%d", RC)
        + $value$plusargs("ras=%d", RAS) + $value$plusargs("rfc=%d", RFC) + $value$plusargs("wr=%d", WR)
        + $value$plusargs("refresh_interval=%d", REFRESH_INTERVAL) + $value$plusargs("startup=%d", STARTUP);
    if (given != 11) begin
      $display("a time of the SDRAM chip is missing");
      $fatal;
    end
  end

  reg [15:0] memory[0:BEATS-1];
  reg [31:0] first, last;
  string file;
  initial begin
    if ($value$plusargs("memory=%s", file)) $readmemh(file, memory);
    if (!$value$plusargs("first=%d", first)) first = 0;
    if (!$value$plusargs("last=%d", last)) last = 0;
  end
  always @(posedge clk) begin
    if (load) $readmemh($sformatf("input_%0d.hex", run), memory);
    if (dump) $writememh($sformatf("output_%0d.hex", run), memory, first, last);
  end

  longint now, elapsed, activated[0:3], precharged[0:3], written[0:3], read_at, refreshed, mode_set;
  reg [ROW_BITS-1:0] row[0:3];
  reg [3:0] open;
  reg ready;  // the mode is set
  reg [31:0] started, needed;
  reg [15:0] coming[0:1];

  task check(input ok, input string what);
    if (!ok) begin
      $display("SDRAM at %0d ps: %s", now, what);
      $fatal;
    end
  endtask

  wire [2:0] command = {we, cas, ras};
  wire [ROW_BITS+COLUMN_BITS+1:0] place = {row[ba], ba, a[COLUMN_BITS-1:0]};
  integer bank;

  always @(posedge clk) begin
    dq_i <= coming[CAS[1:0]-2];
    coming[1] <= coming[0];
    coming[0] <= 16'hDEAD ^ now[19:4];
    check(!dq_oe || command == WRITE, "the data are driven without a write");
    if (command != NOP) begin
      check(clk_en, "a command without clock enable");
      check(now >= STARTUP, "a command before the chip has started");
      check(now - refreshed >= RFC, "tRFC");
      check(now - mode_set >= longint'(MRD) * PERIOD, "tMRD");
    end
    case (command)
      ACTIVATE: begin
        check(ready, "activate before the mode is set");
        check(!open[ba], "the bank is open already");
        check(now - precharged[ba] >= RP, "tRP");
        check(now - activated[ba] >= RC, "tRC");
        row[ba] <= a[ROW_BITS-1:0];
        open[ba] <= 1;
        activated[ba] <= now;
      end
      PRECHARGE:
      for (bank = 0; bank < 4; bank = bank + 1)
      if (a[ALL] || bank == 32'(ba)) begin
        check(!open[bank] || now - activated[bank] >= RAS, "tRAS");
        check(!open[bank] || now - written[bank] >= WR, "tWR");
        open[bank] <= 0;
        precharged[bank] <= now;
      end
      REFRESH, MODE: begin
        check(open == 0, "refresh or mode with an open row");
        for (bank = 0; bank < 4; bank = bank + 1) check(now - precharged[bank] >= RP, "tRP");
        if (command == REFRESH) begin
          refreshes <= refreshes + 1;
          refreshed <= now;
        end else begin
          check(refreshes >= 8, "the mode after less than 8 refreshes");
          check(a[2:0] == 0 && a[6:4] == CAS[2:0], "a mode that is not bursts of one column with this CAS latency");
          ready <= 1;
          mode_set <= now;
          started <= refreshes;
        end
      end
      READ, WRITE: begin
        check(ready && open[ba], "a column of a closed bank");
        check(!a[ALL], "auto precharge");
        check(now - activated[ba] >= RCD, "tRCD");
        check(refreshes - started + 1 >= needed, "too few refreshes");
        if (command == READ) begin
          coming[0] <= 32'(place) < BEATS ? memory[32'(place)%BEATS] : 0;
          read_at <= now;
        end else begin
          check(dq_oe, "a write without data");
          check(now - read_at >= longint'(CAS + 2) * PERIOD, "data of a read and of a write meet");
          if (32'(place) < BEATS) begin
            if (!dqm[0]) memory[32'(place)%BEATS][7:0] <= dq_o[7:0];
            if (!dqm[1]) memory[32'(place)%BEATS][15:8] <= dq_o[15:8];
          end
          written[ba] <= now;
        end
      end
      default: check(command == NOP, "no such command");
    endcase

    // How many refreshes there must have been since the start, one of them being late at most.
    if (ready) begin
      elapsed <= elapsed + PERIOD;
      if (elapsed >= REFRESH_INTERVAL) begin
        elapsed <= elapsed + PERIOD - REFRESH_INTERVAL;
        needed <= needed + 1;
      end
    end
    now <= now + PERIOD;
    if (rst) begin
      {now, elapsed, refreshes, needed, started, open, ready} <= 0;
      {read_at, refreshed, mode_set} <= {NEVER, NEVER, NEVER};
      for (bank = 0; bank < 4; bank = bank + 1) begin
        activated[bank] <= NEVER;
        precharged[bank] <= NEVER;
        written[bank] <= NEVER;
      end
    end
  end
endmodule
