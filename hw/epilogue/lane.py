"""One lane of the epilogue: an accumulator to an int8, or to an int32 logit."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay, narrow, saturate
from ..config import CoreConfig
from ..ram import Ram

__all__ = ["Lane", "TableWrite", "settings_layout"]


def settings_layout(config: CoreConfig) -> data.StructLayout:
    """Settings of a MATMUL's epilogue, named as in its instruction; they travel with the data."""
    return data.StructLayout(
        {
            "form": isa.Form,
            "table": range(config.tables),
            "zero_out": signed(8),
            "residual_zero": signed(8),
            "residual_multiplier": 16,
            "masked": 1,
            **({"output_packing": 2} if config.narrow else {}),
        }
    )


class TableWrite(wiring.Signature):
    """Writes of one table entry a cycle, seen from the writer.

    Parameters
    ----------
    config : CoreConfig
    shape : shape-like
        One entry.

    Members
    -------
    enable : ``Out(1)``
    address : ``Out(n)``
        Table times 256 plus entry.
    data : ``Out(shape)``
    """

    def __init__(self, config: CoreConfig, shape):
        super().__init__({"enable": Out(1), "address": Out(ceil_log2(config.tables * isa.TABLE_ENTRIES)), "data": Out(shape)})


class Lane(wiring.Component):
    """The arithmetic of ``docs/arithmetic.md``, section "GEMM and epilogue", all forms in the same number of cycles.

    Exact: acc + bias has 33 bits, its product with the multiplier 49, the residual term 56, so the sum has 57. It is shifted by
    ``shift - 1`` in two steps, and ``(v + 2 * zero + 1) >> 1`` then is the last bit of the shift, the rounding and the zero point at once.
    Golden model: :func:`model.requantize.requantize` and its neighbours. Uses three 18 x 18 multipliers.

    With ``config.narrow`` there are two stages more: ``acc + row_sum * record.row_sum``, which fits 32 bits, is in place of acc
    (``docs/low-bit.md``), and the result is clipped to its bits at last, also one of a table.

    Latency: ``latency(config)`` cycles. Throughput: one accumulator a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    acc : ``In(signed(32))``
    residual : ``In(signed(8))``
        Not used but by the residual form.
    record : ``In(isa.CONSTANT_RECORD)``
        Constants of the channel, ``1 <= shift <= 32``.
    row_sum : ``In(signed(config.row_sum_bits))``
        Sum of the moving operand's row. Only with ``config.narrow``.
    settings : ``In(settings_layout(config))``
    o : ``Out(signed(32))``
        The raw result, or an int8; of ``8 >> output_packing`` bits it is in the lowest ones, and 1 bit is whether the int8 is at least 0.
    table : ``In(TableWrite(config, signed(8)))``
    """

    #: Stages of a core without a narrow mode.
    STAGES = 11

    @classmethod
    def latency(cls, config: CoreConfig) -> int:
        return cls.STAGES + (2 if config.narrow else 0)

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "acc": In(signed(32)),
                "residual": In(signed(8)),
                "record": In(isa.CONSTANT_RECORD),
                **({"row_sum": In(signed(config.row_sum_bits))} if config.narrow else {}),
                "settings": In(settings_layout(config)),
                "o": Out(signed(32)),
                "table": In(TableWrite(config, signed(8))),
            }
        )

    def elaborate(self, platform):
        m = Module()

        def register(name: str, shape, value) -> Signal:
            target = Signal(shape, name=name, reset_less=True)
            m.d.sync += target.eq(value)
            return target

        acc, residual, record, settings = self.acc, self.residual, self.record, [self.settings]
        if self.config.narrow:
            correction = register("correction", signed(self.config.row_sum_bits + 5), self.row_sum * record.row_sum)
            acc, residual, record = (delay(m, getattr(self, name), 1, name=name) for name in ("acc", "residual", "record"))
            acc, settings = acc + correction, [delay(m, self.settings, 1, name="settings")]
        for stage in range(1, self.STAGES + self.config.narrow):  # settings[n] is beside what register stage n made
            settings.append(delay(m, settings[-1], 1, name=f"settings_{stage}"))

        # 1: bias and zero point. Without a residual the term is 0.
        biased = register("biased", signed(33), acc + record.bias)
        masked = (settings[0].form == isa.Form.RESIDUAL) & settings[0].masked
        hidden = register("hidden", 1, masked & (residual == -128))
        centred = register("centred", signed(9), Mux(settings[0].form == isa.Form.RESIDUAL, residual - settings[0].residual_zero, 0))
        multiplier = register("multiplier", 16, record.multiplier)

        # 2: partial products that fit 18 x 18 multipliers
        high = register("high", signed(33), biased[16:].as_signed() * multiplier)
        low = register("low", 32, biased[:16] * multiplier)
        term = register("term", signed(25), centred * settings[1].residual_multiplier)

        # 3, 4: product; residual term to the left, by multiples of 8, then by the rest
        residual_shift = delay(m, record.residual_shift, 2, name="residual_shift")
        product = register("product", signed(49), high.shift_left(16) + low)
        coarse = register("coarse", signed(49), term << Cat(C(0, 3), residual_shift[3:]))
        product = delay(m, product, 1, name="product")
        fine = register("fine", signed(56), coarse << delay(m, residual_shift[:3], 1, name="residual_shift_fine"))

        # 5, 6, 7: sum, shifted right by shift - 1 in the same way
        total = register("total", signed(57), product + fine)
        shift = delay(m, register("shift", 5, record.shift[:5] - 1), 4, name="shift")
        reduced = register("reduced", signed(57), total >> Cat(C(0, 3), shift[3:]))
        halves = register("halves", signed(57), reduced >> delay(m, shift[:3], 1, name="shift_fine"))

        # 8, 9: rounding and zero point, saturation
        zero = Mux(settings[7].form == isa.Form.RAW, 0, settings[7].zero_out)
        rounded = register("rounded", signed(57), (halves + Cat(C(1, 1), zero).as_signed()).shift_right(1))
        raw = settings[8].form == isa.Form.RAW
        result = register("result", signed(32), Mux(raw, saturate(rounded, 32), saturate(rounded, 8)))

        # 10, 11: table, mask
        entry = (result[:8] ^ 0x80).as_unsigned()
        found = self._look_up(m, Cat(entry, settings[9].table))
        raised = result | (delay(m, masked, 9, name="masked") & (result[:8] == 0x80))
        passed = register("passed", signed(32), Mux(delay(m, hidden, 8, name="hidden"), -128, raised))
        selected = register("selected", signed(32), Mux(settings[10].form == isa.Form.TABLE, found, passed))
        if self.config.narrow:
            clipped = narrow(selected[:8].as_signed(), settings[11].output_packing)
            selected = register("narrowed", signed(32), Cat(clipped[:8], selected[8:]))
        m.d.comb += self.o.eq(selected)
        return m

    def _look_up(self, m: Module, address: Value) -> Value:
        """The int8 at ``address`` of the tables, one cycle later."""
        depth = self.config.tables * isa.TABLE_ENTRIES
        m.submodules.tables = tables = Ram(shape=signed(8), depth=depth)
        read, write = tables.read, tables.write
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(address),
            write.addr.eq(self.table.address),
            write.data.eq(self.table.data),
            write.en.eq(self.table.enable),
        ]
        return read.data
