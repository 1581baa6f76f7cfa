"""Golden integer operators, float reference, quantiser and networks, in numpy only."""
