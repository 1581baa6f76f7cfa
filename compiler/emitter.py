"""Buffers, and the loads that bring parameters on chip when they are not there: what every operator's lowering builds on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import PACKING, CoreConfig
from ..hw.load_targets import table_words
from ..model.network import AveragePool, IntegerNetwork, Linear
from .constants import MemoryImage, weight_words
from .layout import ceil_div
from .memory import Ring
from .operands import Operand
from .program import WEIGHTS, Access, Buffer, Instruction, Layer, Port, Space, TensorSlice
from .remedies import TooLong, TooSmall
from .row_map import RowMap, runs

__all__ = ["Emitter", "Piece", "Plan", "phases"]

#: A table field of an instruction is one bit.
_TABLES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Choices of the compiler.

    Parameters
    ----------
    split : int
        Parts into which rows are cut where they are long enough, so that row operators of one part run beside the array on another.
    weight_banks : tuple of int
        The last banks, which hold weights: how many from the beginning on, after the first patch merging, and so on (the last one remains).
    weight_parts : int
        Into how many parts the space for weights is divided, at least.
    chunk_rows : int
        Rows that go through an attention or an MLP together, at most (one window at least); what lies between its operators is kept for
        these rows only.
    head_split : int
        Parts into which the rows of a head are cut, where q, k and v are made head by head; 0 makes those of all heads at once.
    overlap : bool
        Whether a chunk begins before the one before ends, and loads come as early in the program as what they overwrite allows.
    timed : bool
        Whether memory is used again only when its old contents are, by estimate, long dead; otherwise as soon as the program order allows.
    """

    split: int
    weight_banks: tuple[int, ...]
    weight_parts: int = 2
    chunk_rows: int = 1 << 16
    head_split: int = 0
    overlap: bool = True
    timed: bool = True


@dataclass(frozen=True)
class Piece:
    """Consecutive groups of consecutive rows of a tensor, in a buffer of their own."""

    buffer: str
    group: int
    groups: int
    row: int
    rows: int


class Emitter:
    """Collects instructions, buffers and layers of a network under one plan.

    Parameters
    ----------
    network : IntegerNetwork
    config : CoreConfig
    image : MemoryImage
    plan : Plan
    """

    def __init__(self, network: IntegerNetwork, config: CoreConfig, image: MemoryImage, plan: Plan) -> None:
        self.network, self.config, self.image, self.plan = network, config, image, plan
        self.layouts = image.layouts
        self.tensors = {tensor.name: tensor for tensor in network.tensors}
        self.instructions: list[Instruction] = []
        self.buffers: dict[str, Buffer] = {}
        self.layers: list[Layer] = []
        self.pieces: dict[str, list[Piece]] = {}
        self.row_maps: dict[str, bytes] = {}
        self.loaded_rows = 0  # of the input
        self.stored = {name: np.zeros(self.layouts[name].rows, bool) for name in network.outputs}
        #: By tensor and row: tiles that the instructions so far write.
        self.written = {name: np.zeros(layout.rows, np.int64) for name, layout in self.layouts.items()}
        #: Tensors whose rows are an operand's K: in whole tiles.
        self.whole_tiles = {operator.input for operator in network.operators if isinstance(operator, AveragePool)}
        #: Rows of a word, where values are packed along rows: what an instruction writes begins with such a word.
        self.row_unit = max((layout.packing for layout in self.layouts.values() if layout.window), default=1)
        if config.accumulator_rows < self.row_unit:
            given = f"{self.row_unit} rows to a word, so accumulator_rows of {self.row_unit} at least"
            raise ValueError(f"{network.name} has values packed {given}, not {config.accumulator_rows}")
        self.tile_words = self._tile_words()
        self.phases = phases(network)
        self.constants = Ring(config.constant_channels // config.lanes)
        self.norm_constants = Ring(config.norm_channels // config.lanes)
        self.function_tables, self.exp_tables, self.code_tables = Ring(_TABLES), Ring(_TABLES), Ring(_TABLES)
        self.map_words = Ring(config.map_rows * isa.ENTRY_BYTES // config.lanes)
        self.weights = {banks: self._weights(banks) for banks in dict.fromkeys(plan.weight_banks)}
        self.add_buffer("constants", self.constants.size, space=Space.CONSTANTS, fixed=True)
        self.add_buffer("norm_constants", self.norm_constants.size, space=Space.NORM_CONSTANTS, fixed=True)
        self.add_buffer("function_tables", _TABLES, space=Space.FUNCTION_TABLES, fixed=True)
        self.add_buffer("exp_tables", _TABLES, space=Space.EXP_TABLES, fixed=True)
        self.add_buffer("code_tables", _TABLES, space=Space.CODE_TABLES, fixed=True)
        self.add_buffer("row_map", self.map_words.size, space=Space.ROW_MAP, fixed=True)

    def _tile_words(self) -> float:
        """Words of a stationary tile of weights on average: L, where none are packed more densely than what moves."""
        words = tiles = 0
        for operator in self.network.operators:
            if isinstance(operator, Linear):
                source, target = self.layouts[operator.input], self.layouts[operator.output]
                words += weight_words(source, operator.weight_bits) * target.tiles
                tiles += source.width * target.tiles
        return words / max(1, tiles)

    def _weights(self, banks: int) -> tuple[str, Ring]:
        """Buffer and ring of the last ``banks`` banks."""
        ring = Ring(banks * self.config.bank_words)
        return self.add_buffer(f"{WEIGHTS}{banks}", ring.size, address=self.config.scratchpad_words - ring.size, fixed=True), ring

    def weight_ring(self, layer: str) -> tuple[str, Ring]:
        """Buffer and ring that hold the weights of a layer."""
        banks = self.plan.weight_banks
        return self.weights[banks[min(self.phases[layer], len(banks) - 1)]]

    def add_buffer(self, name: str, rows: int, width: int = 1, **options: object) -> str:
        self.buffers[name] = Buffer(name=name, rows=rows, width=width, **options)  # type: ignore[arg-type]
        return name

    def allocate(
        self, tensor: str, row: int, rows: int, *, group: int = 0, groups: int = 0, suffix: str = "", buffer_rows: int = 0
    ) -> Piece:
        """A buffer (of ``buffer_rows`` rows of words, if that is more) for rows and groups of a tensor; 0 groups are all."""
        layout = self.layouts[tensor]
        groups = groups or layout.groups
        if tensor in self.whole_tiles:
            buffer_rows = ceil_div(rows, self.config.lanes) * self.config.lanes
        name = tensor + suffix + (f".{row}" if rows < layout.rows else "")
        self.add_buffer(name, max(layout.lines(row, rows), buffer_rows), groups // layout.run * layout.run_words)
        return self.add_piece(tensor, Piece(name, group, groups, row, rows))

    def add_piece(self, tensor: str, piece: Piece) -> Piece:
        self.pieces.setdefault(tensor, []).append(piece)
        return piece

    def piece(self, tensor: str, row: int = 0, group: int = 0) -> Piece:
        """Where that row and group lie; a tensor without any place gets one for all of it."""
        if tensor not in self.pieces:
            return self.allocate(tensor, 0, self.layouts[tensor].rows)
        return next(p for p in self.pieces[tensor] if 0 <= row - p.row < p.rows and 0 <= group - p.group < p.groups)

    def whole(self, tensor: str, row: int = 0) -> Piece:
        """Where all groups of that row lie."""
        piece = self.piece(tensor, row)
        if piece.groups != self.layouts[tensor].groups:
            raise ValueError(f"{tensor} is an operand of attention; no other operator can read it")
        return piece

    def group_width(self, piece: Piece) -> int:
        return self.buffers[piece.buffer].width // piece.groups

    def line(self, piece: Piece, tensor: str, row: int) -> int:
        """Row of the piece's buffer in which a row of the tensor lies."""
        layout = self.layouts[tensor]
        return layout.line(row) - layout.line(piece.row)

    def first_tile(self, piece: Piece, tensor: str) -> int:
        """Which tile of the tensor is the piece's first."""
        layout = self.layouts[tensor]
        return piece.group // layout.run * layout.run_tiles

    def wrote(self, tensor: str, rows: NDArray[np.int64], tiles: int) -> None:
        """Note that the instructions so far write so many tiles more of these rows."""
        self.written[tensor] += tiles * np.bincount(np.arange(len(self.written[tensor]))[rows], minlength=len(self.written[tensor]))

    def is_written(self, tensor: str, rows: NDArray[np.int64]) -> bool:
        """Whether the instructions so far write these rows; the input is loaded when it is needed."""
        return tensor == self.network.input or bool((self.written[tensor][rows] >= self.layouts[tensor].tiles).all())

    def emit(self, opcode: isa.Opcode, **arguments: object) -> None:
        """Append an instruction; raises :class:`.remedies.TooLong`."""
        if len(self.instructions) >= self.config.program_limit:
            raise TooLong
        instruction = Instruction(opcode=opcode, queue=isa.OPCODE_QUEUE[opcode], **arguments)  # type: ignore[arg-type]
        self.instructions.append(instruction)

    def load(
        self,
        layer: str,
        target: isa.Target,
        source: tuple[str, int],
        words: int,
        access: Access,
        destination: tuple[str, int] | int,
        part: TensorSlice | None = None,
    ) -> None:
        """LOAD of ``words`` from ``source`` (a name of the memory image, and an offset in it)."""
        fields = {"target": target.value, "words": words}
        anchors = {"memory": source}
        if isinstance(destination, int):
            fields["destination"] = destination
        else:
            anchors["destination"] = destination
        self.emit(isa.Opcode.LOAD, layer=layer, fields=fields, anchors=anchors, writes=(access,), slice=part)

    def load_rows(self, layer: str, name: str, source_row: int, buffer: str, row: int, rows: int, part: TensorSlice | None = None) -> None:
        """LOAD of rows into a buffer."""
        width = self.buffers[buffer].width
        access = Access(port=Port.LOAD, buffer=buffer, row=row, rows=rows, words=width)
        self.load(layer, isa.Target.SCRATCHPAD, (name, source_row * width), rows * width, access, (buffer, row * width), part)

    def load_weights(self, layer: str, first: int, words: int) -> Access:
        """Where words ``first`` .. of a layer's weights lie."""
        buffer, ring = self.weight_ring(layer)
        start, missing = ring.request((layer, first, words), words)
        if missing:
            access = Access(port=Port.LOAD, buffer=buffer, row=start, rows=words)
            self.load(layer, isa.Target.SCRATCHPAD, (f"{layer}.weight", first), words, access, (buffer, start))
        return Access(port=Port.STATIONARY, buffer=buffer, row=start, rows=words)

    def load_constants(self, layer: str, first: int, blocks: int) -> int:
        """First block of the epilogue constants of channel blocks ``first`` ..; all of the layer's are loaded at once if they fit."""
        words = isa.CONSTANT_BYTES
        whole = self.image.words(f"{layer}.constants") // words
        begin, count = (0, whole) if whole <= self.constants.size else (first, blocks)
        start, missing = self.constants.request((layer, begin, count), count)
        if missing:
            access = Access(buffer="constants", row=start, rows=count)
            self.load(layer, isa.Target.CONSTANTS, (f"{layer}.constants", begin * words), count * words, access, start * words)
        return start + first - begin

    def load_norm_constants(self, layer: str) -> int:
        """First block of a LayerNorm's constants."""
        words = self.image.words(f"{layer}.constants")
        blocks = words // isa.NORM_BYTES
        if blocks > self.norm_constants.size:
            message = f"{layer} has {blocks * self.config.lanes} channels; norm_channels allows {self.config.norm_channels}"
            raise TooSmall(message, "norm_channels")
        start, missing = self.norm_constants.request(layer, blocks)
        if missing:
            access = Access(buffer="norm_constants", row=start, rows=blocks)
            self.load(layer, isa.Target.NORM_CONSTANTS, (f"{layer}.constants", 0), words, access, start * isa.NORM_BYTES)
        return start

    def load_table(self, layer: str, ring: Ring, buffer: str, target: isa.Target, part: str = "table", number: int = 0) -> int:
        """Where a table of a layer, or number ``number`` of several, is on chip."""
        start, missing = ring.request((layer, number), 1)
        if missing:
            words = table_words(self.config.lanes)
            self.load(layer, target, (f"{layer}.{part}", number * words), words, Access(buffer=buffer, row=start), start * words)
        return start

    def load_map(self, layer: str, row_map: RowMap) -> tuple[int, Access]:
        """First entry of a row map on chip, and where its words lie. Equal maps are one, whoever uses them."""
        lanes, size = self.config.lanes, isa.ENTRY_BYTES
        content = row_map.offsets.astype("<i4").tobytes()
        words = ceil_div(len(content), lanes)
        if words > self.map_words.size:
            raise TooSmall(f"{layer} needs a map of {len(row_map.rows)} rows; map_rows allows {self.config.map_rows}", "map_rows")
        start, missing = self.map_words.request(content, words)
        access = Access(buffer="row_map", row=start, rows=words)
        if missing:
            name = next((name for name, known in self.row_maps.items() if known == content), f"{layer}.rows.{len(self.row_maps)}")
            self.row_maps[name] = content
            self.load(layer, isa.Target.ROW_MAP, (name, 0), words, access, start)
        return start * lanes // size, access

    def slice(self, piece: Piece, tensor: str, row: int, rows: int, tile: int, tiles: int, padding: int | None) -> TensorSlice:
        """Tiles ``tile`` .. of the piece, in rows ``row`` .. of a tensor; the address is the offset in the buffer until the memory plan."""
        width = self.buffers[piece.buffer].width
        address = self.line(piece, tensor, row) * width + self.layouts[tensor].word(tile)
        self.wrote(tensor, np.arange(row, row + rows), tiles)
        first = self.first_tile(piece, tensor) + tile
        return TensorSlice(tensor=tensor, row=row, rows=rows, tile=first, tiles=tiles, address=address, stride=width, padding=padding)

    def mapped_slice(self, piece: Piece, tensor: str, row_map: RowMap, tile: int, tiles: int, padding: int | None) -> TensorSlice:
        """The same for rows that go through a map."""
        rows, firsts = row_map.rows + piece.row, row_map.tiles + tile
        self.wrote(tensor, rows, tiles)
        places = zip(rows.tolist(), firsts.tolist(), row_map.offsets.tolist(), strict=True)
        size = {"rows": len(rows), "tiles": tiles, "stride": 0, "address": row_map.base + self.layouts[tensor].word(tile)}
        return TensorSlice(tensor=tensor, row=int(rows[0]), tile=int(firsts[0]), padding=padding, places=tuple(places), **size)

    def source(self, layer: str, tensor: str, row: int, rows: int) -> Piece:
        """Where all groups of these rows lie; LOAD rows of the network's input that are not there yet."""
        end = row + rows
        if tensor == self.network.input and end > self.loaded_rows:
            name, start = self.network.input, self.loaded_rows
            piece = self.whole(name)
            part = self.slice(piece, name, start, end - start, 0, self.layouts[name].tiles, self.tensors[name].zero_point)
            self.load_rows(layer, "input", start, piece.buffer, start, end - start, part)
            self.loaded_rows = end
        return self.whole(tensor, row)

    def store(self, layer: str, tensor: str, row: int, rows: int) -> None:
        """STORE rows of an output to external memory."""
        piece = self.whole(tensor, row)
        width = self.buffers[piece.buffer].width
        access = Access(port=Port.STORE, buffer=piece.buffer, row=row - piece.row, rows=rows, words=width)
        anchors = {"source": (piece.buffer, access.row * width), "memory": (tensor, row * width)}
        self.emit(isa.Opcode.STORE, layer=layer, fields={"words": rows * width}, anchors=anchors, reads=(access,))
        self.stored[tensor][row : row + rows] = True

    def store_rest(self) -> None:
        """STORE the rows of outputs that are not stored yet."""
        for operator in self.network.operators:
            left = np.flatnonzero(~self.stored.get(operator.output, np.ones(0, bool)))
            for row, rows in runs(left) if len(left) else []:
                self.store(operator.name, operator.output, row, rows)

    def cuts(self, span: tuple[int, int], first: int, count: int, split: int, tile_words: float = 0) -> list[tuple[int, int]]:
        """Cut rows ``first`` .. at the places that all operators on ``span`` (first row, rows) have in common: (first row, rows).

        ``tile_words`` : words of a stationary tile, where they are not the network's average.
        """
        config = self.config
        start, rows = span
        parts = ceil_div(rows, config.accumulator_rows)
        # A part must stream for as long as its weights take to load.
        least = (tile_words or self.tile_words) * config.beats + config.lanes // 2
        while 2 * parts <= split and rows // (2 * parts) >= least:
            parts *= 2
        edges = [start + min(rows, ceil_div(part * rows // parts, self.row_unit) * self.row_unit) for part in range(parts + 1)]
        bounds = [(max(first, low), min(first + count, high)) for low, high in zip(edges, edges[1:], strict=False)]
        return [(low, high - low) for low, high in bounds if low < high]

    def add_layer(self, name: str, op: str, **sizes: int | str) -> None:
        """Describe an operator for reports; its instructions are found by name."""
        self.layers.append(Layer(name=name, op=op, lanes=self.config.lanes, **sizes))  # type: ignore[arg-type]

    def add_product(self, name: str, operand: Operand, **sizes: int) -> None:
        """Describe products of one operator for reports."""
        self.add_layer(name, "gemm", mode=operand.name, packing=1 << PACKING[operand.name], **sizes)


def phases(network: IntegerNetwork) -> dict[str, int]:
    """By operator: how many patch mergings come before it."""
    numbers, number = {}, 0
    for operator in network.operators:
        numbers[operator.name] = number
        number += f"{operator.name}.output_groups" in network.arrays
    return numbers
