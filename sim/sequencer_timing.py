"""Timing of the sequencer: the cycles in which instructions are dispatched, start and end, from the program alone."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..hw.isa import QUEUES, Opcode, Queue
from ..hw.sequencer import Sequencer

__all__ = ["Engine", "Timing", "simulate_queues"]


class Engine(Protocol):
    """Timing of one engine, with whatever state it keeps between instructions."""

    def accept(self, cycle: int, instruction: Mapping[str, int]) -> tuple[int, int]:
        """Cycles of transfer and of ``done`` of an instruction that is offered from ``cycle`` on; called in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Cycles of one instruction.

    Parameters
    ----------
    dispatch : int
        The dispatcher puts it into its queue.
    start : int
        Its transfer to the engine.
    done : int
        Pulse of the engine; of SYNC the same as ``start``.
    """

    dispatch: int
    start: int
    done: int


def simulate_queues(
    instructions: Sequence[Mapping[str, int]], engines: Sequence[Engine], *, queue_depth: int, block: int = 0, start: int = 0
) -> tuple[list[Timing], int]:
    """Timing of each instruction before END, and the cycle of ``finished``; the rule is in :class:`..hw.sequencer.Sequencer`.

    Parameters
    ----------
    instructions : sequence of mappings
        A program, END included: at least ``opcode``, ``queue``, ``wait`` and ``give`` of each instruction. Engines get the whole mapping.
    engines : sequence of Engine
        By queue. Their calls come in the order of the cycle of offer.
    queue_depth : int
        ``CoreConfig.queue_depth``.
    block : int
        ``CoreConfig.program_block`` with ``program_stream``; without, 0.
    start : int
        Cycle of the start pulse.
    """
    end = next((index for index, instruction in enumerate(instructions) if instruction["opcode"] == Opcode.END.value), None)
    if end is None:
        raise ValueError(f"a program ends with END, this one of {len(instructions)} instructions has none")
    state = _State(instructions[:end], queue_depth, block, start)
    while len(state.starts) < end:
        state.dispatch()
        heads = [index for queue in range(QUEUES) if (index := state.head(queue)) is not None]
        offers = [(offer, index) for index in heads if (offer := state.offer(index)) is not None]
        if not offers:
            stuck = [index for index in range(end) if index not in state.starts]
            raise ValueError(f"no instruction can start: {len(stuck)} of {end} wait for each other, the first is {stuck[0]}")
        offer, index = min(offers)
        instruction = instructions[index]
        is_sync = instruction["opcode"] == Opcode.SYNC.value
        state.start(index, *((offer, offer) if is_sync else engines[instruction["queue"]].accept(offer, instruction)))
    state.dispatch()
    last = max([state.dispatches[end], *state.dones.values()])
    timings = [Timing(dispatch=state.dispatches[index], start=state.starts[index], done=state.dones[index]) for index in range(end)]
    return timings, last + Sequencer.FINISH_LATENCY


class _State:
    """What is known of the instructions so far; token n of a pair of queues is the one that its n-th giving instruction gives."""

    def __init__(self, instructions: Sequence[Mapping[str, int]], queue_depth: int, block: int, start: int):
        self.queues = [[i for i, instruction in enumerate(instructions) if instruction["queue"] == queue] for queue in range(QUEUES)]
        self.place = {index: place for queue in self.queues for place, index in enumerate(queue)}
        self.instructions = instructions
        self.queue_depth = queue_depth
        self.block = block
        self.fetches = [index for index in self.queues[Queue.LOAD.value] if instructions[index]["give"] >> Queue.LOAD.value & 1]
        self.begin = start
        self.dispatches: list[int] = []
        self.starts: dict[int, int] = {}
        self.dones: dict[int, int] = {}
        self.started = [0] * QUEUES
        self.sources: dict[int, list[int | None]] = {}
        for source in range(QUEUES):
            for target in range(QUEUES):
                if source != target:
                    self._match(source, target)

    def _match(self, source: int, target: int) -> None:
        """Find the giver of each token that ``target`` takes from ``source``."""
        givers = [i for i in self.queues[source] if self.instructions[i]["give"] >> target & 1]
        takers = [i for i in self.queues[target] if self.instructions[i]["wait"] >> source & 1]
        for place, taker in enumerate(takers):
            self.sources.setdefault(taker, []).append(givers[place] if place < len(givers) else None)

    def dispatch(self) -> None:
        """Dispatch until a queue is full of instructions, or a block waits for one, whose start is not known; END is dispatched as well."""
        while len(self.dispatches) <= len(self.instructions):
            index = len(self.dispatches)
            cycle = (self.dispatches[-1] if index else self.begin) + Sequencer.DISPATCH_CYCLES
            if self.block and index % self.block == 0 and (place := bisect_left(self.fetches, index)):
                fetch = self.fetches[place - 1]
                if fetch not in self.dones:
                    return
                cycle = max(cycle, self.dones[fetch] + Sequencer.LOADED_CYCLES)
            if index < len(self.instructions):
                queue, place = self.queues[self.instructions[index]["queue"]], self.place[index]
                if place >= self.queue_depth:
                    before = queue[place - self.queue_depth]
                    if before not in self.starts:
                        return
                    cycle = max(cycle, self.starts[before] + 1)
            self.dispatches.append(cycle)

    def start(self, index: int, start: int, done: int) -> None:
        """Note when the head ``index`` of a queue starts and ends."""
        self.starts[index], self.dones[index] = start, done
        self.started[self.instructions[index]["queue"]] += 1

    def head(self, queue: int) -> int | None:
        """First instruction in the queue that has not started."""
        place = self.started[queue]
        waiting = place < len(self.queues[queue]) and self.queues[queue][place] < len(self.dispatches)
        return self.queues[queue][place] if waiting else None

    def offer(self, index: int) -> int | None:
        """First cycle in which the engine is offered the head ``index`` of a queue; None while that is not known."""
        instruction, place = self.instructions[index], self.place[index]
        queue = self.queues[instruction["queue"]]
        alone = instruction["opcode"] == Opcode.SYNC.value or instruction["wait"] >> instruction["queue"] & 1
        ended = place - (1 if alone else Sequencer.IN_FLIGHT)
        cycle = self.dispatches[index] + Sequencer.QUEUE_LATENCY
        if place:
            cycle = max(cycle, self.starts[queue[place - 1]] + Sequencer.START_CYCLES)
        for source in [*self.sources.get(index, []), *([queue[ended]] if ended >= 0 else [])]:
            if source is None or source not in self.dones:
                return None
            cycle = max(cycle, self.dones[source] + Sequencer.TOKEN_LATENCY)
        return cycle
