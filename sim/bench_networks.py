"""Whole networks in the timing model and on the RTL, beside what they must reach: parts of :mod:`.bench` and the README's table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..compiler.compile import compile_network
from ..hw.config import CoreConfig, preset
from ..model.networks import architecture, integer_network, network_structure
from ..model.part import part
from ..model.synthetic import shaped_images
from .report import report
from .simulate import core_model, simulate

__all__ = [
    "CASES",
    "NETWORKS",
    "RUNS",
    "RUN_COLUMNS",
    "UNMEASURED",
    "Case",
    "grouped",
    "model",
    "networks_text",
    "percent",
    "report_seconds",
    "rtl",
    "run_cells",
]

UNMEASURED = "not measured"
#: What a table says of an RTL run (:func:`run_cells`).
RUN_COLUMNS = ("RTL ran", "RTL cycles", "RTL utilisation", "values compared", "cycles a second")
_IMAGE_SEED = 1  # another image than synthetic weights are calibrated on
_CYCLES_PER_SECOND, _IMAGE_SECONDS = 100_000, 60
#: By preset: seconds in which a core must be Verilog and compiled, once.
_BUILD_SECONDS = {"l16": 120, "l32": 300}
#: By network: seconds that a report may take.
_REPORT_SECONDS = {"deit_tiny": 1, "vit_large": 10}
_REPORT_PRESET = "l16"
_COMMAND = f"import sys; from {__name__.partition('.')[0]}.cli import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network on a configuration, as one line of the table.

    Parameters
    ----------
    network, preset : str
    settings : tuple of str
        ``field=value`` overrides of the preset.
    layers : tuple of str
        The layers that the RTL runs; empty for all. The timing model always takes all.
    stalls : int or None
        Seed of random stalls of the memory in the RTL run.
    least : float
        Utilisation that the whole network must reach; 0 where none is asked.
    simulated : bool
        Whether the RTL runs it.
    """

    network: str
    preset: str
    settings: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    stalls: int | None = None
    least: float = 0.0
    simulated: bool = True

    @property
    def model_name(self) -> str:
        """Key of its result in the timing model, which knows no stalls."""
        return "-".join((self.network, self.preset, *self.settings))

    @property
    def part(self) -> str:
        """Name of its RTL run among the parts of the bench."""
        stalls = () if self.stalls is None else (f"stalls={self.stalls}",)
        return "-".join(("rtl", self.model_name, *self.layers, *stalls))

    @property
    def config(self) -> CoreConfig:
        return preset(self.preset, list(self.settings))

    @property
    def memory(self) -> str:
        """What the table says of the memories."""
        config = self.config
        smaller = config.scratchpad_bytes < preset(self.preset).scratchpad_bytes
        size = f"{config.scratchpad_bytes >> 10} KiB scratchpad, " if smaller else ""
        return f"{size}{config.memory_bytes_per_cycle} B/cycle" + ("" if self.stalls is None else ", random stalls")


#: A core of 16 lanes that an LFE5U-85F has the block RAM for; the program comes block by block.
_FPGA = (
    "scratchpad_bytes=262144",
    "constant_channels=1024",
    "norm_channels=256",
    "map_rows=0",
    "program_depth=512",
    "program_stream=1",
    "memory_bytes_per_cycle=2",
    "memory_latency=8",
)
CASES = (
    Case(network="deit_tiny", preset="l16", least=0.97),
    Case(network="deit_tiny", preset="l16", settings=("memory_bytes_per_cycle=4",), least=0.96),
    Case(network="deit_tiny", preset="l16", settings=("memory_bytes_per_cycle=2",)),
    Case(network="deit_tiny", preset="l16", stalls=1),
    Case(network="deit_tiny", preset="l16", settings=("scratchpad_bytes=327680",), least=0.95),
    Case(network="deit_tiny", preset="l16", settings=_FPGA, least=0.92),
    Case(network="deit_small", preset="l16", least=0.98),
    Case(network="deit_base", preset="l16", layers=("blocks.0",), least=0.985),
    Case(network="swin_tiny", preset="l16", least=0.95),
    Case(network="vit_large", preset="l16", simulated=False),
    Case(network="deit_tiny", preset="l32", least=0.94),
    Case(network="deit_small", preset="l32", layers=("blocks.0",), least=0.965),
    Case(network="deit_base", preset="l32", layers=("blocks.0",), least=0.975),
    Case(network="swin_tiny", preset="l32", layers=("layers.2",), least=0.92),
)


def model(cases: tuple[Case, ...] = CASES) -> dict[str, dict[str, Any]]:
    """Cycles and utilisation of every case by the timing model, by :attr:`Case.model_name`."""
    results = {}
    for case in cases:
        if case.model_name not in results:
            program = compile_network(network_structure(case.network), case.config)
            total = report(program, preset=case.preset)["total"]
            results[case.model_name] = {name: total[name] for name in ("cycles", "utilization")} | {
                "instructions": len(program.instructions)
            }
    return results


def report_seconds(networks: Iterable[str] = tuple(_REPORT_SECONDS)) -> dict[str, float]:
    """By network: wall seconds of the command ``vitloom report``, from start to end, as somebody waits for it."""
    results = {}
    for network in networks:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", _COMMAND, "report", network, "--preset", _REPORT_PRESET], check=True, stdout=subprocess.DEVNULL
        )
        results[network] = round(time.perf_counter() - began, 2)
    return results


def rtl(case: Case) -> dict[str, Any]:
    """One noise image through the RTL, every value compared, and every instruction's cycles.

    Elaborating and compiling the core comes first and is no part of ``wall_seconds``.
    """
    structure = network_structure(case.network)
    core_model(case.config, compile_network(part(structure, case.layers) if case.layers else structure, case.config))
    images = shaped_images(architecture(case.network), 1, _IMAGE_SEED)
    result = simulate(integer_network(case.network), case.config, images, layers=case.layers, stalls=case.stalls)
    content = result.content(preset=case.preset)
    cycles = content["total"]["cycles_rtl"]
    least, most = result.bounds
    return {
        "origin": content["origin"],
        "layers": list(case.layers),
        "stalls": case.stalls,
        "agreed": result.agreed,
        "values_compared": result.values_compared,
        "values_different": result.wrong,
        "differences": result.differences,
        "cycles": cycles,
        "cycles_model": content["total"]["cycles"],
        "cycles_allowed": [least, most],
        "utilization": round(sum(layer.multiplier_cycles for layer in result.program.layers) / (case.config.multipliers * cycles), 6),
        "cycles_per_second": result.cycles_per_second,
        "wall_seconds": result.wall_seconds,
        "elaborate_seconds": result.elaborate_seconds,
        "compile_seconds": result.compile_seconds,
    }


#: The RTL runs by name of the part.
RUNS: dict[str, Callable[[], dict[str, Any]]] = {case.part: partial(rtl, case) for case in CASES if case.simulated}
#: The parts of the bench that this file adds.
NETWORKS: dict[str, Callable[[], Any]] = {"networks": model, "reports": report_seconds, **RUNS}


def networks_text(results: Mapping[str, Any]) -> str:
    """Two Markdown tables: each case beside what is asked of it, then the times. What was not measured is said to be so."""
    head = " | ".join(("network", "L", "memory", "required", "timing model", *RUN_COLUMNS))
    rows = [head, "--- | ---: | --- | ---: | ---: | --- | ---: | ---: | --- | ---:", *(_row(case, results) for case in CASES)]
    times = ["what | required | measured", "--- | ---: | ---:", *_times(results)]
    return "\n\n".join("\n".join(f"| {row} |" for row in table) for table in (rows, times)) + "\n"


def _row(case: Case, results: Mapping[str, Any]) -> str:
    modelled = results.get("networks", {}).get(case.model_name)
    cells = [case.network, str(case.config.lanes), case.memory, f">= {percent(case.least)}" if case.least else ""]
    cells.append(percent(modelled["utilization"]) if modelled else UNMEASURED)
    return " | ".join([*cells, *run_cells(case, results)])


def run_cells(case: Case, results: Mapping[str, Any]) -> list[str]:
    """Cells of :data:`RUN_COLUMNS`, empty where the RTL does not run the case."""
    if not case.simulated:
        return [""] * len(RUN_COLUMNS)
    ran, run = ", ".join(case.layers) or "all", results.get(case.part)
    if run is None:
        return [ran, *[UNMEASURED] * (len(RUN_COLUMNS) - 1)]
    equal = "all equal" if not run["values_different"] else f"{run['values_different']} DIFFERENT"
    low, high = run["cycles_allowed"]
    exact = "" if low == high else f" (allowed {grouped(low)} to {grouped(high)})"
    wrong = "" if run["agreed"] else ", NOT AS THE MODELS SAY"
    return [
        ran,
        f"{grouped(run['cycles'])}{exact}{wrong}",
        percent(run["utilization"]),
        f"{grouped(run['values_compared'])}, {equal}",
        grouped(round(run["cycles_per_second"])),
    ]


def _times(results: Mapping[str, Any]) -> list[str]:
    """Rows of what takes how long."""
    rows = []
    for name, limit in _REPORT_SECONDS.items():
        seconds = results.get("reports", {}).get(name)
        rows.append(f"`vitloom report {name} --preset {_REPORT_PRESET}` | < {limit} s | {_seconds(seconds)}")
    for name, limit in _BUILD_SECONDS.items():
        runs = [results[case.part] for case in CASES if case.preset == name and case.part in results]
        known = [run["elaborate_seconds"] + run["compile_seconds"] for run in runs if run["elaborate_seconds"] and run["compile_seconds"]]
        rows.append(f"elaborate and compile a core, {name}, once, the slowest | <= {limit} s | {_seconds(max(known, default=None))}")
    whole = CASES[0]
    run = results.get(whole.part)
    speed = f"{grouped(round(run['cycles_per_second']))} cycles/s" if run else UNMEASURED
    rows.append(f"simulation of {whole.network}, {whole.preset} | >= {grouped(_CYCLES_PER_SECOND)} cycles/s | {speed}")
    seconds = run and run["cycles"] / run["cycles_per_second"]
    rows.append(f"an image of {whole.network}, {whole.preset}, from start to interrupt | <= {_IMAGE_SECONDS} s | {_seconds(seconds)}")
    rows.append(f"the same with golden model, compiler and comparison | | {_seconds(run and run['wall_seconds'])}")
    return rows


def percent(share: float) -> str:
    """As tables write it."""
    return f"{100 * share:.1f} %"


def grouped(number: int) -> str:
    """With a space between thousands."""
    return f"{number:,}".replace(",", " ")


def _seconds(value: float | None) -> str:
    return UNMEASURED if value is None else f"{value:.1f} s"
