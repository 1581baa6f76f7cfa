# amaranth: UnusedElaboratable=no
"""Frames through UART pins: registers and memory, and that nothing broken is ever carried out."""

import random
import zlib
from dataclasses import dataclass

import cocotb
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from cocotb.task import bridge
from cocotb.triggers import ClockCycles

from vitloom.boards.block_memory import BlockMemory
from vitloom.boards.frames import MAX_DATA, RESPONSE, Command, Decoder, Status, encode, request
from vitloom.boards.host import Device, LinkError
from vitloom.boards.link import Link
from vitloom.boards.uart import UartReceiver, UartTransmitter, divisor
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.control import ControlRegisters, version_number
from vitloom.hw.isa import Register
from vitloom.sim.broken_frames import broken
from vitloom.sim.runner import build, run
from vitloom.sim.streams import reset, start_clock
from vitloom.sim.uart import SimulatedTransport, Uart

DIVISOR = 4
CONFIG = CoreConfig(lanes=4, memory_bytes_per_cycle=2)
DEPTH = 2048
SIZE = DEPTH * CONFIG.port_bytes
INIT = [0xC0DB ^ index * 0x0101 & 0xFFFF for index in range(DEPTH)]
CONTENT = b"".join(word.to_bytes(2, "little") for word in INIT)
EXPECTED = 0x5AC0DB01


class Bench(wiring.Component):
    """A link between UART pins, control registers without a core, and a memory."""

    def __init__(self):
        super().__init__({"rx": In(1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = Link(CONFIG.port_bytes)
        m.submodules.receiver = receiver = UartReceiver(DIVISOR)
        m.submodules.transmitter = transmitter = UartTransmitter(DIVISOR)
        m.submodules.registers = registers = ControlRegisters(CONFIG)
        m.submodules.memory = memory = BlockMemory(CONFIG.port_bytes, DEPTH, INIT)
        connect(m, receiver=receiver.o, link=link.rx)
        connect(m, link=link.tx, transmitter=transmitter.i)
        connect(m, link=link.control, registers=registers.control)
        connect(m, link=link.memory, memory=memory.port)
        m.d.comb += [receiver.pin.eq(self.rx), self.tx.eq(transmitter.pin)]
        return m


@dataclass
class FaultyCable:
    """Loses and changes bytes in both directions, or loses all of them."""

    transport: SimulatedTransport
    rng: random.Random
    faults: float = 0.0
    unplugged: bool = False

    def _spoil(self, content):
        if self.unplugged:
            return b""
        spoilt = bytearray()
        for byte in content:
            kind = self.rng.random() / self.faults if self.faults else 1
            if kind >= 0.5:
                spoilt.append(byte ^ (1 << self.rng.randrange(8)) if kind < 1 else byte)
        return bytes(spoilt)

    def write(self, content):
        self.transport.write(self._spoil(content))

    def read(self, timeout):
        return self._spoil(self.transport.read(timeout))

    def close(self):
        self.transport.close()


async def begin(dut, seed=1):
    start_clock(dut)
    uart = Uart(dut, DIVISOR)
    await reset(dut)
    cable = FaultyCable(SimulatedTransport(uart, 8000), random.Random(seed))
    return uart, cable, Device(transport=cable, timeout=60.0)


async def settle(dut, uart):
    """What the device sends until it is quiet."""
    received, quiet = b"", 0
    while quiet < 3:
        await ClockCycles(dut.clk, 12 * DIVISOR)
        quiet = 0 if uart.received else quiet + 1
        received += bytes(uart.received)
        uart.received.clear()
    return received


@cocotb.test()
async def registers_and_memory_are_reached_through_the_pins(dut):
    _, _, device = await begin(dut)
    rng = random.Random(cocotb.RANDOM_SEED)

    def host():
        device.check(CONFIG.fingerprint)
        assert device.read_registers(Register.IDENTITY, 3) == [isa.IDENTITY, version_number(), CONFIG.fingerprint]
        device.write_registers(Register.EXPECTED, [EXPECTED])
        device.write_registers(Register.MEMORY_BASE, [0xDBC0_C0DB])
        assert device.read_registers(Register.EXPECTED) == [EXPECTED]
        assert device.read_registers(Register.MEMORY_BASE) == [0xDBC0_C0DB]
        assert device.port_bytes == CONFIG.port_bytes
        assert device.read_memory(0, SIZE) == CONTENT
        expected = bytearray(CONTENT)
        for _ in range(12):
            low = 2 * rng.randrange(DEPTH - 1)
            content = rng.randbytes(2 * rng.randint(1, min(700, (SIZE - low) // 2)))
            device.write_memory(low, content)
            expected[low : low + len(content)] = content
        assert device.read_memory(0, SIZE) == expected
        device.write_memory(0, bytes([0xC0, 0xDB]) * 600)
        assert device.read_memory(0, 1200) == bytes([0xC0, 0xDB]) * 600
        for size in (2, 128, 130, SIZE):
            assert device.digest(SIZE - size, size) == zlib.crc32(device.read_memory(SIZE - size, size))
        assert device.retries == 0

    await bridge(host)()


@cocotb.test()
async def what_the_device_refuses_is_said(dut):
    uart, _, device = await begin(dut)

    def host():
        with pytest.raises(LinkError, match="answers MEMORY to READ_MEMORY at 0x7ff"):
            device.read_memory(SIZE - 2, 4)
        with pytest.raises(LinkError, match="answers MEMORY to WRITE_MEMORY"):
            device.write_memory(SIZE, b"ab")
        with pytest.raises(LinkError, match="answers MEMORY to DIGEST_MEMORY at 0x7fe"):
            device.digest(SIZE - 4, 8)
        with pytest.raises(ValueError, match="multiples of 2, not 1 and 2"):
            device.read_memory(1, 2)
        device.write_memory(SIZE - 2, b"yz")
        assert device.read_memory(SIZE - 2, 2) == b"yz"

    await bridge(host)()
    # A right CRC, but not a request.
    for content in (
        request(7, 4, 0, 1),
        request(7, 5, 0, 1),
        request(7, 7, 0, 1, b"ab"),
        request(7, 0xFF, 0, 1),
        request(7, Command.READ_MEMORY, 0, 0),
        request(7, Command.READ_MEMORY, 0, MAX_DATA // 2 + 1),
        request(7, Command.READ_REGISTERS, 1 << 18, 1),
        request(7, Command.READ_REGISTERS, 0, 1, b"more"),
        request(7, Command.WRITE_REGISTERS, Register.EXPECTED, 2, b"four"),
        request(7, Command.WRITE_MEMORY, 0, 1, b"four"),
        request(7, Command.WRITE_MEMORY, 0, 0x8000, b"four"),
    ):
        await uart.send(encode(content))
        assert Decoder().feed(await settle(dut, uart)) == [bytes([7, RESPONSE | Status.REFUSED])]
    # No request at all.
    for content in (b"", b"short", bytes(MAX_DATA + 100), bytes(3000)):
        await uart.send(encode(content))
        assert await settle(dut, uart) == b""
    await bridge(lambda: device.check(CONFIG.fingerprint))()


def any_request(rng):
    """A request that would change something, or answer."""
    command = rng.choice(list(Command))
    count = rng.randint(1, 8)
    data = rng.randbytes(count * (2 if command & 2 else 4)) if command & 1 else b""
    address = rng.randrange(DEPTH - 8) if command & 2 else rng.randrange(2, 12)
    return request(rng.randrange(256), command, address, count, data)


@cocotb.test()
async def of_many_broken_frames_none_is_accepted_and_none_is_fatal(dut):
    uart, _, device = await begin(dut)
    rng = random.Random(cocotb.RANDOM_SEED)

    def prepare():
        device.write_registers(Register.EXPECTED, [EXPECTED])
        device.write_memory(0, CONTENT)

    await bridge(prepare)()
    sent = 0
    while sent < 200:
        frame = broken(rng, encode(any_request(rng)))
        sent += 1
        await uart.send(frame)
        assert await settle(dut, uart) == b"", frame.hex()
        if sent % 100 == 0:
            await bridge(lambda: device.check(CONFIG.fingerprint))()

    def unchanged():
        assert device.read_registers(Register.EXPECTED) == [EXPECTED]
        assert device.read_registers(Register.STATUS, 2) == [0, 0]
        assert device.read_registers(Register.MEMORY_BASE) == [0]
        assert device.read_memory(0, SIZE) == CONTENT

    await bridge(unchanged)()
    assert device.retries == 0


@cocotb.test()
async def a_bad_cable_costs_retries_and_no_byte(dut):
    _, cable, device = await begin(dut)
    device.attempts = 30
    cable.faults = 0.001

    def host():
        content = random.Random(1).randbytes(SIZE // 2)
        device.write_memory(0, content)
        assert device.read_memory(0, SIZE // 2) == content
        assert device.retries > 3

    await bridge(host)()


@cocotb.test()
async def an_unplugged_cable_is_said_and_a_plugged_one_works_again(dut):
    uart, cable, device = await begin(dut)

    def host():
        device.check(CONFIG.fingerprint)
        cable.unplugged = True
        with pytest.raises(LinkError, match="does not answer after 4 attempts"):
            device.check(CONFIG.fingerprint)
        cable.unplugged = False
        device.check(CONFIG.fingerprint)

    await bridge(host)()
    # Unplugged in the middle of a byte: the line is low for long.
    await uart.send(encode(request(1, Command.READ_MEMORY, 0, 1))[:7])
    uart.rx.value = 0
    await settle(dut, uart)
    uart.rx.value = 1
    await ClockCycles(dut.clk, 10 * DIVISOR)
    await bridge(lambda: device.check(CONFIG.fingerprint))()
    assert device.retries == 3


def test_link(tmp_path):
    run(build(Bench(), name="link_bench"), __file__, test_dir=tmp_path, seed=1)


@pytest.mark.parametrize(("clock", "baud", "cycles"), [(25e6, 115_200, 217), (80e6, 3e6, 27), (12e6, 3e6, 4)])
def test_divisor_of_a_clock(clock, baud, cycles):
    assert divisor(clock, baud) == cycles


@pytest.mark.parametrize(("clock", "baud", "message"), [(10e6, 3e6, "at least 12 MHz, not 10 MHz"), (25e6, 3e6, "4.2 % off 3000000 baud")])
def test_rates_that_a_clock_cannot_make_are_refused(clock, baud, message):
    with pytest.raises(ValueError, match=message):
        divisor(clock, baud)
