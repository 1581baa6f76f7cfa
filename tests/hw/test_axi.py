"""The AXI adapters against the masters and memories of cocotbext-axi, under random stalls and error responses."""

import random

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from vitloom.hw import isa
from vitloom.hw.bus.axi import PAGE_BYTES, AxiControl, AxiMemory, PageSplit
from vitloom.hw.config import CoreConfig
from vitloom.hw.control import ControlRegisters
from vitloom.hw.isa import Register
from vitloom.hw.memory_port import ADDRESS_BITS, MAX_BURST
from vitloom.hw.sequencer import ProgramWrite
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, drive, reset, start_clock

CONFIG = CoreConfig(lanes=4, program_depth=4)
MEMORY_BYTES = 1 << 16
#: Transactions on the memory.
TRANSACTIONS = 10_000
WRITE_CHANNELS, READ_CHANNELS = ("aw_channel", "w_channel", "b_channel"), ("ar_channel", "r_channel")


def pauses(rng, probability):
    while True:
        yield rng.random() < probability


def stall(interface, channels, rng, probability=0.3):
    for name in channels:
        getattr(interface, name).set_pause_generator(pauses(random.Random(rng.random()), probability))


class FaultyMemory:
    """Content, and the addresses at which it answers with an error: some beats, and all that lie beyond its end."""

    def __init__(self, content, bad):
        self.content, self.bad = bytearray(content), bad

    def check(self, address):
        if address in self.bad or address >= len(self.content):
            raise ValueError(f"no memory at {address:#x}")

    async def read(self, address, length):
        self.check(address)
        return bytes(self.content[address : address + length])

    async def write(self, address, data):
        self.check(address)
        self.content[address : address + len(data)] = data


def answer_with_both_errors(slave, rng):
    """Half of the errors of the model, which only knows SLVERR, become DECERR."""
    for channel, field in ((slave.read_if.r_channel, "rresp"), (slave.write_if.b_channel, "bresp")):

        async def send(transaction, field=field, send=channel.send):
            if getattr(transaction, field) == AxiResp.SLVERR:
                setattr(transaction, field, rng.choice([AxiResp.SLVERR, AxiResp.DECERR]))
            await send(transaction)

        channel.send = send


async def check_channel(dut, name, payload):
    """Fail the test when a valid transfer changes or vanishes before it is taken."""
    valid, ready = getattr(dut, f"m_axi_{name}valid"), getattr(dut, f"m_axi_{name}ready")
    waiting = None
    while True:
        await RisingEdge(dut.clk)
        now = [int(getattr(dut, f"m_axi_{name}{field}").value) for field in payload] if valid.value and not dut.rst.value else None
        assert waiting is None or now == waiting, f"{name} changed before it was taken: {waiting} to {now}"
        waiting = None if ready.value else now


async def begin(dut):
    start_clock(dut)
    for name in ("read_request", "write_request", "write_data"):
        getattr(dut, f"memory__{name}__valid").value = 0
    for name in ("read_data", "write_response"):
        getattr(dut, f"memory__{name}__ready").value = 0
    for name in ("arready", "awready", "wready", "rvalid", "bvalid"):
        getattr(dut, f"m_axi_{name}").value = 0
    await reset(dut)
    for name in ("read_data", "write_response"):
        cocotb.start_soon(check_stream(dut, f"memory__{name}"))
    for channel, payload in (("ar", ("addr", "len")), ("aw", ("addr", "len")), ("w", ("data", "last"))):
        cocotb.start_soon(check_channel(dut, channel, payload))


async def receive(dut, name, count, rng, probability=0.3):
    """Payloads of the stream ``name``; on rising edges only, with random pauses."""
    valid, ready, payload = (getattr(dut, f"memory__{name}__{part}") for part in ("valid", "ready", "payload"))
    words = []
    while len(words) < count:
        ready.value = offered = int(rng.random() >= probability)
        await RisingEdge(dut.clk)
        if offered and valid.value:
            words.append(int(payload.value))
    ready.value = 0
    return words


def request(address, beats):
    return address | beats - 1 << ADDRESS_BITS


def bursts(rng, count, low, high):
    """Requests of (address, beats) between two beats: mostly short, some of which end beyond ``high``."""
    for _ in range(count):
        beats = MAX_BURST if rng.random() < 0.02 else rng.choice((1, 1, 2, 3, 4, 7))
        yield rng.randrange(low, high - beats // 2), beats


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_transactions_lose_nothing(dut):
    """Reads below, writes above the middle of the memory; then all of it is read back."""
    size = len(dut.m_axi_wdata) // 8
    rng = random.Random(cocotb.RANDOM_SEED)
    beats = MEMORY_BYTES // size
    reads = list(bursts(rng, TRANSACTIONS // 2, 0, beats // 2))
    writes = list(bursts(rng, TRANSACTIONS // 2, beats // 2 + MAX_BURST, beats))
    touched = sum(count for _, count in (*reads, *writes))
    bad = {size * beat for beat in rng.sample(range(beats), max(1, beats * TRANSACTIONS // touched // 100))}
    page = PAGE_BYTES // size
    bad |= {size * (page * number - 1) for number in rng.sample(range(beats // page // 2 + 2, beats // page), 2)}  # the last beats of pages
    memory = FaultyMemory(rng.randbytes(MEMORY_BYTES), bad)
    before = bytes(memory.content)
    slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=memory)
    for interface in (slave.read_if, slave.write_if):
        interface.log.setLevel("ERROR")
    answer_with_both_errors(slave, rng)
    stall(slave.read_if, READ_CHANNELS, rng)
    stall(slave.write_if, WRITE_CHANNELS, rng)
    await begin(dut)

    sent, data = bytearray(before), []
    for address, count in writes:
        for beat in range(address, address + count):
            word = rng.randbytes(size)
            data.append(int.from_bytes(word, "little") | int(beat == address + count - 1) << 8 * size)
            if beat < beats and size * beat not in bad:
                sent[size * beat : size * (beat + 1)] = word
    for name, words in (("write_request", [request(*write) for write in writes]), ("write_data", data)):
        cocotb.start_soon(drive(dut, f"memory__{name}", words, random.Random(rng.random()), 0.2))
    cocotb.start_soon(drive(dut, "memory__read_request", [request(*read) for read in reads], random.Random(rng.random()), 0.2))
    responses = cocotb.start_soon(receive(dut, "write_response", len(writes), random.Random(1)))
    got = await receive(dut, "read_data", sum(count for _, count in reads), random.Random(2))
    responses = await responses

    def fails(beat):
        return beat >= beats or size * beat in bad

    assert responses == [int(any(map(fails, range(address, address + count)))) for address, count in writes]
    wanted = [beat for address, count in reads for beat in range(address, address + count)]
    assert [word >> 8 * size for word in got] == [int(fails(beat)) for beat in wanted]
    for word, beat in zip(got, wanted, strict=True):
        if not fails(beat):
            assert word.to_bytes(size, "little") == before[size * beat : size * (beat + 1)], f"beat {beat}"
    assert memory.content == sent
    failed = sum(responses) + sum(any(map(fails, range(address, address + count))) for address, count in reads)
    assert TRANSACTIONS // 200 <= failed <= TRANSACTIONS // 25, failed
    split = [(address, -address % page, count) for address, count in writes if 0 < -address % page < count]
    parts = [(any(map(fails, range(low, low + cut))), any(map(fails, range(low + cut, low + count)))) for low, cut, count in split]
    assert set(parts) >= {(False, False), (True, False)}, "no write failed in the first of its two bursts alone"


@cocotb.test(timeout_time=20, timeout_unit="us")
async def a_slave_may_take_an_address_after_its_data(dut):
    """It may even wait for the last of the data: AXI lets it, so the master must not wait for AWREADY."""
    await begin(dut)
    dut.memory__write_response__ready.value = 1
    cocotb.start_soon(drive(dut, "memory__write_request", [request(0, 3)]))
    cocotb.start_soon(drive(dut, "memory__write_data", [1, 2, 3 | 1 << len(dut.m_axi_wdata)]))
    dut.m_axi_wready.value = 1
    beats = []
    while not beats or not beats[-1][1]:
        await RisingEdge(dut.clk)
        if dut.m_axi_wvalid.value:
            beats.append((int(dut.m_axi_wdata.value), int(dut.m_axi_wlast.value)))
    assert beats == [(1, 0), (2, 0), (3, 1)]
    assert dut.m_axi_awvalid.value and int(dut.m_axi_awlen.value) == 2


@cocotb.test(timeout_time=20, timeout_unit="us")
async def latency_and_throughput_are_those_declared(dut):
    """Against a slave that is always ready: two bursts, the first across a page, one after the other without a gap."""
    size, cycle, seen = len(dut.m_axi_wdata) // 8, 0, []
    await begin(dut)
    for name in ("arready", "awready", "wready"):
        getattr(dut, f"m_axi_{name}").value = 1
    lengths = (10, 20)
    requests = [request(PAGE_BYTES // size - 3, lengths[0]), request(5 * PAGE_BYTES // size, lengths[1])]
    data = [index | int(index in (9, 29)) << 8 * size for index in range(sum(lengths))]
    for name, words in (("read_request", requests), ("write_request", requests), ("write_data", data)):
        cocotb.start_soon(drive(dut, f"memory__{name}", words))
    await RisingEdge(dut.clk)
    while cycle < 60:
        await RisingEdge(dut.clk)
        for name in ("ar", "aw"):
            if getattr(dut, f"m_axi_{name}valid").value:
                fields = [int(getattr(dut, f"m_axi_{name}{field}").value) for field in ("addr", "len", "size", "burst")]
                seen.append((cycle, name, *fields))
        if dut.m_axi_wvalid.value:
            seen.append((cycle, "w", int(dut.m_axi_wdata.value), int(dut.m_axi_wlast.value)))
        cycle += 1
    parts = [(PAGE_BYTES - 3 * size, 2), (PAGE_BYTES, 6), (5 * PAGE_BYTES, 19)]
    for name, latency in (("ar", PageSplit.latency), ("aw", AxiMemory.write_latency)):
        expected = [(latency - 1 + index, name, *part, size.bit_length() - 1, 1) for index, part in enumerate(parts)]
        assert [event for event in seen if event[1] == name] == expected
    beats = [event for event in seen if event[1] == "w"]
    assert [event[2:] for event in beats] == [(index, int(index in (2, 9, 29))) for index in range(30)]
    assert [event[0] - beats[0][0] for event in beats] == list(range(30))


class Registers(wiring.Component):
    """The control registers of a core behind AXI4-Lite, with nothing that runs."""

    def __init__(self):
        self.adapter = AxiControl()
        ports = {name: member for name, member in self.adapter.signature.members.items() if member.is_port}
        super().__init__({**ports, "program_write": Out(ProgramWrite(CONFIG.program_depth))})
        self.ports = ports

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = adapter = self.adapter
        m.submodules.registers = registers = ControlRegisters(CONFIG)
        connect(m, adapter=adapter.control, registers=registers.control)
        connect(m, registers=registers.program_write, outside=flipped(self.program_write))
        for name, member in self.ports.items():
            inside, outside = getattr(adapter, name), getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        return m


async def boot_registers(dut, rng=None):
    start_clock(dut)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
    if rng is not None:
        stall(master.write_if, WRITE_CHANNELS, rng)
        stall(master.read_if, READ_CHANNELS, rng)
    await reset(dut)
    return master


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def registers_are_written_and_read(dut):
    """Random accesses to every kind of address, some at the same time, against a model in four lines."""
    rng = random.Random(cocotb.RANDOM_SEED)
    master = await boot_registers(dut, rng)
    held = {Register.EXPECTED: 0, Register.MEMORY_BASE: 0, Register.INTERRUPT: 1}
    constant = {Register.IDENTITY: isa.IDENTITY, Register.CONFIGURATION: CONFIG.fingerprint, Register.CONTROL: 0}
    beyond = {max(Register) + 1: 0, isa.PROGRAM_WINDOW: 0, (1 << isa.CONTROL_ADDRESS_BITS) - 1: 0}
    for _ in range(500):
        register = rng.choice([*held, *constant, *beyond])
        if register in held and rng.random() < 0.5:
            value = rng.getrandbits(32)
            answer = await master.write(4 * register, value.to_bytes(4, "little"))
            assert answer.resp == AxiResp.OKAY
            held[register] = value & 1 if register == Register.INTERRUPT else value
        else:
            answer = await master.read(4 * register, 4)
            expected = (held | constant | beyond)[register]
            assert (answer.resp, int.from_bytes(answer.data, "little")) == (AxiResp.OKAY, expected), register
    for register in held:
        answers = [master.init_write(4 * register, bytes(4)), master.init_read(4 * Register.IDENTITY, 4)]
        for answer in answers:
            await answer.wait()
        assert [answer.data.resp for answer in answers] == [AxiResp.OKAY] * 2
        assert bytes(answers[1].data.data) == b"VTLM"


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_program_goes_into_its_window(dut):
    master = await boot_registers(dut, random.Random(3))
    seen = []

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            if dut.program_write__enable.value:
                seen.append(tuple(int(getattr(dut, f"program_write__{name}").value) for name in ("index", "word", "data")))

    cocotb.start_soon(watch())
    for index, word in ((0, 0), (1, 11), (3, 5)):
        await master.write(4 * (isa.PROGRAM_WINDOW + 16 * index + word), (1000 * index + word).to_bytes(4, "little"))
    await master.write(4 * (isa.PROGRAM_WINDOW + 16 * CONFIG.program_depth), bytes(4))
    await ClockCycles(dut.clk, 5)
    assert seen == [(0, 0, 0), (1, 11, 1011), (3, 5, 3005)]


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_write_of_some_bytes_is_refused(dut):
    master = await boot_registers(dut)
    await master.write(4 * Register.EXPECTED, b"abcd")
    for offset, data in ((0, b"x"), (1, b"xyz"), (3, b"x")):
        assert (await master.write(4 * Register.EXPECTED + offset, data)).resp == AxiResp.SLVERR
    assert (await master.read(4 * Register.EXPECTED, 4)).data == b"abcd"


@cocotb.test(timeout_time=20, timeout_unit="us")
async def an_access_takes_its_latency(dut):
    """A write and a read that come together every 2 cycles: the write goes first."""
    start_clock(dut)
    for name in ("awaddr", "awprot", "araddr", "arprot", "wdata"):
        getattr(dut, f"s_axi_{name}").value = 0
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axi_{name}").value = 0
    dut.s_axi_wstrb.value = 15
    await reset(dut)
    for name in ("bready", "rready", "arvalid"):
        getattr(dut, f"s_axi_{name}").value = 1
    seen = []
    for cycle in range(20):
        if cycle == 10:
            dut.s_axi_awvalid.value = dut.s_axi_wvalid.value = 1
        await RisingEdge(dut.clk)
        seen += [(cycle, name) for name in ("bvalid", "rvalid") if getattr(dut, f"s_axi_{name}").value]
    reads, writes = ([cycle for cycle, name in seen if name == wanted] for wanted in ("rvalid", "bvalid"))
    assert reads[0] == AxiControl.latency and np.diff(reads[:4]).tolist() == [2, 2, 2]
    assert writes[0] == 10 + AxiControl.latency and np.diff(writes).tolist() == [2] * (len(writes) - 1)
    assert len(reads) >= 8


MEMORY_TESTS = (
    "random_transactions_lose_nothing",
    "a_slave_may_take_an_address_after_its_data",
    "latency_and_throughput_are_those_declared",
)
CONTROL_TESTS = (
    "registers_are_written_and_read",
    "a_program_goes_into_its_window",
    "a_write_of_some_bytes_is_refused",
    "an_access_takes_its_latency",
)


@pytest.mark.parametrize("port_bytes", [8, 64])
def test_the_memory_master_keeps_every_byte_and_reports_every_error(port_bytes, tmp_path):
    model = build(AxiMemory(port_bytes), name=f"axi_memory_{port_bytes}")
    run(model, __file__, test_dir=tmp_path, seed=port_bytes, testcase=MEMORY_TESTS)


def test_the_control_slave_reads_and_writes_registers(tmp_path):
    run(build(Registers(), name="axi_control"), __file__, test_dir=tmp_path, seed=1, testcase=CONTROL_TESTS)


def test_a_port_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="AXI takes a memory port of 1, 2, 4, 8, 16, 32 or 64 bytes, not 12: set memory_bytes_per_cycle"):
        AxiMemory(12)
