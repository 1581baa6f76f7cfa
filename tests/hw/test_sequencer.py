import os
from collections import deque
from dataclasses import astuple, dataclass, field

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import Error, Opcode, Queue
from vitloom.hw.sequencer import Sequencer
from vitloom.sim.runner import run_component
from vitloom.sim.sequencer_timing import Timing, simulate_queues
from vitloom.sim.streams import reset, start_clock

DEPTH = 128
STREAM = os.environ.get("STREAM") == "1"
BLOCK = DEPTH // 4
CAPACITY = (2, 3, 1, 8)
ENGINE_OPCODES = {queue: [opcode for opcode, owner in isa.OPCODE_QUEUE.items() if owner == queue] for queue in Queue}


def instruction(opcode, queue, wait=0, give=0, body=0):
    return {"opcode": opcode.value, "queue": queue.value, "wait": wait, "give": give, "body": body}


END = instruction(Opcode.END, Queue.LOAD)


def encode(fields):
    header = {name: fields[name] for name in ("opcode", "queue", "wait", "give")}
    return isa.pack(isa.HEADER, header) | fields["body"] << isa.HEADER.size


def random_program(rng, length):
    """A program that can't lock up: every token that an instruction waits for is given by an earlier one."""
    tokens = np.zeros((isa.QUEUES, isa.QUEUES), int)
    program = []
    for _ in range(length):
        queue = Queue(int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])))
        opcode = Opcode.SYNC if rng.random() < 0.15 else ENGINE_OPCODES[queue][rng.integers(len(ENGINE_OPCODES[queue]))]
        sources = [source for source in range(isa.QUEUES) if tokens[source, queue.value] and rng.random() < 0.8]
        give = int(rng.integers(16)) & int(rng.integers(16))
        wait = sum(1 << source for source in sources if source != queue.value) | int(rng.random() < 0.1) << queue.value
        tokens[sources, queue.value] -= 1
        tokens[queue.value] += [give >> target & 1 for target in range(isa.QUEUES)]
        size = isa.BODIES[opcode].size
        program.append(instruction(opcode, queue, wait, give, int.from_bytes(rng.bytes(48), "little") & (1 << size) - 1))
    return [*program, END]


def streamed(program):
    """The program with a LOAD at the beginning of each block from 1 on that brings the next, and that block's number by the LOAD's word."""
    result, rest, brought = program[:BLOCK], program[BLOCK:], {}
    while len(rest) > BLOCK:
        number = len(result) // BLOCK + 1
        load = instruction(Opcode.LOAD, Queue.LOAD, give=1 << Queue.LOAD.value, body=number)
        brought[encode(load)] = number
        result, rest = [*result, load, *rest[: BLOCK - 1]], rest[BLOCK - 1 :]
    return [*result, *rest], brought


@dataclass
class FakeEngine:
    """Holds ``capacity`` instructions; is ready ``gaps`` cycles after a transfer; an instruction takes ``durations`` cycles."""

    capacity: int
    gaps: np.ndarray
    durations: np.ndarray
    starts: list = field(default_factory=list)
    dones: list = field(default_factory=list)

    def ready(self, cycle):
        free = sum(done >= cycle for done in self.dones) < self.capacity
        return free and (not self.starts or cycle >= self.starts[-1] + self.gaps[len(self.starts)])

    def transfer(self, cycle):
        duration = int(self.durations[len(self.starts)])
        self.starts.append(cycle)
        self.dones.append(max([cycle + duration, *(done + 1 for done in self.dones[-1:])]))

    def accept(self, cycle, instruction):
        while not self.ready(cycle):
            cycle += 1
        self.transfer(cycle)
        return self.starts[-1], self.dones[-1]


def fake_engines(seed, size=DEPTH):
    rng = np.random.default_rng(seed)
    slow = rng.integers(1, 40)
    return [FakeEngine(capacity, rng.integers(1, 6, size + 1), rng.integers(1, slow + 1, size)) for capacity in CAPACITY]


def engines_of_streamed(program, brought, seed):
    """Fake engines of a streamed program: a LOAD of a block ends some time after its last word is written."""
    engines = fake_engines(seed, len(program))
    loads = [fields for fields in program if fields["queue"] == Queue.LOAD.value and fields["opcode"] == Opcode.LOAD.value]
    for place, fields in enumerate(loads):
        if encode(fields) in brought:
            engines[Queue.LOAD.value].durations[place] += 2 * BLOCK * isa.INSTRUCTION_WORDS
    return engines


class Bench:
    """Loads and runs programs with fake engines, cycle by cycle from the start pulse in cycle 0."""

    def __init__(self, dut):
        self.dut = dut
        self.program, self.brought = [], {}

    async def begin(self):
        start_clock(self.dut)
        if STREAM:
            self.dut.refill__enable.value = 0
        self.dut.start.value = self.dut.halt.value = self.dut.program_write__enable.value = 0
        for queue in range(isa.QUEUES):
            self.port(queue, "instruction__ready").value = self.port(queue, "done").value = 0
        await reset(self.dut)

    def port(self, queue, name):
        return getattr(self.dut, f"queues__{queue}__{name}")

    async def load(self, program):
        for index, fields in enumerate(program):
            for word in range(isa.INSTRUCTION_WORDS):
                self.write("program_write", index, fields, word)
                await RisingEdge(self.dut.clk)
        self.dut.program_write__enable.value = 0

    def write(self, port, index, fields, word):
        """Put a word of an instruction on the port ``program_write`` or ``refill``."""
        for name, value in {"enable": 1, "index": index, "word": word, "data": encode(fields) >> 32 * word & 0xFFFF_FFFF}.items():
            getattr(self.dut, f"{port}__{name}").value = value

    async def run(self, engines, limit=20000, halt_from=None):
        """Run until ``finished`` or an error; returns what was transferred, by queue, the last cycle, and the error."""
        words = [[] for _ in engines]
        refills = deque()
        self.running = []
        for cycle in range(limit):
            self.dut.start.value = int(cycle == 0)
            self.dut.halt.value = int(halt_from is not None and cycle >= halt_from)
            for queue, engine in enumerate(engines):
                self.port(queue, "instruction__ready").value = int(engine.ready(cycle))
                self.port(queue, "done").value = int(cycle in engine.dones[-8:])
            if STREAM:
                self.dut.refill__enable.value = 0
                if refills:
                    self.write("refill", *refills.popleft())
            await RisingEdge(self.dut.clk)
            self.running.append(int(self.dut.running.value))
            for queue, engine in enumerate(engines):
                if self.port(queue, "instruction__valid").value and engine.ready(cycle):
                    engine.transfer(cycle)
                    words[queue].append(int(self.port(queue, "instruction__payload").value))
                    if number := self.brought.get(words[queue][-1]):
                        first, block = DEPTH // 2 + number % 2 * BLOCK, self.program[number * BLOCK :][:BLOCK]
                        refills.extend((first + i, fields, j) for i, fields in enumerate(block) for j in range(isa.INSTRUCTION_WORDS))
            error = int(self.dut.error.value)
            if self.dut.finished.value or error:
                return words, cycle, Error(error)
        return words, limit, None


def as_run(program, words, engines):
    """The engines' instructions in program order, as (queue, word, start, done)."""
    taken = [iter(zip(words[queue], engine.starts, engine.dones, strict=True)) for queue, engine in enumerate(engines)]
    return [
        (fields["queue"], *next(taken[fields["queue"]]))
        for fields in program
        if fields["opcode"] not in (Opcode.SYNC.value, Opcode.END.value)
    ]


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_programs_start_when_the_model_says(dut):
    bench = Bench(dut)
    await bench.begin()
    for seed in range(12):
        program = random_program(np.random.default_rng(seed), DEPTH - 1)
        await bench.load(program)
        engines = fake_engines(seed)
        words, last, error = await bench.run(engines)
        block = BLOCK if STREAM else 0
        timings, finished = simulate_queues(program, fake_engines(seed), queue_depth=int(os.environ["QUEUE_DEPTH"]), block=block)
        expected = [
            (fields["queue"], encode(fields), timing.start, timing.done)
            for fields, timing in zip(program, timings, strict=False)
            if fields["opcode"] != Opcode.SYNC.value
        ]
        assert as_run(program, words, engines) == expected, f"program {seed}"
        assert (last, error) == (finished, Error.NONE)
        await RisingEdge(dut.clk)
        assert [*bench.running, int(dut.running.value)] == [0, *[1] * finished, 0]


@cocotb.test(timeout_time=10, timeout_unit="ms", skip=not STREAM)
async def streamed_programs_start_when_the_model_says(dut):
    """Programs of several times the program memory; each twice, of which the host writes the first blocks once."""
    bench = Bench(dut)
    await bench.begin()
    waits = 0
    for seed in range(3):
        bench.program, bench.brought = program, _ = streamed(random_program(np.random.default_rng(seed), 3 * DEPTH))
        await bench.load(program[: DEPTH // 2])
        reference = engines_of_streamed(program, bench.brought, seed)
        timings, finished = simulate_queues(program, reference, queue_depth=int(os.environ["QUEUE_DEPTH"]), block=BLOCK)
        expected = [
            (fields["queue"], encode(fields), timing.start, timing.done)
            for fields, timing in zip(program, timings, strict=False)
            if fields["opcode"] != Opcode.SYNC.value
        ]
        for _ in range(2):
            engines = engines_of_streamed(program, bench.brought, seed)
            words, last, error = await bench.run(engines)
            assert as_run(program, words, engines) == expected, f"program {seed}"
            assert (last, error) == (finished, Error.NONE)
        assert int(dut.dispatched.value) == len(program) - 1
        first = [timing.dispatch for timing in timings[BLOCK::BLOCK]]
        before = [timing.dispatch for timing in timings[BLOCK - 1 :: BLOCK]]
        waits += sum(at > after + Sequencer.DISPATCH_CYCLES for at, after in zip(first, before, strict=False))
    assert waits > 10


@cocotb.test(timeout_time=1, timeout_unit="ms", skip=not STREAM)
async def a_block_that_nothing_brings_is_an_error(dut):
    bench = Bench(dut)
    await bench.begin()
    program, brought = streamed([instruction(Opcode.LOAD, Queue.LOAD)] * (2 * DEPTH))
    late = max(index for index, fields in enumerate(program) if encode(fields) in brought and index < DEPTH)
    program[late] = program[late] | {"give": 0}
    bench.program, bench.brought = program, brought
    await bench.load(program[: DEPTH // 2])
    _, _, error = await bench.run(engines_of_streamed(program, brought, 0))
    assert error is Error.PROGRAM
    await RisingEdge(dut.clk)
    assert int(dut.dispatched.value) == DEPTH - 1


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def wrong_programs_stop_with_an_error(dut):
    load = instruction(Opcode.LOAD, Queue.LOAD)
    unknown = load | {"opcode": 9}
    wrong_queue = load | {"queue": Queue.ARRAY.value}
    give = load | {"give": 1 << Queue.ARRAY.value}
    bench = Bench(dut)
    await bench.begin()
    for program, error, place, loads in [
        ([load, load, unknown, load, END], Error.OPCODE, 2, 2),
        ([load, wrong_queue, END], Error.OPCODE, 1, 1),
        ([load | {"opcode": 0}], Error.OPCODE, 0, 0),
        ([load] * DEPTH, Error.PROGRAM, DEPTH - 1, DEPTH),
        ([give] * 63 + [END], Error.NONE, 63, 63),
        ([give] * 64 + [END], Error.TOKEN, None, 64),
    ]:
        await reset(dut)
        await bench.load(program)
        engines = [FakeEngine(4, np.ones(DEPTH + 1, int), np.full(DEPTH + 1, 2)) for _ in Queue]
        words, _, got = await bench.run(engines)
        await RisingEdge(dut.clk)
        assert got == error and int(dut.error.value) == 0
        assert place is None or int(dut.dispatched.value) == place
        # What was dispatched before may still run.
        assert loads - 2 <= len(words[0]) <= loads and not words[1]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_full_token_counter_may_give_and_take_in_one_cycle(dut):
    """63 tokens wait; then one is taken in the cycle of the ``done`` that gives the next."""
    bench = Bench(dut)
    await bench.begin()
    give = instruction(Opcode.LOAD, Queue.LOAD, give=1 << Queue.ARRAY.value)
    take = instruction(Opcode.MATMUL, Queue.ARRAY, wait=1 << Queue.LOAD.value)
    for delay, expected in ((0, Error.NONE), (1, Error.TOKEN)):
        await reset(dut)
        await bench.load([take, *[give] * 64, END])
        engines = [FakeEngine(4, np.ones(DEPTH, int), np.ones(DEPTH, int)) for _ in Queue]
        reference = [FakeEngine(4, np.ones(DEPTH, int), np.ones(DEPTH, int)) for _ in Queue]
        timings, _ = simulate_queues([take, *[give] * 64, END], reference, queue_depth=64)
        late = timings[64].done + delay
        engines[Queue.ARRAY.value].ready = lambda cycle, late=late: cycle >= late
        _, _, error = await bench.run(engines)
        assert error == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def halt_stops_offers_and_dispatch(dut):
    bench = Bench(dut)
    await bench.begin()
    program = random_program(np.random.default_rng(3), DEPTH - 1)
    await bench.load(program)
    full, _, _ = await bench.run(fake_engines(3))
    await reset(dut)
    engines = fake_engines(3)
    words, last, error = await bench.run(engines, limit=600, halt_from=150)
    assert (last, error) == (600, None)
    assert 0 < sum(map(len, words)) < sum(map(len, full))
    assert max(start for engine in engines for start in engine.starts) < 150
    assert dut.running.value
    await reset(dut)
    again, _, _ = await bench.run(fake_engines(3))
    assert again == full


@pytest.mark.parametrize(("queue_depth", "stream"), [(2, False), (8, True)])
def test_sequencer(queue_depth, stream, tmp_path):
    config = CoreConfig(lanes=4, program_depth=DEPTH, queue_depth=queue_depth, program_stream=stream)
    env = {"QUEUE_DEPTH": str(queue_depth), "STREAM": str(int(stream))}
    run_component(Sequencer(config), name="sequencer", test_module=__file__, test_dir=tmp_path, env=env, seed=1)


def test_the_model_follows_the_published_rule():
    """Worked by hand: an instruction may wait for one that comes later in the program."""
    program = [
        instruction(Opcode.MATMUL, Queue.ARRAY, wait=1 << Queue.LOAD.value),
        instruction(Opcode.LOAD, Queue.LOAD, give=1 << Queue.ARRAY.value),
        instruction(Opcode.SYNC, Queue.ARRAY, give=1 << Queue.STORE.value),
        instruction(Opcode.STORE, Queue.STORE, wait=1 << Queue.ARRAY.value),
        END,
    ]
    engines = [FakeEngine(2, np.ones(8, int), np.full(8, 10)) for _ in Queue]
    timings, finished = simulate_queues(program, engines, queue_depth=2, start=100)
    assert [astuple(timing) for timing in timings] == [(103, 122, 132), (106, 110, 120), (109, 134, 134), (112, 136, 146)]
    assert timings[1] == Timing(dispatch=106, start=110, done=120)
    assert finished == 147


def test_the_model_refuses_programs_that_never_end():
    wait = instruction(Opcode.MATMUL, Queue.ARRAY, wait=1 << Queue.LOAD.value)
    with pytest.raises(ValueError, match="no instruction can start: 1 of 1"):
        simulate_queues([wait, END], fake_engines(0), queue_depth=4)
    with pytest.raises(ValueError, match="ends with END"):
        simulate_queues([wait], fake_engines(0), queue_depth=4)


def test_random_programs_reach_full_queues_and_full_engines():
    """Otherwise the comparison above would say little."""
    stalls, shared = 0, 0
    for seed in range(12):
        program = random_program(np.random.default_rng(seed), DEPTH - 1)
        timings, _ = simulate_queues(program, fake_engines(seed), queue_depth=8)
        dispatches = [timing.dispatch for timing in timings]
        stalls += sum(after - before > Sequencer.DISPATCH_CYCLES for before, after in zip(dispatches, dispatches[1:], strict=False))
        loads = [timing for fields, timing in zip(program, timings, strict=False) if fields["queue"] == Queue.LOAD.value]
        shared += sum(after.start < before.done for before, after in zip(loads, loads[1:], strict=False))
    assert stalls > 100 and shared > 30
