"""Verilator runner, cocotb benches, timing model and reports."""
