"""Units, engines and the core, in Amaranth only."""
