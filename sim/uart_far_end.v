// The far end of a UART, a frame at a time: a bench sees a few changes of signals for each frame instead of some for each bit.
//
// `send_count` bytes of `send_bytes`, the first in the lowest bits, go out when `send` changes; `sent` follows it after the last stop bit.
// What comes is collected in `received_bytes`; `quiet` is high when something has come and nothing more for 30 bits. `take` forgets it.
module uart_far_end #(
    parameter DIVISOR = 4,
    parameter BYTES = 2304
) (
    input wire clk,
    input wire rst,
    output reg to_device,
    input wire from_device,
    input wire [8*BYTES-1:0] send_bytes,
    input wire [31:0] send_count,
    input wire send,
    output reg sent,
    output reg [8*BYTES-1:0] received_bytes,
    output reg [31:0] received_count,
    output wire quiet,
    input wire take
);
  reg [31:0] place, wait_send;
  reg [3:0] bits;
  reg [9:0] shift;
  always @(posedge clk) begin
    to_device <= shift[0];
    if (wait_send != 0) wait_send <= wait_send - 1;
    else if (bits != 0) begin
      shift <= {1'b1, shift[9:1]};
      bits <= bits - 1;
      wait_send <= DIVISOR - 1;
    end else if (send != sent) begin
      if (place == send_count) begin
        sent  <= send;
        place <= 0;
      end else begin
        shift <= {1'b1, send_bytes[8*place+:8], 1'b0};
        bits <= 9;
        wait_send <= DIVISOR - 1;
        place <= place + 1;
      end
    end
    if (rst) begin
      {place, wait_send, bits, sent} <= 0;
      shift <= ~0;
    end
  end

  reg [31:0] wait_sample, silence;
  reg [3:0] count;
  reg [7:0] sampled;
  reg receiving;
  assign quiet = received_count != 0 && silence == 30 * DIVISOR;
  always @(posedge clk) begin
    if (silence != 30 * DIVISOR) silence <= silence + 1;
    if (!receiving) begin
      if (!from_device) begin
        receiving <= 1;
        wait_sample <= DIVISOR + DIVISOR / 2 - 1;
        count <= 0;
      end
    end else if (wait_sample != 0) wait_sample <= wait_sample - 1;
    else begin
      wait_sample <= DIVISOR - 1;
      count <= count + 1;
      sampled <= {from_device, sampled[7:1]};
      if (count == 8) begin
        receiving <= 0;
        silence <= 0;
        if (!from_device) begin
          $display("the device sends a byte without a stop bit");
          $fatal;
        end
        if (received_count < BYTES) begin
          received_bytes[8*received_count+:8] <= sampled;
          received_count <= received_count + 1;
        end
      end
    end
    if (take) received_count <= 0;
    if (rst) {receiving, received_count, silence} <= 0;
  end
endmodule
