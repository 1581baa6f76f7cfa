# amaranth: UnusedElaboratable=no
"""Digits through the pins of a board without a memory chip: UART, serial core, single-port RAM."""

import os

import cocotb
import numpy as np
import pytest
from cocotb.task import bridge

from vitloom.boards import BOARDS
from vitloom.boards.host import CoreError, Device, LinkError
from vitloom.boards.linked import SpramCore
from vitloom.boards.shared_memory import SharedMemory
from vitloom.boards.uart import divisor
from vitloom.compiler.compile import compile_network
from vitloom.hw import isa
from vitloom.hw.config import PRESETS
from vitloom.model import golden
from vitloom.model.networks import integer_network, samples
from vitloom.sim.runner import build, run
from vitloom.sim.streams import reset, start_clock
from vitloom.sim.uart import SimulatedTransport, Uart

BOARD = BOARDS[os.environ.get("BOARD", "icebreaker")]
CONFIG = PRESETS[BOARD.name]
DIVISOR = divisor(BOARD.spram.clock_hz, BOARD.spram.baud)
NETWORK = "digits_mlp"
IMAGES = 10


@cocotb.test()
async def digits_are_classified_through_the_pins(dut):
    network = integer_network(NETWORK)
    program = compile_network(network, CONFIG)
    images, labels = (part[:IMAGES] for part in samples(NETWORK))
    start_clock(dut)
    uart = Uart(dut, DIVISOR)
    await reset(dut)
    device = Device(transport=SimulatedTransport(uart, 20_000), timeout=600.0)
    inputs, end = golden.patches(network.image, images), BOARD.spram.memory_bytes

    def host():
        device.upload(program)
        assert device.read_memory(0, 512) == program.memory_image[:512]
        device.write_memory(end - 4, b"last")
        assert device.read_memory(end - 4, 4) == b"last"
        for access in (lambda: device.read_memory(end, 2), lambda: device.write_memory(end - 2, b"half")):
            with pytest.raises(LinkError, match="the device answers MEMORY"):
                access()
        # A program without an instruction stops, and says so; after it the right one runs.
        device.write_registers(isa.PROGRAM_WINDOW, [0])
        with pytest.raises(CoreError, match="error OPCODE at instruction 0"):
            device.run(inputs[0], limit=600.0)
        device.upload_program(program)
        return [device.run(image, limit=600.0) for image in inputs]

    results = await bridge(host)()
    logits = np.concatenate([result.logits["head"] for result in results])
    np.testing.assert_array_equal(logits, golden.run(network, images)["head"][:, 0])
    np.testing.assert_array_equal(logits.argmax(axis=1), labels)
    cocotb.log.info(f"{results[0].cycles} cycles an image")
    assert device.retries == 0


@pytest.mark.parametrize("name", ["icebreaker", "tang-primer-20k"])
def test_ten_digits_through_uart_and_single_port_ram(name, tmp_path):
    spram = BOARDS[name].spram
    core = SpramCore(PRESETS[name], spram.memory_bytes, divisor(spram.clock_hz, spram.baud))
    run(build(core, name="spram_core"), __file__, test_dir=tmp_path, seed=1, env={"BOARD": name})


def test_the_memory_has_a_size_that_addresses_have():
    with pytest.raises(ValueError, match="depth must be a power of two of at least 2, not 3"):
        SharedMemory(2, 3)
