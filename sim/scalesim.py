"""SCALE-Sim, a cycle model of arrays that others made, as a peer: it runs in an interpreter of its own."""

from __future__ import annotations

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATAFLOWS", "Gemm", "config_text", "parse_report", "run_scalesim", "scalesim_version", "topology_text"]

DATAFLOWS = ("ws", "os", "is")
"""SCALE-Sim's names: weight, output and input stationary."""

_RUN = """
import sys
from scalesim.scale_sim import scalesim
folder = sys.argv[1]
files = {name: f"{folder}/{name}.{end}" for name, end in (("config", "cfg"), ("topology", "csv"), ("layout", "csv"))}
scalesim(save_disk_space=True, verbose=False, input_type_gemm=True, **files).run_scale(top_path=folder)
"""  # its own command line always saves traces, which takes minutes and gigabytes


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """All products of one kind: ``count`` of (M, K) with (K, N); ``cycles`` are ours of all of them."""

    kind: str
    M: int
    K: int
    N: int
    count: int
    cycles: int

    @property
    def macs(self) -> int:
        return self.M * self.K * self.N * self.count


def topology_text(gemms: Sequence[Gemm]) -> str:
    """SCALE-Sim's list of products, one of each kind. Lines end in a comma, without which it drops the last number."""
    return "Layer,M,N,K,\n" + "".join(f"{gemm.kind},{gemm.M},{gemm.N},{gemm.K},\n" for gemm in gemms)


def config_text(lanes: int, dataflow: str) -> str:
    """SCALE-Sim's configuration: a ``lanes`` x ``lanes`` array with a memory that never keeps it waiting (``CALC``), whatever its sizes."""
    sections = {
        "general": {"run_name": "run"},
        "architecture_presets": {
            **{"ArrayHeight": lanes, "ArrayWidth": lanes, "Dataflow": dataflow, "Bandwidth": 16},
            **{f"{name}SramSzkB": 1024 for name in ("Ifmap", "Filter", "Ofmap")},
            **{"IfmapOffset": 0, "FilterOffset": 10_000_000, "OfmapOffset": 20_000_000},
            **{"ReadRequestBuffer": 64, "WriteRequestBuffer": 64},
        },
        "layout": {
            name + field: value
            for name in ("Ifmap", "Filter")
            for field, value in {"CustomLayout": False, "SRAMBankBandwidth": 10, "SRAMBankNum": 10, "SRAMBankPort": 2}.items()
        },
        "sparsity": {"SparsitySupport": False},
        "run_presets": {"InterfaceBandwidth": "CALC", "UseRamulatorTrace": False},
    }
    return "".join(f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in body.items()) for title, body in sections.items())


def parse_report(text: str, products: int) -> list[int]:
    """Cycles of each product in SCALE-Sim's COMPUTE_REPORT.csv, without its prefetch before the first cycle."""
    try:
        cycles = [int(row["Total Cycles"]) for row in csv.DictReader(text.splitlines(), skipinitialspace=True)]
    except (KeyError, ValueError):
        raise ValueError("SCALE-Sim's compute report has no column of whole numbers 'Total Cycles'") from None
    if len(cycles) != products:
        raise ValueError(f"SCALE-Sim reported {len(cycles)} products, not {products}")
    return cycles


def scalesim_version(python: Path) -> str:
    """Version of SCALE-Sim beside ``python``; ``ValueError`` when there is none."""
    if not python.exists():
        raise ValueError(f"there is no {python}; 'make bench-peers' makes the environment with SCALE-Sim")
    command = "import scalesim.scale_sim, importlib.metadata as m; print(m.version('scalesim'))"
    done = subprocess.run([python, "-c", command], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{python} cannot import SCALE-Sim ({_last_line(done.stderr)}); remove its environment and run 'make bench-peers'")
    return done.stdout.strip()


def run_scalesim(python: Path, gemms: Sequence[Gemm], lanes: int, dataflow: str) -> list[int]:
    """SCALE-Sim's cycles of one product of each kind."""
    with tempfile.TemporaryDirectory(prefix="vitloom-") as name:
        folder = Path(name)
        (folder / "config.cfg").write_text(config_text(lanes, dataflow))
        (folder / "topology.csv").write_text(topology_text(gemms))
        (folder / "layout.csv").touch()  # it wants one, although no layout is configured
        done = subprocess.run([python, "-c", _RUN, name], capture_output=True, text=True)
        result = folder / "run" / "COMPUTE_REPORT.csv"
        if done.returncode or not result.exists():
            raise ValueError(f"SCALE-Sim failed: {_last_line(done.stderr or done.stdout)}")
        return parse_report(result.read_text(), len(gemms))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
