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

_BODY = isa.BODIES[isa.Opcode.MATMUL]


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
        high = Cat(field[config.address_bits + 1 :] for name, field in self._addresses(body).items())
        return [
            ((body.rows == 0) | (body.rows > config.accumulator_rows), isa.Error.FIELD),
            ((body.k_tiles == 0) | (body.n_tiles == 0), isa.Error.FIELD),
            (other | (body.form == isa.Form.RESIDUAL) | body.form.as_value()[2], isa.Error.FIELD),
            (packed.any() | narrow.any(), isa.Error.FIELD),
            ((last_block >= config.constant_channels // config.lanes) | high.any(), isa.Error.ADDRESS),
        ]

    @staticmethod
    def _addresses(body) -> dict[str, Value]:
        """First addresses of the operands and the result."""
        return {name: body[name] for name in ("moving", "stationary", "output")}

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lanes, width = config.lanes, config.address_bits + 1
        body = isa.body(isa.Opcode.MATMUL, self.instruction.payload)
        m.submodules.lane = lane = SerialLane(config)
        connect(m, engine=flipped(self.table), lane=lane.table_write)
        record = self._constants(m)
        block = Signal(range(config.constant_channels // lanes), reset_less=True)
        column, part = Signal(range(lanes)), Signal()
        m.d.comb += record.addr.eq(Cat(part, column, block))

        row, n, k = Signal(range(config.accumulator_rows + 1)), Signal(10), Signal(10)
        word = Signal(range(lanes + 1))  # of a k tile; 0 is the moving word
        moving_row, moving, column_address, tile, stationary, output_n, output = (
            Signal(width, name=name, reset_less=True)
            for name in ("moving_row", "moving", "column_address", "tile", "stationary", "output_n", "output")
        )
        flush, reading = Signal(range(self._FLUSH)), Signal()
        raw = body.form == isa.Form.RAW
        load = Signal()
        sums = self._accumulate(m, reading, word, load, record.data)
        m.d.comb += [
            self.moving.enable.eq(reading & (word == 0)),
            self.moving.address.eq(moving),
            self.stationary.enable.eq(reading & (word != 0)),
            self.stationary.address.eq(stationary),
            self.output.address.eq(output + Mux(raw, (column - 1)[: len(column)], 0)),
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
                m.d.sync += [row.eq(0), n.eq(0), block.eq(body.constant), part.eq(0), column.eq(0), word.eq(0), k.eq(0)]
                m.d.sync += [s.eq(body.moving) for s in (moving_row, moving)]
                m.d.sync += [s.eq(body.stationary) for s in (column_address, tile, stationary)]
                m.d.sync += [s.eq(body.output) for s in (output_n, output)]
                with m.If(self.start):
                    m.next = "BIAS"
                    for condition, error in reversed(self.check(body)):
                        with m.If(condition):
                            m.d.comb += self.error.eq(error)
                            m.next = "IDLE"
            with m.State("BIAS"):  # a bias is there a cycle after its address
                m.d.sync += [word.eq(word + 1), column.eq(column + 1)]
                with m.If(word == lanes):
                    m.d.sync += [word.eq(0), column.eq(0)]
                    m.next = "MULTIPLY"
                m.d.comb += load.eq(word != 0)
            with m.State("MULTIPLY"):
                m.d.comb += reading.eq(1)
                m.d.sync += word.eq(word + 1)
                with m.If(word != 0):
                    m.d.sync += stationary.eq(stationary + body.stationary_word)
                with m.If(word == lanes):
                    m.d.sync += [word.eq(0), k.eq(k + 1), moving.eq(moving + body.moving_k)]
                    m.d.sync += [s.eq(tile + body.stationary_k) for s in (tile, stationary)]
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
                    m.d.sync += [part.eq(0), row.eq(row + 1), output.eq(output + body.output_row)]
                    m.d.sync += [s.eq(moving_row + body.moving_row) for s in (moving_row, moving)]
                    m.d.sync += [s.eq(column_address) for s in (tile, stationary)]
                    m.next = "BIAS"
                    with m.If(row == body.rows - 1):
                        m.d.sync += [row.eq(0), n.eq(n + 1), block.eq(block + body.constant_n)]
                        m.d.sync += [s.eq(output_n + body.output_n) for s in (output_n, output)]
                        m.d.sync += [s.eq(column_address + body.stationary_n) for s in (column_address, tile, stationary)]
                        m.d.sync += [s.eq(body.moving) for s in (moving_row, moving)]
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
