"""Benchmarks of the AXI core: random transactions on a memory that fails, and a digit that a host on the bus has classified."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.compile import compile_network, pack_input
from ..compiler.program import Program
from ..hw import isa
from ..hw.bus.axi import AxiMemory
from ..hw.bus.core import BusCore
from ..hw.config import preset
from ..model import golden
from ..model.network import IntegerNetwork
from ..model.networks import integer_network, samples
from .runner import build, run
from .trace import compare_outputs

__all__ = ["BUS_PARTS", "axi", "axi_digit", "bus_text", "run_over_bus"]

_PORTS, _TRANSACTIONS = (8, 64), 10_000
_NETWORK, _PRESET = "digits_vit", "l8"
# Where the core's memory begins in that of the bus, which ends with it.
_BASE_BEATS = 1000


def run_over_bus(program: Program, network: IntegerNetwork, images: NDArray[np.uint8], *, bus: str, folder: Path) -> dict[str, Any]:
    """Run one image, (1, channels, size, size), on the RTL of a core on ``bus``, and hold its outputs against the golden model.

    The host and the memory are :mod:`.bus_host`, all channels with random stalls. Before, the memory fails once. Result: ``values``
    compared, ``mismatches``, ``logits`` of row 0, and ``cycles``.
    """
    config = program.config
    tensors = {name: tensor[0] for name, tensor in golden.run(network, images).items()}
    base = _BASE_BEATS * config.port_bytes
    content = bytearray(base + program.memory_words * config.lanes)
    content[base : base + len(program.memory_image)] = program.memory_image
    image, start = pack_input(program, tensors[network.input]), base + program.input_region[0] * config.lanes
    content[start : start + len(image)] = image
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.bin").write_bytes(content)
    words = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in program.words())
    np.save(folder / "program.npy", np.frombuffer(words, "<u4").reshape(-1, isa.INSTRUCTION_WORDS))
    (folder / "job.json").write_text(json.dumps({"fingerprint": program.fingerprint, "limit": 1_000_000, "base": _BASE_BEATS}))
    run(build(BusCore(config, bus=bus), name=f"core_{bus}"), f"{__package__}.bus_host", test_dir=folder, plusargs=[f"bus={bus}"])
    after = (folder / "after.bin").read_bytes()[base:]
    outputs = {
        name: program.layouts[name].unpack(after[address * config.lanes : (address + count) * config.lanes])
        for name, (address, count) in program.output_regions.items()
    }
    values, mismatches = compare_outputs(outputs, tensors, 0)
    logits = {name: output[0].tolist() for name, output in outputs.items()}
    return {"values": values, "mismatches": mismatches, "logits": logits, "cycles": json.loads((folder / "cycles.json").read_text())}


def axi() -> list[dict[str, int]]:
    """Random transactions of the AXI master; the simulation fails at the first wrong byte, lost error, or broken handshake."""
    counts = []
    for port_bytes in _PORTS:
        model = build(AxiMemory(port_bytes), name=f"axi_memory_{port_bytes}")
        with tempfile.TemporaryDirectory() as work:
            arguments = [f"transactions={_TRANSACTIONS}"]
            run(model, f"{__package__}.axi_traffic", test_dir=Path(work), seed=port_bytes, plusargs=arguments)
            counts.append(json.loads((Path(work) / "traffic.json").read_text()))
    return counts


def axi_digit() -> dict[str, Any]:
    """A digit through a core on AXI, the memory being one of cocotbext-axi."""
    network, (images, labels) = integer_network(_NETWORK), samples(_NETWORK)
    with tempfile.TemporaryDirectory() as work:
        result = run_over_bus(compile_network(network, preset(_PRESET)), network, images[:1], bus="axi", folder=Path(work))
    if result.pop("mismatches"):
        raise ValueError(f"{_NETWORK} over AXI is not what the golden model says")
    logits = np.sum([*result.pop("logits").values()], axis=0)
    return {"network": _NETWORK, "preset": _PRESET, "class": int(np.argmax(logits)), "label": int(labels[0]), **result}


#: By name, what ``python -m vitloom.sim.bench`` measures.
BUS_PARTS = {"axi": axi, "axi_digit": axi_digit}


def bus_text(results: Mapping[str, Any]) -> str:
    """Table of what was measured."""
    lines = ["| what | measured |", "| --- | --- |"]
    for entry in results.get("axi", []):
        moved = f"{entry['transactions']}, {entry['beats']} beats in {entry['cycles']} cycles, {entry['split']} writes cut at 4 KiB"
        found = f"{entry['failed']} answered with an error, all reported; no wrong byte"
        lines.append(f"| random transactions, {entry['port_bytes']} bytes a beat | {moved}; {found} |")
    if entry := results.get("axi_digit"):
        found = f"class {entry['class']}, label {entry['label']}; {entry['values']} logits, all equal; {entry['cycles']} cycles"
        lines.append(f"| {entry['network']} on {entry['preset']}, loaded and run over AXI with stalls | {found} |")
    return "\n".join([*lines, ""])
