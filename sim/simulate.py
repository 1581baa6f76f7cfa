"""Run a network on the core's RTL, and hold every value and every cycle against the golden model and the timing model."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..boards.sdram import Sdram
from ..compiler.compile import compile_network, pack_input
from ..compiler.program import Program
from ..hw import isa
from ..hw.config import CoreConfig
from ..model import golden
from ..model.network import IntegerNetwork
from ..model.part import part, part_input
from . import trace
from .conversion import core_verilog
from .report import layer_rows, model_timings, report
from .runner import Model, build, run, to_verilog
from .sdram import CHIP_VERILOG, SdramMemory, chip_plusargs, fastest, sdram_bounds, started, with_sdram
from .stalls import check_seed, cycle_bounds
from .trace import Mismatch, Trace

__all__ = ["SimulationResult", "core_model", "memory_plusargs", "simulate", "write_job"]

_BENCH = f"{__package__}.bench_core"  # by name: cocotb, which it imports, is slow to start
_TESTBENCH = Path(__file__).with_name("testbench.v")
# Bytes of the bench's memory, at least, and by lanes squared: small networks share a compiled model, which takes minutes for a large array.
_MIN_MEMORY, _MIN_MEMORY_PER_CELL = 4 << 20, 16 << 10
_SHOWN = 20
_DONE = 0b010


@dataclass(kw_only=True)
class SimulationResult:
    """What a simulation found.

    Parameters
    ----------
    program : Program
    values_compared : int
        Values of activations (and of outputs in external memory) that were held against the golden model.
    mismatches : list of Mismatch
        The first of the values that differ.
    wrong : int
        Number of values that differ.
    differences : list of str
        Everything else that is not as it must be: runs that did not end, cycles that are not the timing model's.
    predictions, labels : list of int
        Class of each image as the core's logits say; what it should be, or empty. Both are empty for a part of a network.
    layer_cycles : list of int
        Cycles of each layer in the first run, from the core's events.
    cycles : list of int
        Of each run, from the core's cycle register.
    cycles_per_second : float
        All cycles over the wall time between start and interrupt of all runs.
    stalls : int or None
        Seed of the memory's stalls.
    controller : Sdram or None
        Of the memory, when that is an SDRAM chip.
    wall_seconds : float
        Of everything: golden model, compiler, building the model, simulation and comparison.
    elaborate_seconds, compile_seconds : float or None
        What converting the core to Verilog and compiling the model took when they were done; both are kept. None where it was not noted.
    """

    program: Program
    values_compared: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    wrong: int = 0
    differences: list[str] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    layer_cycles: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    stalls: int | None = None
    controller: Sdram | None = None
    cycles_per_second: float = 0.0
    wall_seconds: float = 0.0
    elaborate_seconds: float | None = None
    compile_seconds: float | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and most cycles that a run may take: the timing model's, without stalls."""
        if self.controller is not None:
            return sdram_bounds(self.program, self.controller)
        _, total = model_timings(self.program)
        return (total, total) if self.stalls is None else cycle_bounds(self.program, total)

    @property
    def bit_exact(self) -> bool:
        """Whether values were compared and none differs."""
        return self.values_compared > 0 and self.wrong == 0

    @property
    def agreed(self) -> bool:
        """Whether all values and all cycles are as the models say."""
        return self.bit_exact and not self.differences

    def add(self, compared: int, mismatches: Sequence[Mismatch]) -> None:
        """Count what a comparison found."""
        self.values_compared += compared
        self.wrong += len(mismatches)
        self.mismatches += mismatches[: max(0, _SHOWN - len(self.mismatches))]

    def content(self, *, preset: str) -> dict[str, Any]:
        """As ``vitloom simulate --json`` writes it: the report, and what was measured; ``cycles_rtl`` is None when the run did not end."""
        content = report(self.program, preset=preset)
        for layer, cycles in zip(content["layers"], self.layer_cycles or [None] * len(content["layers"]), strict=True):
            layer["cycles_rtl"] = cycles
        content["total"]["cycles_rtl"] = self.cycles[0]
        least, most = self.bounds
        stalls = None if self.stalls is None else {"seed": self.stalls, "least_cycles": least, "most_cycles": most, "cycles": self.cycles}
        names = ("bit_exact", "values_compared", "differences", "predictions", "labels")
        measured = ("cycles_per_second", "wall_seconds", "elaborate_seconds", "compile_seconds")
        found = {name: getattr(self, name) for name in (*names, *measured)}
        if self.controller is not None:
            found["sdram"] = {"least_cycles": least, "most_cycles": most, "bytes_per_cycle": round(self.controller.bytes_per_cycle, 4)}
        return {**content, **found, "stalls": stalls, "mismatches": [asdict(entry) for entry in self.mismatches]}


def simulate(
    network: IntegerNetwork,
    config: CoreConfig,
    images: NDArray[np.uint8],
    labels: Sequence[int] | None = None,
    *,
    layers: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
    stalls: int | None = None,
    controller: Sdram | None = None,
    plusargs: Sequence[str] = (),
) -> SimulationResult:
    """Compile ``network`` and run it on each of ``images``, in one simulation of the core's RTL.

    images : (n, channels, size, size) uint8.
    layers : names of layers, if not all are wanted (:func:`..model.part.part`); they start from the golden values of those before.
    stalls : seed of random stalls of the memory. Values are compared as ever; cycles are held against :func:`.stalls.cycle_bounds`.
    controller : of an SDRAM chip that is the memory, and keeps its rules to the cycle (``sdram_chip.v``); the core's port is as wide as its
    bus. Values are compared as ever; cycles are held against :func:`.sdram.sdram_bounds`.
    plusargs : more options of ``testbench.v``.
    """
    if config.memory_efficiency < 1000:
        raise ValueError(
            f"memory_efficiency={config.memory_efficiency} is for the timing model; the simulated memory has 1000, or is an SDRAM"
        )
    if controller is not None:
        if stalls is not None:
            raise ValueError("an SDRAM has no random stalls; give one of both")
        config = with_sdram(config, controller)
        controller = started(controller)
        plusargs = [*chip_plusargs(controller.chip, controller.clock_hz), *plusargs]
    if stalls is not None:
        check_seed(stalls)
        plusargs = [f"stalls={stalls}", *plusargs]
    began = time.perf_counter()
    chosen = part(network, layers) if layers else network
    program = compile_network(chosen, config)
    trace.check_coverage(program)
    tensors = golden.run_from(chosen, part_input(network, chosen, images))
    logits = [] if layers else network.outputs
    classes = [int(label) for label in labels] if logits and labels is not None else []
    result = SimulationResult(program=program, labels=classes, stalls=stalls, controller=controller)
    progress(f"{len(program.instructions)} instructions; building the core's model, minutes the first time")
    model = core_model(config, program, controller)
    result.elaborate_seconds, result.compile_seconds = model.elaborate_seconds, model.compile_seconds
    with tempfile.TemporaryDirectory(prefix="vitloom-") as name:
        folder = Path(name)
        write_job(folder, program, [pack_input(program, rows) for rows in tensors[chosen.input]])
        progress(f"simulating {len(images)} runs")
        options = [*memory_plusargs(program), "trace", *plusargs]
        run(model, _BENCH, test_dir=folder, plusargs=options)
        progress("comparing")
        _examine(folder, program, logits, tensors, result)
    result.wall_seconds = round(time.perf_counter() - began, 3)
    return result


def core_model(config: CoreConfig, program: Program, controller: Sdram | None = None) -> Model:
    """The core in its bench, compiled, with a memory that holds the program's data: an SDRAM chip if its controller is given."""
    size = max(program.memory_words * config.lanes, _MIN_MEMORY, _MIN_MEMORY_PER_CELL * config.lanes**2)
    beats = 1 << (size // config.port_bytes - 1).bit_length()
    parameters = {"WORD_BYTES": config.lanes, "PORT_BYTES": config.port_bytes, "BEATS": beats}
    core = core_verilog(config)
    sources = [core.verilog, _TESTBENCH]
    if controller is not None:
        memory = to_verilog(SdramMemory(controller.chip, controller.clock_hz, beats, buffered=True), "sdram_memory")
        sources = ["`define SDRAM\n", core.verilog, memory, CHIP_VERILOG, _TESTBENCH]
    model = build(None, name="testbench", verilog=sources, parameters=parameters)
    return replace(model, elaborate_seconds=core.seconds)


def memory_plusargs(program: Program) -> list[str]:
    """Options of the bench's memory: what is in it, and which beats to keep after a run."""
    beats = program.config.beats
    first = min(address for address, _ in program.output_regions.values()) * beats
    last = max(address + words for address, words in program.output_regions.values()) * beats - 1
    return ["memory=memory.hex", f"latency={program.config.memory_latency}", f"first={first}", f"last={last}"]


def write_job(folder: Path, program: Program, inputs: Sequence[bytes], *, limit: int | None = None) -> None:
    """Write what the bench reads: the program, the parameters, and the input of each run.

    inputs : for each run, the bytes of the input region (:func:`..compiler.compile.pack_input`).
    limit : cycles of a run after which it counts as hanging; by default twice what the timing model says.
    """
    config = program.config
    _, total = model_timings(program)
    job = {"runs": len(inputs), "fingerprint": program.fingerprint, "limit": limit or 2 * total + 10_000}
    (folder / "job.json").write_text(json.dumps(job))
    words = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in program.resident_words())
    np.save(folder / "program.npy", np.frombuffer(words, "<u4").reshape(-1, isa.INSTRUCTION_WORDS))
    (folder / "memory.hex").write_text(_hex(program.memory_image, config.port_bytes))
    for index, content in enumerate(inputs):
        address = program.input_region[0] * config.beats
        (folder / f"input_{index}.hex").write_text(f"@{address:x}\n{_hex(content, config.port_bytes)}\n")


def _hex(content: bytes, size: int) -> str:
    """Beats of ``size`` bytes as ``$readmemh`` reads them: one a line, the last byte first."""
    return np.frombuffer(content, np.uint8).reshape(-1, size)[:, ::-1].tobytes().hex("\n", size)


def _examine(folder: Path, program: Program, logits: Sequence[str], tensors: dict[str, NDArray], result: SimulationResult) -> None:
    """Hold what the bench wrote against the models; the sum of the outputs ``logits``, if there are any, says the class."""
    model, _ = model_timings(program, None if result.controller is None else fastest(program.config))
    least, most = result.bounds
    runs = json.loads((folder / "runs.json").read_text())
    for index, entry in enumerate(runs):
        golden_run = {name: tensor[index] for name, tensor in tensors.items()}
        seen = Trace.read(folder, index, program.config.lanes)
        result.add(*trace.compare_values(program, seen, golden_run, index))
        outputs = trace.read_outputs(folder, program, index)
        result.add(*trace.compare_outputs(outputs, golden_run, index))
        if logits:
            result.predictions.append(int(np.argmax(sum(outputs[name][0].astype(np.int64) for name in logits))))
        found = trace.compare_timing(program, seen, model, stalled=result.stalls is not None or result.controller is not None)
        if entry["status"] != _DONE:
            error = isa.Error(entry["error"]).name
            found.insert(0, f"the core stopped with status {entry['status']}, error {error} at instruction {entry['error_instruction']}")
        if not least <= entry["cycles"] <= most:
            limits = f"{least}" if least == most else f"{least} to {most} with {'stalls' if result.controller is None else 'the SDRAM'}"
            found.append(f"the core counted {entry['cycles']} cycles, the model says {limits}")
        result.differences += [f"run {index}: {text}" for text in found]
        result.cycles.append(entry["cycles"])
        if index == 0 and entry["status"] == _DONE:
            result.layer_cycles = [row["cycles"] for row in layer_rows(program, seen.timings(program), entry["cycles"])]
    result.cycles_per_second = round(sum(result.cycles) / sum(entry["seconds"] for entry in runs))
