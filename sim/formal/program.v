// The sequencer's program memory with any program in it: the content is free. An instruction's lowest body bits are its index, so that
// the rules know which one an engine gets, and there is no SYNC, which no engine sees.
module vitloom_ram #(
    parameter WIDTH = 384,
    parameter LANE = 32,
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
    localparam HEADER = 14, SYNC = 14;
    (* anyconst *) wire [HEADER*DEPTH-1:0] content;
    reg [HEADER-1:0] header;
    integer index;
    always @* begin
        header = 0;
        for (index = 0; index < DEPTH; index = index + 1)
            if (read_address == index) header = content[index*HEADER +: HEADER];
    end
    always @(posedge clk) begin
        if (read_enable) begin
            read_data <= 0;
            read_data[HEADER-1:0] <= header;
            read_data[HEADER +: ADDRESS_BITS] <= read_address;
            assume (header[3:0] != SYNC);
        end
    end
endmodule
