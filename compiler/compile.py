"""Chooses a plan, places the buffers and puts a program together; input and output of a program as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import CoreConfig
from ..model.network import IntegerNetwork
from .blocks import PROGRAM, fetch_blocks, pack_blocks
from .check import check
from .constants import MemoryImage
from .emitter import Emitter, Plan, phases
from .layout import ceil_div
from .lower import lower
from .memory import DoesNotFit, Lifetime, place
from .program import Buffer, Instruction, Port, Program, Space
from .remedies import TooLong, TooSmall, least
from .schedule import Hazards, Span, busiest, estimate, load_ahead, synchronise

__all__ = ["compile_network", "pack_input", "unpack_output"]

#: A plan that takes so much longer than its busiest engine is good enough.
_GOOD = 1.003
#: Instructions of all plans that are tried, at most, once one fits.
_EFFORT = 6_000
#: What may be too small for any plan, the likely ones first.
_LIMITS = ("program_depth", "scratchpad_bytes", "accumulator_rows", "constant_channels", "banks")
#: The same where memory is no plan's problem: few accumulators make many short instructions.
_LENGTH_LIMITS = ("program_depth", "accumulator_rows")


def compile_network(network: IntegerNetwork, config: CoreConfig) -> Program:
    """The fastest of a few plans, by estimate.

    Raises ``ValueError`` when the core cannot run the network: a mode or a unit too small, a scratchpad or program memory too small.
    """
    image = MemoryImage(network, config.lanes)
    words = sum(size for _, size in image.regions.values())
    if words > config.memory_words:
        size, limit = words * config.lanes, config.memory_words * config.lanes
        raise ValueError(f"{network.name} takes {size} bytes of external memory; {limit} can be addressed")
    try:
        best = _best(network, config, image)
    except TooSmall as error:
        larger = least(config, error.field, partial(_allows, network, image, error.field))
        raise ValueError(f"{error}{_setting(larger, error.field)}") from None
    except TooLong:
        raise ValueError(_refusal(network, config, image, (*_LENGTH_LIMITS, *_LIMITS))) from None
    if best is None:
        raise ValueError(_refusal(network, config, image, _LIMITS))
    check(best)
    return best


def _best(network: IntegerNetwork, config: CoreConfig, image: MemoryImage) -> Program | None:
    """The fastest of the plans that fit, by estimate, as far as they are tried; :class:`TooLong` if all have too many instructions."""
    best: tuple[int, Program] | None = None
    effort, large = 0, False
    for program in _programs(network, config, image):
        if program is None:
            large = True
            continue
        cycles = max(span.end for span in estimate(program.instructions, config))
        if best is None or cycles < best[0]:
            best = cycles, program
        effort += len(program.instructions)
        if config.serial or cycles <= _GOOD * busiest(program.instructions, config) or effort > _EFFORT:
            break
    if best is None and not large:
        raise TooLong
    return best and best[1]


def _programs(network: IntegerNetwork, config: CoreConfig, image: MemoryImage) -> Iterator[Program | None]:
    """The program of each plan that is short enough, None for those that take more memory."""
    for group in _plans(config):
        for plan in group:
            try:
                program = _fit(network, config, image, plan)
            except TooLong:
                continue
            yield program
            if program is None:
                break


def _plans(config: CoreConfig) -> list[list[Plan]]:
    """Groups of plans that take about the same memory, the fastest ones first: where the first of a group does not fit, none does."""
    rows, banks = config.accumulator_rows, max(1, config.banks // 2)
    fast = [
        [
            Plan(split=2, weight_banks=(count,), weight_parts=parts, chunk_rows=chunk)
            for parts, count in ((4, banks), (8, banks), (4, max(1, banks - 1)), (2, banks))
        ]
        for chunk in (2 * rows, rows // 2)
    ]
    if config.serial:  # nothing overlaps: the fewest instructions are the fastest
        fast = [[Plan(split=1, weight_banks=(banks,), weight_parts=1, chunk_rows=2 * rows, timed=False, overlap=False)]]
    fast.insert(1, [Plan(split=1, weight_banks=(banks,), weight_parts=parts, chunk_rows=2 * rows) for parts in (4, 2)])
    sizes = [(2, 2 * rows, 0), (2, rows // 2, 0), (1, rows // 2, 2), (1, rows // 4, 2), (1, rows // 4, 4), (1, rows // 8, 8)]
    frugal = [
        [Plan(split=split, weight_banks=(banks,), weight_parts=2, chunk_rows=chunk, head_split=heads, timed=False, overlap=False)]
        for split, chunk, heads in sizes
    ]
    # Where attention is what takes the memory, all rows of an MLP may fit: every weight is loaded once.
    once = Plan(split=1, weight_banks=(banks,), weight_parts=4, chunk_rows=2 * rows, head_split=2, timed=False, overlap=False)
    frugal.insert(1, [once, replace(once, weight_parts=2)])
    return fast + frugal


def _fit(network: IntegerNetwork, config: CoreConfig, image: MemoryImage, plan: Plan) -> Program | None:
    """The program of a plan, with as many banks for weights as leave enough for everything else; None if there is no such program.

    Where rows are cut into chunks, weights begin with one bank: they are soon used up and come again.
    """
    numbers = phases(network)
    banks = [1] * (1 + max(numbers.values()))
    for operator in network.operators:
        if getattr(operator, "rows", plan.chunk_rows + 1) <= plan.chunk_rows or len(banks) == 1:
            banks[numbers[operator.name]] = max(1, *plan.weight_banks)
    while True:
        try:
            return _compile(network, config, image, replace(plan, weight_banks=tuple(banks)))
        except DoesNotFit as error:
            near = [] if error.phase is None else [*range(error.phase, len(banks)), *range(error.phase)[::-1]]
            fewer = next((phase for phase in near if banks[phase] > 1), None)
            if fewer is None:
                return None
            # With one ring of weights it is known how many banks are too many.
            banks[fewer] -= max(1, ceil_div(error.words, config.bank_words)) if len(banks) == 1 else 1
            if banks[fewer] < 1:
                return None


def _works(network: IntegerNetwork, image: MemoryImage, config: CoreConfig) -> bool:
    """Whether some plan fits; the most frugal ones are tried first."""
    for plan in (plan for group in reversed(_plans(config)) for plan in group):
        with suppress(TooLong):
            if _fit(network, config, image, plan):
                return True
    return False


def _allows(network: IntegerNetwork, image: MemoryImage, field: str, config: CoreConfig) -> bool:
    """Whether a field is large enough for every operator."""
    try:
        return _works(network, image, config)
    except TooSmall as error:
        return error.field != field


def _refusal(network: IntegerNetwork, config: CoreConfig, image: MemoryImage, limits: Sequence[str]) -> str:
    """What is too small for every plan, the first of ``limits`` of which a larger value helps, and the least that works."""
    works = partial(_works, network, image)
    found = ((field, larger) for field in dict.fromkeys(limits) if (larger := least(config, field, works)))
    field, larger = next(found, ("", None))
    have = config.scratchpad_words * config.lanes
    if field == "scratchpad_bytes" and larger:
        need = larger.scratchpad_words * larger.lanes
        said = f"a scratchpad of {need} bytes in {config.banks} banks; this configuration has {have}, {need - have} too few"
    elif larger:
        said = f"{field} of {getattr(larger, field)}; this configuration has {getattr(config, field)}"
    else:
        return f"{network.name} does not fit this configuration; a larger value of one of {', '.join(dict.fromkeys(limits))} is not enough"
    return f"{network.name} needs {said}{_setting(larger, field)}"


def _setting(config: CoreConfig | None, field: str) -> str:
    """The rest of a sentence: the option that makes it work."""
    return "" if config is None else f"; the least that works is --set {field}={getattr(config, field)}"


def _compile(network: IntegerNetwork, config: CoreConfig, image: MemoryImage, plan: Plan) -> Program:
    lowered = lower(network, config, image, plan)
    if plan.overlap:
        lowered.instructions = load_ahead(lowered.instructions, lowered.buffers, config)
    _check_room(lowered, config)
    buffers = _place(lowered, config, plan)
    instructions = synchronise(lowered.instructions, Hazards(buffers, config, placed=True))
    if len(instructions) > config.program_depth:
        instructions = fetch_blocks(instructions, config)
    if len(instructions) > config.program_limit:
        raise TooLong
    instructions, image = _resolved(network, config, lowered, instructions, buffers)
    regions = image.regions
    by_layer: dict[str, list[int]] = {}
    for index, instruction in enumerate(instructions):
        by_layer.setdefault(instruction.layer, []).append(index)
    return Program(
        name=network.name,
        origin=network.origin,
        input=network.input,
        config=config,
        instructions=instructions,
        buffers=buffers,
        layers=[replace(layer, instructions=tuple(by_layer[layer.name])) for layer in lowered.layers],
        layouts=lowered.layouts,
        image=image,
        input_region=regions["input"],
        output_regions={name: regions[name] for name in network.outputs},
    )


def _resolved(
    network: IntegerNetwork, config: CoreConfig, lowered: Emitter, instructions: Sequence[Instruction], buffers: dict[str, Buffer]
) -> tuple[list[Instruction], MemoryImage]:
    """The instructions with addresses, and the external memory, which holds some of them where the program is streamed."""
    more = {**lowered.row_maps, PROGRAM: pack_blocks([0] * len(instructions), config)}
    image = MemoryImage(network, config.lanes, more)
    resolved = [_resolve(instruction, buffers, image.regions) for instruction in instructions]
    if more[PROGRAM]:
        content = pack_blocks([instruction.word() for instruction in resolved], config)
        image = MemoryImage(network, config.lanes, {**more, PROGRAM: content})
    return resolved, image


def _check_room(lowered: Emitter, config: CoreConfig) -> None:
    """Raise :class:`DoesNotFit` where the buffers in use at one point of the program are larger than the scratchpad: no plan is needed."""
    spans: dict[str, tuple[int, int]] = {}
    for index, instruction in enumerate(lowered.instructions):
        for access in (*instruction.reads, *instruction.writes):
            spans[access.buffer] = spans.get(access.buffer, (index, index))[0], index
    change = np.zeros(len(lowered.instructions) + 1, np.int64)
    rings = {name for name, _ in lowered.weights.values()}
    for name, (first, last) in spans.items():
        if lowered.buffers[name].space is Space.SCRATCHPAD and name not in rings:
            change[first] += lowered.buffers[name].words
            change[last + 1] -= lowered.buffers[name].words
    used = np.cumsum(change)[:-1]
    for name in rings & spans.keys():
        first, last = spans[name]
        over = used[first : last + 1] + lowered.buffers[name].words - config.scratchpad_words
        if over.max() > 0:
            layer = lowered.instructions[first + int(np.argmax(over > 0))].layer
            raise DoesNotFit(name, lowered.phases.get(layer, 0), int(over.max()))


def _place(lowered: Emitter, config: CoreConfig, plan: Plan) -> dict[str, Buffer]:
    """The memory plan, from an estimate of what would run together if every buffer had memory and banks of its own."""
    free = synchronise(lowered.instructions, Hazards(lowered.buffers, config, placed=False))
    spans = estimate(free, config)
    weights = {name: lowered.buffers[name] for name, _ in lowered.weights.values()}
    elsewhere = {name: b for name, b in lowered.buffers.items() if b.space is not Space.SCRATCHPAD}
    fixed = elsewhere | weights
    lifetimes: dict[str, Lifetime] = {}
    apart: set[frozenset[str]] = set()
    for index, (instruction, span) in enumerate(zip(free, spans, strict=True)):
        for name in {a.buffer for a in (*instruction.reads, *instruction.writes)} - elsewhere.keys():
            life = lifetimes.get(name, Lifetime(first=index, last=index, start=span.start, end=span.end))
            lifetimes[name] = replace(life, last=index, start=min(life.start, span.start), end=max(life.end, span.end))
        if instruction.opcode is isa.Opcode.MATMUL:
            operands = {a.buffer for a in instruction.reads if a.port is not Port.NONE}
            apart |= {frozenset((a, b)) for a in operands for b in operands if a < b and not {a, b} & elsewhere.keys()}
    movable = [lowered.buffers[name] for name in lifetimes if name not in weights]
    costs = _costs(free, spans, elsewhere, config)
    used = [buffer for name, buffer in weights.items() if name in lifetimes]
    try:
        return fixed | place(movable, used, lifetimes, apart, costs, config, timed=plan.timed)
    except DoesNotFit as error:
        layer = free[lifetimes[error.buffer].first].layer
        raise DoesNotFit(error.buffer, lowered.phases.get(layer, 0)) from None


def _costs(
    instructions: Sequence[Instruction], spans: Sequence[Span], elsewhere: dict[str, Buffer], config: CoreConfig
) -> dict[frozenset[str], int]:
    """Cycles for which each pair of buffers would be read, or written, together by two engines."""
    costs: dict[frozenset[str], int] = {}

    def add(first: set[str], second: set[str], cycles: int) -> None:
        for a in first - elsewhere.keys():
            for b in second - elsewhere.keys():
                if a != b:
                    costs[frozenset((a, b))] = costs.get(frozenset((a, b)), 0) + cycles

    def names(accesses: Sequence, *ports: Port) -> set[str]:
        return {a.buffer for a in accesses if a.port is not Port.NONE and (not ports or a.port in ports)}

    active: list[int] = []
    before: list[int] = []
    for index in sorted(range(len(spans)), key=lambda i: spans[i].start):
        instruction, span = instructions[index], spans[index]
        active = [i for i in active if spans[i].end > span.start]
        for i in active:
            if instructions[i].queue is not instruction.queue:
                cycles = min(spans[i].end, span.end) - span.start
                add(names(instructions[i].reads), names(instruction.reads), cycles)
                add(names(instructions[i].writes), names(instruction.writes), cycles)
        active.append(index)
        if instruction.opcode is isa.Opcode.MATMUL:
            for distance, i in enumerate(reversed(before[-2:])):
                drain = spans[i].end - spans[i].free
                ports = (Port.MOVING, Port.STATIONARY) if distance == 0 else (Port.STATIONARY,)
                add(names(instructions[i].reads, Port.RESIDUAL), names(instruction.reads, *ports), drain)
                if distance == 0:
                    add(names(instructions[i].reads, Port.MOVING), names(instruction.reads, Port.STATIONARY), drain)
            before.append(index)
    return costs


def _resolve(instruction: Instruction, buffers: dict[str, Buffer], regions: dict[str, tuple[int, int]]) -> Instruction:
    """The instruction with addresses."""
    fields = dict(instruction.fields)
    for name, (origin, offset) in instruction.anchors.items():
        fields[name] = offset + (regions[origin][0] if name == "memory" else buffers[origin].address)
    part = instruction.slice
    if part is not None:
        part = replace(part, address=part.address + buffers[instruction.writes[0].buffer].address)
    return replace(instruction, fields=fields, anchors={}, slice=part)


def pack_input(program: Program, patches: NDArray[np.int8]) -> bytes:
    """The input region's bytes. patches : (patches, channels * patch**2) int8, one image of :func:`..model.golden.patches`.

    Of a part of a network (:func:`..model.part.part`): its input tensor, (rows, groups * channels) int8.
    """
    layout = program.layouts[program.input]
    shape = layout.rows, layout.groups * layout.channels
    if patches.shape != shape or patches.dtype != np.int8:
        raise ValueError(f"the input is int8 of shape {shape}, not {patches.dtype} of shape {patches.shape}")
    return layout.pack(patches, program.image.network.tensor(program.input).zero_point)


def unpack_output(program: Program, name: str, content: bytes) -> NDArray[np.int32]:
    """Logits (rows, channels) int32 from the bytes of the output region of that name."""
    return program.layouts[name].unpack(content)
