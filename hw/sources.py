"""Hand-written Verilog that components instantiate: what Amaranth cannot say, or a device has cells for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["add_source"]


#: Devices for which files have texts of their own: what is defined for them, by the family of the board's platform.
_DEFINED = {"ecp5": "VITLOOM_ECP5", "iCE40": "VITLOOM_ICE40"}


def add_source(platform: Any, source: Path) -> None:
    """Add a file to the project of a board, once, with the name of the device's family defined in front of it."""
    if platform is not None and source.name not in platform.extra_files:
        defined = _DEFINED.get(getattr(platform, "family", ""))
        platform.add_file(source.name, (f"`define {defined}\n" if defined else "") + source.read_text())
