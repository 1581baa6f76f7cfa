// Memory with one port: a read or a write in a cycle. An iCE40UP5K (read this with VITLOOM_ICE40 defined for one) has large blocks for it.
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
`ifdef VITLOOM_ICE40
    (* ram_style = "huge" *) reg [WIDTH-1:0] memory [0:DEPTH-1];
`else
    (* ram_style = "block" *) reg [WIDTH-1:0] memory [0:DEPTH-1];
`endif
    always @(posedge clk)
        if (enable) begin
            if (write) memory[address] <= write_data;
            else read_data <= memory[address];
        end
endmodule
