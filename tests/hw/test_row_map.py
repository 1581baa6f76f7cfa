import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.core import Core
from vitloom.hw.row_map import RowMap
from vitloom.hw.verilog import to_verilog
from vitloom.sim.runner import run_component
from vitloom.sim.streams import reset, start_clock

CONFIG = CoreConfig(lanes=4, map_rows=64)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def entries_come_in_any_order_one_a_cycle(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    offsets = rng.integers(0, 1 << isa.ADDRESS.width, CONFIG.map_rows).tolist()
    start_clock(dut)
    await reset(dut)
    for entry, offset in enumerate(offsets):
        dut.write__enable.value, dut.write__address.value, dut.write__data.value = 1, entry, offset
        await RisingEdge(dut.clk)
    dut.write__enable.value = 0
    entries, found = rng.integers(0, CONFIG.map_rows, 200).tolist(), []
    for entry in [*entries, *[0] * RowMap.latency]:
        dut.entry.value = entry
        await RisingEdge(dut.clk)
        found.append(dut.offset.value.to_unsigned())
    assert found[RowMap.latency :] == [offsets[entry] for entry in entries]


def test_row_map(tmp_path):
    run_component(RowMap(CONFIG), name="row_map", test_module=__file__, test_dir=tmp_path)


def test_a_core_without_maps_has_nothing_of_them():
    sizes = {"lanes": 4, "scratchpad_bytes": 1 << 14, "accumulator_rows": 16, "constant_channels": 256, "norm_channels": 64}
    texts = [to_verilog(Core(CoreConfig(**sizes, program_depth=64, map_rows=rows)), "core") for rows in (16, 0)]
    assert ["row_map" in text for text in texts] == [True, False]
