"""Instructions, constant records, error codes and registers: what hardware, compiler and host agree on, once.

An instruction is a header (:data:`HEADER`) and a body by opcode (:data:`BODIES`), little-endian in a word of :data:`INSTRUCTION_BITS`.
Addresses and strides count scratchpad words; external memory is addressed in units of one scratchpad word (L bytes).
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Shape, Value, signed, unsigned
from amaranth.lib import data, enum

__all__ = [
    "BODIES",
    "CODE_ENTRY",
    "CONSTANT_BYTES",
    "CONSTANT_RECORD",
    "EXP_ENTRY",
    "HEADER",
    "INSTRUCTION_BITS",
    "INSTRUCTION_WORDS",
    "LAYOUTS",
    "NORM_BYTES",
    "NORM_RECORD",
    "PROGRAM_WINDOW",
    "QUEUES",
    "REGISTER_BITS",
    "TABLE_ENTRIES",
    "Codebook",
    "Error",
    "Form",
    "LoadDirection",
    "Mode",
    "Opcode",
    "Queue",
    "Register",
    "Target",
    "body",
    "pack",
    "unpack",
]

INSTRUCTION_BITS = 384
INSTRUCTION_WORDS = INSTRUCTION_BITS // 32
ADDRESS = unsigned(20)
STRIDE = unsigned(20)
#: Number of a row map's entry.
MAP_ENTRY = unsigned(13)
TABLE_ENTRIES = 256


class Queue(enum.Enum, shape=2):
    """The four in-order queues, one an engine."""

    LOAD = 0
    ARRAY = 1
    ROWS = 2
    STORE = 3


QUEUES = len(Queue)


class Opcode(enum.Enum, shape=4):
    """What an instruction does. 0 is not an opcode, so that empty memory is an error."""

    LOAD = 1
    STORE = 2
    MATMUL = 3
    SOFTMAX = 4
    NORM = 5
    #: Only waits and gives tokens.
    SYNC = 14
    #: Last instruction: the run is done when every queue is empty and idle.
    END = 15


#: Queue of each opcode; SYNC goes wherever its header says, END stays in the dispatcher.
OPCODE_QUEUE = {
    Opcode.LOAD: Queue.LOAD,
    Opcode.MATMUL: Queue.ARRAY,
    Opcode.SOFTMAX: Queue.ROWS,
    Opcode.NORM: Queue.ROWS,
    Opcode.STORE: Queue.STORE,
}


class Target(enum.Enum, shape=3):
    """Where a LOAD puts its words."""

    SCRATCHPAD = 0
    CONSTANTS = 1
    NORM_CONSTANTS = 2
    FUNCTION_TABLE = 3
    EXP_TABLE = 4
    #: Word offsets of rows, 4 bytes each, of which the lowest 20 bits count; word w holds the entries from w * L / 4 on.
    ROW_MAP = 5
    #: Codes of a softmax by the logarithm of the weight, 4 bits each.
    CODE_TABLE = 6
    #: Instructions without gaps, a block (:attr:`.config.CoreConfig.program_block`) from word 0 on and one behind it: the upper half of
    #: the program memory, where programs are streamed.
    PROGRAM = 7


class Mode(enum.Enum, shape=3):
    """Operand mode of the array, numbered as in :data:`..config.MODES`."""

    INT8 = 0
    LOG2 = 1
    INT4 = 2
    INT2 = 3
    BINARY = 4


class Codebook(enum.Enum, shape=1):
    """What the bits of a moving operand mean."""

    #: BINARY: 1 is +1 and 0 is -1. LOG2: code c is 2**-c.
    SIGNED = 0
    #: BINARY: 1 is 1 and 0 is 0. LOG2: code c is 2**(-c / 2).
    UNIT = 1


class LoadDirection(enum.Enum, shape=1):
    """What one stationary word is: a row of the array (one k, L outputs) or a column (one output, L values of k)."""

    ROW = 0
    COLUMN = 1


class Form(enum.Enum, shape=3):
    """What the epilogue makes of an accumulator (``docs/arithmetic.md``)."""

    REQUANTIZE = 0
    TABLE = 1
    RESIDUAL = 2
    RAW = 3


class Error(enum.Enum, shape=8):
    """Why a core stopped."""

    NONE = 0
    #: No such opcode, or in the wrong queue.
    OPCODE = 1
    #: A count of zero, more rows than accumulators, a mode, a form or a row map that the core lacks, or results that cannot be packed.
    FIELD = 2
    #: A scratchpad, constant, table or map address outside the memory.
    ADDRESS = 3
    #: Two engines used a port of one bank in the same cycle.
    BANK_CONFLICT = 4
    #: The program was made for another configuration.
    CONFIGURATION = 5
    #: The memory answered a read, a write with an error.
    MEMORY_READ = 6
    MEMORY_WRITE = 7
    #: More tokens than a counter holds.
    TOKEN = 8
    #: No END before the end of the program memory, or a block of a streamed program that nothing loads.
    PROGRAM = 9


class Register(enum.IntEnum):
    """Control registers, 32 bits each, by word address."""

    #: Read: "VTLM" as a number, to find the core.
    IDENTITY = 0
    #: Read: major << 16 | minor << 8 | patch.
    VERSION = 1
    #: Read: :attr:`.config.CoreConfig.fingerprint`.
    CONFIGURATION = 2
    #: Read and write: the fingerprint that the program was compiled for; checked at start.
    EXPECTED = 3
    #: Write: bit 0 starts, bit 1 stops everything and clears status, error and tokens.
    CONTROL = 4
    #: Read: bit 0 busy, bit 1 done, bit 2 error.
    STATUS = 5
    #: Read: :class:`Error`.
    ERROR = 6
    #: Read: index of the last instruction dispatched when the error came.
    ERROR_INSTRUCTION = 7
    #: Read: cycles of the run, low half.
    CYCLES_LOW = 8
    #: Read: cycles of the run, high half.
    CYCLES_HIGH = 9
    #: Read: lanes | epilogue_lanes << 8 | port_bytes << 16 | modes << 24 (a bit a mode).
    SHAPE = 10
    #: Read and write: added to every external address, in beats of the memory port.
    MEMORY_BASE = 11
    #: Read and write: bit 0, 1 after a reset, lets done and error raise the interrupt. A clear or the next start takes it back.
    INTERRUPT = 12


#: Names of a register's bits, from bit 0 on.
REGISTER_BITS = {
    Register.CONTROL: ("START", "CLEAR"),
    Register.STATUS: ("BUSY", "DONE", "ERROR"),
    Register.INTERRUPT: ("ENABLE",),
}

IDENTITY = 0x4D4C5456
#: First address of the program memory (write only, not while a program runs): instruction i, 32-bit word j at PROGRAM_WINDOW + 16 i + j.
PROGRAM_WINDOW = 0x10000
#: Bits of a register address.
CONTROL_ADDRESS_BITS = 18

#: Bit q of ``wait``: take a token that queue q gave; the own queue's bit waits until all earlier instructions of the queue have ended.
#: Bit q of ``give``: at the end, give a token to queue q; the own bit of queue LOAD, where programs are streamed, one to the dispatcher.
HEADER = data.StructLayout({"opcode": Opcode, "queue": Queue, "wait": QUEUES, "give": QUEUES})

_LOAD = data.StructLayout({"target": Target, "words": 20, "memory": 28, "destination": ADDRESS})
_STORE = data.StructLayout({"words": 20, "memory": 28, "source": ADDRESS})
_MATMUL = data.StructLayout(
    {
        "mode": Mode,
        "direction": LoadDirection,
        "rows": 13,
        "k_tiles": 10,
        "n_tiles": 10,
        # address of x[row, k tile] = moving + row * moving_row + k * moving_k
        "moving": ADDRESS,
        "moving_row": STRIDE,
        "moving_k": STRIDE,
        # address of word i of tile (n, k) = stationary + i * stationary_word + k * stationary_k + n * stationary_n
        "stationary": ADDRESS,
        "stationary_word": STRIDE,
        "stationary_k": STRIDE,
        "stationary_n": STRIDE,
        # address of y[row, n tile] = output + row * output_row + n * output_n; a raw result takes 4 words from there on
        "output": ADDRESS,
        "output_row": STRIDE,
        "output_n": STRIDE,
        # address of the residual = residual + row * output_row + n * output_n
        "residual": ADDRESS,
        # bit 0: map[map_base + row] is in place of row * output_row in the output's address; bit 1 (only with bit 0): in the residual's too
        "map": 2,
        "map_base": MAP_ENTRY,
        "form": Form,
        "codebook": Codebook,
        # mode INT4: subtracted from every moving operand
        "moving_zero": signed(4),
        # bytes of the first k tile's words, from byte 0 on, and of the last k tile's, down from byte L - 1, that count as zero
        "k_skip": 6,
        "k_pad": 6,
        # log2 of the values in a byte of a stationary word (0: int8 .. 3: 1 bit); direction COLUMN: as the mode has it
        "stationary_packing": 2,
        # the same for the output: n tile j of a row fills part `part + j` of its words, a word having 2**packing parts; with pack_rows
        # a word holds 2**packing rows instead, byte c those of column c, and output_row leads from one such word to the next
        "output_packing": 2,
        "pack_rows": 1,
        "part": 3,
        # form RESIDUAL: a residual of -128 gives -128, and any other result is at least -127
        "masked": 1,
        "table": 1,
        # constants of n tile = constant + n * constant_n, in blocks of L channels
        "constant": 12,
        "constant_n": 1,
        "zero_out": signed(8),
        "residual_zero": signed(8),
        "residual_multiplier": 16,
    }
)
_ROW_FIELDS: dict[str, Shape | int] = {
    "rows": 13,
    "words": 10,
    # address of word w of row r = input + r * input_row + w * input_word
    "input": ADDRESS,
    "input_row": STRIDE,
    "input_word": STRIDE,
    "output": ADDRESS,
    "output_row": STRIDE,
    "output_word": STRIDE,
}
# masked: a logit of -128 counts nowhere and gets code 15
# coded: codes come from a table, by the logarithm of the weight (relative: that of the weight over the row's greatest)
_SOFTMAX = data.StructLayout(
    {**_ROW_FIELDS, "columns": 16, "table": 1, "masked": 1, "coded": 1, "relative": 1, "code_table": 1, "output_packing": 2}
)
# constant: first block of L channels; log2_channels: floor(log2 channels); map: map[map_base + r] is in place of r * output_row
_NORM = data.StructLayout(
    {
        **_ROW_FIELDS,
        "channels": 12,
        "log2_channels": 4,
        "zero": signed(8),
        "constant": 12,
        "epsilon": 32,
        "map": 1,
        "map_base": MAP_ENTRY,
        "output_packing": 2,
    }
)

BODIES = {
    Opcode.LOAD: _LOAD,
    Opcode.STORE: _STORE,
    Opcode.MATMUL: _MATMUL,
    Opcode.SOFTMAX: _SOFTMAX,
    Opcode.NORM: _NORM,
    Opcode.SYNC: data.StructLayout({}),
    Opcode.END: data.StructLayout({}),
}
#: Header and body of an instruction with that opcode, as they lie in the word.
LAYOUTS = {opcode: data.StructLayout({"header": HEADER, "body": body}) for opcode, body in BODIES.items()}
assert all(HEADER.size + body.size <= INSTRUCTION_BITS for body in BODIES.values())

#: Epilogue constants of one channel, 8 bytes. A group of E channels is 8 E bytes, that is 8 E / L words of a LOAD.
CONSTANT_BYTES = 8
#: ``row_sum`` times the sum of the moving operand's row is added to the accumulator: the stationary operand's zero point.
CONSTANT_RECORD = data.StructLayout({"bias": signed(32), "multiplier": 16, "shift": 6, "row_sum": signed(5), "residual_shift": 5})
#: LayerNorm constants of one channel, 5 bytes. Of a block of L channels, LOAD word b holds byte b of every channel.
NORM_BYTES = 5
NORM_RECORD = data.StructLayout({"alpha": 2, "gain": signed(18), "offset": signed(20)})
#: One entry of the softmax table. Table entries (this, the int8 of an activation table and a map's offset) take 4 bytes each in memory.
EXP_ENTRY = data.StructLayout({"exp": 16, "log": 12})
#: One entry of a code table.
CODE_ENTRY = unsigned(4)
ENTRY_BYTES = 4


def body(opcode: Opcode, word: Value) -> data.View:
    """The body of an instruction word, read as that opcode's."""
    layout = LAYOUTS[opcode]
    return data.View(layout, word[: layout.size]).body


def pack(layout: data.StructLayout, values: Mapping[str, int]) -> int:
    """The bits of ``values`` in ``layout`` as a number; a missing field is 0, one out of range or unknown raises ``ValueError``."""
    word = 0
    for name in values:
        if name not in layout.members:
            raise ValueError(f"no field {name!r}; there are {', '.join(layout.members)}")
    for name, field in layout:
        value = int(getattr(values.get(name, 0), "value", values.get(name, 0)))
        shape = Shape.cast(field.shape)
        low, high = (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)
        if not low <= value <= high:
            raise ValueError(f"field {name} must be {low} to {high}, not {value}")
        word |= (value & ((1 << shape.width) - 1)) << field.offset
    return word


def unpack(layout: data.StructLayout, word: int) -> dict[str, int]:
    """The fields of ``layout`` in the bits of ``word``."""
    values = {}
    for name, field in layout:
        shape = Shape.cast(field.shape)
        value = (word >> field.offset) & ((1 << shape.width) - 1)
        values[name] = value - (1 << shape.width) if shape.signed and value >> (shape.width - 1) else value
    return values
