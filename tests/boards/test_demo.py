# amaranth: UnusedElaboratable=no
import os

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.boards.demo import Demo
from vitloom.boards.jobs import Job, network_job, self_test_job
from vitloom.compiler.compile import compile_network
from vitloom.hw.config import PRESETS, CoreConfig
from vitloom.model.golden import patches, predict
from vitloom.model.networks import integer_network, samples
from vitloom.sim.runner import build, run
from vitloom.sim.streams import reset, start_clock

CONFIG = CoreConfig(
    lanes=4,
    scratchpad_bytes=2048,
    accumulator_rows=16,
    constant_channels=64,
    norm_channels=64,
    program_depth=16,
    memory_bytes_per_cycle=2,
)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def the_class_is_shown_after_reset_and_at_every_start(dut):
    digit = int(os.environ["DIGIT"])
    start_clock(dut)
    dut.start.value = 0
    await reset(dut)
    for _ in range(2):
        while not dut.done.value:
            await RisingEdge(dut.clk)
            assert dut.busy.value != dut.done.value and not dut.error.value
        assert dut.digit.value == digit
        await ClockCycles(dut.clk, 5)
        assert dut.done.value and dut.digit.value == digit
        dut.start.value = 1
        await ClockCycles(dut.clk, 2)
        dut.start.value = 0
        assert dut.busy.value


def test_demo_shows_the_largest_of_copied_numbers(tmp_path):
    model = build(Demo(CONFIG, self_test_job(CONFIG, 9)), name="demo")
    run(model, __file__, test_dir=tmp_path, env={"DIGIT": "9"})


def test_demo_of_the_reference_board_classifies_a_digit(tmp_path):
    network, config = integer_network("digits_vit"), PRESETS["ulx3s-85f"]
    image = samples("digits_vit")[0][1:2]
    program = compile_network(network, config)
    job = network_job(program, program.layouts[network.input].pack(patches(network.image, image)[0]))
    model = build(Demo(config, job), name="demo")
    run(model, __file__, test_dir=tmp_path, env={"DIGIT": str(predict(network, image)[0])})


def test_too_many_classes_for_the_lamps_are_refused():
    with pytest.raises(ValueError, match="1 to 16 classes, not the 1000 of deit_tiny"):
        Job(name="deit_tiny", instructions=(0,), memory=bytes(4000), logits=0, classes=1000)


def test_a_program_longer_than_the_program_memory_is_refused():
    job = self_test_job(CONFIG)
    long = Job(name="long", instructions=job.instructions * 6, memory=job.memory, logits=job.logits, classes=job.classes)
    with pytest.raises(ValueError, match="1 to 16 instructions, not 18"):
        Demo(CONFIG, long)
