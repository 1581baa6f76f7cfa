"""What a simulation found, as lines on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from .report import model_timings
from .simulate import SimulationResult

__all__ = ["print_result"]


def print_result(result: SimulationResult, labels: Sequence[str], file: TextIO) -> None:
    """Classes, values that differ, and whether values and cycles are as they must be. labels : class names, or empty."""
    names = labels or [str(index) for index in range(max(result.predictions, default=-1) + 1)]
    for index, prediction in enumerate(result.predictions):
        label = f", label {names[result.labels[index]]}" if result.labels else ""
        print(f"image {index}: {names[prediction]}{label}", file=file)
    for entry in result.mismatches:
        place = f"{entry.tensor}[{entry.row}, {entry.column}]"
        print(f"run {entry.run}: {place} is {entry.got}, expected {entry.expected}", file=file)
    for text in result.differences:
        print(text, file=file)
    verdict = "all equal" if result.bit_exact else f"{result.wrong} differ"
    print(f"{result.values_compared} values compared with the golden model: {verdict}", file=file)
    print(_cycles(result), file=file)
    print(f"{result.cycles_per_second} cycles a second in the simulation, {result.wall_seconds} s in all", file=file)
    if result.elaborate_seconds is not None and result.compile_seconds is not None:
        seconds = f"{result.elaborate_seconds} s to Verilog, {result.compile_seconds} s to compile"
        print(f"the model, when it was built: {seconds}", file=file)


def _cycles(result: SimulationResult) -> str:
    """How the cycles are related to the timing model's."""
    if result.controller is not None:
        least, most = result.bounds
        said = "outside their bounds" if result.differences else f"between {least}, of a memory that never waits, and {most}"
        counted = f"the timing model says {model_timings(result.program)[1]}, the core counted {', '.join(map(str, result.cycles))}"
        return f"SDRAM of {result.controller.bytes_per_cycle:.3f} bytes a cycle: cycles {said}; {counted}"
    if result.stalls is None:
        return f"cycles of every instruction {'differ from' if result.differences else 'equal'} the timing model's"
    least, most = result.bounds
    said = "outside their bounds" if result.differences else f"bounded by {least} (the timing model's, without stalls) and {most}"
    counted = ", ".join(map(str, result.cycles))
    return f"memory stalls of seed {result.stalls}, not predicted: cycles {said}; the core counted {counted}"
