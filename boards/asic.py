"""Area, clock and memories of the core or of a unit in standard cells of a liberty file, before placement."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from ..hw.verilog import to_verilog
from .liberty import Library
from .tools import run_tool

__all__ = ["check_installed", "map_to_cells", "measure"]

_LOG = "yosys.log"
_RUN = "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"
#: Memories that are written stay as they are; read-only ones become gates.
_SCRIPT = """
read_verilog unit.v
{keep}
synth -flatten -run begin:fine -top {top}
opt -fast -full
memory_map -rom-only
tee -q -o memories.txt dump -m t:$mem_v2
opt -full
techmap
opt -fast
dfflibmap -liberty library.lib
opt -fast
abc -liberty library.lib -constr constraints.txt {clock}
opt_clean -purge
tee -q -o cells.json stat -json -liberty library.lib
"""


def check_installed() -> None:
    """Raise ``RuntimeError`` with the extra to install unless the Yosys of :func:`map_to_cells` is there."""
    if importlib.util.find_spec("pyosys") is None:
        raise RuntimeError("pyosys is not installed: pip install 'vitloom[asic]'")


def map_to_cells(
    component: wiring.Component,
    name: str,
    library: Library,
    *,
    top: str,
    depth: int = 0,
    clock_mhz: float | None = None,
    directory: Path | str = "build/asic",
) -> dict[str, Any]:
    """Map a component to standard cells with Yosys and ABC.

    Memories that are written are left out and counted in bits; their pins, as those of the component, are ends of paths. There are no
    wires: a placed design is slower and larger.

    Parameters
    ----------
    component : Component
        Anything in the ``sync`` domain.
    name : str
        Folder in ``directory`` for script, log and results.
    library : Library
        Of standard cells.
    top : str
        Name of its module.
    depth : int
        So many levels of modules are mapped apart and not merged with the component. A path between two of them is seen in parts only.
    clock_mhz : float or None
        What ABC maps and sizes the cells for; by default its own choice.
    directory : Path or str
        Where all folders are.

    Returns
    -------
    dict
        ``library``; ``area_um2``, ``kge`` (of the library's smallest NAND of two inputs), ``flip_flops``; ``units``: the same of each
        module, with ``path_ps``; ``memory_bits`` and ``memories`` (``unit``, ``words``, ``bits`` of a word, ``count``). ``path_ps``: ABC's
        delay of the slowest module, ``path_unit``, from ``path_from`` to ``path_to``; ``flip_flop_ps``: clock to output and set-up of the
        slowest flip-flop used; ``mhz``: of both together; ``driving_cell`` and ``load_ff``: of inputs and outputs.
    """
    work = Path(directory).resolve() / name
    work.mkdir(parents=True, exist_ok=True)
    verilog = to_verilog(component, top)
    driver, load = library.buffer, library.fanout_of_four * 1e15
    (work / "unit.v").write_text(verilog)
    (work / "library.lib").write_text(library.text)
    (work / "constraints.txt").write_text(f"set_driving_cell {driver}\nset_load {load:.3f}\n")
    kept = [module for module in re.findall(r"^module (\S+) *\(", verilog, re.M) if 1 <= module.count(".") <= depth]
    keep = "\n".join(f"setattr -mod -set keep_hierarchy 1 {module}" for module in kept)
    clock = "" if clock_mhz is None else f"-D {1e6 / clock_mhz:.0f}"
    (work / "synthesize.ys").write_text(_SCRIPT.format(keep=keep, top=top, clock=clock))
    run_tool([sys.executable, "-c", _RUN, "synthesize.ys"], work, work / _LOG, name="Yosys")
    return {**measure(work, library), "driving_cell": driver, "load_ff": round(load, 3)}


def measure(work: Path, library: Library) -> dict[str, Any]:
    """What :func:`map_to_cells` returns of the files that Yosys left in a folder."""
    cells = {_unit(name): module["num_cells_by_type"] for name, module in json.loads((work / "cells.json").read_text())["modules"].items()}
    paths = _paths((work / _LOG).read_text(errors="replace"))
    units = {}
    for unit in sorted(cells):
        slowest = max((path["path_ps"] for path in paths if _is_in(path["path_unit"], unit)), default=0.0)
        inner = sum((Counter(each) for path, each in cells.items() if _is_in(path, unit)), Counter())
        units[unit] = _area(library, inner) | {"path_ps": slowest}
    path = max(paths, key=lambda path: path["path_ps"])
    used = {cell for each in cells.values() for cell in each if library.is_flip_flop(cell)}
    flip_flop = 1e12 * max((library.flip_flop_delay(cell) for cell in used), default=0.0)
    period = path["path_ps"] + flip_flop
    result = {"library": library.name, **_area(library, sum((Counter(each) for each in cells.values()), Counter())), "units": units}
    result |= _memories((work / "memories.txt").read_text()) | path
    return result | {"flip_flop_ps": round(flip_flop, 1), "mhz": round(1e6 / period, 1) if period else None}


def _unit(module: str) -> str:
    """Path of a module of the netlist, from the top: ``core.array``."""
    return module.removeprefix("\\").split("$")[0]


def _is_in(module: str, unit: str) -> bool:
    """Whether a module is the unit, or inside it."""
    return f"{module}.".startswith(f"{unit}.")


def _area(library: Library, cells: Mapping[str, int]) -> dict[str, Any]:
    area = sum(count * library.area(cell) for cell, count in cells.items() if cell in library.cells)
    flip_flops = sum(count for cell, count in cells.items() if library.is_flip_flop(cell))
    return {"area_um2": round(area, 1), "kge": round(area / library.nand2_area / 1e3, 2), "flip_flops": flip_flops}


def _memories(dump: str) -> dict[str, Any]:
    """Memories in a dump of a design, those of one shape and unit counted."""
    found: Counter[tuple[str, int, int]] = Counter()
    module = ""
    for line in dump.splitlines():
        if match := re.match(r"module (\S+)", line):
            module = _unit(match[1])
        elif match := re.match(r"  cell \$mem_v2 ", line):
            shape: dict[str, int] = {}
        elif match := re.match(r"    parameter (?:signed )?\\(SIZE|WIDTH) (\d+)$", line):
            shape[match[1]] = int(match[2])
            if len(shape) == 2:
                found[module, shape["SIZE"], shape["WIDTH"]] += 1
    rows = [{"unit": unit, "words": words, "bits": bits, "count": count} for (unit, words, bits), count in sorted(found.items())]
    return {"memory_bits": sum(row["words"] * row["bits"] * row["count"] for row in rows), "memories": rows}


def _paths(log: str) -> list[dict[str, Any]]:
    """The longest path of each module, by ABC's reports, which come in the order in which Yosys extracts them; and one of no length."""
    modules = re.findall(r"Extracting gate netlist of module `(\S+)'", log)
    reports = re.split(r"^[\d.]+ Executed ABC\.$", log, flags=re.M)[1:]
    if len(modules) != len(reports):
        raise RuntimeError(f"Yosys extracted {len(modules)} modules for ABC, which reported {len(reports)}")
    paths = [{"path_ps": 0.0, "path_unit": "", "path_from": "", "path_to": ""}]
    for module, report in zip(modules, reports, strict=True):
        if delay := re.search(r"Delay = *([\d.]+) ps", report):
            ends = re.search(r"Start-point = \S+ \((.*?)\)\.  End-point = \S+ \((.*?)\)\.", report)
            points = [end.removeprefix("\\").replace(" [", "[") for end in (ends.groups() if ends else ("", ""))]
            paths.append({"path_ps": float(delay[1]), "path_unit": _unit(module), "path_from": points[0], "path_to": points[1]})
    return paths
