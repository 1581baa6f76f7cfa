import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import cocotb
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.sim import runner
from vitloom.sim.runner import SimulationError, build, run, run_component, to_verilog
from vitloom.sim.streams import reset, start_clock


class Accumulator(wiring.Component):
    """``o`` is the sum of all ``i`` before."""

    i: In(8)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        hidden = Signal(16)
        m.d.sync += hidden.eq(hidden + self.i)
        m.d.comb += self.o.eq(hidden)
        return m


BENCH = """
module bench #(parameter STEP = 1, parameter [7:0] UNUSED = 0) (input wire clk, input wire rst, output wire [15:0] total);
  reg [15:0] log [0:3] /* verilator public_flat_rw */;
  reg [15:0] kept; // not visible
  always @(posedge clk) begin log[0] <= total; kept <= total; end
  accumulator dut (.clk(clk), .rst(rst), .i(STEP[7:0]), .o(total));
endmodule
"""


@cocotb.test(timeout_time=10, timeout_unit="us")
async def sums(dut):
    start_clock(dut)
    dut.i.value = 3
    await reset(dut)
    await ClockCycles(dut.clk, 6)
    assert dut.o.value.to_unsigned() == 15
    assert not hasattr(dut, "hidden")


@cocotb.test(timeout_time=10, timeout_unit="us")
async def fails(dut):
    start_clock(dut)
    await RisingEdge(dut.clk)
    raise AssertionError("on purpose")


@cocotb.test(timeout_time=10, timeout_unit="us")
async def environment_arrives(dut):
    assert os.environ["ANSWER"] == "42"
    assert cocotb.plusargs["image"] == "a.hex"
    with open("seeds.txt", "a") as file:
        print(cocotb.RANDOM_SEED, file=file)


@cocotb.test(timeout_time=10, timeout_unit="us")
async def steps_by_parameter(dut):
    start_clock(dut)
    await reset(dut)
    await ClockCycles(dut.clk, 4)
    assert dut.total.value.to_unsigned() == 3 * 5
    assert dut.log[0].value.to_unsigned() == 2 * 5
    assert not hasattr(dut, "kept")


@pytest.fixture(scope="module")
def accumulator():
    return build(Accumulator(), name="accumulator")


def test_ports_are_all_that_a_bench_sees(accumulator, tmp_path):
    assert set(accumulator.ports) == {"clk", "rst", "i", "o"}
    run(accumulator, __file__, test_dir=tmp_path, testcase="sums")


def test_a_module_is_found_by_name(accumulator, tmp_path):
    run(accumulator, __name__, test_dir=tmp_path, testcase="sums")


def test_environment_plusargs_and_seed_arrive(accumulator, tmp_path):
    for seed in (7, 7, 8):
        env, plusargs = {"ANSWER": "42"}, ["image=a.hex"]
        run(accumulator, __file__, test_dir=tmp_path, testcase="environment_arrives", env=env, plusargs=plusargs, seed=seed)
    first, second, other = (tmp_path / "seeds.txt").read_text().split()
    assert first == second != other


def test_a_failing_test_is_named(accumulator, tmp_path):
    with pytest.raises(SimulationError, match="1 of 2 tests failed: .*fails(.|\n)*on purpose"):
        run(accumulator, __file__, test_dir=tmp_path, testcase=["sums", "fails"])


def test_a_name_that_no_test_has_is_an_error(accumulator, tmp_path):
    with pytest.raises(SimulationError, match="no test was run"):
        run(accumulator, __file__, test_dir=tmp_path, testcase="no_such_test")


def test_only_skipped_tests_are_an_error(accumulator, tmp_path):
    (tmp_path / "lazy.py").write_text("import cocotb\n@cocotb.test(skip=True)\nasync def skipped(dut): pass\n")
    with pytest.raises(SimulationError, match="no test was run"):
        run(accumulator, str(tmp_path / "lazy.py"), test_dir=tmp_path)


def test_a_module_that_does_not_import_is_an_error(accumulator, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(SimulationError, match="no_such_module_anywhere"):
        run(accumulator, str(tmp_path / "broken.py"), test_dir=tmp_path)


def test_run_component_builds_and_runs(tmp_path):
    with pytest.raises(SimulationError, match="fails"):
        run_component(Accumulator(), name="accumulator", test_module=__file__, test_dir=tmp_path)


def test_the_second_build_compiles_nothing(accumulator, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert build(Accumulator(), name="accumulator") == accumulator
    with pytest.raises(RuntimeError, match="needs 'make'"):
        build(Accumulator(), name="accumulator", optimize="-O1 -DANOTHER")


def test_a_model_says_how_long_it_took_to_compile(accumulator, monkeypatch, tmp_path):
    for folder in runner.cache_directory().glob("runtime-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.setenv("VITLOOM_CACHE", str(tmp_path))
    seconds = [build(Accumulator(), name="accumulator").compile_seconds for _ in range(2)]
    assert seconds[0] == seconds[1] > 0
    next(tmp_path.glob("accumulator-*/compile_seconds.json")).unlink()
    assert build(Accumulator(), name="accumulator").compile_seconds is None


def test_builders_of_the_same_model_compile_it_once(accumulator, monkeypatch, tmp_path):
    compiled = []

    def copy_instead(work, model, *_):
        compiled.append(model.path)
        shutil.copytree(accumulator.path, work / "entry")
        (work / "entry").rename(model.path)

    monkeypatch.setenv("VITLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(runner, "_compile", copy_instead)
    text = to_verilog(Accumulator(), "accumulator")
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: build(None, name="accumulator", verilog=[text]), range(4)))
    assert compiled == [models[0].path]
    assert len(set(models)) == 1
    assert (models[0].path / "accumulator").exists()


def test_a_hand_written_bench_wraps_a_component(tmp_path):
    (tmp_path / "bench.v").write_text(BENCH)
    sources = [to_verilog(Accumulator(), "accumulator"), tmp_path / "bench.v"]
    model = build(None, name="bench", verilog=sources, parameters={"STEP": 5})
    assert model.ports == ("clk", "rst", "total")
    run(model, __file__, test_dir=tmp_path, testcase="steps_by_parameter")


def test_verilog_that_does_not_compile_is_reported_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VITLOOM_CACHE", str(tmp_path))
    with pytest.raises(SimulationError, match="bad did not compile(.|\n)*nothing_like_this"):
        build(None, name="bad", verilog=["module bad(input wire a, output wire b); assign b = nothing_like_this(a); endmodule"])
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_missing_top_is_refused():
    with pytest.raises(ValueError, match="no module top"):
        build(None, name="top", verilog=["module other(input wire a); endmodule"])


def test_waves_are_written_on_request(monkeypatch, tmp_path):
    monkeypatch.setenv("WAVES", "1")
    run(build(Accumulator(), name="accumulator"), __file__, test_dir=tmp_path, testcase="sums")
    assert "hidden" in (tmp_path / "dump.vcd").read_text()
