// Self test of a core over its bus: what it is, its registers, a program that copies some words in memory, a memory that answers
// with errors, and the interrupt. The host drives and looks at falling edges. Ends with $fatal when something is wrong.
`timescale 1ns / 1ps
`include "registers.vh"
`include "core_tb.vh"

module core_tb;
  localparam WIDTH = 8 * `VITLOOM_PORT_BYTES;
  localparam SHIFT = $clog2(`VITLOOM_PORT_BYTES);
  localparam [32*`VITLOOM_INSTRUCTION_WORDS*`CORE_TB_INSTRUCTIONS-1:0] PROGRAM = `CORE_TB_PROGRAM;
  localparam [WIDTH*`CORE_TB_BEATS-1:0] BEFORE = `CORE_TB_BEFORE, AFTER = `CORE_TB_AFTER;

  reg clk = 0, rst = 1;
  always #5 clk = !clk;
  initial #1000000 $fatal(1, "core_tb: an access or the program did not end");

  // Its first half is copied to the second by the program; beyond its end there are only errors.
  reg [WIDTH-1:0] memory [0:`CORE_TB_BEATS-1];
  wire irq;
`ifdef CORE_TB_AXI
  reg [19:0] address;
  reg [31:0] data;
  reg awvalid = 0, wvalid = 0, bready = 0, arvalid = 0, rready = 0;
  wire awready, wready, bvalid, arready, rvalid;
  wire [1:0] bresp, rresp;
  wire [31:0] rdata;

  wire m_awvalid, m_wvalid, m_wlast, m_bready, m_arvalid, m_rready;
  wire [SHIFT+31:0] m_awaddr, m_araddr;
  wire [7:0] m_awlen, m_arlen;
  wire [WIDTH-1:0] m_wdata;
  wire [WIDTH/8-1:0] m_wstrb;
  reg reading = 0, writing = 0, answering = 0, failed = 0;
  reg [31:0] read_beat, write_beat;
  reg [7:0] read_left;

  core dut (
    .aclk(clk), .aresetn(!rst), .irq(irq),
    .s_axi_ctrl_awaddr(address), .s_axi_ctrl_awprot(3'd0), .s_axi_ctrl_awvalid(awvalid), .s_axi_ctrl_awready(awready),
    .s_axi_ctrl_wdata(data), .s_axi_ctrl_wstrb(4'hf), .s_axi_ctrl_wvalid(wvalid), .s_axi_ctrl_wready(wready),
    .s_axi_ctrl_bresp(bresp), .s_axi_ctrl_bvalid(bvalid), .s_axi_ctrl_bready(bready),
    .s_axi_ctrl_araddr(address), .s_axi_ctrl_arprot(3'd0), .s_axi_ctrl_arvalid(arvalid), .s_axi_ctrl_arready(arready),
    .s_axi_ctrl_rdata(rdata), .s_axi_ctrl_rresp(rresp), .s_axi_ctrl_rvalid(rvalid), .s_axi_ctrl_rready(rready),
    .m_axi_awid(), .m_axi_awaddr(m_awaddr), .m_axi_awlen(m_awlen), .m_axi_awsize(), .m_axi_awburst(), .m_axi_awcache(), .m_axi_awprot(),
    .m_axi_awvalid(m_awvalid), .m_axi_awready(!writing && !answering),
    .m_axi_wdata(m_wdata), .m_axi_wstrb(m_wstrb), .m_axi_wlast(m_wlast), .m_axi_wvalid(m_wvalid), .m_axi_wready(writing),
    .m_axi_bid(1'd0), .m_axi_bresp(failed ? 2'd3 : 2'd0), .m_axi_bvalid(answering), .m_axi_bready(m_bready),
    .m_axi_arid(), .m_axi_araddr(m_araddr), .m_axi_arlen(m_arlen), .m_axi_arsize(), .m_axi_arburst(), .m_axi_arcache(), .m_axi_arprot(),
    .m_axi_arvalid(m_arvalid), .m_axi_arready(!reading),
    .m_axi_rid(1'd0), .m_axi_rdata(memory[read_beat % `CORE_TB_BEATS]), .m_axi_rresp(read_beat < `CORE_TB_BEATS ? 2'd0 : 2'd3),
    .m_axi_rlast(read_left == 0), .m_axi_rvalid(reading), .m_axi_rready(m_rready)
  );

  always @(posedge clk) begin
    if (!reading) begin
      reading <= m_arvalid && !rst;
      read_beat <= m_araddr >> SHIFT;
      read_left <= m_arlen;
    end else if (m_rready) begin
      reading <= read_left != 0;
      read_beat <= read_beat + 1;
      read_left <= read_left - 1;
    end
    if (!writing && !answering) begin
      writing <= m_awvalid && !rst;
      write_beat <= m_awaddr >> SHIFT;
      failed <= 0;
    end
    if (writing && m_wvalid) begin
      if (write_beat < `CORE_TB_BEATS) memory[write_beat % `CORE_TB_BEATS] <= m_wdata;
      else failed <= 1;
      write_beat <= write_beat + 1;
      if (m_wlast) begin
        writing <= 0;
        answering <= 1;
      end
    end
    if (answering && m_bready) answering <= 0;
  end

  reg address_taken, data_taken;

  task write(input [31:0] where, input [31:0] value);
    begin
      address = where[19:0];
      data = value;
      awvalid = 1;
      wvalid = 1;
      while (awvalid || wvalid) begin
        address_taken = awready;
        data_taken = wready;
        @(negedge clk);
        if (address_taken) awvalid = 0;
        if (data_taken) wvalid = 0;
      end
      bready = 1;
      while (!bvalid) @(negedge clk);
      if (bresp != 0) $fatal(1, "core_tb: a write to %h was answered with %0d", where, bresp);
      @(negedge clk);
      bready = 0;
    end
  endtask

  task check(input [31:0] where, input [31:0] expected);
    begin
      address = where[19:0];
      arvalid = 1;
      while (!arready) @(negedge clk);
      @(negedge clk);
      arvalid = 0;
      rready = 1;
      while (!rvalid) @(negedge clk);
      if (rresp != 0 || rdata != expected) $fatal(1, "core_tb: register %h is %h, not %h", where, rdata, expected);
      @(negedge clk);
      rready = 0;
    end
  endtask
`else
  reg cyc = 0, we = 0;
  reg [17:0] address;
  reg [31:0] data;
  wire ack, err;
  wire [31:0] dat_r;

  wire m_cyc, m_stb, m_we;
  wire [31:0] m_adr;
  wire [WIDTH-1:0] m_dat_w;
  reg [WIDTH-1:0] m_dat_r;
  reg m_ack = 0, m_err = 0;
  wire m_taken = m_cyc && m_stb && !m_ack && !m_err && !rst;

  core dut (
    .clk(clk), .rst(rst), .irq(irq),
    .s_wb_cyc(cyc), .s_wb_stb(cyc), .s_wb_we(we), .s_wb_adr(address), .s_wb_sel(4'hf), .s_wb_dat_w(data),
    .s_wb_ack(ack), .s_wb_err(err), .s_wb_stall(), .s_wb_dat_r(dat_r),
    .m_wb_cyc(m_cyc), .m_wb_stb(m_stb), .m_wb_we(m_we), .m_wb_adr(m_adr), .m_wb_sel(), .m_wb_dat_w(m_dat_w),
    .m_wb_ack(m_ack), .m_wb_err(m_err), .m_wb_stall(!m_taken), .m_wb_dat_r(m_dat_r)
  );

  always @(posedge clk) begin
    m_ack <= m_taken && m_adr < `CORE_TB_BEATS;
    m_err <= m_taken && m_adr >= `CORE_TB_BEATS;
    m_dat_r <= memory[m_adr % `CORE_TB_BEATS];
    if (m_taken && m_we && m_adr < `CORE_TB_BEATS) memory[m_adr % `CORE_TB_BEATS] <= m_dat_w;
  end

  task access(input [31:0] where, input write, input [31:0] value);
    begin
      address = where[19:2];
      data = value;
      we = write;
      cyc = 1;
      @(negedge clk);
      while (!ack && !err) @(negedge clk);
      cyc = 0;
      if (err) $fatal(1, "core_tb: an access to %h ended with err", where);
    end
  endtask

  task write(input [31:0] where, input [31:0] value);
    access(where, 1, value);
  endtask

  task check(input [31:0] where, input [31:0] expected);
    begin
      access(where, 0, 0);
      if (dat_r != expected) $fatal(1, "core_tb: register %h is %h, not %h", where, dat_r, expected);
    end
  endtask
`endif

  integer i;
  integer waited;

  task run;
    begin
      write(`VITLOOM_CONTROL, `VITLOOM_CONTROL_START);
      waited = 0;
      while (!irq && waited < 10000) begin
        @(negedge clk);
        waited = waited + 1;
      end
      if (!irq) $fatal(1, "core_tb: no interrupt");
    end
  endtask

  initial begin
    for (i = 0; i < `CORE_TB_BEATS; i = i + 1) memory[i] = BEFORE[i*WIDTH+:WIDTH];
    repeat (4) @(negedge clk);
    rst = 0;
    @(negedge clk);
    check(`VITLOOM_IDENTITY, `VITLOOM_IDENTITY_VALUE);
    check(`VITLOOM_VERSION, `CORE_TB_VERSION);
    check(`VITLOOM_CONFIGURATION, `VITLOOM_FINGERPRINT);
    for (i = 0; i < `CORE_TB_INSTRUCTIONS * `VITLOOM_INSTRUCTION_WORDS; i = i + 1)
      write(`VITLOOM_PROGRAM(i / `VITLOOM_INSTRUCTION_WORDS, i % `VITLOOM_INSTRUCTION_WORDS), PROGRAM[32*i+:32]);

    // Made for another core: it must not start.
    write(`VITLOOM_EXPECTED, ~`VITLOOM_FINGERPRINT);
    check(`VITLOOM_EXPECTED, ~`VITLOOM_FINGERPRINT);
    run;
    check(`VITLOOM_ERROR, `VITLOOM_ERROR_IS_CONFIGURATION);
    write(`VITLOOM_EXPECTED, `VITLOOM_FINGERPRINT);

    // Beyond the end of the memory.
    write(`VITLOOM_CONTROL, `VITLOOM_CONTROL_CLEAR);
    write(`VITLOOM_MEMORY_BASE, `CORE_TB_BEATS);
    run;
    check(`VITLOOM_STATUS, `VITLOOM_STATUS_ERROR);
    check(`VITLOOM_ERROR, `VITLOOM_ERROR_IS_MEMORY_READ);
    write(`VITLOOM_CONTROL, `VITLOOM_CONTROL_CLEAR);
    repeat (100) @(negedge clk);
    if (irq) $fatal(1, "core_tb: the interrupt stays after a clear");

    write(`VITLOOM_MEMORY_BASE, 0);
    run;
    check(`VITLOOM_STATUS, `VITLOOM_STATUS_DONE);
    for (i = 0; i < `CORE_TB_BEATS; i = i + 1)
      if (memory[i] != AFTER[i*WIDTH+:WIDTH]) $fatal(1, "core_tb: beat %0d of memory is %h", i, memory[i]);
    $display("core_tb: passed");
    $finish;
  end
endmodule
