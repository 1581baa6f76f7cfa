"""Low-bit networks in the timing model and on the RTL, beside what they must reach: parts of :mod:`.bench` and the README's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..compiler.compile import compile_network
from ..compiler.program import WEIGHTS, Program
from ..hw import isa
from ..model.architectures import LOW_BIT_NETWORKS
from ..model.networks import network_structure
from .bench_networks import RUN_COLUMNS, UNMEASURED, Case, grouped, percent, rtl, run_cells
from .markdown import markdown
from .report import report

__all__ = ["LOW_BIT_CASES", "LOW_BIT_RUNS", "LowBitCase", "low_bit", "low_bit_text", "weight_bytes"]

_PRESET = "l16-all"
_SLOW = ("memory_bytes_per_cycle=1",)


@dataclass(frozen=True, kw_only=True)
class LowBitCase(Case):
    """A low-bit network on a core of all modes.

    Parameters
    ----------
    most_cycles : int
        Cycles that the whole network may take; 0 where nothing is asked.
    smaller : float
        How many times fewer bytes of weights than in int8 it must load; 0 where nothing is asked.
    """

    preset: str = _PRESET
    most_cycles: int = 0
    smaller: float = 0.0

    @property
    def required(self) -> str:
        """What is asked of it."""
        texts = [f"<= {grouped(self.most_cycles)} cycles"] if self.most_cycles else []
        texts += [f">= {percent(self.least)}"] if self.least else []
        texts += [f"weights <= 1/{self.smaller:g}"] if self.smaller else []
        return ", ".join(texts)


LOW_BIT_CASES = (
    LowBitCase(network="bivit_deit_tiny_w1a1", most_cycles=1_050_000),
    LowBitCase(network="bivit_deit_tiny", layers=("blocks.0",)),
    LowBitCase(network="bivit_deit_tiny", settings=_SLOW, simulated=False),
    LowBitCase(network="deit_tiny_w1a8", layers=("blocks.0",), smaller=5.5),
    LowBitCase(network="deit_tiny_w1a8", settings=_SLOW, least=0.94, smaller=5.5),
    LowBitCase(network="bi_vit_deit_tiny", layers=("blocks.0",)),
    LowBitCase(network="tervit_deit_tiny", layers=("blocks.0",)),
    LowBitCase(network="qvit_deit_small_w4a4", layers=("blocks.0",)),
    LowBitCase(network="qvit_deit_small_w2a2", layers=("blocks.0",)),
    LowBitCase(network="repq_vit_deit_small", layers=("blocks.0",)),
    LowBitCase(network="bivit_swin_tiny", simulated=False),
    LowBitCase(network="bivit_swin_tiny_w1a1", layers=("layers.3",)),
    *(LowBitCase(network=name) for name, (base, _) in LOW_BIT_NETWORKS.items() if base == "digits_vit"),
)


def weight_bytes(program: Program) -> int:
    """Bytes of weights that an image loads: of all layers, patch embedding and heads included, with what fills up their tiles.

    Weights that do not stay on chip and are loaded again count again; biases, scales and tables do not count.
    """
    loads = (each for each in program.instructions if each.opcode is isa.Opcode.LOAD)
    words = sum(each.fields["words"] for each in loads if any(access.buffer.startswith(WEIGHTS) for access in each.writes))
    return words * program.config.lanes


def low_bit(cases: Iterable[LowBitCase] = LOW_BIT_CASES) -> dict[str, dict[str, Any]]:
    """Cycles, tile limit, utilisation and weight traffic of every case by the timing model, by :attr:`Case.model_name`."""
    results = {}
    for case in cases:
        program = compile_network(network_structure(case.network), case.config)
        whole = compile_network(network_structure(LOW_BIT_NETWORKS[case.network][0]), case.config)
        total = report(program, preset=case.preset)["total"]
        results[case.model_name] = {name: total[name] for name in ("cycles", "lower_bound_cycles", "utilization")} | {
            "weight_bytes": weight_bytes(program),
            "weight_bytes_int8": weight_bytes(whole),
        }
    return results


#: The RTL runs by name of the part.
LOW_BIT_RUNS: dict[str, Callable[[], dict[str, Any]]] = {case.part: partial(rtl, case) for case in LOW_BIT_CASES if case.simulated}


def low_bit_text(results: Mapping[str, Any]) -> str:
    """A Markdown table: each case beside what is asked of it. What was not measured is said to be so."""
    head = ["network", "memory", "required", "tile limit", "timing model", "utilisation", "weights loaded", "of int8's", *RUN_COLUMNS]
    rules = ["---"] * 3 + ["---:"] * 5 + ["---", "---:", "---:", "---", "---:"]
    rows = [head, rules, *(_row(case, results) for case in LOW_BIT_CASES)]
    return markdown(rows)


def _row(case: LowBitCase, results: Mapping[str, Any]) -> list[str]:
    modelled = results.get("low_bit", {}).get(case.model_name)
    cells = [case.network, case.memory, case.required]
    if modelled is None:
        cells += [UNMEASURED] * 5
    else:
        cells += [grouped(modelled[name]) for name in ("lower_bound_cycles", "cycles")]
        cells += [percent(modelled["utilization"]), f"{grouped(modelled['weight_bytes'])} B"]
        cells += [f"1/{modelled['weight_bytes_int8'] / modelled['weight_bytes']:.2f}"]
    return [*cells, *run_cells(case, results)]
