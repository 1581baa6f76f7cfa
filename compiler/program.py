"""A compiled program: instructions with what they read and write, the memory plan, and the layers for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import CoreConfig
from .constants import MemoryImage
from .layout import Layout

__all__ = ["WEIGHTS", "Access", "Buffer", "Instruction", "Layer", "Port", "Program", "Space", "TensorSlice", "expected_words"]

#: Names of the buffers that are rings of weights begin so.
WEIGHTS = "weights."


class Space(StrEnum):
    """Memories of the core."""

    SCRATCHPAD = "scratchpad"
    CONSTANTS = "constants"
    NORM_CONSTANTS = "norm_constants"
    FUNCTION_TABLES = "function_tables"
    EXP_TABLES = "exp_tables"
    CODE_TABLES = "code_tables"
    ROW_MAP = "row_map"


class Port(StrEnum):
    """Which client of the scratchpad makes an access; NONE for the other memories."""

    MOVING = "moving"
    STATIONARY = "stationary"
    RESIDUAL = "residual"
    ROWS = "rows"
    STORE = "store"
    LOAD = "load"
    EPILOGUE = "epilogue"
    NONE = ""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """``rows * width`` words of one memory (blocks of L channels, tables); ``address`` is where the memory plan put them.

    ``fixed`` : the address was given from the beginning, for parts to be overwritten again and again.
    """

    name: str
    rows: int
    width: int = 1
    space: Space = Space.SCRATCHPAD
    address: int = 0
    fixed: bool = False

    @property
    def words(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True, kw_only=True)
class Access:
    """Words ``word`` .. ``word + words - 1`` of rows ``row`` .. ``row + rows - 1`` of a buffer."""

    buffer: str
    port: Port = Port.NONE
    row: int = 0
    rows: int = 1
    word: int = 0
    words: int = 1


@dataclass(frozen=True, kw_only=True)
class TensorSlice:
    """What an instruction writes: rows and tiles (:class:`.layout.Layout`) of an activation.

    Parameters
    ----------
    tensor : str
    row, rows, tile, tiles : int
    address, stride : int
        Scratchpad address of the word in which the first tile begins, and words from a row to the next.
    padding : int or None
        Value of padding columns; None where they hold anything.
    places : tuple of (int, int, int)
        Of rows that go through a row map: row of the tensor, first tile of it, and address, the latter relative to ``address``.
    """

    tensor: str
    row: int
    rows: int
    tile: int
    tiles: int
    address: int
    stride: int
    padding: int | None
    places: tuple[tuple[int, int, int], ...] = ()

    @property
    def targets(self) -> NDArray[np.int64]:
        """By row that is written (rows, 3): row of the tensor, first tile in it, and scratchpad address of that tile."""
        if self.places:
            return np.array(self.places) + np.array([0, 0, self.address])
        steps = np.arange(self.rows)[:, None]
        return np.array([self.row, self.tile, self.address]) + steps * np.array([1, 0, self.stride])

    def lines(self, layout: Layout) -> NDArray[np.int64]:
        """The same by row of words: where values are packed along rows, the first row that is in it."""
        if not layout.window:
            return self.targets
        steps = np.arange(layout.lines(self.row, self.rows))[:, None]
        return np.array([self.row, self.tile, self.address]) + steps * np.array([layout.packing, 0, self.stride])


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    opcode, queue, wait, give : as in :data:`..hw.isa.HEADER`
    fields : dict of str to int
        Body, by the names of :data:`..hw.isa.BODIES`.
    layer : str
        Operator instance that it works for.
    reads, writes : tuple of Access
    slice : TensorSlice or None
        The activation that it writes.
    anchors : dict of str to (str, int)
        Address fields before the memory plan: buffer and offset in it.
    """

    opcode: isa.Opcode
    queue: isa.Queue
    layer: str = ""
    wait: int = 0
    give: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    slice: TensorSlice | None = None
    anchors: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def header(self) -> dict[str, int]:
        """Fields of :data:`..hw.isa.HEADER`."""
        return {"opcode": self.opcode.value, "queue": self.queue.value, "wait": self.wait, "give": self.give}

    @property
    def values(self) -> dict[str, int]:
        """Fields of header and body by name, as the timing model takes them; fields that are not set are 0."""
        return {**self.header, **{name: self.fields.get(name, 0) for name, _ in isa.BODIES[self.opcode]}}

    def word(self) -> int:
        """The 384-bit instruction."""
        return isa.pack(isa.HEADER, self.header) | isa.pack(isa.BODIES[self.opcode], self.fields) << isa.HEADER.size


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator instance for reports: ``count`` products of (M, K) with (K, N); for row operators K is 1 and N the row's length.

    Parameters
    ----------
    name, op, mode : str
        Operator name, ``gemm``, ``softmax`` or ``layer_norm``, and the operand mode (empty for row operators).
    tiles : int
        Stationary tiles that the array must hold in turn, each for max(M, L) cycles at least.
    packing : int
        Products that a multiplier does in a cycle of the mode.
    instructions : tuple of int
        Indices of its instructions, loads and stores included.
    """

    name: str
    op: str
    M: int
    K: int
    N: int
    count: int = 1
    mode: str = ""
    tiles: int = 0
    packing: int = 1
    lanes: int
    instructions: tuple[int, ...] = ()

    @property
    def macs(self) -> int:
        return self.M * self.K * self.N * self.count if self.op == "gemm" else 0

    @property
    def multiplier_cycles(self) -> float:
        """Cycles of one multiplier that the products take."""
        return self.macs / self.packing

    @property
    def lower_bound_cycles(self) -> int:
        """Tile limit: cycles of the array if nothing else took time."""
        return self.tiles * max(self.M, self.lanes)


@dataclass(kw_only=True)
class Program:
    """A network compiled for a configuration.

    Parameters
    ----------
    name, origin, input : str
        Network, where its weights come from, and its input tensor.
    instructions : list of Instruction
        The last one is END.
    buffers : dict of str to Buffer
        The memory plan.
    image : MemoryImage
        External memory.
    input_region : tuple of int
        Word address and words of the input in external memory.
    output_regions : dict of str to (int, int)
        The same for each output tensor.
    layouts : dict of str to Layout
        By tensor.
    fingerprint : int
        Of the configuration (:attr:`..hw.config.CoreConfig.fingerprint`).
    """

    name: str
    origin: str
    input: str
    config: CoreConfig
    instructions: list[Instruction]
    buffers: dict[str, Buffer]
    layers: list[Layer]
    layouts: dict[str, Layout]
    image: MemoryImage
    input_region: tuple[int, int]
    output_regions: dict[str, tuple[int, int]]

    @property
    def fingerprint(self) -> int:
        return self.config.fingerprint

    @property
    def memory_image(self) -> bytes:
        """External memory from address 0 on: parameters, row maps, blocks of the program."""
        return self.image.data

    @property
    def memory_plan(self) -> dict[str, tuple[int, int]]:
        """Word address and words of everything in external memory, by name."""
        return self.image.regions

    @property
    def memory_words(self) -> int:
        """Words of external memory: parameters, input and outputs."""
        return max(address + words for address, words in self.memory_plan.values())

    @property
    def lower_bound_cycles(self) -> int:
        """Tile limit of the network."""
        return sum(layer.lower_bound_cycles for layer in self.layers)

    @cached_property
    def dependencies(self) -> list[tuple[int, ...]]:
        """Indices of the instructions whose tokens each instruction takes: the n-th wait of a queue takes the n-th token given to it."""
        return token_sources(self.instructions)

    def words(self) -> list[int]:
        """The 384-bit instructions."""
        return [instruction.word() for instruction in self.instructions]

    @property
    def streamed(self) -> bool:
        """Whether the program is longer than the program memory."""
        return len(self.instructions) > self.config.program_depth

    def resident_words(self) -> list[int]:
        """The instructions that the host writes into the program memory: all, or the first blocks of a program that is streamed."""
        return self.words()[: 2 * self.config.program_block if self.streamed else None]

    def describe(self) -> str:
        """Memory plan and instruction counts as plain text."""
        config = self.config
        streamed = f" in blocks of {config.program_block}" if self.streamed else ""
        lines = [
            f"{self.name} on {config.lanes} lanes: {len(self.instructions)} of {config.program_limit} instructions{streamed}",
            f"external memory: {self.memory_words * config.lanes} bytes",
            f"scratchpad: {config.banks} banks of {config.bank_words * config.lanes} bytes",
            f"{'bank':<6}{'address':>8}{'bytes':>10}  buffer",
        ]
        for buffer in sorted((b for b in self.buffers.values() if b.space is Space.SCRATCHPAD), key=lambda b: (b.address, b.name)):
            first, last = buffer.address // config.bank_words, (buffer.address + buffer.words - 1) // config.bank_words
            banks = f"{first}" if first == last else f"{first}-{last}"
            lines.append(f"{banks:<6}{buffer.address:>8}{buffer.words * config.lanes:>10}  {buffer.name}")
        lines.append(f"{'memory':<6}{'address':>8}{'bytes':>10}  contents")
        lines += [f"{'':<6}{address:>8}{words * config.lanes:>10}  {name}" for name, (address, words) in self.memory_plan.items()]
        lines.append(f"{'index':<6}{'address':>8}{'bytes':>10}  weight chunk")
        weights = {name for name in self.buffers if name.startswith(WEIGHTS)}
        for index, instruction in enumerate(self.instructions):
            if instruction.opcode is isa.Opcode.LOAD and {access.buffer for access in instruction.writes} & weights:
                words, address = instruction.fields["words"], instruction.fields["destination"]
                lines.append(f"{index:<6}{address:>8}{words * config.lanes:>10}  {instruction.layer}")
        return "\n".join(lines)


def token_sources(instructions: list[Instruction]) -> list[tuple[int, ...]]:
    """Indices of the instructions whose tokens each instruction takes. Raises ``RuntimeError`` when a token is never given."""
    given: dict[tuple[int, int], list[int]] = {}
    for index, instruction in enumerate(instructions):
        for queue in range(isa.QUEUES):
            if instruction.give >> queue & 1:
                given.setdefault((instruction.queue.value, queue), []).append(index)
    taken: dict[tuple[int, int], int] = {}
    sources = []
    for index, instruction in enumerate(instructions):
        mine = []
        for queue in range(isa.QUEUES):
            pair = (queue, instruction.queue.value)
            if queue == instruction.queue.value or not instruction.wait >> queue & 1:
                continue
            position = taken.get(pair, 0)
            taken[pair] = position + 1
            if position >= len(given.get(pair, [])):
                raise RuntimeError(f"instruction {index} waits for a token that queue {isa.Queue(queue).name} never gives")
            mine.append(given[pair][position])
        sources.append(tuple(mine))
    return sources


def expected_words(program: Program, instruction: Instruction, tensors: Mapping[str, NDArray]) -> dict[int, tuple[bytes, bytes]]:
    """What ``instruction`` must have written: scratchpad address to (L bytes, mask), mask bits 0 where anything is allowed.

    tensors : by name (rows, groups * channels), one image of :func:`..model.golden.run`.
    """
    part = instruction.slice
    if part is None:
        return {}
    layout, lanes = program.layouts[part.tensor], program.layouts[part.tensor].lanes
    _, tiles, addresses = part.lines(layout).T
    values = np.asarray(tensors[part.tensor])[part.targets[:, 0]]
    packed = np.frombuffer(layout.pack(values, part.padding or 0), np.uint8).reshape(-1, layout.width, lanes)
    expected = {}
    for tile in np.unique(tiles).tolist():
        mask = _mask(layout, tile, part.tiles, everything=part.padding is not None)
        first, count = layout.word(tile), layout.words(tile, part.tiles)
        cares = [mask[first + step].tobytes() for step in range(count)]
        for index in np.flatnonzero(tiles == tile):
            for step in range(count):
                expected[int(addresses[index]) + step] = packed[index, first + step].tobytes(), cares[step]
    return expected


def _mask(layout: Layout, tile: int, tiles: int, *, everything: bool) -> NDArray[np.uint8]:
    """Bits (width, L) of the columns of some tiles in the words of a row; of padding columns too, if ``everything``."""
    known = np.full(layout.tiles * layout.lanes, everything)
    known[layout.columns] = True
    known[: tile * layout.lanes] = known[(tile + tiles) * layout.lanes :] = False
    # In the words a run may have more columns than in the tiles.
    bits = np.zeros((layout.runs, layout.operand_width // layout.runs), bool)
    bits[:, : layout.run_tiles * layout.lanes] = known.reshape(layout.runs, -1)
    if layout.window:
        return np.where(bits, 255, 0).astype(np.uint8).reshape(layout.width, layout.lanes)
    ones = np.where(bits, 1 if layout.bits == 1 else -1, 0).astype(np.int32 if layout.bits == 32 else np.int8)
    return np.frombuffer(layout.content(ones.reshape(1, -1)), np.uint8).reshape(layout.width, layout.lanes)
