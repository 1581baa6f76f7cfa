"""Cycles of a network's matrix products here and in SCALE-Sim's model of an array of the same size, and what peers published."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from ..compiler.compile import compile_network
from ..hw.config import preset
from ..model.networks import network_structure
from .report import report
from .report_text import print_table, write_json
from .scalesim import DATAFLOWS, Gemm, run_scalesim, scalesim_version

__all__ = ["PUBLISHED", "Published", "collect_gemms", "compare", "main", "print_comparison"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A peer's own figure: how it came to be (``published`` or ``derived``), where it stands, and why it cannot be compared one to one."""

    peer: str
    figure: str
    origin: str
    source: str
    caveat: str


PUBLISHED = (
    Published(
        peer="Gemmini, 16x16, I-ViT's integer DeiT-Tiny through TVM",
        figure="about 11e9 cycles an image",
        origin="published",
        source="README of github.com/jmha02/I-ViT-Gemmini",
        caveat="same network and array, but a whole RISC-V system and its software; the README gives one rounded figure for both an "
        "instruction-set simulator and Verilator",
    ),
    Published(
        peer="HG-PIPE, DeiT-Tiny, 3 bits",
        figure="57625 cycles an image with 24768 products a cycle (85 % utilization)",
        origin="derived",
        source="latency files and parallelism in github.com/hguq/HG-PIPE",
        caveat="one unit for each layer instead of one array, 3-bit operands, 196 tokens; a rate of a full pipeline, not a latency",
    ),
    Published(
        peer="OpenGeMM",
        figure="81.89 to 99.34 % utilization",
        origin="published",
        source="abstract of arXiv 2411.09543",
        caveat="matrix products only, other workloads, another array",
    ),
    Published(
        peer="ViTA",
        figure="nearly 90 % utilization on most vision transformers",
        origin="published",
        source="abstract of arXiv 2302.09108",
        caveat="another array, and the abstract does not say what counts as utilization",
    ),
)


def collect_gemms(layers: Sequence[Mapping[str, Any]], cycles: str) -> list[Gemm]:
    """Products of a report's layers, by kind (the name without the block's number) and shape; ``cycles``: the entry that has them."""
    kinds: dict[tuple[str, int, int, int], Gemm] = {}
    for layer in layers:
        if layer["op"] == "gemm":
            key = (re.sub(r"^.*\.\d+\.", "", layer["name"]), layer["M"], layer["K"], layer["N"])
            kind, M, K, N = key
            old = kinds.get(key, Gemm(kind=kind, M=M, K=K, N=N, count=0, cycles=0))
            kinds[key] = replace(old, count=old.count + layer["count"], cycles=old.cycles + layer[cycles])
    return list(kinds.values())


def compare(content: Mapping[str, Any], scalesim: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """A report, or what ``vitloom simulate --json`` wrote, beside SCALE-Sim's cycles of one product of each kind, by dataflow."""
    measured = "cycles_rtl" in content["total"]
    entry = "cycles_rtl" if measured else "cycles"
    gemms, total, lanes = collect_gemms(content["layers"], entry), content["total"][entry], content["lanes"]
    kinds = [
        {**asdict(gemm), "scalesim_cycles": {dataflow: each[index] * gemm.count for dataflow, each in scalesim.items()}}
        for index, gemm in enumerate(gemms)
    ]
    totals = {dataflow: sum(kind["scalesim_cycles"][dataflow] for kind in kinds) for dataflow in scalesim}
    macs = sum(gemm.macs for gemm in gemms)
    return {
        "network": content["network"],
        "preset": content["preset"],
        "lanes": lanes,
        "origin": "measured" if measured else "modelled",
        "kinds": kinds,
        "other_cycles": total - sum(gemm.cycles for gemm in gemms),
        "total": {"macs": macs, "cycles": total, "utilization": round(macs / (lanes**2 * total), 6)},
        "scalesim": {
            dataflow: {"origin": "modelled", "cycles": cycles, "utilization": round(macs / (lanes**2 * cycles), 6)}
            for dataflow, cycles in totals.items()
        },
        "scalesim_best": min(totals, key=lambda dataflow: totals[dataflow]),
        "scalesim_switching_cycles": sum(min(kind["scalesim_cycles"].values()) for kind in kinds),
    }


def print_comparison(entry: Mapping[str, Any], file: TextIO) -> None:
    """One array size as a table, and how SCALE-Sim's best dataflow compares in a sentence."""
    peers, total, best = entry["scalesim"], entry["total"], entry["scalesim_best"]
    head = ["layers", "M x K x N", "count", f"vitloom, {entry['origin']}", *(f"SCALE-Sim {dataflow}, modelled" for dataflow in peers), ""]
    rows = [
        [
            kind["kind"],
            f"{kind['M']} x {kind['K']} x {kind['N']}",
            *map(str, (kind["count"], kind["cycles"], *kind["scalesim_cycles"].values())),
            "",
        ]
        for kind in entry["kinds"]
    ]
    rows.append(["softmax, LayerNorm", "", "", str(entry["other_cycles"]), *["not modelled"] * len(peers), ""])
    rows.append(["total", "", "", *(str(each["cycles"]) for each in (total, *peers.values())), ""])
    rows.append(["utilization", "", "", *(f"{100 * each['utilization']:.1f} %" for each in (total, *peers.values())), ""])
    print_table(f"{entry['network']} on {entry['preset']}, cycles of one {entry['lanes']} x {entry['lanes']} array", head, rows, file)
    ratio, switching = (cycles / total["cycles"] for cycles in (peers[best]["cycles"], entry["scalesim_switching_cycles"]))
    print(f"the products alone take SCALE-Sim's best dataflow, {best}, {ratio:.2f} times vitloom's cycles of the whole network;", file=file)
    print(f"with the best dataflow for each kind of layer, {switching:.2f} times", file=file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write the JSON. 0: done; 2: bad input or no SCALE-Sim, in one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="bench_peers", description="vitloom's cycles beside SCALE-Sim's and published ones.")
    parser.add_argument("network", nargs="?", default="deit_tiny", help="name of a network (default deit_tiny)")
    parser.add_argument("--presets", nargs="+", default=["l16", "l32"], metavar="P", help="configurations (default l16 l32)")
    parser.add_argument("--measured", nargs="+", default=[], type=Path, metavar="F", help="files of 'vitloom simulate --json': RTL cycles")
    parser.add_argument("--python", type=Path, default=Path("build/peers-venv/bin/python"), help="interpreter that has SCALE-Sim")
    parser.add_argument("--json", default="build/peers.json", metavar="F", help="file to write (default build/peers.json)")
    given = parser.parse_args(arguments)
    try:
        result = {"scalesim_version": scalesim_version(given.python), "arrays": [], "published": [asdict(each) for each in PUBLISHED]}
        for content in _contents(given.network, given.presets, given.measured):
            gemms, peers = collect_gemms(content["layers"], "cycles"), {}
            for dataflow in DATAFLOWS:
                print(f"bench_peers: SCALE-Sim {content['lanes']} x {content['lanes']} {dataflow}, up to minutes", file=sys.stderr)
                peers[dataflow] = run_scalesim(given.python, gemms, content["lanes"], dataflow)
            result["arrays"].append(compare(content, peers))
            print_comparison(result["arrays"][-1], sys.stdout)
            print()
        for each in PUBLISHED:
            print(f"{each.peer}: {each.figure} ({each.origin}: {each.source}; not one to one: {each.caveat})")
        write_json(result, given.json)
    except (ValueError, OSError) as error:
        print(f"bench_peers: {error}", file=sys.stderr)
        return 2
    return 0


def _contents(network: str, presets: Sequence[str], measured: Sequence[Path]) -> list[dict[str, Any]]:
    """Reports of the presets, from the timing model, or measured where a file has it."""
    contents = {name: report(compile_network(network_structure(network), preset(name)), preset=name) for name in presets}
    for file in measured:
        try:
            content = json.loads(file.read_text())
            done = content["total"]["cycles_rtl"] is not None and content["network"] == network and content["preset"] in contents
        except (json.JSONDecodeError, KeyError, TypeError):
            done = False
            content = {}
        if not done:
            raise ValueError(f"{file} is not a finished 'vitloom simulate --json' of {network} on {' or '.join(presets)}")
        contents[content["preset"]] = content
    return list(contents.values())


if __name__ == "__main__":
    sys.exit(main())
