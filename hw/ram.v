// Memory with one write port and one synchronous read port. What a read of an address gives in the cycle of its write is
// undefined, which is what no_rw_check tells synthesis: block RAM without collision logic around it.
module vitloom_ram #(
    parameter WIDTH = 8,
    parameter LANE = 8,
    parameter DEPTH = 2,
    parameter ADDRESS_BITS = 1
) (
    input clk,
    input read_enable,
    input [ADDRESS_BITS-1:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input [WIDTH/LANE-1:0] write_enable,
    input [ADDRESS_BITS-1:0] write_address,
    input [WIDTH-1:0] write_data
);
    (* ram_style = "block", no_rw_check *) reg [WIDTH-1:0] memory [0:DEPTH-1];
    integer lane;
    always @(posedge clk) begin
        if (read_enable) read_data <= memory[read_address];
        for (lane = 0; lane < WIDTH / LANE; lane = lane + 1)
            if (write_enable[lane]) memory[write_address][lane*LANE +: LANE] <= write_data[lane*LANE +: LANE];
    end
endmodule
