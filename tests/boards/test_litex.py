"""An SoC that LiteX builds around a core, simulated: a host on its bus runs the core on its memory."""

import random
import re

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from litex.build.generic_platform import GenericPlatform, Pins
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import wishbone
from migen.genlib.io import CRG

from vitloom.boards.elaborate import elaborate
from vitloom.boards.jobs import self_test_job
from vitloom.boards.litex import CONTROL_BYTES, add_vitloom
from vitloom.hw import isa
from vitloom.hw.isa import Register
from vitloom.sim.runner import build, run

CONTROL, MEMORY = 0x8010_0000, 0x4000_0000
START, DONE = 1, 2


class Platform(GenericPlatform):
    """Pins without places, and no tools."""

    def build(self, fragment, build_dir, build_name, **_):
        self.get_verilog(fragment, name=build_name).write(f"{build_dir}/{build_name}.v")


class Soc(SoCMini):
    """A host on pins, 4 KiB of memory, and a core."""

    def __init__(self, folder):
        platform = Platform("", [("clk", 0, Pins(1)), ("rst", 0, Pins(1)), ("done", 0, Pins(1))], name="litex")
        self.crg = CRG(platform.request("clk"), platform.request("rst"))
        super().__init__(platform, 1e6)
        host = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        platform.add_extension(host.get_ios("host"))
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)
        self.add_ram("main_ram", origin=MEMORY, size=4096)
        core = add_vitloom(self, folder, origin=CONTROL)
        self.comb += platform.request("done").eq(core.ev.done.trigger)


async def access(dut, address, value=None):
    """Write a word, or read one when there is none to write."""
    dut.host_adr.value, dut.host_we.value, dut.host_dat_w.value = address // 4, int(value is not None), value or 0
    dut.host_cyc.value = dut.host_stb.value = 1
    await RisingEdge(dut.clk)
    while not dut.host_ack.value:
        await RisingEdge(dut.clk)
    assert not dut.host_err.value
    dut.host_cyc.value = dut.host_stb.value = 0
    return int(dut.host_dat_r.value)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def the_core_copies_words_in_the_memory_of_the_soc(dut):
    """The memory of the program begins behind the start of the RAM, as MEMORY_BASE says."""
    lanes, port_bytes, fingerprint = (int(cocotb.plusargs[name]) for name in ("lanes", "port_bytes", "fingerprint"))
    words, base = -(-40 // lanes) * lanes // 4, 64
    for name in ("cyc", "stb", "we", "adr", "dat_w", "cti", "bte"):
        getattr(dut, f"host_{name}").value = 0
    dut.host_sel.value = 15
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 5)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 5)
    assert await access(dut, CONTROL + 4 * Register.IDENTITY) == isa.IDENTITY
    assert await access(dut, CONTROL + 4 * Register.CONFIGURATION) == fingerprint
    numbers = [random.Random(1).getrandbits(32) for _ in range(words)]
    for index, number in enumerate(numbers):
        await access(dut, MEMORY + base + 4 * index, number)
        await access(dut, MEMORY + base + 4 * (words + index), 0)
    program = [int(word, 16) for word in cocotb.plusargs["program"].split(",")]
    for index, word in enumerate(program):
        for part in range(isa.INSTRUCTION_WORDS):
            await access(dut, CONTROL + 4 * (isa.PROGRAM_WINDOW + 16 * index + part), word >> 32 * part & 0xFFFFFFFF)
    await access(dut, CONTROL + 4 * Register.EXPECTED, fingerprint)
    await access(dut, CONTROL + 4 * Register.MEMORY_BASE, (MEMORY + base) // port_bytes)
    await access(dut, CONTROL + 4 * Register.CONTROL, START)
    for _ in range(2000):
        await RisingEdge(dut.clk)
        if dut.done.value:
            break
    assert await access(dut, CONTROL + 4 * Register.STATUS) == DONE
    assert [await access(dut, MEMORY + base + 4 * index) for index in range(2 * words)] == numbers + numbers


@pytest.mark.filterwarnings("ignore::DeprecationWarning:litex", "ignore::DeprecationWarning:migen")
@pytest.mark.parametrize("bus", ["axi", "wishbone"])
def test_litex_builds_an_soc_in_which_the_core_works(bus, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # LiteX writes the memory's content there, and the simulation reads it
    config = tiny_config(4)
    elaborate(config, board=None, output=tmp_path / "core", preset="tiny", bus=bus)
    soc = Soc(tmp_path / "core")
    Builder(soc, output_dir=tmp_path / "soc", compile_software=False).build(build_name="litex", run=False)
    text = (tmp_path / "soc" / "gateware" / "litex.v").read_text()
    instance = re.search(r"\ncore \w+\((.*?)\n\);", text, re.S)
    assert instance is not None
    connected = set(re.findall(r"\.(\w+) *\(", instance[1]))
    core = (tmp_path / "core" / "core.v").read_text()
    header = re.search(r"\nmodule core\((.*?)\);", core, re.S)
    assert header is not None and connected == set(re.split(r"[,\s]+", header[1]))
    assert [source[0] for source in soc.platform.sources] == [str(tmp_path / "core" / "core.v")]
    region = soc.bus.regions["vitloom"]
    assert (region.origin, region.size, region.cached) == (CONTROL, CONTROL_BYTES, False)

    model = build(None, name="litex", verilog=[text, core])
    arguments = {"lanes": config.lanes, "port_bytes": config.port_bytes, "fingerprint": config.fingerprint}
    arguments["program"] = ",".join(f"{word:x}" for word in self_test_job(config).instructions)
    run(model, __file__, test_dir=tmp_path, plusargs=[f"{name}={value}" for name, value in arguments.items()])


def test_a_core_without_a_bus_is_refused(tiny_config, tmp_path):
    elaborate(tiny_config(4), board=None, output=tmp_path / "core", preset="tiny")
    with pytest.raises(ValueError, match="LiteX takes a core with --bus axi or wishbone; the one in .*core has none"):
        Soc(tmp_path / "core")
