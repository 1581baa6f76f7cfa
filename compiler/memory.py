"""The scratchpad plan: which buffer lies where, and rings for what is loaded again and again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..hw.config import CoreConfig
from .program import Buffer

__all__ = ["DoesNotFit", "Lifetime", "Ring", "place"]


class DoesNotFit(Exception):
    """The buffers that are needed at one time do not fit.

    Parameters
    ----------
    buffer : str
        The one for which there is no space; empty if a ring is too small.
    phase : int or None
        Of the instruction that needs it first (:func:`.emitter.phases`), where that is known.
    """

    def __init__(self, buffer: str = "", phase: int | None = None) -> None:
        super().__init__(buffer)
        self.buffer, self.phase = buffer, phase


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
    """Addresses, largest buffer first, each where it costs least or, unless ``timed``, as low as possible.

    fixed : buffers that have their addresses, and may overlap each other.
    lifetimes : by buffer name; buffers alive together do not overlap. apart : pairs that must have no bank in common.
    costs : estimated cycles lost when a pair shares a bank. Raises :class:`DoesNotFit`.
    """
    bank_words = config.bank_words
    neighbours: dict[str, set[str]] = {}
    for pair in (*apart, *costs):
        for name in pair:
            neighbours.setdefault(name, set()).update(pair - {name})
    placed = {buffer.name: buffer for buffer in fixed}
    names = set(placed)

    def banks_of(buffer: Buffer, address: int) -> range:
        return range(address // bank_words, (address + buffer.words - 1) // bank_words + 1)

    def cost(buffer: Buffer, address: int) -> int | None:
        """Cost of an address; None where a pair that must be apart would share a bank."""
        mine, total = banks_of(buffer, address), 0
        for name in neighbours.get(buffer.name, ()):
            other = placed.get(name)
            if other is None:
                continue
            theirs = banks_of(other, other.address)
            if mine.start < theirs.stop and theirs.start < mine.stop:
                pair = frozenset((buffer.name, name))
                if pair in apart:
                    return None
                total += costs[pair]
        return total

    for buffer in sorted(buffers, key=lambda b: (-b.words, lifetimes[b.name].first)):
        life = lifetimes[buffer.name]
        together = [b for name, b in placed.items() if lifetimes[name].overlaps(life, timed and name not in names)]
        starts = {bank * bank_words for bank in range(config.banks)} | {b.address + b.words for b in together}
        options = []
        for address in sorted(starts):
            end = address + buffer.words
            if end > config.scratchpad_words or any(b.address < end and address < b.address + b.words for b in together):
                continue
            price = cost(buffer, address)
            if price is not None:
                options.append((price, len(banks_of(buffer, address)), address))
        if not options:
            raise DoesNotFit(buffer.name)
        # Without time to spare the memory is packed from its beginning.
        best = min(options) if timed else min(options, key=lambda option: option[2])
        placed[buffer.name] = replace(buffer, address=best[2])
    return placed
