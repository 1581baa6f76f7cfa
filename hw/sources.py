"""Hand-written Verilog that components instantiate: what Amaranth cannot say, or a device has cells for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["add_source"]


def add_source(platform: Any, source: Path) -> None:
    """Add a file to the project of a board, once; with ``VITLOOM_ECP5`` defined in front of it where its cells may be those of an ECP5."""
    if platform is not None and source.name not in platform.extra_files:
        is_ecp5 = getattr(platform, "family", "") == "ecp5"
        platform.add_file(source.name, "`define VITLOOM_ECP5\n" * is_ecp5 + source.read_text())
