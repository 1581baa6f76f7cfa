"""The scratchpad plan: which buffer lies where, and rings for what is loaded again and again."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..hw.config import CoreConfig
from .program import Buffer

__all__ = ["DoesNotFit", "Lifetime", "Ring", "place"]

#: Orders in which buffers are placed, at most.
_ATTEMPTS = 8


class DoesNotFit(Exception):
    """The buffers that are needed at one time do not fit.

    Parameters
    ----------
    buffer : str
        The one for which there is no space; empty if a ring is too small.
    phase : int or None
        Of the instruction that needs it first (:func:`.emitter.phases`), where that is known.
    words : int
        By how much all are larger than the scratchpad, where that is known.
    """

    def __init__(self, buffer: str = "", phase: int | None = None, words: int = 0) -> None:
        super().__init__(buffer)
        self.buffer, self.phase, self.words = buffer, phase, words


class Ring:
    """Space given out in turn; what was given stays until it is overwritten.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.position = 0
        self.entries: dict[object, tuple[int, int]] = {}

    def request(self, key: object, size: int) -> tuple[int, bool]:
        """Address of ``size`` units named ``key``, and whether they must be loaded because they are not there (any more)."""
        if key in self.entries:
            return self.entries[key][0], False
        if size > self.size:
            raise DoesNotFit
        start = self.position if self.position + size <= self.size else 0
        self.entries = {k: (a, n) for k, (a, n) in self.entries.items() if a + n <= start or start + size <= a}
        self.entries[key] = (start, size)
        self.position = start + size
        return start, True


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """First and last use of a buffer: in the order of the program, and in estimated cycles."""

    first: int
    last: int
    start: int
    end: int

    def overlaps(self, other: Lifetime, timed: bool) -> bool:
        """Whether both are alive at one moment of the program order or, when ``timed``, of the estimated time."""
        if self.first <= other.last and other.first <= self.last:
            return True
        return timed and self.start < other.end and other.start < self.end


def place(
    buffers: Sequence[Buffer],
    fixed: Sequence[Buffer],
    lifetimes: Mapping[str, Lifetime],
    apart: Collection[frozenset[str]],
    costs: Mapping[frozenset[str], int],
    config: CoreConfig,
    *,
    timed: bool,
) -> dict[str, Buffer]:
    """Addresses that cost little or, unless ``timed``, that take little room.

    fixed : buffers that have their addresses, and may overlap each other.
    lifetimes : by buffer name; buffers alive together do not overlap. apart : pairs that must have no bank in common.
    costs : estimated cycles lost when a pair shares a bank. Raises :class:`DoesNotFit`.

    Buffers are placed largest first. Where one finds no room, all of its kind go before the others, and everything is placed again.
    """
    packing = _Packing(fixed, lifetimes, apart, costs, config, timed)
    failed: dict[str, int] = {}  # by kind: the last attempt in which there was no room for it
    errors = []
    for attempt in range(1 if timed else _ATTEMPTS):
        order = sorted(buffers, key=lambda b: (-failed.get(_kind(b.name), 0), -b.words, lifetimes[b.name].first))
        try:
            return packing.place(order, tight=attempt > 0)
        except DoesNotFit as error:
            errors.append(error)
            failed[_kind(error.buffer)] = attempt + 1
    raise errors[0]


def _kind(name: str) -> str:
    """What buffers of one use in different layers, heads or rows have in common."""
    return re.sub(r"\d+", "#", name)


class _Packing:
    """Places buffers one after the other."""

    def __init__(
        self,
        fixed: Sequence[Buffer],
        lifetimes: Mapping[str, Lifetime],
        apart: Collection[frozenset[str]],
        costs: Mapping[frozenset[str], int],
        config: CoreConfig,
        timed: bool,
    ) -> None:
        self.fixed, self.lifetimes, self.apart, self.costs, self.config, self.timed = fixed, lifetimes, apart, costs, config, timed
        self.neighbours: dict[str, set[str]] = {}
        for pair in (*apart, *costs):
            for name in pair:
                self.neighbours.setdefault(name, set()).update(pair - {name})

    def place(self, buffers: Iterable[Buffer], *, tight: bool) -> dict[str, Buffer]:
        """Addresses of the buffers in that order: where each costs least; without time as low as possible or, ``tight``, beside others."""
        config, bank_words = self.config, self.config.bank_words
        placed = {buffer.name: buffer for buffer in self.fixed}
        names = set(placed)
        for buffer in buffers:
            life = self.lifetimes[buffer.name]
            together = [b for name, b in placed.items() if self.lifetimes[name].overlaps(life, self.timed and name not in names)]
            ends = sorted({0, *(b.address + b.words for b in together)})
            begins = sorted({config.scratchpad_words, *(b.address for b in together)})
            starts = {bank * bank_words for bank in range(config.banks)} | {*ends}
            if tight:
                starts |= {end - buffer.words for end in begins} | {bank * bank_words - buffer.words for bank in range(1, config.banks)}
            options = []
            for address in sorted(starts):
                end = address + buffer.words
                if address < 0 or end > config.scratchpad_words:
                    continue
                if any(b.address < end and address < b.address + b.words for b in together):
                    continue
                price = self._cost(placed, buffer, address)
                if price is None:
                    continue
                if self.timed:
                    options.append((price, len(self._banks(buffer, address)), address))
                elif tight:
                    gap = min(address - ends[bisect_right(ends, address) - 1], begins[bisect_left(begins, end)] - end)
                    options.append((gap, price, address))
                else:
                    options.append((0, 0, address))
            if not options:
                raise DoesNotFit(buffer.name)
            placed[buffer.name] = replace(buffer, address=min(options)[2])
        return placed

    def _banks(self, buffer: Buffer, address: int) -> range:
        bank_words = self.config.bank_words
        return range(address // bank_words, (address + buffer.words - 1) // bank_words + 1)

    def _cost(self, placed: Mapping[str, Buffer], buffer: Buffer, address: int) -> int | None:
        """Cost of an address; None where a pair that must be apart would share a bank."""
        mine, total = self._banks(buffer, address), 0
        for name in self.neighbours.get(buffer.name, ()):
            other = placed.get(name)
            if other is None:
                continue
            theirs = self._banks(other, other.address)
            if mine.start < theirs.stop and theirs.start < mine.stop:
                pair = frozenset((buffer.name, name))
                if pair in self.apart:
                    return None
                total += self.costs[pair]
        return total
