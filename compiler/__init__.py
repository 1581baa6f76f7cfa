"""Compiler: an integer network and a configuration to a program for the core."""

from .compile import compile_network, pack_input, unpack_output
from .program import Program, expected_words

__all__ = ["Program", "compile_network", "expected_words", "pack_input", "unpack_output"]
