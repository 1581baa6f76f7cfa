// Memory with one port: a read or a write in a cycle, 16 bits wide on the inside, so that it maps to single-port blocks of that width.
module vitloom_single_port_ram #(
    parameter WIDTH = 16,
    parameter DEPTH = 2,
    parameter ADDRESS_BITS = 1
) (
    input clk,
    input enable,
    input write,
    input [ADDRESS_BITS-1:0] address,
    input [WIDTH-1:0] write_data,
    output reg [WIDTH-1:0] read_data
);
    (* ram_style = "huge" *) reg [WIDTH-1:0] memory [0:DEPTH-1];
    always @(posedge clk)
        if (enable) begin
            if (write) memory[address] <= write_data;
            else read_data <= memory[address];
        end
endmodule
