import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles

from vitloom.sim.runner import SimulationError, build, run
from vitloom.sim.streams import check_stream, collect, drive, pack, pack_fields, reset, start_clock, unpack, unpack_fields

WORD = data.StructLayout({"lanes": data.ArrayLayout(signed(8), 4), "last": 1})


class Slice(wiring.Component):
    """One register; ``broken`` lets the payload change while it waits."""

    i: In(stream.Signature(WORD))
    o: Out(stream.Signature(WORD))

    def __init__(self, broken=False):
        self.broken = broken
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        with m.If(self.o.ready | ~self.o.valid):
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        if self.broken:
            with m.Elif(self.i.valid):
                m.d.sync += self.o.payload.eq(self.i.payload)
        return m


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5])
async def words_come_out_in_order(dut, idle, stall):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    lanes = rng.integers(-128, 128, (100, 4), dtype=np.int8)
    words = [pack_fields([(pack(row), 32), (index % 2, 1)]) for index, row in enumerate(lanes)]
    start_clock(dut)
    dut.i__valid.value = dut.o__ready.value = 0
    await reset(dut)
    for name in "io":
        cocotb.start_soon(check_stream(dut, name))
    cocotb.start_soon(drive(dut, "i", words, rng, idle))
    got = await collect(dut, "o", len(words), rng, stall)
    np.testing.assert_array_equal([unpack(word & 0xFFFF_FFFF, 4) for word in got], lanes)
    assert [word >> 32 for word in got] == [index % 2 for index in range(100)]


@cocotb.test(timeout_time=100, timeout_unit="us")
async def valid_falls(dut):
    start_clock(dut)
    dut.o__ready.value = 0
    await reset(dut)
    cocotb.start_soon(check_stream(dut, "i"))
    dut.i__valid.value = 1
    await ClockCycles(dut.clk, 4)
    dut.i__valid.value = 0
    await ClockCycles(dut.clk, 2)


@pytest.fixture(scope="module")
def register():
    return build(Slice(), name="register")


def test_a_struct_payload_is_one_vector(register):
    assert set(register.ports) == {"clk", "rst", *(f"{s}__{p}" for s in "io" for p in ("valid", "ready", "payload"))}


def test_drive_and_collect_keep_order_under_stalls(register, tmp_path):
    run(register, __file__, test_dir=tmp_path, seed=1, testcase="words_come_out_in_order")


def test_check_stream_sees_valid_fall(register, tmp_path):
    with pytest.raises(SimulationError, match="valid fell before ready"):
        run(register, __file__, test_dir=tmp_path, seed=1, testcase="valid_falls")


def test_check_stream_sees_payload_change(tmp_path):
    model = build(Slice(broken=True), name="broken")
    with pytest.raises(SimulationError, match="payload changed"):
        run(model, __file__, test_dir=tmp_path, seed=1, testcase="words_come_out_in_order")


@pytest.mark.parametrize(
    ("width", "signed"), [(8, True), (8, False), (16, True), (32, True), (64, False), (4, False), (4, True), (26, True), (1, False)]
)
def test_unpack_is_the_inverse_of_pack(width, signed):
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    rng = np.random.default_rng(width)
    lanes = [low, high, *(int(v) for v in rng.integers(low, high, 7, dtype=np.int64 if signed else np.uint64, endpoint=True))]
    word = pack(np.array(lanes, np.int64 if signed else np.uint64), width)
    assert [(word >> width * k) & (1 << width) - 1 for k in range(9)] == [lane & (1 << width) - 1 for lane in lanes]
    np.testing.assert_array_equal(unpack(word, 9, width, signed), lanes)


def test_fields_are_least_significant_first():
    word = pack_fields([(5, 4), (-1, 3), (0, 0), (1, 1)])
    assert word == 0b1_111_0101
    assert unpack_fields(word, [4, 3, 1]) == [5, 7, 1]


@pytest.mark.parametrize(
    "call", [lambda: pack([128, -129]), lambda: pack_fields([(16, 4)]), lambda: pack([1], 65), lambda: unpack(16, 1, 4)]
)
def test_values_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="fit|bits"):
        call()
