"""Attention: scores, softmax and values of each head, window by window."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hw import isa
from ..model.network import AttentionScores, AttentionValues, LayerNorm, Linear, LogSoftmax
from .emitter import Emitter, Piece
from .layout import ceil_div
from .operands import moving_operand, narrowed, packing
from .products import Result, linear, matmul
from .program import Access, Port
from .row_operators import norm, softmax

__all__ = ["Attention"]


@dataclass
class Attention:
    """The heads of rows ``row`` .. (whole windows) of one attention.

    The values of a group of rows come after the scores of the next group, so that its softmax runs beside them.

    Parameters
    ----------
    emitter : Emitter
    projections : sequence of operators
        What makes q, k and v, together or apart, and normalises heads.
    scores, softmax, values : operators
    row, rows : int
    """

    emitter: Emitter
    projections: Sequence[Linear | LayerNorm]
    scores: AttentionScores
    softmax: LogSoftmax
    values: AttentionValues
    row: int
    rows: int
    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    projected: int = 0

    def __post_init__(self) -> None:
        scores, values, tensors = self.scores, self.values, self.emitter.tensors
        chain = self.softmax.input, values.input, values.heads, values.windows
        if chain != (scores.output, self.softmax.output, scores.heads, scores.windows):
            raise ValueError(f"{scores.name}, {self.softmax.name} and {values.name} are not one attention")
        if not {scores.input, values.values} <= {each.output for each in self.projections}:
            raise ValueError(f"{scores.input} and {values.values} must be made between the norm and {scores.name}")
        if tensors[scores.input].bits == 8 and tensors[scores.input].zero_point:
            raise ValueError(f"{scores.input} must have the zero point 0, not {tensors[scores.input].zero_point}")
        self.queried = moving_operand(tensors[scores.input])
        self.coded = moving_operand(tensors[values.input], values.codes)
        self.groups = deque(self._groups())

    @property
    def window(self) -> int:
        """Rows of a window."""
        return self.emitter.layouts[self.scores.output].rows // self.scores.windows

    def _groups(self) -> list[tuple[int, int, int]]:
        """(head, first row, rows): whole windows, or cuts of the only one.

        The last head's rows are cut finer: what follows attention can then begin on the first ones.
        """
        emitter, window, heads = self.emitter, self.window, self.scores.heads
        groups = []
        for head in range(heads):
            split = emitter.plan.split if head == heads - 1 else 1
            if self.rows == window:
                # Where memory is short, rows are cut as finely as the array allows: keys and values, its stationary operands, are there.
                own = emitter.config.lanes / emitter.config.beats if emitter.plan.head_split else 0
                split = max(split, emitter.plan.head_split)
                groups += [(head, *cut) for cut in emitter.cuts((self.row, self.rows), self.row, self.rows, split, own)]
                continue
            count = self.rows // window
            parts = min(count, max(split, ceil_div(count, max(1, emitter.config.accumulator_rows // window))))
            edges = [self.row + part * count // parts * window for part in range(parts + 1)]
            groups += [(head, low, high - low) for low, high in zip(edges, edges[1:], strict=False)]
        return groups

    @property
    def _whole(self) -> bool:
        """Whether q, k and v of all heads are made at once: packed heads share words."""
        apart = len(self.projections) == 1 and self.emitter.tensors[self.scores.input].bits == 8
        return not (apart and self.emitter.plan.head_split)

    def _parts(self) -> dict[str, tuple[str, int]]:
        """Tensor, and group of the first head, of k, q and v."""
        count, values = self.scores.heads, self.values.values
        return {
            "k": (self.scores.input, count),
            "q": (self.scores.input, 0),
            "v": (values, self.emitter.layouts[values].groups - count),
        }

    def _project(self, head: int, heads: int) -> None:
        """q, k and v of some heads, a buffer each, k and v in whole tiles of rows: k comes first, v last."""
        emitter, count, lanes = self.emitter, self.scores.heads, self.emitter.config.lanes
        pieces: dict[str, list[Piece]] = {}
        for part, (name, first) in self._parts().items():
            layout, last = emitter.layouts[name], self.row + self.rows - self.window
            depth = layout.packing if layout.window else 1
            lines = layout.line(last) - layout.line(self.row) + ceil_div(self.window, lanes * depth) * lanes
            suffix = f".{part}" if heads == count else f".{part}{head}"
            group = {"group": first + head, "groups": heads, "suffix": suffix}
            pieces.setdefault(name, []).append(emitter.allocate(name, self.row, self.rows, buffer_rows=lines, **group))
        for operator in self.projections:
            if isinstance(operator, LayerNorm):
                norm(emitter, operator, self.row, self.rows)
                continue
            if operator.output not in pieces:
                pieces[operator.output] = [emitter.allocate(operator.output, self.row, self.rows)]
            linear(emitter, operator, self.row, self.rows, pieces=pieces[operator.output])

    def begin(self) -> None:
        """Scores and softmax of the next group, after q, k and v if they are not there yet."""
        head, row, rows = self.groups.popleft()
        emitter = self.emitter
        if head >= self.projected:
            heads = self.scores.heads if self._whole else 1
            self._project(head, heads)
            self.projected += heads
        if all(piece.group != head or piece.row != row for piece in emitter.pieces.get(self.scores.output, [])):
            piece = emitter.allocate(self.scores.output, row, rows, group=head, groups=1, suffix=f".{head}")
            # The codes take the place of their logits.
            emitter.add_piece(self.softmax.output, piece)
        for first, count in self._windows(row, rows):
            self._scores(head, first, count)
        softmax(emitter, self.softmax, head, row, rows)
        self.waiting.append((head, row, rows))

    def middle(self) -> None:
        """The other groups, and the values of all but the last one."""
        while self.groups:
            self.begin()
            self._oldest_values()

    def end(self) -> None:
        """The values that are left."""
        while self.waiting:
            self._oldest_values()

    def _oldest_values(self) -> None:
        head, row, rows = self.waiting.popleft()
        for first, count in self._windows(row, rows):
            self._values(head, first, count)

    def _windows(self, row: int, rows: int) -> list[tuple[int, int]]:
        """Parts of a group that see the same keys, cut where accumulators are too few."""
        if rows < self.window:
            return [(row, rows)]
        windows = [(first, self.window) for first in range(row, row + rows, self.window)]
        return [cut for window in windows for cut in self.emitter.cuts(window, *window, 1)]

    def _scores(self, head: int, row: int, rows: int) -> None:
        """Queries of one head times the keys of their window; a stationary word is one token."""
        emitter, operator, heads, lanes = self.emitter, self.scores, self.scores.heads, self.emitter.config.lanes
        queries, keys = (emitter.piece(operator.input, row, group * heads + head) for group in (0, 1))
        inside, width = emitter.layouts[operator.input], emitter.buffers[keys.buffer].width
        place, other = inside.head(head), inside.head(heads + head)
        target = emitter.piece(operator.output, row, head)
        tiles, first = ceil_div(self.window, lanes), row // self.window * self.window
        columns = [{"word": at.word - inside.head(piece.group).word, "words": at.words} for at, piece in ((place, queries), (other, keys))]
        block = emitter.load_constants(operator.name, head, 1)
        fields = {"direction": isa.LoadDirection.COLUMN.value, "constant": block, **self.queried.fields}
        fields |= {"stationary_packing": packing(inside.bits), "moving_zero": operator.query_zero}
        if inside.bits < 8:
            fields |= {"k_skip": place.skip, "k_pad": place.pad}
        reads: tuple[Access, ...] = (Access(buffer="constants", row=block),)
        if operator.bias:
            fields |= {
                "form": isa.Form.RESIDUAL.value,
                "residual_zero": operator.residual_zero,
                "residual_multiplier": operator.residual_multiplier,
                "masked": int(operator.masked),
            }
            reads += (self._bias(head, row, rows),)
        matmul(
            emitter,
            operator.name,
            moving=Access(port=Port.MOVING, buffer=queries.buffer, row=row - queries.row, rows=rows, **columns[0]),
            stationary=Access(port=Port.STATIONARY, buffer=keys.buffer, row=first - keys.row, rows=tiles * lanes, **columns[1]),
            steps={"stationary_word": width, "stationary_k": 1, "stationary_n": lanes * width},
            result=Result(piece=target, tensor=operator.output, tile=0, tiles=tiles, padding=None, row=row),
            fields=fields,
            reads=reads,
        )

    def _bias(self, head: int, row: int, rows: int) -> Access:
        """Where the bias of these rows lies; all heads' is loaded when it is first needed."""
        emitter, name, window = self.emitter, self.scores.name, self.window
        types, heads = emitter.network.arrays[f"{name}.bias"].shape[:2]
        buffer, width = f"{name}.bias", emitter.layouts[self.scores.output].group_tiles
        if buffer not in emitter.buffers:
            emitter.add_buffer(buffer, heads * types * window, width)
            emitter.load_rows(name, buffer, 0, buffer, 0, heads * types * window)
        kind = head * types + int(emitter.network.arrays[f"{name}.window_type"][row // window])
        return Access(port=Port.RESIDUAL, buffer=buffer, row=kind * window + row % window, rows=rows, words=width)

    def _values(self, head: int, row: int, rows: int) -> None:
        """Codes of one head times v of their window; a stationary word is one token."""
        emitter, operator, lanes = self.emitter, self.values, self.emitter.config.lanes
        inside, across, outside = (emitter.layouts[name] for name in (operator.values, operator.input, operator.output))
        group = inside.groups - operator.heads + head
        codes, values = emitter.piece(operator.input, row, head), emitter.piece(operator.values, row, group)
        width, words = emitter.buffers[values.buffer].width, inside.group_tiles
        first, target = row // self.window * self.window, emitter.whole(operator.output, row)
        k_tiles, zero_point = across.run_words, narrowed(emitter.tensors[operator.output], emitter.tensors[operator.output].zero_point)
        tile, offset = head * outside.group_tiles, (group - values.group) * words
        block = emitter.load_constants(operator.name, tile, words)
        fields = {"constant": block, "constant_n": 1, **self.coded.fields, "stationary_packing": packing(inside.bits)}
        if across.bits < 8:
            zero = emitter.tensors[operator.input].zero_point
            fields |= {"k_pad": across.head(head).pad, "moving_zero": zero if across.bits == 4 else 0}
        line, lines = emitter.line(values, operator.values, first), k_tiles * lanes
        matmul(
            emitter,
            operator.name,
            moving=Access(port=Port.MOVING, buffer=codes.buffer, row=row - codes.row, rows=rows, words=k_tiles),
            stationary=Access(port=Port.STATIONARY, buffer=values.buffer, row=line, rows=lines, word=offset, words=words),
            steps={"stationary_word": width, "stationary_k": lanes * width, "stationary_n": 1},
            result=Result(piece=target, tensor=operator.output, tile=tile, tiles=words, padding=zero_point, row=row),
            fields=fields,
            reads=(Access(buffer="constants", row=block, rows=words),),
        )

    def layers(self) -> None:
        """Describe the operators for reports."""
        emitter, values = self.emitter, self.emitter.layouts[self.values.values]
        inside, across, codes = (emitter.layouts[name] for name in (self.scores.input, self.scores.output, self.values.input))
        size = {"M": self.window, "count": self.scores.heads * self.scores.windows}
        products = sum(inside.head(head).words for head in range(self.scores.heads)) * across.group_tiles * self.scores.windows
        emitter.add_product(self.scores.name, self.queried, K=inside.channels, N=across.channels, tiles=products, **size)
        emitter.add_layer(self.softmax.name, "softmax", K=1, N=across.channels, **size)
        products = size["count"] * codes.run_words * values.group_tiles
        emitter.add_product(self.values.name, self.coded, K=across.channels, N=values.channels, tiles=products, **size)
