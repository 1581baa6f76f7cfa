"""The core is converted to Verilog once for each configuration and state of the hardware's sources."""

import shutil
from dataclasses import replace

import pytest

from vitloom.hw.core import Core
from vitloom.hw.verilog import to_verilog
from vitloom.sim import conversion
from vitloom.sim.conversion import core_verilog


@pytest.fixture
def conversions(monkeypatch, tmp_path):
    """An empty cache; the configurations that were really converted."""
    seen = []

    def convert(component, name):
        seen.append(component.config)
        return to_verilog(component, name)

    monkeypatch.setenv("VITLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion.verilog, "to_verilog", convert)
    return seen


def test_the_second_conversion_is_found(conversions, tiny_config):
    config = tiny_config(4)
    first = core_verilog(config)
    assert core_verilog(config) == first
    assert conversions == [config]
    assert first.verilog == to_verilog(Core(config, trace=True), "core")
    assert first.seconds > 0


def test_another_configuration_is_converted_anew(conversions, tiny_config):
    configs = [tiny_config(4), tiny_config(4, memory_latency=7), tiny_config(4)]
    for config in configs:
        core_verilog(config)
    assert conversions == configs[:2]


@pytest.mark.parametrize("name", ["core.py", "ram.v", "array/pe.py", "rows/new.py"])
def test_a_change_of_the_hardware_is_another_conversion(monkeypatch, tmp_path, tiny_config, name):
    folder = tmp_path / "hw"
    shutil.copytree(conversion._HARDWARE, folder)
    monkeypatch.setattr(conversion, "_SOURCES", conversion._sources(folder))
    before = conversion._key(tiny_config(4))
    assert conversion._key(replace(tiny_config(4), banks=4)) != before
    with (folder / name).open("a") as file:
        file.write("\n")
    monkeypatch.setattr(conversion, "_SOURCES", conversion._sources(folder))
    assert conversion._key(tiny_config(4)) != before
