# amaranth: UnusedElaboratable=no
"""The Wishbone adapters against masters and memories of the classic and of the pipelined kind, with random stalls and errors."""

import random
from collections import deque

import cocotb
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.bus.wishbone import WishboneControl, WishboneMemory
from vitloom.hw.config import CoreConfig
from vitloom.hw.control import ControlRegisters
from vitloom.hw.isa import Register
from vitloom.hw.memory_port import ADDRESS_BITS, MAX_BURST
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, collect, drive, reset, start_clock

CONFIG = CoreConfig(lanes=4, program_depth=4)
PORT_BYTES = 8
TRANSACTIONS = 1000
#: Of the memory.
BEATS = 4096
ACCESS = ("adr", "we", "sel", "dat_w")


class Slave:
    """A memory with random delays; errors at the beats ``bad`` and beyond its end. It fails the test when a master breaks the rules."""

    def __init__(self, dut, content, bad, rng, *, pipelined):
        self.dut, self.content, self.bad, self.rng, self.pipelined = dut, content, bad, rng, pipelined

    def bus(self, name):
        return getattr(self.dut, f"m_wb_{name}")

    def asked(self):
        """The access that the master shows, None if it shows none. Data to write count only in a write."""
        assert self.bus("cyc").value or not self.bus("stb").value
        if not self.bus("stb").value:
            return None
        return [int(self.bus(name).value) for name in (ACCESS if self.bus("we").value else ACCESS[:3])]

    def access(self):
        """Carry out what the master asks for: (ack, err, data)."""
        address, write, select, data = (int(self.bus(name).value) for name in ACCESS)
        assert select == (1 << PORT_BYTES) - 1
        if address >= BEATS or address in self.bad:
            return 0, 1, self.rng.getrandbits(8 * PORT_BYTES)
        if write:
            self.content[address] = data
        return 1, 0, self.content[address]

    def answer(self, ack, err, data):
        self.bus("ack").value, self.bus("err").value, self.bus("dat_r").value = ack, err, data

    async def serve(self):
        await (self.serve_pipelined() if self.pipelined else self.serve_classic())

    async def serve_classic(self):
        """An access is held until its answer."""
        held = None
        while True:
            await RisingEdge(self.dut.clk)
            now = self.asked()
            answered = self.bus("ack").value or self.bus("err").value
            assert held is None or now == held, "an access changed before its answer"
            held = None if answered else now
            if now and not answered and self.rng.random() < 0.6:
                self.answer(*self.access())
            else:
                self.answer(0, 0, self.rng.getrandbits(8 * PORT_BYTES))

    async def serve_pipelined(self):
        """Accesses are taken without ``stall`` and answered in order, up to 8 of them later."""
        waiting, stalled = deque(), None
        while True:
            await RisingEdge(self.dut.clk)
            now = self.asked()
            assert stalled is None or now == stalled, "an access changed before it was taken"
            stalled = now if self.bus("stall").value else None
            if now and not self.bus("stall").value:
                waiting.append(self.access())
            answering = waiting and self.rng.random() < 0.7
            self.answer(*(waiting.popleft() if answering else (0, 0, self.rng.getrandbits(8 * PORT_BYTES))))
            self.bus("stall").value = int(len(waiting) > 7 or self.rng.random() < 0.3)


def request(address, beats):
    return address | beats - 1 << ADDRESS_BITS


def bursts(rng, count, low, high):
    """Requests of (address, beats) between two beats: mostly short, some of which end beyond ``high``."""
    for _ in range(count):
        beats = MAX_BURST if rng.random() < 0.02 else rng.choice((1, 1, 2, 3, 4, 7))
        yield rng.randrange(low, high - beats // 2), beats


async def begin(dut):
    start_clock(dut)
    for name in ("read_request", "write_request", "write_data"):
        getattr(dut, f"memory__{name}__valid").value = 0
    for name in ("read_data", "write_response"):
        getattr(dut, f"memory__{name}__ready").value = 0
        cocotb.start_soon(check_stream(dut, f"memory__{name}"))
    for name in ("ack", "err", "stall", "dat_r"):
        getattr(dut, f"m_wb_{name}").value = 0
    await reset(dut)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_transactions_lose_nothing(dut):
    """Reads below, writes above the middle of the memory, both at once."""
    rng = random.Random(cocotb.RANDOM_SEED)
    reads = list(bursts(rng, TRANSACTIONS // 2, 0, BEATS // 2))
    writes = list(bursts(rng, TRANSACTIONS // 2, BEATS // 2 + MAX_BURST, BEATS))
    bad = set(rng.sample(range(BEATS), BEATS // 500))
    content = [rng.getrandbits(8 * PORT_BYTES) for _ in range(BEATS)]
    before, sent, data = list(content), list(content), []
    for address, count in writes:
        for beat in range(address, address + count):
            word = rng.getrandbits(8 * PORT_BYTES)
            data.append(word | int(beat == address + count - 1) << 8 * PORT_BYTES)
            if beat < BEATS and beat not in bad:
                sent[beat] = word
    await begin(dut)
    cocotb.start_soon(Slave(dut, content, bad, random.Random(3), pipelined=bool(cocotb.plusargs.get("pipelined"))).serve())
    words = {"read_request": [request(*read) for read in reads], "write_request": [request(*write) for write in writes]}
    for index, (name, values) in enumerate({**words, "write_data": data}.items()):
        cocotb.start_soon(drive(dut, f"memory__{name}", values, random.Random(index), 0.2))
    responses = cocotb.start_soon(collect(dut, "memory__write_response", len(writes), random.Random(4), 0.3))
    got = await collect(dut, "memory__read_data", sum(count for _, count in reads), random.Random(5), 0.3)
    responses = await responses

    def fails(beat):
        return beat >= BEATS or beat in bad

    assert responses == [int(any(map(fails, range(address, address + count)))) for address, count in writes]
    wanted = [beat for address, count in reads for beat in range(address, address + count)]
    assert [word >> 8 * PORT_BYTES for word in got] == [int(fails(beat)) for beat in wanted]
    assert all(word == before[beat] for word, beat in zip(got, wanted, strict=True) if not fails(beat))
    assert content == sent
    failed = sum(responses) + sum(any(map(fails, range(address, address + count))) for address, count in reads)
    assert TRANSACTIONS // 200 <= failed <= TRANSACTIONS // 25, failed


@cocotb.test(timeout_time=20, timeout_unit="us")
async def latency_and_throughput_are_those_declared(dut):
    """Reads alone, then writes, against a slave that takes and answers without delay."""
    pipelined = bool(cocotb.plusargs.get("pipelined"))
    await begin(dut)
    dut.memory__read_data__ready.value = dut.memory__write_response__ready.value = 1
    for kind in ("read", "write"):
        if kind == "write":
            data = [index | int(index in (9, 29)) << 8 * PORT_BYTES for index in range(30)]
            cocotb.start_soon(drive(dut, "memory__write_data", data))
        cocotb.start_soon(drive(dut, f"memory__{kind}_request", [request(100, 10), request(200, 20)]))
        await RisingEdge(dut.clk)
        dut.m_wb_ack.value = int(not pipelined)
        cycles, answers = [], []
        for cycle in range(50):
            await RisingEdge(dut.clk)
            taken = bool(dut.m_wb_stb.value)
            if pipelined:
                dut.m_wb_ack.value = int(taken)
            if taken:
                cycles.append(cycle)
                answers.append(int(dut.m_wb_adr.value))
        assert answers == [*range(100, 110), *range(200, 220)]
        # A pipelined slave's last answer keeps cyc for a cycle more.
        second = WishboneMemory.latency - 1 + 10 + WishboneMemory.gap + int(pipelined) + int(kind == "write")
        assert cycles == [*range(WishboneMemory.latency - 1, WishboneMemory.latency + 9), *range(second, second + 20)]


class Registers(wiring.Component):
    """The control registers of a core behind Wishbone, with nothing that runs."""

    def __init__(self):
        self.adapter = WishboneControl()
        self.ports = {name: member for name, member in self.adapter.signature.members.items() if member.is_port}
        super().__init__(self.ports)

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = adapter = self.adapter
        m.submodules.registers = registers = ControlRegisters(CONFIG)
        connect(m, adapter=adapter.control, registers=registers.control)
        for name, member in self.ports.items():
            inside, outside = getattr(adapter, name), getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        return m


class Master:
    """Accesses in the classic or in the pipelined way."""

    def __init__(self, dut, *, pipelined):
        self.dut, self.pipelined = dut, pipelined

    def bus(self, name):
        return getattr(self.dut, f"s_wb_{name}")

    async def begin(self):
        start_clock(self.dut)
        for name in ("cyc", "stb", *ACCESS):
            self.bus(name).value = 0
        await reset(self.dut)

    async def access(self, *accesses):
        """(address, data to write or None, selected bytes) each; returns (error, data read) of each, and the cycles that all took."""
        self.bus("cyc").value = 1
        pending, answers, cycles = deque(accesses), [], 0
        while len(answers) < len(accesses):
            self.bus("stb").value = int(bool(pending))
            if pending:
                address, data, select = pending[0]
                values = {"adr": int(address), "we": int(data is not None), "sel": select, "dat_w": data or 0}
                for name, value in values.items():
                    self.bus(name).value = value
            await RisingEdge(self.dut.clk)
            cycles += 1
            answered = bool(self.bus("ack").value or self.bus("err").value)
            if answered:
                answers.append((int(self.bus("err").value), int(self.bus("dat_r").value)))
            if pending and (not self.bus("stall").value if self.pipelined else answered):
                pending.popleft()
        self.bus("cyc").value = self.bus("stb").value = 0
        return answers, cycles


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(pipelined=[False, True])
async def registers_are_written_and_read(dut, pipelined):
    """Random sequences of accesses, against a model of the registers."""
    rng, master = random.Random(cocotb.RANDOM_SEED), Master(dut, pipelined=pipelined)
    await master.begin()
    held = {Register.EXPECTED: 0, Register.MEMORY_BASE: 0, Register.INTERRUPT: 1}
    constant = {Register.IDENTITY: isa.IDENTITY, Register.CONFIGURATION: CONFIG.fingerprint, max(Register) + 1: 0, isa.PROGRAM_WINDOW: 0}
    for _ in range(200):
        accesses, expected = [], []
        for _ in range(rng.randrange(1, 5)):
            address = rng.choice([*held, *constant])
            if address in held and rng.random() < 0.5:
                data, select = rng.getrandbits(32), rng.choice((15, 15, 0, 7, 8))
                if select == 15:
                    held[address] = data & 1 if address == Register.INTERRUPT else data
                accesses.append((address, data, select))
                expected.append((int(select in (7, 8)), None))
            else:
                accesses.append((address, None, 15))
                expected.append((0, (held | constant)[address]))
        answers, cycles = await master.access(*accesses)
        assert cycles == 2 * len(accesses)
        for access, (error, data), (wanted_error, wanted) in zip(accesses, answers, expected, strict=True):
            assert error == wanted_error and wanted in (None, data), access
        for _ in range(rng.randrange(3)):
            await RisingEdge(dut.clk)


@pytest.mark.parametrize("pipelined", [False, True])
def test_the_memory_master_keeps_every_byte_and_reports_every_error(pipelined, tmp_path):
    name = f"wishbone_memory_{'pipelined' if pipelined else 'classic'}"
    model = build(WishboneMemory(PORT_BYTES, pipelined=pipelined), name=name)
    tests = ("random_transactions_lose_nothing", "latency_and_throughput_are_those_declared")
    run(model, __file__, test_dir=tmp_path, seed=1, testcase=tests, plusargs=["pipelined=1"] if pipelined else [])


def test_the_control_slave_reads_and_writes_registers(tmp_path):
    model = build(Registers(), name="wishbone_control")
    run(model, __file__, test_dir=tmp_path, seed=1, testcase="registers_are_written_and_read")


def test_a_port_that_is_no_power_of_two_is_refused():
    with pytest.raises(
        ValueError, match="Wishbone takes a memory port of 1, 2, 4, 8, 16, 32 or 64 bytes, not 12: set memory_bytes_per_cycle"
    ):
        WishboneMemory(12)
