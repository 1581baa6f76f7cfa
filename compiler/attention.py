"""Attention: scores, softmax and values of each head, window by window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..hw import isa
from ..model.network import AttentionScores, AttentionValues, Linear, LogSoftmax
from .emitter import Emitter
from .layout import ceil_div
from .products import Result, linear, matmul
from .program import Access, Port
from .row_operators import softmax

__all__ = ["Attention"]


@dataclass
class Attention:
    """The heads of rows ``row`` .. (whole windows) of one attention.

    The values of a group of rows come after the scores of the next group, so that its softmax runs beside them.

    Parameters
    ----------
    emitter : Emitter
    qkv, scores, softmax, values : operators
    row, rows : int
    """

    emitter: Emitter
    qkv: Linear
    scores: AttentionScores
    softmax: LogSoftmax
    values: AttentionValues
    row: int
    rows: int
    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    projected: int = 0

    def __post_init__(self) -> None:
        network, scores, values = self.emitter.network, self.scores, self.values
        if "log2" not in self.emitter.config.modes:
            raise ValueError(f"{values.name} needs the operand mode log2; this core has {', '.join(self.emitter.config.modes)}")
        chain = self.softmax.input, values.input, values.values, values.heads, values.windows
        if chain != (scores.output, self.softmax.output, scores.input, scores.heads, scores.windows):
            raise ValueError(f"{scores.name}, {self.softmax.name} and {values.name} are not one attention")
        if network.tensor(scores.input).zero_point:
            raise ValueError(f"{scores.input} must have the zero point 0, not {network.tensor(scores.input).zero_point}")
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
                split = max(split, emitter.plan.head_split)
                groups += [(head, *cut) for cut in emitter.cuts((self.row, self.rows), self.row, self.rows, split)]
                continue
            count = self.rows // window
            parts = min(count, max(split, ceil_div(count, max(1, emitter.config.accumulator_rows // window))))
            edges = [self.row + part * count // parts * window for part in range(parts + 1)]
            groups += [(head, low, high - low) for low, high in zip(edges, edges[1:], strict=False)]
        return groups

    def _project(self, head: int, heads: int) -> None:
        """q, k and v of some heads, a buffer each, k and v in whole tiles of rows: k comes first, v last."""
        name, count, lanes = self.scores.input, self.scores.heads, self.emitter.config.lanes
        rows = self.rows - self.window + ceil_div(self.window, lanes) * lanes
        pieces = []
        for part, index in (("k", 1), ("q", 0), ("v", 2)):
            suffix = f".{part}" if heads == count else f".{part}{head}"
            group = {"group": index * count + head, "groups": heads, "suffix": suffix}
            pieces.append(self.emitter.allocate(name, self.row, self.rows, buffer_rows=rows, **group))
        linear(self.emitter, self.qkv, self.row, self.rows, pieces=pieces)

    def begin(self) -> None:
        """Scores and softmax of the next group, after q, k and v if they are not there yet."""
        head, row, rows = self.groups.popleft()
        emitter = self.emitter
        if head >= self.projected:
            heads = 1 if emitter.plan.head_split else self.scores.heads
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
        width, words = emitter.buffers[keys.buffer].width, emitter.group_width(keys)
        target = emitter.piece(operator.output, row, head)
        tiles, first = ceil_div(self.window, lanes), row // self.window * self.window
        columns = {"word": (head - queries.group) * words, "words": words}
        block = emitter.load_constants(operator.name, head, 1)
        fields = {"direction": isa.LoadDirection.COLUMN.value, "constant": block}
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
            moving=Access(port=Port.MOVING, buffer=queries.buffer, row=row - queries.row, rows=rows, **columns),
            stationary=Access(port=Port.STATIONARY, buffer=keys.buffer, row=first - keys.row, rows=tiles * lanes, **columns),
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
        codes, values = emitter.piece(operator.input, row, head), emitter.piece(operator.values, row, 2 * operator.heads + head)
        width, words = emitter.buffers[values.buffer].width, emitter.group_width(values)
        first, target = row // self.window * self.window, emitter.whole(operator.output, row)
        keys, zero_point = ceil_div(self.window, lanes) * lanes, emitter.tensors[operator.output].zero_point
        block, offset = emitter.load_constants(operator.name, head * words, words), (head - values.group % operator.heads) * words
        matmul(
            emitter,
            operator.name,
            moving=Access(port=Port.MOVING, buffer=codes.buffer, row=row - codes.row, rows=rows, words=emitter.buffers[codes.buffer].width),
            stationary=Access(port=Port.STATIONARY, buffer=values.buffer, row=first - values.row, rows=keys, word=offset, words=words),
            steps={"stationary_word": width, "stationary_k": lanes * width, "stationary_n": 1},
            result=Result(piece=target, tensor=operator.output, tile=head * words, tiles=words, padding=zero_point, row=row),
            fields={"mode": isa.Mode.LOG2.value, "constant": block, "constant_n": 1},
            reads=(Access(buffer="constants", row=block, rows=words),),
        )

    def layers(self) -> None:
        """Describe the operators for reports."""
        emitter, inside = self.emitter, self.emitter.layouts[self.scores.input]
        window, across = self.window, self.emitter.layouts[self.scores.output]
        size = {"M": window, "count": self.scores.heads * self.scores.windows}
        tiles = size["count"] * inside.group_tiles * across.group_tiles
        emitter.add_layer(self.scores.name, "gemm", K=inside.channels, N=across.channels, mode="int8", tiles=tiles, **size)
        emitter.add_layer(self.softmax.name, "softmax", K=1, N=across.channels, **size)
        emitter.add_layer(self.values.name, "gemm", K=across.channels, N=inside.channels, mode="log2", tiles=tiles, **size)
