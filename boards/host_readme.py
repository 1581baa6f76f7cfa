"""What to do with the folder of a board whose core obeys a host, with the commands for its configuration."""

from __future__ import annotations

from dataclasses import asdict

from ..hw.config import PRESETS, CoreConfig
from . import Board
from .frames import BAUD
from .jobs import digits_network

__all__ = ["host_readme"]

#: What a tool is called by the scripts of the project, and by its package.
_PACKAGED = {
    tool: f"{tool.upper().replace('-', '_')}=yowasp-{tool}"
    for tool in ("yosys", "nextpnr-ecp5", "ecppack", "nextpnr-ice40", "icepack", "nextpnr-himbaechel-gowin")
}


def host_readme(target: Board, config: CoreConfig, preset: str) -> str:
    """Markdown; ``config`` is ``preset`` with what differs as settings."""
    memory = target.sdram or target.spram
    assert memory is not None
    parts = f"{'Serial core' if config.serial else 'Core'}, {'its memory' if target.sdram is None else 'SDRAM controller'}"
    base = asdict(PRESETS[preset]) if preset in PRESETS else {}
    # The host asks the device how wide its memory port is.
    changed = {
        name: value for name, value in asdict(config).items() if name in base and base[name] != value and not name.startswith("memory_")
    }
    settings = "".join(f" --set {name}={_text(value)}" for name, value in changed.items())
    baud = "" if memory.baud == BAUD else f" --baud {memory.baud}"
    return f"""# A vitloom core on {target.description}

{parts} and UART at {memory.clock_hz / 1e6:g} MHz; {memory.baud} baud.
Lamps: `{target.busy[0]}` {target.busy[1]} while the board sends, `{target.done[0]}` {target.done[1]} from the end of a run to the next.

1. Build (`pip install "vitloom[fpga]"`), minutes:

       cd board
       {" ".join(_PACKAGED[tool] for tool in target.tools if tool in _PACKAGED)} sh build_top.sh

2. Load{", until power is off" if target.programmer.startswith("openFPGALoader") else ""}:

       {target.programmer}

3. Run (`pip install "vitloom[host]"`; the port is /dev/ttyUSB0, COM3, ...):

       vitloom run {digits_network(config)} --port /dev/ttyUSB0{baud} --preset {preset}{settings} --samples 10

Configuration {config.fingerprint:#010x}: a core with another one refuses the programs, and says so.
"""


def _text(value: int | tuple[str, ...]) -> str:
    """A field's value as the command line takes it."""
    return "+".join(value) if isinstance(value, tuple) else str(int(value))
