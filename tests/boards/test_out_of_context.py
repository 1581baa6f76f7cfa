import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from vitloom.boards.devices import DEVICES
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


class ArrayBesideItsElement(wiring.Component):
    """Registers ``x`` and ``x[1]``, which are not the same."""

    i: In(4)
    o: Out(1)

    def elaborate(self, platform):
        m = Module()
        array, element = Signal(4, name="x"), Signal(name="x[1]")
        m.d.sync += [array.eq(self.i), element.eq(self.i.xor())]
        m.d.comb += self.o.eq(array.all() ^ element)
        return m


def test_a_wire_with_the_name_of_a_bit_of_another_is_no_obstacle(tmp_path):
    assert synthesize(ArrayBesideItsElement(), "unit", directory=tmp_path)["FF"] == 5


@pytest.mark.parametrize(
    ("device", "cells"),
    [
        ("iCE40UP5K", {"SB_MAC16": 1, "SB_DFF": 56, "SB_RAM40_4K": 0, "SB_SPRAM256KA": 0}),
        ("GW2A-18C", {"MULT18X18": 1, "DFF": 56, "ALU": 32, "BSRAM": 0}),
        ("XC7A100T", {"DSP48E1": 1, "RAMB36E1": 0}),
    ],
)
def test_other_families_have_multipliers_too(device, cells, tmp_path):
    found = synthesize(MultiplyAccumulate(), "unit", device=DEVICES[device], directory=tmp_path)
    assert {name: found[name] for name in cells} == cells


def test_cells_of_the_unit_are_counted_without_the_harness(tmp_path):
    cells = synthesize(MultiplyAccumulate(), "unit", directory=tmp_path)
    assert (cells["MULT18X18D"], cells["FF"], cells["CCU2C"], cells["LUT4"]) == (1, 24 + 32, 32 / 2, 0)


def test_a_memory_has_no_collision_logic(tmp_path):
    cells = synthesize(Storage(), "unit", directory=tmp_path)
    assert (cells["DP16KD"], cells["FF"], cells["LUT4"]) == (2, 0, 0)


def test_placement_and_routing_reports_the_clock_of_each_seed(tmp_path):
    result = place_and_route(MultiplyAccumulate(), "unit", seeds=(1, 2), directory=tmp_path)
    assert set(result["seeds"]) == {1, 2} and result["fmax"] == min(result["seeds"].values()) > 100
    path = result["critical_path"]
    assert any("MULT18X18D" in step["from"] for step in path["steps"])
    assert {row["module"] for row in path["modules"]} <= {"", "unit"} and path["modules"][-1]["module"] == "unit"
    assert sum(row["ns"] for row in path["modules"]) == pytest.approx(path["ns"], abs=0.02)
    assert path["ns"] == pytest.approx(1e3 / result["fmax"], abs=0.02)


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
