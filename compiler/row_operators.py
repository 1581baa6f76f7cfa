"""LayerNorm and log-softmax as instructions of the row engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..model.network import LayerNorm, LogSoftmax
from .constants import code_tables
from .emitter import Emitter, Piece
from .operands import narrowed, packing
from .program import Access, Port
from .row_map import RowMap, runs

__all__ = ["norm", "norm_layer", "norm_sources", "softmax"]

_MAX_CHANNELS = 2048
_MAX_ROWS = (1 << 13) - 1


def _row_fields(emitter: Emitter, source: Piece, target: Piece, row: int, rows: int, *, word: int, words: int) -> dict:
    """Fields, address fields and reads of a row instruction from words of one buffer to another, ``row`` being of the tensor."""
    widths = [emitter.buffers[piece.buffer].width for piece in (source, target)]
    first = row - source.row
    return {
        "fields": {"rows": rows, "words": words, "input_row": widths[0], "input_word": 1, "output_row": widths[1], "output_word": 1},
        "anchors": {"input": (source.buffer, first * widths[0] + word)},
        "reads": (Access(port=Port.ROWS, buffer=source.buffer, row=first, rows=rows, word=word, words=words),),
    }


def _write_rows(emitter: Emitter, parts: dict, target: Piece, tensor: str, row: int, rows: int, group: int, padding: int) -> None:
    """Add what a row instruction writes: rows ``row`` .. of the run that begins with a group of the piece."""
    layout, begin = emitter.layouts[tensor], row - target.row
    tile = (group - target.group) // layout.run * layout.run_tiles
    word = layout.word(tile)
    parts["fields"] |= {"output_packing": packing(layout.bits)}
    parts["anchors"]["output"] = (target.buffer, begin * emitter.buffers[target.buffer].width + word)
    parts["writes"] = (Access(port=Port.ROWS, buffer=target.buffer, row=begin, rows=rows, word=word, words=layout.run_words),)
    parts["slice"] = emitter.slice(target, tensor, row, rows, tile, layout.run_tiles, padding)


def softmax(emitter: Emitter, operator: LogSoftmax, head: int, row: int, rows: int) -> None:
    """Codes of one head, for rows that lie in one buffer."""
    source, target = emitter.piece(operator.input, row, head), emitter.piece(operator.output, row, head)
    table = emitter.load_table(operator.name, emitter.exp_tables, "exp_tables", isa.Target.EXP_TABLE)
    columns, words = emitter.layouts[operator.input].channels, emitter.layouts[operator.input].run_words
    settings = {"columns": columns, "table": table, "masked": int(operator.masked)}
    reads, padding = [Access(buffer="exp_tables", row=table)], 15
    if operator.coded:
        numbers, tables = code_tables(emitter.network.arrays[f"{operator.name}.code_table"])
        number = numbers[head]
        place = emitter.load_table(operator.name, emitter.code_tables, "code_tables", isa.Target.CODE_TABLE, "codes", number)
        settings |= {"coded": 1, "relative": int(operator.relative), "code_table": place}
        reads.append(Access(buffer="code_tables", row=place))
        padding = int(tables[number][-1])
    for first in range(row, row + rows, _MAX_ROWS):
        count = min(_MAX_ROWS, row + rows - first)
        parts = _row_fields(emitter, source, target, first, count, word=0, words=words)
        parts["fields"] |= settings
        parts["reads"] += tuple(reads)
        _write_rows(emitter, parts, target, operator.output, first, count, head, padding)
        emitter.emit(isa.Opcode.SOFTMAX, layer=operator.name, **parts)


def norm_sources(emitter: Emitter, operator: LayerNorm, row: int, rows: int) -> list[tuple[int, int]]:
    """The input rows (first, count) that give output rows ``row`` ..: the part that begins after a gap first, then what wrapped around."""
    if not operator.mapped:
        return [(row, rows)]
    targets = emitter.network.arrays[f"{operator.name}.output_rows"].astype(np.int64)
    parts = runs(np.flatnonzero((targets >= row) & (targets < row + rows)))
    wrapped = len(parts) > 1 and parts[0][0] == 0 and parts[-1][0] + parts[-1][1] == len(targets)
    return [*parts[-1:], *parts[:-1]] if wrapped else parts


def norm(emitter: Emitter, operator: LayerNorm, row: int, rows: int) -> None:
    """Output rows ``row`` ..: one NORM for each cut of the input rows that give them, and for each group that is normalised for itself."""
    layout = emitter.layouts[operator.input]
    channels = layout.channels if operator.by_group else layout.groups * layout.channels
    if channels > _MAX_CHANNELS:
        raise ValueError(f"{operator.name} normalises at most {_MAX_CHANNELS} channels, not {channels}")
    whole = rows == emitter.layouts[operator.output].rows
    for source, count in norm_sources(emitter, operator, row, rows):
        span = (0, layout.rows) if whole else (source, count)
        for first, length in emitter.cuts(span, source, count, emitter.plan.split):
            for group in range(emitter.layouts[operator.output].groups) if operator.by_group else (0,):
                _norm_part(emitter, operator, first, length, row, group)


def _norm_part(emitter: Emitter, operator: LayerNorm, row: int, rows: int, target_row: int, group: int) -> None:
    """One NORM of input rows ``row`` ..; ``target_row`` is one of the rows that the output's buffer holds."""
    name, tensor, inside, layout = operator.name, operator.output, emitter.layouts[operator.input], emitter.layouts[operator.output]
    if operator.by_group:
        source, target = emitter.piece(operator.input, row, group), emitter.piece(tensor, row, group)
        channels, word, words = inside.channels, (group - source.group) * inside.group_tiles, inside.group_tiles
    else:
        source = emitter.source(name, operator.input, row, rows)
        target = emitter.whole(tensor, target_row if operator.mapped else row)
        channels, word, words = inside.groups * inside.channels, 0, inside.width
    padding = narrowed(emitter.tensors[tensor], emitter.tensors[tensor].zero_point)
    block = emitter.load_norm_constants(name) + group * words
    parts = _row_fields(emitter, source, target, row, rows, word=word, words=words)
    parts["fields"] |= {
        "channels": channels,
        "log2_channels": channels.bit_length() - 1,
        "zero": emitter.tensors[operator.input].zero_point,
        "constant": block,
        "epsilon": operator.epsilon,
    }
    parts["reads"] += (Access(buffer="norm_constants", row=block, rows=words),)
    if operator.mapped:
        row_map = _row_map(emitter, operator, target, row, rows)
        base, entries = emitter.load_map(name, row_map)
        parts["reads"] += (entries,)
        parts["fields"] |= {"map": 1, "map_base": base, "output_packing": packing(layout.bits)}
        parts["anchors"]["output"] = (target.buffer, row_map.base)
        parts["writes"] = row_map.accesses(target.buffer, Port.ROWS, 0, layout.width)
        parts["slice"] = emitter.mapped_slice(target, tensor, row_map, 0, layout.tiles, padding)
    else:
        _write_rows(emitter, parts, target, tensor, row, rows, group, padding)
    emitter.emit(isa.Opcode.NORM, layer=name, **parts)


def _row_map(emitter: Emitter, operator: LayerNorm, target: Piece, row: int, rows: int) -> RowMap:
    """Rows of the output's buffer that input rows ``row`` .. go to."""
    targets: NDArray[np.int64] = emitter.network.arrays[f"{operator.name}.output_rows"][row : row + rows].astype(np.int64)
    nothing = np.zeros(rows, np.int64)
    return RowMap(targets - target.row, nothing, emitter.buffers[target.buffer].width, nothing)


def norm_layer(emitter: Emitter, operator: LayerNorm) -> None:
    """Describe the operator for reports."""
    layout, count = emitter.layouts[operator.input], emitter.layouts[operator.output].groups if operator.by_group else 1
    columns = layout.channels if operator.by_group else layout.groups * layout.channels
    emitter.add_layer(operator.name, "layer_norm", M=operator.rows, K=1, N=columns, count=count)
