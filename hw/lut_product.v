// Product of a signed 9-bit and a signed 8-bit number, within 16 bits, in carry chains: no `*`, which would be a multiplier block.
// The sums of pairs of rows take a LUT a bit on an ECP5, whose carry cells have room for both ANDs; no synthesis finds that by itself.
// So read this with VITLOOM_ECP5 defined for one.
// With STAGES = 1 there are registers between the first chains and the others, and the product is a cycle later.
module vitloom_lut_product #(
    parameter STAGES = 0
) (
    input clk,
    input signed [8:0] x,
    input signed [7:0] w,
    output signed [15:0] product
);
    wire signed [9:0] sum_01, sum_23, sum_45, sum_67;
    // (1 bit of w) * x + (the next one) * 2 x; the highest one counts negative.
    vitloom_gated_sum #(.SUBTRACT(0)) rows_01 (.a({x[8], x}), .use_a(w[0]), .b({x, 1'b0}), .use_b(w[1]), .sum(sum_01));
    vitloom_gated_sum #(.SUBTRACT(0)) rows_23 (.a({x[8], x}), .use_a(w[2]), .b({x, 1'b0}), .use_b(w[3]), .sum(sum_23));
    vitloom_gated_sum #(.SUBTRACT(0)) rows_45 (.a({x[8], x}), .use_a(w[4]), .b({x, 1'b0}), .use_b(w[5]), .sum(sum_45));
    vitloom_gated_sum #(.SUBTRACT(1)) rows_67 (.a({x[8], x}), .use_a(w[6]), .b({x, 1'b0}), .use_b(w[7]), .sum(sum_67));
    wire signed [9:0] s_01, s_23, s_45, s_67;
    generate if (STAGES == 0) begin : direct
        assign {s_01, s_23, s_45, s_67} = {sum_01, sum_23, sum_45, sum_67};
    end else begin : registered
        reg [39:0] sums;
        always @(posedge clk) sums <= {sum_01, sum_23, sum_45, sum_67};
        assign {s_01, s_23, s_45, s_67} = sums;
    end endgenerate
    wire signed [9:0] low = (s_01 >>> 2) + s_23;
    wire signed [9:0] high = (s_45 >>> 2) + s_67;
    wire signed [11:0] top = $signed({low[9:2]}) + $signed({high, s_45[1:0]});
    assign product = {top, low[1:0], s_01[1:0]};
endmodule

// The sum of a and b, or a - b, 0 in place of each that is not used.
module vitloom_gated_sum #(
    parameter SUBTRACT = 0
) (
    input signed [9:0] a,
    input use_a,
    input signed [9:0] b,
    input use_b,
    output signed [9:0] sum
);
`ifdef VITLOOM_ECP5
    // What is added is b & use_b, inverted to subtract, and a & use_a; the carry comes from the lowest 4 bits of the table: of b and use_b.
    localparam [15:0] TABLE = SUBTRACT ? 16'h8777 : 16'h7888;
    wire [5:0] carry;
    assign carry[0] = SUBTRACT;
    genvar i;
    generate for (i = 0; i < 5; i = i + 1) begin : slice
        CCU2C #(.INIT0(TABLE), .INIT1(TABLE), .INJECT1_0("NO"), .INJECT1_1("NO")) bits (
            .CIN(carry[i]), .COUT(carry[i+1]),
            .A0(b[2*i]), .B0(use_b), .C0(a[2*i]), .D0(use_a), .S0(sum[2*i]),
            .A1(b[2*i+1]), .B1(use_b), .C1(a[2*i+1]), .D1(use_a), .S1(sum[2*i+1])
        );
    end endgenerate
`else
    wire signed [9:0] added = use_a ? a : 10'd0;
    wire signed [9:0] other = use_b ? b : 10'd0;
    assign sum = SUBTRACT ? added - other : added + other;
`endif
endmodule
