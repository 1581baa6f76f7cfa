"""Buffers, and the loads that bring parameters on chip when they are not there: what every operator's lowering builds on."""

from __future__ import annotations

from dataclasses import dataclass

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.memory_engines import table_words
from ..model.network import AttentionScores, IntegerNetwork, LogSoftmax
from .constants import MemoryImage
from .layout import ceil_div
from .memory import Ring
from .program import Access, Buffer, Instruction, Layer, Port, Space, TensorSlice

__all__ = ["Emitter", "Piece", "Plan"]

#: A table field of an instruction is one bit.
_TABLES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Choices of the compiler.

    Parameters
    ----------
    split : int
        Parts into which rows are cut where they are long enough, so that row operators of one part run beside the array on another.
    weight_banks : int
        The last banks, which hold weights.
    """

    split: int
    weight_banks: int


@dataclass(frozen=True)
class Piece:
    """Consecutive groups of a tensor in a buffer of their own."""

    buffer: str
    group: int
    groups: int


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
        self.instructions: list[Instruction] = []
        self.buffers: dict[str, Buffer] = {}
        self.layers: list[Layer] = []
        self.loaded_rows = 0  # of the input
        self.weights = Ring(plan.weight_banks * config.bank_words)
        self.constants = Ring(config.constant_channels // config.lanes)
        self.norm_constants = Ring(config.norm_channels // config.lanes)
        self.function_tables, self.exp_tables = Ring(_TABLES), Ring(_TABLES)
        self.add_buffer("weights", self.weights.size, address=(config.banks - plan.weight_banks) * config.bank_words)
        self.add_buffer("constants", self.constants.size, space=Space.CONSTANTS)
        self.add_buffer("norm_constants", self.norm_constants.size, space=Space.NORM_CONSTANTS)
        self.add_buffer("function_tables", _TABLES, space=Space.FUNCTION_TABLES)
        self.add_buffer("exp_tables", _TABLES, space=Space.EXP_TABLES)
        self.pieces = {tensor.name: self._pieces(tensor.name) for tensor in network.tensors}

    def add_buffer(self, name: str, rows: int, width: int = 1, **options: object) -> str:
        self.buffers[name] = Buffer(name=name, rows=rows, width=width, **options)  # type: ignore[arg-type]
        return name

    def _pieces(self, tensor: str) -> list[Piece]:
        """q, k and v in three buffers, scores and codes in one a head, everything else in one; k and v in whole tiles of rows."""
        layout, lanes = self.layouts[tensor], self.config.lanes
        group_width = layout.width // layout.groups
        parts, rows = [("", 0, layout.groups)], layout.rows
        for operator in self.network.operators:
            if isinstance(operator, AttentionScores) and operator.input == tensor:
                parts = [(f".{part}", index * operator.heads, operator.heads) for index, part in enumerate("qkv")]
                rows = ceil_div(layout.rows, lanes) * lanes
            if isinstance(operator, AttentionScores | LogSoftmax) and operator.output == tensor:
                parts = [(f".{head}", head, 1) for head in range(layout.groups)]
        return [Piece(self.add_buffer(tensor + suffix, rows, groups * group_width), group, groups) for suffix, group, groups in parts]

    def whole(self, tensor: str) -> Piece:
        if len(self.pieces[tensor]) != 1:
            raise ValueError(f"{tensor} is an operand of attention; no other operator can read it")
        return self.pieces[tensor][0]

    def group_width(self, piece: Piece) -> int:
        return self.buffers[piece.buffer].width // piece.groups

    def emit(self, opcode: isa.Opcode, **arguments: object) -> None:
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
        fields = {"target": target.value, "words": words, "memory": self.image.regions[source[0]][0] + source[1]}
        anchors = {}
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

    def load_weights(self, layer: str, first: int, words: int) -> int:
        start, missing = self.weights.request((layer, first, words), words)
        if missing:
            access = Access(port=Port.LOAD, buffer="weights", row=start, rows=words)
            self.load(layer, isa.Target.SCRATCHPAD, (f"{layer}.weight", first), words, access, ("weights", start))
        return start

    def load_constants(self, layer: str, first: int, blocks: int) -> int:
        """First block of the epilogue constants of channel blocks ``first`` ..; all of the layer's are loaded at once if they fit."""
        words = isa.CONSTANT_BYTES
        whole = self.image.regions[f"{layer}.constants"][1] // words
        begin, count = (0, whole) if whole <= self.constants.size else (first, blocks)
        start, missing = self.constants.request((layer, begin, count), count)
        if missing:
            access = Access(buffer="constants", row=start, rows=count)
            self.load(layer, isa.Target.CONSTANTS, (f"{layer}.constants", begin * words), count * words, access, start * words)
        return start + first - begin

    def load_norm_constants(self, layer: str) -> tuple[int, int]:
        words = self.image.regions[f"{layer}.constants"][1]
        blocks = words // isa.NORM_BYTES
        if blocks > self.norm_constants.size:
            raise ValueError(f"{layer} has {blocks * self.config.lanes} channels; norm_channels allows {self.config.norm_channels}")
        start, missing = self.norm_constants.request(layer, blocks)
        if missing:
            access = Access(buffer="norm_constants", row=start, rows=blocks)
            self.load(layer, isa.Target.NORM_CONSTANTS, (f"{layer}.constants", 0), words, access, start * isa.NORM_BYTES)
        return start, blocks

    def load_table(self, layer: str, ring: Ring, buffer: str, target: isa.Target) -> int:
        start, missing = ring.request(layer, 1)
        if missing:
            words = table_words(self.config.lanes)
            self.load(layer, target, (f"{layer}.table", 0), words, Access(buffer=buffer, row=start), start * words)
        return start

    def slice(self, piece: Piece, tensor: str, row: int, rows: int, word: int, words: int, padding: int | None) -> TensorSlice:
        """Words ``word`` .. of a piece; the address is the offset in its buffer until the memory plan is made."""
        width = self.buffers[piece.buffer].width
        first = piece.group * self.group_width(piece)
        return TensorSlice(
            tensor=tensor, row=row, rows=rows, word=first + word, words=words, address=row * width + word, stride=width, padding=padding
        )

    def ensure_input(self, layer: str, row: int, rows: int) -> None:
        """LOAD the rows of the input up to ``row + rows`` that are not there yet."""
        end = row + rows
        if end > self.loaded_rows:
            name, start = self.network.input, self.loaded_rows
            piece = self.whole(name)
            part = self.slice(piece, name, start, end - start, 0, self.buffers[piece.buffer].width, 0)
            self.load_rows(layer, "input", start, piece.buffer, start, end - start, part)
            self.loaded_rows = end

    def store(self, layer: str, tensor: str, row: int, rows: int) -> None:
        """STORE rows of an output to external memory."""
        piece = self.whole(tensor)
        width = self.buffers[piece.buffer].width
        fields = {"words": rows * width, "memory": self.image.regions[tensor][0] + row * width}
        access = Access(port=Port.STORE, buffer=piece.buffer, row=row, rows=rows, words=width)
        self.emit(isa.Opcode.STORE, layer=layer, fields=fields, anchors={"source": (piece.buffer, row * width)}, reads=(access,))

    def chunks(self, rows: int, first: int, count: int, split: int) -> list[tuple[int, int]]:
        """Cut rows ``first`` .. of a tensor of ``rows`` rows at the same places for all its operators: (first row, rows)."""
        config = self.config
        parts = ceil_div(rows, config.accumulator_rows)
        # A part must stream for as long as its weights take to load.
        while 2 * parts <= split and rows // (2 * parts) >= config.lanes * config.beats + config.lanes // 2:
            parts *= 2
        bounds = [(max(first, part * rows // parts), min(first + count, (part + 1) * rows // parts)) for part in range(parts)]
        return [(start, end - start) for start, end in bounds if start < end]

    def add_layer(self, name: str, op: str, **sizes: int | str) -> None:
        """Describe an operator for reports; its instructions are found by name."""
        self.layers.append(Layer(name=name, op=op, lanes=self.config.lanes, **sizes))  # type: ignore[arg-type]
