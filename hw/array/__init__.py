"""The L x L array, its accumulators and the engine around them."""
