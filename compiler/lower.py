"""Operators to instructions: which rows go through which operators together, in program order, before addresses and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import CoreConfig
from ..model.network import AttentionScores, AttentionValues, AveragePool, IntegerNetwork, LayerNorm, Linear, LogSoftmax, Operator
from .attention import Attention
from .constants import MemoryImage
from .emitter import Emitter, Plan
from .layout import ceil_div
from .operands import moving_operand, require_modes
from .products import average_pool, linear
from .program import Instruction
from .row_operators import norm, norm_layer, norm_sources

__all__ = ["lower"]


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Rows that go through some operators together.

    Parameters
    ----------
    source : str
        Tensor that ``prepare`` and ``begin`` read.
    rows : (n,) int64
        The rows of it that they need.
    prepare : callable
        Row operators that come first: they may run beside the chunk before.
    begin : callable
        Products that hide the end of the chunk before.
    middle, end : callable
        The rest; ``end`` comes after ``begin`` of the next chunk, where that needs nothing of it.
    """

    source: str
    rows: NDArray[np.int64]
    prepare: Callable[[], None]
    begin: Callable[[], None]
    middle: Callable[[], None]
    end: Callable[[], None]


def lower(network: IntegerNetwork, config: CoreConfig, image: MemoryImage, plan: Plan) -> Emitter:
    """Instructions, buffers and layers of ``network``.

    Raises ``ValueError`` for what the core cannot do at all, :class:`.memory.DoesNotFit` for what this plan has no memory for.
    """
    require_modes(network, config)
    emitter = Emitter(network, config, image, plan)
    for constant in network.constants:
        piece, rows = emitter.whole(constant.output), network.arrays[f"{constant.name}.value"].shape[0]
        zero_point = emitter.tensors[constant.output].zero_point
        part = emitter.slice(piece, constant.output, 0, rows, 0, emitter.layouts[constant.output].tiles, zero_point)
        emitter.load_rows(constant.name, f"{constant.name}.value", 0, piece.buffer, 0, rows, part)
    chunks: list[_Chunk] = []
    operators = list(network.operators)
    bands = _bands(emitter, operators)
    while operators:
        match operators:
            case [LayerNorm(), *_] if (count := _projections(operators)) is not None:
                chunks += _attention(emitter, bands, operators[: count + 5])
                operators = operators[count + 5 :]
            case [AveragePool() as pool, *rest]:
                chunks.append(_pool(emitter, pool))
                operators = rest
            case [LayerNorm() | Linear(), *_]:
                chain = _chain(network, operators)
                chunks += _rows(emitter, bands, chain, lead=not chunks and not config.serial)
                operators = operators[len(chain) :]
            case [other, *_]:
                raise ValueError(f"{other.name} stands alone; attention is norm, q, k and v, scores, softmax, values and projection")
    _interleave(emitter, chunks)
    emitter.store_rest()
    emitter.instructions.append(Instruction(opcode=isa.Opcode.END, queue=isa.Queue.LOAD))
    return emitter


def _projections(operators: Sequence[Operator]) -> int | None:
    """How many operators behind the norm make q, k and v, where an attention begins with it."""
    for count in range(1, 4):
        match operators[count + 1 : count + 5]:
            case [AttentionScores(), LogSoftmax(), AttentionValues() as values, Linear() as last] if last.input == values.output:
                inner = operators[1 : count + 1]
                good = isinstance(inner[0], Linear) and all(isinstance(o, Linear) or isinstance(o, LayerNorm) and o.by_group for o in inner)
                return count if good else None
    return None


def _interleave(emitter: Emitter, chunks: Sequence[_Chunk]) -> None:
    """Emit the chunks in order, each one's row operators as early as their input is there.

    The end of a chunk comes after the begin of the next one, if that does not need it and the plan allows it.
    """
    prepared = 0
    end: Callable[[], None] = _nothing

    def prepare(last: int) -> None:
        nonlocal prepared
        while prepared <= min(last, len(chunks) - 1) and emitter.is_written(chunks[prepared].source, chunks[prepared].rows):
            chunks[prepared].prepare()
            prepared += 1

    for index, chunk in enumerate(chunks):
        prepare(index + 1)
        if prepared <= index or not emitter.plan.overlap:
            end()
            end = _nothing
            prepare(index + 1)
        if prepared <= index:
            raise ValueError(f"{chunk.source} is read before all of it is written")
        chunk.begin()
        end()
        chunk.middle()
        end = chunk.end
    end()


def _nothing() -> None:
    """What a chunk does where it has nothing to do."""


def _parts(emitter: Emitter, rows: int, unit: int = 1) -> list[tuple[int, int]]:
    """Cut rows (whole units of them) into chunks of about equal size: (first, rows)."""
    units = rows // unit
    parts = ceil_div(units, max(1, emitter.plan.chunk_rows // unit))
    edges = [part * units // parts * unit for part in range(parts + 1)]
    return [(low, high - low) for low, high in zip(edges, edges[1:], strict=False)]


def _bands(emitter: Emitter, operators: Sequence[Operator]) -> dict[int, int]:
    """By the number of rows of an attention in windows: rows of a chunk's unit.

    A unit is as many windows as take consecutive rows of the image, if a chunk holds so many, else one.
    """
    bands = {}
    for index, first in enumerate(operators):
        count = _projections(operators[index:]) if isinstance(first, LayerNorm) else None
        scores = operators[index + 1 + (count or 0)] if count else None
        if isinstance(first, LayerNorm) and isinstance(scores, AttentionScores) and scores.windows > 1:
            rows = emitter.layouts[scores.output].rows
            window = rows // scores.windows
            sizes = [window * count for count in range(1, scores.windows + 1) if scores.windows % count == 0]
            fitting = [size for size in sizes if size <= emitter.plan.chunk_rows and len(norm_sources(emitter, first, 0, size)) == 1]
            bands.setdefault(rows, next(iter(fitting), window))
    return bands


def _linear_layer(emitter: Emitter, operator: Linear) -> None:
    """Describe the operator for reports."""
    source, output = emitter.layouts[operator.input], emitter.layouts[operator.output]
    weight = emitter.network.arrays[f"{operator.name}.weight"]
    tiles = output.group_tiles if f"{operator.name}.output_groups" in emitter.network.arrays else output.tiles
    operand = moving_operand(emitter.tensors[operator.input])
    emitter.add_product(operator.name, operand, M=operator.rows, K=weight.shape[1], N=weight.shape[0], tiles=source.width * tiles)


def _attention(emitter: Emitter, bands: Mapping[int, int], operators: Sequence[Any]) -> list[_Chunk]:
    """Chunks of whole windows, in the order of where in the image they lie on average: what wraps around comes in the middle.

    operators : norm, projections, scores, softmax, values, projection.
    """
    first, *projections, scores, soft, values, projection = operators
    rows = emitter.layouts[scores.output].rows
    parts = _parts(emitter, rows, bands.get(rows, rows // scores.windows))
    if projection.mapped:
        targets = emitter.network.arrays[f"{projection.name}.output_rows"]
        parts.sort(key=lambda part: targets[part[0] : part[0] + part[1]].mean())
    chunks = []
    for row, count in parts:
        attention = Attention(emitter, projections, scores, soft, values, row, count)
        sources = [np.arange(start, start + length) for start, length in norm_sources(emitter, first, row, count)]

        def prepare(row: int = row, count: int = count) -> None:
            if len(parts) > 1:
                emitter.allocate(first.output, row, count)
            norm(emitter, first, row, count)

        def begin(attention: Attention = attention) -> None:
            if len(parts) > 1:
                emitter.allocate(values.output, attention.row, attention.rows)
            attention.begin()

        def end(attention: Attention = attention) -> None:
            attention.end()
            linear(emitter, projection, attention.row, attention.rows)

        chunks.append(
            _Chunk(source=first.input, rows=np.concatenate(sources), prepare=prepare, begin=begin, middle=attention.middle, end=end)
        )
    for each in (first, *projections):
        if isinstance(each, LayerNorm):
            norm_layer(emitter, each)
        else:
            _linear_layer(emitter, each)
    attention.layers()
    _linear_layer(emitter, projection)
    return chunks


def _chain(network: IntegerNetwork, operators: Sequence[Operator]) -> list[LayerNorm | Linear]:
    """The operators at the beginning that can go through all rows chunk by chunk: norm, linear, linear, or linear, norm."""
    chain: list[LayerNorm | Linear] = []
    for index, operator in enumerate(operators[:3]):
        if not isinstance(operator, LayerNorm | Linear):
            break
        if isinstance(operator, LayerNorm) and _projections(operators[index:]) is not None:
            break
        if chain and not _continues(network, chain[-1], operator):
            break
        if len(chain) == 2 and isinstance(operator, LayerNorm):
            break
        chain.append(operator)
    return chain


def _continues(network: IntegerNetwork, before: LayerNorm | Linear, operator: LayerNorm | Linear) -> bool:
    """Whether an operator takes, row by row, what the one before gives to nobody else."""
    users = sum(other.input == before.output or getattr(other, "residual", "") == before.output for other in network.operators)
    rows = network.tensor(before.output).rows
    shifted = any(getattr(each, name, 0) for each in (before, operator) for name in ("input_row", "output_row"))
    mine = operator.input == before.output and before.output not in network.outputs
    return mine and users == 1 and not before.mapped and not shifted and before.rows == operator.rows == rows


def _rows(emitter: Emitter, bands: Mapping[int, int], chain: Sequence[LayerNorm | Linear], *, lead: bool) -> list[_Chunk]:
    """Chunks of rows of a chain: the norms before its first linear layer, that layer, and the rest."""
    operator = chain[0]
    parts = _parts(emitter, operator.rows, bands.get(operator.rows, 1))
    first = next((index for index, each in enumerate(chain) if isinstance(each, Linear)), len(chain))

    def run(operators: Sequence[LayerNorm | Linear], row: int, count: int) -> None:
        for each in operators:
            if len(parts) > 1 and each is not chain[-1]:
                emitter.allocate(each.output, row, count)
            if isinstance(each, LayerNorm):
                norm(emitter, each, row, count)
            else:
                linear(emitter, each, row, count, lead=lead and row == 0)

    chunks = []
    for row, count in parts:
        stages = chain[:first], chain[first : first + 1], chain[first + 1 :]
        steps = [lambda row=row, count=count, stage=stage: run(stage, row, count) for stage in stages]
        shift = operator.input_row if isinstance(operator, Linear) else 0
        rows = np.arange(row, row + count) + shift
        chunks.append(_Chunk(source=operator.input, rows=rows, prepare=steps[0], begin=steps[1], middle=_nothing, end=steps[2]))
    for each in chain:
        if isinstance(each, LayerNorm):
            norm_layer(emitter, each)
        else:
            _linear_layer(emitter, each)
    return chunks


def _pool(emitter: Emitter, operator: AveragePool) -> _Chunk:
    def begin() -> None:
        average_pool(emitter, operator)

    rows = np.arange(emitter.layouts[operator.input].rows)
    return _Chunk(source=operator.input, rows=rows, prepare=_nothing, begin=begin, middle=_nothing, end=_nothing)
