"""Operators to instructions: which rows, tiles and constants each instruction works on, in program order, before addresses and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..hw import isa
from ..hw.config import CoreConfig
from ..model.network import AttentionScores, AttentionValues, Form, IntegerNetwork, LayerNorm, Linear, LogSoftmax
from .constants import MemoryImage
from .emitter import Emitter, Piece, Plan
from .layout import ceil_div
from .memory import DoesNotFit
from .program import Access, Instruction, Port

__all__ = ["lower"]


def lower(network: IntegerNetwork, config: CoreConfig, image: MemoryImage, plan: Plan) -> Emitter:
    """Instructions, buffers and layers of ``network``.

    Raises ``ValueError`` for what the core cannot do at all, :class:`.memory.DoesNotFit` for what this plan has no memory for.
    """
    emitter = Emitter(network, config, image, plan)
    for constant in network.constants:
        piece, rows = emitter.whole(constant.output), network.arrays[f"{constant.name}.value"].shape[0]
        part = emitter.slice(
            piece, constant.output, 0, rows, 0, emitter.buffers[piece.buffer].width, network.tensor(constant.output).zero_point
        )
        emitter.load_rows(constant.name, f"{constant.name}.value", 0, piece.buffer, 0, rows, part)
    operators = list(network.operators)
    while operators:
        match operators:
            case [AttentionScores() as scores, LogSoftmax() as softmax, AttentionValues() as values, *rest]:
                _attention(emitter, scores, softmax, values)
            case [Linear() as linear, *rest]:
                _linear(emitter, linear, first=len(operators) == len(network.operators))
            case [LayerNorm() as norm, *rest]:
                _norm(emitter, norm)
            case [other, *_]:
                raise ValueError(f"{other.name} stands alone; attention is scores, softmax and values, one after the other")
        operators = rest
    emitter.instructions.append(Instruction(opcode=isa.Opcode.END, queue=isa.Queue.LOAD))
    return emitter


def _linear(emitter: Emitter, operator: Linear, *, first: bool) -> None:
    """One MATMUL for each chunk of rows, piece of the output and chunk of weights."""
    name, lanes, network = operator.name, emitter.config.lanes, emitter.network
    source, output = emitter.layouts[operator.input], emitter.layouts[operator.output]
    k_tiles = source.width
    split = emitter.plan.split
    for row, rows in emitter.chunks(output.rows, operator.output_row, operator.rows, 2 * split if first else split):
        source_row = row - operator.output_row + operator.input_row
        if operator.input == network.input:
            emitter.ensure_input(name, source_row, rows)
        moving = Access(port=Port.MOVING, buffer=emitter.whole(operator.input).buffer, row=source_row, rows=rows, words=k_tiles)
        residual = _residual(emitter, operator, row, rows)
        for piece, tile, tiles in _n_chunks(emitter, operator, k_tiles, lead=first):
            tile_of_layer = piece.group * output.group_tiles + tile
            block = emitter.load_constants(name, tile_of_layer, tiles)
            reads = [Access(buffer="constants", row=block, rows=tiles)]
            fields = {"form": isa.Form[operator.form.name].value, "constant": block, "constant_n": 1}
            if operator.form is Form.TABLE:
                fields["table"] = emitter.load_table(name, emitter.function_tables, "function_tables", isa.Target.FUNCTION_TABLE)
                reads.append(Access(buffer="function_tables", row=fields["table"]))
            words = tiles * k_tiles * lanes
            start = emitter.load_weights(name, tile_of_layer * k_tiles * lanes, words)
            if residual is not None:
                reads.append(Access(port=Port.RESIDUAL, buffer=residual.buffer, row=residual.row, rows=rows, word=tile, words=tiles))
                fields |= {"residual_zero": operator.residual_zero, "residual_multiplier": operator.residual_multiplier}
            _matmul(
                emitter,
                name,
                moving=moving,
                stationary=Access(port=Port.STATIONARY, buffer="weights", row=start, rows=words),
                steps={"stationary_word": 1, "stationary_k": lanes, "stationary_n": k_tiles * lanes},
                tiles=tiles,
                output=(piece, operator.output, row, tile),
                padding=_padding(emitter, operator),
                fields=fields,
                reads=reads,
            )
        if operator.output in network.outputs:
            emitter.store(name, operator.output, row, rows)
    sizes = {"K": source.groups * source.channels, "N": output.groups * output.channels, "tiles": k_tiles * output.tiles}
    emitter.add_layer(name, "gemm", M=operator.rows, mode="int8", **sizes)


def _n_chunks(emitter: Emitter, operator: Linear, k_tiles: int, *, lead: bool) -> Iterator[tuple[Piece, int, int]]:
    """Cut the n tiles of each piece so that a chunk's weights take at most half of the ring: (piece, first n tile in it, n tiles).

    k comes before q and v comes last: the first scores then need nothing that the array has just begun. ``lead``: chunks begin with one
    tile and double, so that the array starts early and each loads beside the ones before.
    """
    output, pieces = emitter.layouts[operator.output], emitter.pieces[operator.output]
    tile_words = k_tiles * emitter.config.lanes
    if tile_words > emitter.weights.size:
        raise DoesNotFit
    limit = max(1, emitter.weights.size // 2 // tile_words)
    if output.tiles > emitter.constants.size:
        limit = max(1, min(limit, emitter.constants.size // 2))
    if len(pieces) == 3:
        pieces = [pieces[1], pieces[0], pieces[2]]
    done = 0
    for piece in pieces:
        tiles, start = piece.groups * output.group_tiles, 0
        while start < tiles:
            size = min(limit, max(1, done)) if lead else ceil_div(tiles - start, ceil_div(tiles - start, limit))
            size = min(size, tiles - start)
            yield piece, start, size
            start, done = start + size, done + size


def _residual(emitter: Emitter, operator: Linear, row: int, rows: int) -> Access | None:
    """Rows of the residual that output rows ``row`` .. need; a parameter is loaded."""
    if operator.form is not Form.RESIDUAL:
        return None
    width = emitter.layouts[operator.output].width
    if operator.residual:
        piece = emitter.whole(operator.residual)
        if emitter.buffers[piece.buffer].width != width:
            raise ValueError(f"{operator.name} and its residual {operator.residual} are laid out differently")
        return Access(port=Port.RESIDUAL, buffer=piece.buffer, row=row, rows=rows, words=width)
    buffer = f"{operator.name}.residual"
    if buffer not in emitter.buffers:
        emitter.add_buffer(buffer, operator.rows, width)
    first = row - operator.output_row
    emitter.load_rows(operator.name, buffer, first, buffer, first, rows)
    return Access(port=Port.RESIDUAL, buffer=buffer, row=first, rows=rows, words=width)


def _padding(emitter: Emitter, operator: Linear) -> int:
    """What the padding columns of the output hold: the zero point, after the table."""
    if operator.form is Form.RAW:
        return 0
    zero = emitter.network.tensor(operator.output).zero_point
    return int(emitter.network.arrays[f"{operator.name}.table"][zero + 128]) if operator.form is Form.TABLE else zero


def _matmul(
    emitter: Emitter,
    layer: str,
    *,
    moving: Access,
    stationary: Access,
    steps: Mapping[str, int],
    tiles: int,
    output: tuple[Piece, str, int, int],
    padding: int | None,
    fields: Mapping[str, int],
    reads: list[Access],
) -> None:
    """MATMUL of the moving rows with ``tiles`` n tiles. ``output``: piece, tensor, first row, first n tile in the piece."""
    piece, tensor, row, tile = output
    words = emitter.layouts[tensor].column_bytes
    width = emitter.buffers[piece.buffer].width
    everything = [moving, stationary, *reads]
    anchors = {a.port.value: (a.buffer, a.row * emitter.buffers[a.buffer].width + a.word) for a in everything if a.port is not Port.NONE}
    anchors["output"] = (piece.buffer, row * width + tile * words)
    common = {
        "mode": isa.Mode.INT8.value,
        "direction": isa.LoadDirection.ROW.value,
        "form": isa.Form.REQUANTIZE.value,
        "rows": moving.rows,
        "k_tiles": moving.words,
        "n_tiles": tiles,
        "moving_row": emitter.buffers[moving.buffer].width,
        "moving_k": 1,
        "output_row": width,
        "output_n": words,
        "zero_out": emitter.network.tensor(tensor).zero_point,
    }
    emitter.emit(
        isa.Opcode.MATMUL,
        layer=layer,
        fields={**common, **steps, **fields},
        anchors=anchors,
        reads=tuple(everything),
        writes=(Access(port=Port.EPILOGUE, buffer=piece.buffer, row=row, rows=moving.rows, word=tile * words, words=tiles * words),),
        slice=emitter.slice(piece, tensor, row, moving.rows, tile * words, tiles * words, padding),
    )


def _attention(emitter: Emitter, scores: AttentionScores, softmax: LogSoftmax, values: AttentionValues) -> None:
    """Head by head; the values of a head come after the scores of the next, so that its softmax runs beside them.

    The last head's rows are cut in chunks: what follows attention can then begin on the first ones.
    """
    network, heads = emitter.network, scores.heads
    if "log2" not in emitter.config.modes:
        raise ValueError(f"{values.name} needs the operand mode log2; this core has {', '.join(emitter.config.modes)}")
    if (softmax.input, values.input, values.values, values.heads) != (scores.output, softmax.output, scores.input, heads):
        raise ValueError(f"{scores.name}, {softmax.name} and {values.name} are not one attention")
    if network.tensor(scores.input).zero_point:
        raise ValueError(f"{scores.input} must have the zero point 0, not {network.tensor(scores.input).zero_point}")
    rows = emitter.layouts[scores.output].rows
    work = []
    for head in range(heads):
        split = emitter.plan.split if head == heads - 1 else 1
        work += [(head, *chunk) for chunk in emitter.chunks(rows, 0, rows, split)]
    for index, item in enumerate(work):
        _scores(emitter, scores, *item)
        _softmax(emitter, softmax, *item)
        if index:
            _values(emitter, values, *work[index - 1])
    _values(emitter, values, *work[-1])

    inside, across = emitter.layouts[scores.input], emitter.layouts[scores.output]
    size = {"M": rows, "count": heads}
    tiles = heads * inside.group_tiles * across.group_tiles
    emitter.add_layer(scores.name, "gemm", K=inside.channels, N=across.channels, mode="int8", tiles=tiles, **size)
    emitter.add_layer(softmax.name, "softmax", K=1, N=across.channels, **size)
    emitter.add_layer(values.name, "gemm", K=across.channels, N=inside.channels, mode="log2", tiles=tiles, **size)


def _scores(emitter: Emitter, operator: AttentionScores, head: int, row: int, rows: int) -> None:
    """Queries of one head times keys of all tokens; a stationary word is one token."""
    queries, keys, _ = emitter.pieces[operator.input]
    lanes, width = emitter.config.lanes, emitter.buffers[keys.buffer].width
    words = emitter.group_width(keys)
    tokens = emitter.buffers[keys.buffer].rows
    block = emitter.load_constants(operator.name, head, 1)
    _matmul(
        emitter,
        operator.name,
        moving=Access(port=Port.MOVING, buffer=queries.buffer, row=row, rows=rows, word=head * words, words=words),
        stationary=Access(port=Port.STATIONARY, buffer=keys.buffer, rows=tokens, word=head * words, words=words),
        steps={"stationary_word": width, "stationary_k": 1, "stationary_n": lanes * width},
        tiles=tokens // lanes,
        output=(emitter.pieces[operator.output][head], operator.output, row, 0),
        padding=None,
        fields={"direction": isa.LoadDirection.COLUMN.value, "constant": block},
        reads=[Access(buffer="constants", row=block)],
    )


def _values(emitter: Emitter, operator: AttentionValues, head: int, row: int, rows: int) -> None:
    """Codes of one head times v; a stationary word is one token."""
    codes, values = emitter.pieces[operator.input][head], emitter.pieces[operator.values][2]
    lanes, width = emitter.config.lanes, emitter.buffers[values.buffer].width
    words = emitter.group_width(values)
    block = emitter.load_constants(operator.name, head * words, words)
    _matmul(
        emitter,
        operator.name,
        moving=Access(port=Port.MOVING, buffer=codes.buffer, row=row, rows=rows, words=emitter.buffers[codes.buffer].width),
        stationary=Access(
            port=Port.STATIONARY, buffer=values.buffer, rows=emitter.buffers[values.buffer].rows, word=head * words, words=words
        ),
        steps={"stationary_word": width, "stationary_k": lanes * width, "stationary_n": 1},
        tiles=words,
        output=(emitter.whole(operator.output), operator.output, row, head * words),
        padding=emitter.network.tensor(operator.output).zero_point,
        fields={"mode": isa.Mode.LOG2.value, "constant": block, "constant_n": 1},
        reads=[Access(buffer="constants", row=block, rows=words)],
    )


def _row_fields(emitter: Emitter, source: Piece, target: Piece, row: int, rows: int) -> dict:
    """Fields and accesses of a row instruction from one buffer to another."""
    widths = [emitter.buffers[piece.buffer].width for piece in (source, target)]
    return {
        "fields": {"rows": rows, "words": widths[0], "input_row": widths[0], "input_word": 1, "output_row": widths[1], "output_word": 1},
        "anchors": {"input": (source.buffer, row * widths[0]), "output": (target.buffer, row * widths[1])},
        "reads": (Access(port=Port.ROWS, buffer=source.buffer, row=row, rows=rows, words=widths[0]),),
        "writes": (Access(port=Port.ROWS, buffer=target.buffer, row=row, rows=rows, words=widths[1]),),
    }


def _softmax(emitter: Emitter, operator: LogSoftmax, head: int, row: int, rows: int) -> None:
    """Codes of one head."""
    source, target = emitter.pieces[operator.input][head], emitter.pieces[operator.output][head]
    table = emitter.load_table(operator.name, emitter.exp_tables, "exp_tables", isa.Target.EXP_TABLE)
    parts = _row_fields(emitter, source, target, row, rows)
    parts["fields"] |= {"columns": emitter.layouts[operator.input].channels, "table": table}
    parts["reads"] += (Access(buffer="exp_tables", row=table),)
    words = emitter.buffers[target.buffer].width
    emitter.emit(isa.Opcode.SOFTMAX, layer=operator.name, slice=emitter.slice(target, operator.output, row, rows, 0, words, 15), **parts)


def _norm(emitter: Emitter, operator: LayerNorm) -> None:
    """One NORM for each chunk of rows."""
    network = emitter.network
    source, target = emitter.whole(operator.input), emitter.whole(operator.output)
    layout, zero_out = emitter.layouts[operator.input], network.tensor(operator.output).zero_point
    channels = layout.channels
    if layout.groups != 1 or channels > 2048:
        raise ValueError(f"{operator.name} must normalise one group of at most 2048 channels, not {layout.groups} of {channels}")
    for row, rows in emitter.chunks(layout.rows, 0, operator.rows, emitter.plan.split):
        block, blocks = emitter.load_norm_constants(operator.name)
        parts = _row_fields(emitter, source, target, row, rows)
        parts["fields"] |= {
            "channels": channels,
            "log2_channels": channels.bit_length() - 1,
            "zero": network.tensor(operator.input).zero_point,
            "constant": block,
            "epsilon": operator.epsilon,
        }
        parts["reads"] += (Access(buffer="norm_constants", row=block, rows=blocks),)
        part = emitter.slice(target, operator.output, row, rows, 0, layout.width, zero_out)
        emitter.emit(isa.Opcode.NORM, layer=operator.name, slice=part, **parts)
    emitter.add_layer(operator.name, "layer_norm", M=operator.rows, K=1, N=channels)
