import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from vitloom.boards.out_of_context import place_and_route, synthesize
from vitloom.hw.array.accumulators import Accumulators
from vitloom.hw.array.mac_array import MacArray
from vitloom.hw.config import CoreConfig


class MultiplyAccumulate(wiring.Component):
    a: In(signed(16))
    b: In(signed(8))
    total: Out(signed(32))

    def elaborate(self, platform):
        m = Module()
        product = Signal(signed(24))
        m.d.sync += [product.eq(self.a * self.b), self.total.eq(self.total + product)]
        return m


class Storage(wiring.Component):
    address: In(10)
    write: In(1)
    data: In(32)
    read: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=32, depth=1024, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [read.addr.eq(self.address), self.read.eq(read.data)]
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.write)]
        return m


def test_cells_of_the_unit_are_counted_without_the_harness(tmp_path):
    cells = synthesize(MultiplyAccumulate(), "unit", directory=tmp_path)
    assert (cells["MULT18X18D"], cells["FF"], cells["CCU2C"], cells["LUT4"]) == (1, 24 + 32, 32 / 2, 0)


def test_a_memory_has_no_collision_logic(tmp_path):
    cells = synthesize(Storage(), "unit", directory=tmp_path)
    assert (cells["DP16KD"], cells["FF"], cells["LUT4"]) == (2, 0, 0)


def test_placement_and_routing_reports_the_clock_of_each_seed(tmp_path):
    result = place_and_route(MultiplyAccumulate(), "unit", seeds=(1, 2), directory=tmp_path)
    assert set(result["seeds"]) == {1, 2} and result["fmax"] == min(result["seeds"].values()) > 100
    assert "MULT18X18D" in result["critical_path"]


def test_a_processing_element_takes_one_multiplier_and_at_most_40_lut(tmp_path):
    cells = synthesize(MacArray(CoreConfig(lanes=8)), "mac_array", directory=tmp_path)
    assert cells["MULT18X18D"] == 64
    assert cells["LUT4"] + 2 * cells["CCU2C"] <= 40 * 64


def test_log2_is_what_costs_the_wide_operand(tmp_path):
    both, int8 = (
        synthesize(MacArray(CoreConfig(lanes=4, modes=modes)), "mac", directory=tmp_path) for modes in (("int8", "log2"), ("int8",))
    )
    assert both["FF"] - int8["FF"] > 16 * (8 + 6)


@pytest.mark.parametrize("lanes", [4, 8])
def test_accumulators_take_two_block_rams_a_column(lanes, tmp_path):
    cells = synthesize(Accumulators(CoreConfig(lanes=lanes)), "accumulators", directory=tmp_path)
    assert cells["DP16KD"] == 2 * lanes and cells["LUT4"] <= 4 * lanes


def test_a_binary_processing_element_takes_no_multiplier_and_at_most_35_lut(tmp_path):
    cells = synthesize(MacArray(CoreConfig(lanes=8, modes=("binary",))), "mac_array", directory=tmp_path)
    assert cells["MULT18X18D"] == 0
    assert cells["LUT4"] <= 35 * 64
