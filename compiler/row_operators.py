"""LayerNorm and log-softmax as instructions of the row engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..model.network import LayerNorm, LogSoftmax
from .emitter import Emitter, Piece
from .program import Access, Port
from .row_map import RowMap, runs

__all__ = ["norm", "norm_layer", "norm_sources", "softmax"]

_MAX_CHANNELS = 2048
_MAX_ROWS = (1 << 13) - 1


def _row_fields(emitter: Emitter, source: Piece, target: Piece, row: int, rows: int) -> dict:
    """Fields, address fields and reads of a row instruction from one buffer to another, ``row`` being of the tensor."""
    widths = [emitter.buffers[piece.buffer].width for piece in (source, target)]
    first = row - source.row
    return {
        "fields": {"rows": rows, "words": widths[0], "input_row": widths[0], "input_word": 1, "output_row": widths[1], "output_word": 1},
        "anchors": {"input": (source.buffer, first * widths[0])},
        "reads": (Access(port=Port.ROWS, buffer=source.buffer, row=first, rows=rows, words=widths[0]),),
    }


def softmax(emitter: Emitter, operator: LogSoftmax, head: int, row: int, rows: int) -> None:
    """Codes of one head, for rows that lie in one buffer."""
    source, target = emitter.piece(operator.input, row, head), emitter.piece(operator.output, row, head)
    table = emitter.load_table(operator.name, emitter.exp_tables, "exp_tables", isa.Target.EXP_TABLE)
    columns = emitter.layouts[operator.input].channels
    width = emitter.buffers[target.buffer].width
    for first in range(row, row + rows, _MAX_ROWS):
        count = min(_MAX_ROWS, row + rows - first)
        parts = _row_fields(emitter, source, target, first, count)
        parts["fields"] |= {"columns": columns, "table": table, "masked": int(operator.masked)}
        parts["reads"] += (Access(buffer="exp_tables", row=table),)
        begin = first - target.row
        parts["anchors"]["output"] = (target.buffer, begin * width)
        parts["writes"] = (Access(port=Port.ROWS, buffer=target.buffer, row=begin, rows=count, words=width),)
        part = emitter.slice(target, operator.output, first, count, 0, width, 15)
        emitter.emit(isa.Opcode.SOFTMAX, layer=operator.name, slice=part, **parts)


def norm_sources(emitter: Emitter, operator: LayerNorm, row: int, rows: int) -> list[tuple[int, int]]:
    """The input rows (first, count) that give output rows ``row`` ..: the part that begins after a gap first, then what wrapped around."""
    if not operator.mapped:
        return [(row, rows)]
    targets = emitter.network.arrays[f"{operator.name}.output_rows"].astype(np.int64)
    parts = runs(np.flatnonzero((targets >= row) & (targets < row + rows)))
    wrapped = len(parts) > 1 and parts[0][0] == 0 and parts[-1][0] + parts[-1][1] == len(targets)
    return [*parts[-1:], *parts[:-1]] if wrapped else parts


def norm(emitter: Emitter, operator: LayerNorm, row: int, rows: int) -> None:
    """Output rows ``row`` ..: one NORM for each cut of the input rows that give them."""
    layout = emitter.layouts[operator.input]
    channels = layout.groups * layout.channels
    if channels > _MAX_CHANNELS:
        raise ValueError(f"{operator.name} normalises at most {_MAX_CHANNELS} channels, not {channels}")
    whole = rows == emitter.layouts[operator.output].rows
    for source, count in norm_sources(emitter, operator, row, rows):
        span = (0, layout.rows) if whole else (source, count)
        for first, length in emitter.cuts(span, source, count, emitter.plan.split):
            _norm_part(emitter, operator, first, length, row)


def _norm_part(emitter: Emitter, operator: LayerNorm, row: int, rows: int, target_row: int) -> None:
    """One NORM of input rows ``row`` ..; ``target_row`` is one of the rows that the output's buffer holds."""
    name, layout = operator.name, emitter.layouts[operator.output]
    source = emitter.source(name, operator.input, row, rows)
    target = emitter.whole(operator.output, target_row if operator.mapped else row)
    channels, zero_out = layout.groups * layout.channels, emitter.tensors[operator.output].zero_point
    block, blocks = emitter.load_norm_constants(name)
    parts = _row_fields(emitter, source, target, row, rows)
    parts["fields"] |= {
        "channels": channels,
        "log2_channels": channels.bit_length() - 1,
        "zero": emitter.tensors[operator.input].zero_point,
        "constant": block,
        "epsilon": operator.epsilon,
    }
    parts["reads"] += (Access(buffer="norm_constants", row=block, rows=blocks),)
    width = layout.width
    if operator.mapped:
        row_map = _row_map(emitter, operator, target, row, rows)
        base, entries = emitter.load_map(name, row_map)
        parts["reads"] += (entries,)
        parts["fields"] |= {"map": 1, "map_base": base}
        parts["anchors"]["output"] = (target.buffer, row_map.base)
        parts["writes"] = row_map.accesses(target.buffer, Port.ROWS, 0, width)
        part = emitter.mapped_slice(target, operator.output, row_map, 0, width, zero_out)
    else:
        first = row - target.row
        parts["anchors"]["output"] = (target.buffer, first * width)
        parts["writes"] = (Access(port=Port.ROWS, buffer=target.buffer, row=first, rows=rows, words=width),)
        part = emitter.slice(target, operator.output, row, rows, 0, width, zero_out)
    emitter.emit(isa.Opcode.NORM, layer=name, slice=part, **parts)


def _row_map(emitter: Emitter, operator: LayerNorm, target: Piece, row: int, rows: int) -> RowMap:
    """Rows of the output's buffer that input rows ``row`` .. go to."""
    targets: NDArray[np.int64] = emitter.network.arrays[f"{operator.name}.output_rows"][row : row + rows].astype(np.int64)
    return RowMap(targets - target.row, np.zeros(rows, np.int64), emitter.buffers[target.buffer].width)


def norm_layer(emitter: Emitter, operator: LayerNorm) -> None:
    """Describe the operator for reports."""
    layout = emitter.layouts[operator.input]
    emitter.add_layer(operator.name, "layer_norm", M=operator.rows, K=1, N=layout.groups * layout.channels)
