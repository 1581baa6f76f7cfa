"""The array engine of a serial core: executes MATMUL with L multipliers, one value of the moving operand a cycle."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.lane import TableWrite
from ..ram import Ram
from ..scratchpad import READ_LATENCY, ReadPort, WritePort
from .lane import SerialLane

__all__ = ["SerialArrayEngine"]


class _Addresses:
    """Where the operands and the result of a MATMUL lie; the methods give the assignments of a step."""

    def __init__(self, width: int) -> None:
        names = ("moving_row", "moving", "column", "tile", "stationary", "output_n", "output")
        registers = [Signal(width, name=f"{name}_address", reset_less=True) for name in names]
        self.moving_row, self.moving, self.column, self.tile, self.stationary, self.output_n, self.output = registers

    def begin(self, body) -> list:
        """The first row of the first n tile."""
        starts = {
            "moving": [self.moving_row, self.moving],
            "stationary": [self.column, self.tile, self.stationary],
            "output": [self.output_n, self.output],
        }
        return [register.eq(body[name]) for name, registers in starts.items() for register in registers]

    def next_word(self, body) -> list:
        """The next stationary word of a k tile."""
        return [self.stationary.eq(self.stationary + body.stationary_word)]

    def next_k(self, body) -> list:
        """The next k tile."""
        steps = [register.eq(self.tile + body.stationary_k) for register in (self.tile, self.stationary)]
        return [*steps, self.moving.eq(self.moving + body.moving_k)]

    def next_row(self, body) -> list:
        """The next row of the same n tile."""
        steps = [register.eq(self.moving_row + body.moving_row) for register in (self.moving_row, self.moving)]
        steps += [register.eq(self.column) for register in (self.tile, self.stationary)]
        return [*steps, self.output.eq(self.output + body.output_row)]

    def next_n(self, body) -> list:
        """The first row of the next n tile."""
        steps = [register.eq(body.moving) for register in (self.moving_row, self.moving)]
        steps += [register.eq(self.column + body.stationary_n) for register in (self.column, self.tile, self.stationary)]
        return steps + [register.eq(self.output_n + body.output_n) for register in (self.output_n, self.output)]


class SerialArrayEngine(wiring.Component):
    """For each word of the output: the biases into L accumulators, the products, and the sums through a :class:`.lane.SerialLane`.

    Executes MATMUL in mode INT8, direction ROW, forms REQUANTIZE, TABLE and RAW; anything else is ``Error.FIELD``. Ports as those of
    :class:`..array.engine.ArrayEngine`; the instruction's payload stays until ``done``. Words are written in the order of the array:
    n tile by n tile, row by row. One access to the scratchpad at a time.

    Timing: ``cycles`` from ``start`` to ``done``.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction, start, done, error, moving, stationary, output, constants, table :
        As of :class:`..array.engine.ArrayEngine`.
    """

    #: From the last read of a word's operands until its sum is in the accumulators.
    _FLUSH = READ_LATENCY

    @classmethod
    def cycles(cls, config: CoreConfig, rows: int, k_tiles: int, n_tiles: int, form: int) -> int:
        """Cycles from ``start`` to ``done``."""
        word = (1 + k_tiles) * (config.lanes + 1) + cls._FLUSH + config.lanes * (SerialLane.latency + 1)
        word += config.lanes if form == isa.Form.RAW.value else 1
        return rows * n_tiles * word + 1

    def __init__(self, config: CoreConfig):
        self.config = config
        read = ReadPort(isa.ADDRESS.width, config.lanes)
        words = config.constant_channels // config.lanes * isa.CONSTANT_BYTES
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "start": Out(1),
                "done": Out(1),
                "error": Out(isa.Error),
                "moving": Out(read),
                "stationary": Out(read),
                "output": Out(WritePort(isa.ADDRESS.width, config.lanes)),
                "constants": In(WritePort(ceil_log2(words), config.lanes)),
                "table": In(TableWrite(config, signed(8))),
            }
        )

    def check(self, body) -> list[tuple[Value, isa.Error]]:
        """Conditions under which an instruction is refused, in order of precedence."""
        config = self.config
        last_block = body.constant + Mux(body.constant_n, body.n_tiles - 1, 0)
        packed = Cat(body.output_packing, body.pack_rows, body.part, body.stationary_packing)
        narrow = Cat(body.codebook, body.moving_zero, body.k_skip, body.k_pad)
        other = (body.mode != isa.Mode.INT8) | (body.direction != isa.LoadDirection.ROW) | body.map.any()
        high = Cat(body[name][config.address_bits + 1 :] for name in ("moving", "stationary", "output"))
        return [
            ((body.rows == 0) | (body.rows > config.accumulator_rows), isa.Error.FIELD),
            ((body.k_tiles == 0) | (body.n_tiles == 0), isa.Error.FIELD),
            (other | (body.form == isa.Form.RESIDUAL) | body.form.as_value()[2], isa.Error.FIELD),
            (packed.any() | narrow.any(), isa.Error.FIELD),
            ((last_block >= config.constant_channels // config.lanes) | high.any(), isa.Error.ADDRESS),
        ]

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.config.lanes
        body = isa.body(isa.Opcode.MATMUL, self.instruction.payload)
        m.submodules.lane = lane = SerialLane(config)
        connect(m, engine=flipped(self.table), lane=lane.table_write)
        record, addresses = self._constants(m), _Addresses(config.address_bits + 1)
        block = Signal(range(config.constant_channels // lanes), reset_less=True)
        column, part = Signal(range(lanes)), Signal()  # part of a record: the bias, or the rest
        row, n, k = Signal(range(config.accumulator_rows + 1)), Signal(10), Signal(10)
        word = Signal(range(lanes + 1))  # of a k tile; 0 is the moving word
        flush, reading, load = Signal(range(self._FLUSH)), Signal(), Signal()
        raw = body.form == isa.Form.RAW
        sums = self._accumulate(m, reading, word, load, record.data)
        m.d.comb += [
            record.addr.eq(Cat(part, column, block)),
            self.moving.enable.eq(reading & (word == 0)),
            self.moving.address.eq(addresses.moving),
            self.stationary.enable.eq(reading & (word != 0)),
            self.stationary.address.eq(addresses.stationary),
            self.output.address.eq(addresses.output + Mux(raw, (column - 1)[: len(column)], 0)),
            self.output.data.eq(lane.word),
            lane.acc.eq(sums[column]),
            lane.multiplier.eq(record.data[:16]),
            lane.shift.eq(record.data[16:22]),
            *(getattr(lane, name).eq(body[name]) for name in ("form", "zero_out", "table")),
        ]
        m.d.sync += self.done.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.instruction.ready.eq(1), self.start.eq(self.instruction.valid)]
                m.d.sync += [*(counter.eq(0) for counter in (row, n, k, part, column, word)), block.eq(body.constant)]
                m.d.sync += addresses.begin(body)
                with m.If(self.start):
                    m.next = "BIAS"
                    for condition, error in reversed(self.check(body)):
                        with m.If(condition):
                            m.d.comb += self.error.eq(error)
                            m.next = "IDLE"
            with m.State("BIAS"):  # a bias is there a cycle after its address
                m.d.comb += load.eq(word != 0)
                m.d.sync += [word.eq(word + 1), column.eq(column + 1)]
                with m.If(word == lanes):
                    m.d.sync += [word.eq(0), column.eq(0)]
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.comb += reading.eq(1)
                m.d.sync += word.eq(word + 1)
                with m.If(word != 0):
                    m.d.sync += addresses.next_word(body)
                with m.If(word == lanes):
                    m.d.sync += [word.eq(0), k.eq(k + 1), *addresses.next_k(body)]
                    with m.If(k == body.k_tiles - 1):
                        m.d.sync += [k.eq(0), flush.eq(self._FLUSH - 1)]
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.sync += [flush.eq(flush - 1), part.eq(1)]
                with m.If(flush == 0):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += lane.begin.eq(1)
                m.next = "LANE"
            with m.State("LANE"), m.If(lane.done):
                m.d.sync += column.eq(column + 1)
                m.next = "BEGIN"
                with m.If(raw | (column == lanes - 1)):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.output.enable.eq(1)
                m.next = "BEGIN"
                with m.If(column == 0):
                    m.d.sync += [part.eq(0), row.eq(row + 1), *addresses.next_row(body)]
                    m.next = "BIAS"
                    with m.If(row == body.rows - 1):
                        m.d.sync += [row.eq(0), n.eq(n + 1), block.eq(block + body.constant_n), *addresses.next_n(body)]
                        with m.If(n == body.n_tiles - 1):
                            m.d.sync += self.done.eq(1)
                            m.next = "IDLE"
        return m

    def _constants(self, m: Module) -> wiring.PureInterface:
        """Read port of the constants: two words a channel, the bias first."""
        m.submodules.memory = memory = Ram(shape=32, depth=1 << len(self.constants.address))
        m.d.comb += [
            memory.write.addr.eq(self.constants.address),
            memory.write.data.eq(self.constants.data),
            memory.write.en.eq(self.constants.enable),
            memory.read.en.eq(1),
        ]
        return memory.read

    def _accumulate(self, m: Module, reading: Value, word: Value, load: Value, bias: Value) -> Array:
        """L multipliers and accumulators; the words of a k tile come ``READ_LATENCY`` cycles after they are read, the moving one first."""
        lanes = self.config.lanes
        moves = delay(m, reading & (word == 0), READ_LATENCY, name="moves", reset_less=False)
        multiplies = delay(m, reading & (word != 0), READ_LATENCY, name="multiplies", reset_less=False)
        adds = delay(m, multiplies, 1, name="adds", reset_less=False)
        held = Signal(8 * lanes, reset_less=True)
        m.d.sync += held.eq(Mux(moves, self.moving.data.as_value(), held >> 8))
        sums = [Signal(signed(32), name=f"sum_{index}", reset_less=True) for index in range(lanes)]
        for index, total in enumerate(sums):
            product = Signal(signed(16), name=f"product_{index}", reset_less=True)
            m.d.sync += product.eq(held[:8].as_signed() * self.stationary.data[index])
            with m.If(load & (word == index + 1)):
                m.d.sync += total.eq(bias)
            with m.Elif(adds):
                m.d.sync += total.eq(total + product)
        return Array(sums)
