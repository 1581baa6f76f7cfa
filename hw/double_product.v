// Two signed products from one multiplier block, two cycles of clk after their operands: clk_double has two cycles in one of clk, and a
// rising edge at each of its rising edges. The block takes the first pair of operands in the first half of a cycle, the other in the second.
// Read this with VITLOOM_ECP5 defined for an ECP5; elsewhere these are two products, and clk_double is not used.
module vitloom_double_product #(
    parameter BITS = 16
) (
    input clk,
    input clk_double,
    input signed [15:0] x_0,
    input signed [7:0] w_0,
    input signed [15:0] x_1,
    input signed [7:0] w_1,
    output reg signed [BITS-1:0] product_0,
    output reg signed [BITS-1:0] product_1
);
`ifdef VITLOOM_ECP5
    // `turn` changes at each edge of clk, so at the edge of clk_double between two of them it has just changed: `second` is 1 after that.
    reg turn = 0, turn_before = 0, second = 0;
    always @(posedge clk) turn <= ~turn;
    always @(posedge clk_double) begin
        turn_before <= turn;
        second <= turn ^ turn_before;
    end
    wire [15:0] x = second ? x_1 : x_0;
    wire [7:0] w = second ? w_1 : w_0;
    wire [BITS-1:0] product;
    vitloom_registered_product #(.BITS(BITS)) multiplier (.clk(clk_double), .x(x), .w(w), .product(product));
    // The first product leaves the block in the first half of the next cycle, the second one in the other.
    reg [BITS-1:0] early;
    always @(posedge clk_double) if (~second) early <= product;
    always @(posedge clk) begin
        product_0 <= early;
        product_1 <= product;
    end
`else
    reg signed [BITS-1:0] early_0, early_1;
    always @(posedge clk) begin
        early_0 <= x_0 * w_0;
        early_1 <= x_1 * w_1;
        product_0 <= early_0;
        product_1 <= early_1;
    end
`endif
endmodule

`ifdef VITLOOM_ECP5
// A multiplier block with its registers at both ends.
module vitloom_registered_product #(
    parameter BITS = 16
) (
    input clk,
    input [15:0] x,
    input [7:0] w,
    output [BITS-1:0] product
);
    wire [17:0] a = {{2{x[15]}}, x}, b = {{10{w[7]}}, w};
    wire [35:0] p;
    assign product = p[BITS-1:0];
    MULT18X18D #(
        .REG_INPUTA_CLK("CLK0"), .REG_INPUTA_CE("CE0"), .REG_INPUTA_RST("RST0"),
        .REG_INPUTB_CLK("CLK0"), .REG_INPUTB_CE("CE0"), .REG_INPUTB_RST("RST0"),
        .REG_OUTPUT_CLK("CLK0"), .REG_OUTPUT_CE("CE0"), .REG_OUTPUT_RST("RST0")
    ) block (
        .CLK0(clk), .CE0(1'b1), .RST0(1'b0), .SIGNEDA(1'b1), .SIGNEDB(1'b1), .SOURCEA(1'b0), .SOURCEB(1'b0),
        .A17(a[17]), .A16(a[16]), .A15(a[15]), .A14(a[14]), .A13(a[13]), .A12(a[12]), .A11(a[11]), .A10(a[10]), .A9(a[9]),
        .A8(a[8]), .A7(a[7]), .A6(a[6]), .A5(a[5]), .A4(a[4]), .A3(a[3]), .A2(a[2]), .A1(a[1]), .A0(a[0]),
        .B17(b[17]), .B16(b[16]), .B15(b[15]), .B14(b[14]), .B13(b[13]), .B12(b[12]), .B11(b[11]), .B10(b[10]), .B9(b[9]),
        .B8(b[8]), .B7(b[7]), .B6(b[6]), .B5(b[5]), .B4(b[4]), .B3(b[3]), .B2(b[2]), .B1(b[1]), .B0(b[0]),
        .P35(p[35]), .P34(p[34]), .P33(p[33]), .P32(p[32]), .P31(p[31]), .P30(p[30]), .P29(p[29]), .P28(p[28]), .P27(p[27]),
        .P26(p[26]), .P25(p[25]), .P24(p[24]), .P23(p[23]), .P22(p[22]), .P21(p[21]), .P20(p[20]), .P19(p[19]), .P18(p[18]),
        .P17(p[17]), .P16(p[16]), .P15(p[15]), .P14(p[14]), .P13(p[13]), .P12(p[12]), .P11(p[11]), .P10(p[10]), .P9(p[9]),
        .P8(p[8]), .P7(p[7]), .P6(p[6]), .P5(p[5]), .P4(p[4]), .P3(p[3]), .P2(p[2]), .P1(p[1]), .P0(p[0])
    );
endmodule
`endif
