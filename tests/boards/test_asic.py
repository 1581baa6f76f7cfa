from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vitloom.boards.asic import map_to_cells
from vitloom.boards.liberty import read_library
from vitloom.hw.ram import Ram

LIBRARY = read_library(Path(__file__).parents[1] / "data" / "tiny.lib")


class Counter(wiring.Component):
    """Five bits, written into a memory of 16 words."""

    enable: In(1)
    read: Out(5)

    def elaborate(self, platform):
        m = Module()
        count = Signal(5)
        m.submodules.store = store = Ram(shape=5, depth=16)
        with m.If(self.enable):
            m.d.sync += count.eq(count + 1)
        m.d.comb += [store.write.en.eq(1), store.write.addr.eq(count), store.write.data.eq(count)]
        m.d.comb += [store.read.en.eq(1), store.read.addr.eq(count), self.read.eq(store.read.data)]
        return m


class Two(wiring.Component):
    """Two counters."""

    enable: In(1)
    read: Out(10)

    def elaborate(self, platform):
        m = Module()
        m.submodules.left, m.submodules.right = left, right = Counter(), Counter()
        m.d.comb += [left.enable.eq(self.enable), right.enable.eq(left.read[4]), self.read.eq(Cat(left.read, right.read))]
        return m


def test_memories_are_apart_from_the_area_and_the_flip_flops_are_counted(tmp_path):
    result = map_to_cells(Counter(), "counter", LIBRARY, top="counter", directory=tmp_path)
    assert result["library"] == "tiny" and result["flip_flops"] == 5
    assert result["memories"] == [{"unit": "counter", "words": 16, "bits": 5, "count": 1}] and result["memory_bits"] == 80
    assert 5 * 20 < result["area_um2"] < 5 * 20 + 200 and result["kge"] == round(result["area_um2"] / 4e3, 2)
    assert result["path_unit"] == "counter" and result["path_from"].startswith(("count", "enable"))
    assert result["mhz"] == round(1e6 / (result["path_ps"] + 110 + 60), 1)
    assert (result["driving_cell"], result["load_ff"]) == ("drives", 8.0)


def test_modules_that_stay_apart_have_an_area_and_a_path_each(tmp_path):
    result = map_to_cells(Two(), "two", LIBRARY, top="two", depth=1, clock_mhz=100, directory=tmp_path)
    units = result["units"]
    assert units.keys() == {"two", "two.left", "two.right"} and units["two"]["area_um2"] == result["area_um2"]
    assert [units[name]["flip_flops"] for name in units] == [10, 5, 5]
    assert result["path_ps"] == max(row["path_ps"] for row in units.values()) == units[result["path_unit"]]["path_ps"] > 0
    assert [row["unit"] for row in result["memories"]] == ["two.left", "two.right"]
    assert "-D 10000" in (tmp_path / "two" / "synthesize.ys").read_text()


def test_a_library_without_flip_flops_is_refused(tmp_path):
    path = tmp_path / "none.lib"
    path.write_text(LIBRARY.text.replace("ff (IQ, IQN)", "no_ff (IQ, IQN)"))
    with pytest.raises(RuntimeError, match=r"Yosys returned 1: FF .* cannot be legalized: D flip-flops are not supported; its log is"):
        map_to_cells(Counter(), "counter", read_library(path), top="counter", directory=tmp_path)
