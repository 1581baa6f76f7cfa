"""What runs and what is kept when: instructions of one block on the four engines, and the contents of the scratchpad's banks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.program import WEIGHTS, Access, Instruction, Program, Space
from ..hw import isa
from .sequencer_timing import Timing

__all__ = ["Bar", "Stay", "Window", "memory_summary", "stays", "windows"]

_BLOCK = re.compile(r"(.*?)blocks\.(\d+)\.")
#: How much of what is before and after a block is shown with it.
_MARGIN = 0.25


@dataclass(frozen=True, kw_only=True)
class Stay:
    """Words of the scratchpad from the start of the first instruction that writes them to the end of the last that uses them.

    Parameters
    ----------
    name, layer : str
        Buffer, and the layer that writes it.
    address, words : int
    begin, end : int
        Cycles.
    """

    name: str
    layer: str
    address: int
    words: int
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One instruction in a timeline; ``track`` is 0, or more where it overlaps others of its engine."""

    index: int
    engine: str
    track: int
    opcode: str
    layer: str
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A block of the network: its cycles, and all that happens from ``first`` to ``last``, which is somewhat more."""

    name: str
    begin: int
    end: int
    first: int
    last: int
    bars: list[Bar]
    stays: list[Stay]


def stays(program: Program, timings: Sequence[Timing]) -> list[Stay]:
    """Everything that is ever in the scratchpad. Weights come and go in a ring: each load of them begins a stay of its own."""
    open_stays: dict[tuple[str, int], Stay] = {}
    result = []
    for instruction, timing in zip(program.instructions, timings, strict=False):
        for access, writes in [*((a, False) for a in instruction.reads), *((a, True) for a in instruction.writes)]:
            buffer = program.buffers[access.buffer]
            if buffer.space is not Space.SCRATCHPAD:
                continue
            key = (access.buffer, access.row if access.buffer.startswith(WEIGHTS) else 0)
            if writes and access.buffer.startswith(WEIGHTS) and key in open_stays:
                result.append(open_stays.pop(key))
            before = open_stays.get(key)
            if before is None:
                open_stays[key] = _begin(program, instruction, access, timing)
            elif timing.done > before.end:
                open_stays[key] = Stay(**{**vars(before), "end": timing.done})
    return sorted([*result, *open_stays.values()], key=lambda stay: (stay.begin, stay.address))


def _begin(program: Program, instruction: Instruction, access: Access, timing: Timing) -> Stay:
    buffer = program.buffers[access.buffer]
    offset, words = (access.row, access.rows) if access.buffer.startswith(WEIGHTS) else (0, buffer.words)
    return Stay(
        name=buffer.name,
        layer=instruction.layer,
        address=buffer.address + offset,
        words=words,
        begin=timing.start,
        end=timing.done,
    )


def memory_summary(program: Program, timings: Sequence[Timing]) -> dict[str, Any]:
    """Sizes of the memories, and how full each bank ever gets, all in bytes."""
    config = program.config
    kept = stays(program, timings)
    banks = []
    for bank in range(config.banks):
        first, end = bank * config.bank_words, (bank + 1) * config.bank_words
        inside = [(stay, min(stay.address + stay.words, end) - max(stay.address, first)) for stay in kept]
        mine = [(stay, words) for stay, words in inside if words > 0]
        # Of changes in one cycle the releases come first.
        changes = sorted([*((stay.begin, words) for stay, words in mine), *((stay.end, -words) for stay, words in mine)])
        peak = max(np.cumsum([words for _, words in changes]), default=0)
        buffers = len({stay.name for stay, _ in mine})
        banks.append({"bank": bank, "bytes": config.bank_words * config.lanes, "peak_bytes": int(peak) * config.lanes, "buffers": buffers})
    return {
        "scratchpad_bytes": config.scratchpad_words * config.lanes,
        "parameter_bytes": program.input_region[0] * config.lanes,
        "external_bytes": program.memory_words * config.lanes,
        "instructions": len(program.instructions),
        "banks": banks,
    }


def windows(program: Program, timings: Sequence[Timing]) -> list[Window]:
    """The middle one of each run of alike blocks: one for a ViT, one a stage for a Swin; without blocks the whole network."""
    groups: dict[str, set[int]] = {}
    for layer in program.layers:
        if found := _BLOCK.match(layer.name):
            groups.setdefault(found[1], set()).add(int(found[2]))
    names = [f"{prefix}blocks.{sorted(numbers)[len(numbers) // 2]}" for prefix, numbers in groups.items()]
    kept = stays(program, timings)
    return [_window(program, timings, kept, name) for name in names or [""]]


def _window(program: Program, timings: Sequence[Timing], kept: Sequence[Stay], name: str) -> Window:
    pairs = list(zip(program.instructions, timings, strict=False))
    work = (isa.Queue.ARRAY, isa.Queue.ROWS)
    inside = [t for i, t in pairs if i.queue in work and (not name or i.layer.startswith(f"{name}."))]
    begin, end = min(t.start for t in inside), max(t.done for t in inside)
    margin = round(_MARGIN * (end - begin))
    first, last = max(0, begin - margin), min(max(t.done for t in timings), end + margin)
    return Window(
        name=name or program.name,
        begin=begin,
        end=end,
        first=first,
        last=last,
        bars=_bars(program, timings, first, last),
        stays=[stay for stay in kept if stay.begin < last and first < stay.end],
    )


def _bars(program: Program, timings: Sequence[Timing], first: int, last: int) -> list[Bar]:
    """Instructions that run between two cycles; each goes to the lowest free track of its engine."""
    bars = []
    free: dict[isa.Queue, list[int]] = {queue: [] for queue in isa.Queue}
    for index, (instruction, timing) in enumerate(zip(program.instructions, timings, strict=False)):
        if instruction.opcode is isa.Opcode.SYNC or timing.start >= last or timing.done <= first:
            continue
        tracks = free[instruction.queue]
        track = next((number for number, end in enumerate(tracks) if end <= timing.start), len(tracks))
        tracks[track : track + 1] = [timing.done]
        bars.append(
            Bar(
                index=index,
                engine=instruction.queue.name.lower(),
                track=track,
                opcode=instruction.opcode.name,
                layer=instruction.layer,
                begin=timing.start,
                end=timing.done,
            )
        )
    return bars
