"""Linear layers, average pooling, and the MATMUL that all products share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..hw import isa
from ..model.network import AveragePool, Form, Linear
from .constants import weight_words
from .emitter import Emitter, Piece
from .layout import Layout, ceil_div
from .memory import DoesNotFit
from .operands import moving_operand, packing, padding_value
from .program import Access, Port
from .row_map import RowMap

__all__ = ["Result", "average_pool", "linear", "matmul"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a MATMUL writes: ``tiles`` n tiles from ``tile`` on, counted in the piece or, with a map, in each part of a row.

    ``row``, ``rows`` : of the tensor, without a map. ``padding`` : what padding columns hold; None for anything.
    """

    piece: Piece
    tensor: str
    tile: int
    tiles: int
    padding: int | None
    row: int = 0
    row_map: RowMap | None = None


def linear(emitter: Emitter, operator: Linear, row: int, rows: int, *, lead: bool = False, pieces: Sequence[Piece] | None = None) -> None:
    """Rows ``row`` .. of the operator: one MATMUL for each cut of them, piece of the output and chunk of weights.

    ``pieces`` : of the output, where not all are wanted. ``lead`` : nothing comes before it that could hide the loading of weights.
    """
    name, network = operator.name, emitter.network
    for first, count in _cuts(emitter, operator, row, rows, lead):
        source_row = first + operator.input_row
        source = emitter.source(name, operator.input, source_row, count)
        k_tiles, most = emitter.layouts[operator.input].width, (1 << isa.BODIES[isa.Opcode.MATMUL]["k_tiles"].width) - 1
        if k_tiles > most:
            lanes = emitter.config.lanes
            raise ValueError(f"{name} takes {k_tiles * lanes} channels; with {lanes} lanes a product takes at most {most * lanes}")
        moving = Access(port=Port.MOVING, buffer=source.buffer, row=source_row - source.row, rows=count, words=k_tiles)
        for result in _results(emitter, operator, first, count, lead=lead, pieces=pieces):
            _linear_matmul(emitter, operator, first, moving, result)
        if operator.output in network.outputs and not operator.mapped:
            emitter.store(name, operator.output, first + operator.output_row, count)


def _cuts(emitter: Emitter, operator: Linear, row: int, rows: int, lead: bool) -> list[tuple[int, int]]:
    """The rows of each MATMUL: (first, rows) of the operator."""
    output, split, shift = emitter.layouts[operator.output], emitter.plan.split, operator.output_row
    if output.window and output.window < output.rows:
        # Each window's values are packed for themselves.
        windows = [(first, output.window) for first in range(row, row + rows, output.window)]
        return [cut for window in windows for cut in emitter.cuts(window, *window, 1)]
    whole = rows == operator.rows and not operator.mapped
    span = (0, output.rows) if whole else (row + shift, rows)
    own = _tile_words(emitter, operator) / emitter.layouts[operator.input].width if lead else 0
    return [(first - shift, count) for first, count in emitter.cuts(span, row + shift, rows, 2 * split if lead else split, own)]


def _tile_words(emitter: Emitter, operator: Linear) -> int:
    """Words of the weights of an n tile."""
    return weight_words(emitter.layouts[operator.input], operator.weight_bits)


def _linear_matmul(emitter: Emitter, operator: Linear, row: int, moving: Access, result: Result) -> None:
    """One MATMUL of a linear layer; ``row`` is the first row of the operator."""
    name, source, bits = operator.name, emitter.layouts[operator.input], operator.weight_bits
    tile = result.tile if result.row_map else emitter.first_tile(result.piece, result.tensor) + result.tile
    block = emitter.load_constants(name, tile, result.tiles)
    reads = [Access(buffer="constants", row=block, rows=result.tiles)]
    fields = {"form": isa.Form[operator.form.name].value, "constant": block, "constant_n": 1}
    fields |= moving_operand(emitter.tensors[operator.input]).fields | {"stationary_packing": packing(bits)}
    if source.bits < 8:
        fields["k_pad"] = source.unused_bytes
    if operator.form is Form.TABLE:
        fields["table"] = emitter.load_table(name, emitter.function_tables, "function_tables", isa.Target.FUNCTION_TABLE)
        reads.append(Access(buffer="function_tables", row=fields["table"]))
    residual: tuple[Access, ...] = ()
    if operator.form is Form.RESIDUAL:
        residual = _residual(emitter, operator, row, moving.rows, result)
        fields |= {"residual_zero": operator.residual_zero, "residual_multiplier": operator.residual_multiplier}
        if operator.residual_mapped:
            fields["map"] = 3
    words = _tile_words(emitter, operator)
    stationary = emitter.load_weights(name, tile * words, result.tiles * words)
    matmul(
        emitter,
        name,
        moving=moving,
        stationary=stationary,
        steps={"stationary_word": 1, "stationary_k": words // moving.words, "stationary_n": words},
        result=result,
        fields=fields,
        reads=(*residual, *reads),
    )


def _results(emitter: Emitter, operator: Linear, row: int, rows: int, *, lead: bool, pieces: Sequence[Piece] | None) -> Iterator[Result]:
    """Cut the n tiles of each piece so that a chunk's weights take no more than a part of the ring, or one tile.

    ``lead``: chunks begin with one tile and double, so that the array starts early and each loads beside the ones before; where loading
    is slower than the array, all are one tile, so that little is left to do when the last is there.
    """
    name, output = operator.output, emitter.layouts[operator.output]
    tile_words = _tile_words(emitter, operator)
    _, ring = emitter.weight_ring(operator.name)
    if tile_words > ring.size:
        raise DoesNotFit
    row_map, grouped = None, f"{operator.name}.output_groups" in emitter.network.arrays
    if operator.mapped:
        pieces = [emitter.whole(name)]
        row_map = _row_map(emitter, operator, pieces[0], row, rows)
    else:
        row += operator.output_row
        pieces = [emitter.piece(name, row)] if pieces is None else pieces
    limit = max(1, ring.size // emitter.plan.weight_parts // tile_words)
    if lead and tile_words * emitter.config.beats > rows * emitter.layouts[operator.input].width:
        limit = 1
    if output.tiles > emitter.constants.size:
        limit = max(1, min(limit, emitter.constants.size // 2))
    done = 0
    for piece, begin, tiles in _sections(output, pieces, grouped):
        start = 0
        while start < tiles:
            size = min(limit, max(1, done)) if lead else ceil_div(tiles - start, ceil_div(tiles - start, limit))
            size = min(size, tiles - start)
            padding = _padding(emitter, operator)
            yield Result(piece=piece, tensor=name, tile=begin + start, tiles=size, padding=padding, row=row, row_map=row_map)
            start, done = start + size, done + size


def _sections(output: Layout, pieces: Sequence[Piece], grouped: bool) -> Iterator[tuple[Piece, int, int]]:
    """Tiles of each piece that follow each other: piece, first tile, tiles. Runs of packed values each begin a word."""
    for piece in pieces:
        runs = 1 if grouped else piece.groups // output.run
        if output.parts == 1:
            yield piece, 0, runs * output.run_tiles
        else:
            yield from ((piece, run * output.run_tiles, output.run_tiles) for run in range(runs))


def _row_map(emitter: Emitter, operator: Linear, piece: Piece, row: int, rows: int) -> RowMap:
    """Rows and groups that rows ``row`` .. of a mapped operator go to."""
    arrays, width = emitter.network.arrays, emitter.buffers[piece.buffer].width
    targets = arrays[f"{operator.name}.output_rows"][row : row + rows].astype(np.int64)
    groups = arrays.get(f"{operator.name}.output_groups", np.zeros(operator.rows))[row : row + rows].astype(np.int64)
    layout = emitter.layouts[operator.output]
    if groups.any() and layout.bits != 8:
        raise ValueError(f"{operator.name} writes to groups of {operator.output}, which must have 8 bits, not {layout.bits}")
    return RowMap(targets - piece.row, groups * layout.run_words, width, groups * layout.run_tiles)


def _residual(emitter: Emitter, operator: Linear, row: int, rows: int, result: Result) -> tuple[Access, ...]:
    """The residual of rows ``row`` .. of the operator, in the columns of a result; a parameter is loaded."""
    if (bits := emitter.layouts[result.tensor].bits) != 8:
        raise ValueError(f"{operator.name} adds a residual to {result.tensor}, which must have 8 bits, not {bits}")
    piece, tile = result.piece, {"word": result.tile, "words": result.tiles}
    if not operator.residual:
        width = emitter.buffers[piece.buffer].width
        buffer = f"{operator.name}.residual"
        if buffer not in emitter.buffers:
            emitter.add_buffer(buffer, operator.rows, width)
        if result.tile == 0:
            emitter.load_rows(operator.name, buffer, row, buffer, row, rows)
        return (Access(port=Port.RESIDUAL, buffer=buffer, row=row, rows=rows, **tile),)
    if result.row_map and operator.residual_mapped:
        source = emitter.source(operator.name, operator.residual, 0, emitter.layouts[operator.residual].rows)
        _same_width(emitter, operator, emitter.buffers[source.buffer].width, result.row_map.width)
        return result.row_map.accesses(source.buffer, Port.RESIDUAL, result.tile, result.tiles)
    row += 0 if operator.mapped else operator.output_row
    source = emitter.source(operator.name, operator.residual, row, rows)
    if not operator.mapped:
        _same_width(emitter, operator, emitter.buffers[source.buffer].width, emitter.buffers[piece.buffer].width)
    return (Access(port=Port.RESIDUAL, buffer=source.buffer, row=row - source.row, rows=rows, **tile),)


def _same_width(emitter: Emitter, operator: Linear, width: int, other: int) -> None:
    if width != other:
        raise ValueError(f"{operator.name} and its residual {operator.residual} are laid out differently")


def _padding(emitter: Emitter, operator: Linear) -> int:
    """What the padding columns of the output hold: the zero point, after the table."""
    if operator.form is Form.RAW:
        return 0
    return padding_value(emitter.network, operator.output)


def matmul(
    emitter: Emitter,
    layer: str,
    *,
    moving: Access,
    stationary: Access,
    steps: Mapping[str, int],
    result: Result,
    fields: Mapping[str, int],
    reads: tuple[Access, ...],
) -> None:
    """MATMUL of the moving rows with the n tiles of ``result``."""
    piece, tensor, row_map = result.piece, result.tensor, result.row_map
    layout = emitter.layouts[tensor]
    width = emitter.buffers[piece.buffer].width
    word, words = layout.word(result.tile), layout.words(result.tile, result.tiles)
    everything = [moving, stationary, *reads]
    anchors: dict[str, tuple[str, int]] = {}
    for a in everything:
        if a.port is not Port.NONE:
            first = a.row * emitter.buffers[a.buffer].width + a.word
            anchors[a.port.value] = a.buffer, min(first, anchors.get(a.port.value, (a.buffer, first))[1])
    common = {
        "direction": isa.LoadDirection.ROW.value,
        "form": isa.Form.REQUANTIZE.value,
        "rows": moving.rows,
        "k_tiles": moving.words,
        "n_tiles": result.tiles,
        "moving_row": emitter.buffers[moving.buffer].width,
        "moving_k": 1,
        "output_row": width,
        "output_n": layout.column_bytes,
        "output_packing": packing(layout.bits) if layout.bits < 8 else 0,
        "pack_rows": int(layout.window > 0),
        "part": result.tile % layout.run_tiles % layout.parts,
        "zero_out": emitter.tensors[tensor].zero_point,
    }
    if row_map is None:
        row, lines = emitter.line(piece, tensor, result.row), layout.lines(result.row, moving.rows)
        anchors["output"] = (piece.buffer, row * width + word)
        writes = (Access(port=Port.EPILOGUE, buffer=piece.buffer, row=row, rows=lines, word=word, words=words),)
        part = emitter.slice(piece, tensor, result.row, moving.rows, result.tile, result.tiles, result.padding)
    else:
        base, entries = emitter.load_map(layer, row_map)
        everything.append(entries)
        anchors["output"] = (piece.buffer, row_map.base + word)
        common |= {"map": 1, "map_base": base}
        if not fields.get("map", 0) & 2:
            # What is not mapped is the residual: at its own rows.
            common["output_row"] = next((emitter.buffers[a.buffer].width for a in reads if a.port is Port.RESIDUAL), 0)
        writes = row_map.accesses(piece.buffer, Port.EPILOGUE, word, words)
        part = emitter.mapped_slice(piece, tensor, row_map, result.tile, result.tiles, result.padding)
    emitter.emit(
        isa.Opcode.MATMUL,
        layer=layer,
        fields={**common, **steps, **fields},
        anchors=anchors,
        reads=tuple(everything),
        writes=writes,
        slice=part,
    )


def average_pool(emitter: Emitter, operator: AveragePool) -> None:
    """A row of ones times all rows, which are K."""
    name, lanes = operator.name, emitter.config.lanes
    layout = emitter.layouts[operator.input]
    source = emitter.source(name, operator.input, 0, layout.rows)
    target = emitter.whole(operator.output)
    if layout.bits != 8:
        raise ValueError(f"{name} adds up {operator.input}, which must have 8 bits, not {layout.bits}")
    tiles = emitter.layouts[operator.output].tiles
    k_tiles, width = ceil_div(layout.rows, lanes), emitter.buffers[source.buffer].width
    ones = emitter.add_buffer(f"{name}.ones", 1, k_tiles)
    emitter.load_rows(name, f"{name}.ones", 0, ones, 0, 1)
    block = emitter.load_constants(name, 0, 1)
    stationary = Access(port=Port.STATIONARY, buffer=source.buffer, rows=emitter.buffers[source.buffer].rows, words=width)
    matmul(
        emitter,
        name,
        moving=Access(port=Port.MOVING, buffer=ones, words=k_tiles),
        stationary=stationary,
        steps={"stationary_word": width, "stationary_k": lanes * width, "stationary_n": 1},
        result=Result(piece=target, tensor=operator.output, tile=0, tiles=tiles, padding=None),
        fields={**moving_operand(emitter.tensors[operator.input]).fields, "constant": block},
        reads=(Access(buffer="constants", row=block),),
    )
    channels = layout.groups * layout.channels
    operand = moving_operand(emitter.tensors[operator.input])
    emitter.add_product(name, operand, M=1, K=layout.rows, N=channels, tiles=k_tiles * tiles)
