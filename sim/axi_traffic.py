"""Random transactions of the AXI master on a memory of cocotbext-axi that stalls and fails at random: a cocotb test and its parts."""

import json
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiResp, AxiSlave

from ..hw.bus.axi import PAGE_BYTES
from ..hw.memory_port import ADDRESS_BITS, MAX_BURST
from .streams import check_stream, drive, reset, start_clock

__all__ = ["READ_CHANNELS", "WRITE_CHANNELS", "begin", "random_transactions_lose_nothing", "request", "stall"]

PERIOD = 10
MEMORY_BYTES = 1 << 16
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
    start_clock(dut, PERIOD)
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


def bursts(rng, count, low, high, page):
    """Requests of (address, beats) between two beats: mostly short, some of which end beyond ``high``, some of which cross a page."""
    for _ in range(count):
        beats = MAX_BURST if rng.random() < 0.02 else rng.choice((1, 1, 2, 3, 4, 7))
        address = rng.randrange(low, high - beats // 2)
        if beats > 1 and rng.random() < 0.04:
            address = max(page * rng.randrange(low // page + 1, high // page) - rng.randrange(1, beats), low)
        yield address, beats


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def random_transactions_lose_nothing(dut):
    """Reads below, writes above the middle of the memory, as many as ``+transactions`` says; ``traffic.json`` gets what happened."""
    transactions = int(cocotb.plusargs["transactions"])
    size = len(dut.m_axi_wdata) // 8
    rng = random.Random(cocotb.RANDOM_SEED)
    beats = MEMORY_BYTES // size
    page = PAGE_BYTES // size
    reads = list(bursts(rng, transactions // 2, 0, beats // 2, page))
    writes = list(bursts(rng, transactions // 2, beats // 2 + MAX_BURST, beats, page))
    touched = sum(count for _, count in (*reads, *writes))
    bad = {size * beat for beat in rng.sample(range(beats), max(1, beats * transactions // touched // 100))}
    bad |= {size * (page * number - 1) for number in rng.sample(range(beats // page // 2 + 2, beats // page), 2)}  # the last beats of pages
    memory = FaultyMemory(rng.randbytes(MEMORY_BYTES), bad)
    before = bytes(memory.content)
    slave: Any = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=memory)
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
    began = get_sim_time("ns")
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
    assert transactions // 200 <= failed <= transactions // 25, failed
    split = [(address, -address % page, count) for address, count in writes if 0 < -address % page < count]
    parts = [(any(map(fails, range(low, low + cut))), any(map(fails, range(low + cut, low + count)))) for low, cut, count in split]
    assert set(parts) >= {(False, False), (True, False)}, "no write failed in the first of its two bursts alone"
    beats_moved, cycles = touched, round(get_sim_time("ns") - began) // PERIOD
    counts = {
        "port_bytes": size,
        "transactions": transactions,
        "beats": beats_moved,
        "failed": failed,
        "split": len(split),
        "cycles": cycles,
    }
    Path("traffic.json").write_text(json.dumps(counts))
