"""The scratchpad plan."""

import pytest

from vitloom.compiler.memory import DoesNotFit, Lifetime, Ring, place
from vitloom.compiler.program import Buffer
from vitloom.hw.config import CoreConfig

CONFIG = CoreConfig(lanes=4, scratchpad_bytes=4 * 4 * 64, banks=4)  # 4 banks of 64 words


def life(first: int, last: int) -> Lifetime:
    return Lifetime(first=first, last=last, start=10 * first, end=10 * last + 5)


def reserved(banks: int) -> list[Buffer]:
    """Weights in all banks but the first ones."""
    first = banks * CONFIG.bank_words
    return [Buffer(name="weights", rows=CONFIG.scratchpad_words - first, address=first)]


def test_a_ring_keeps_what_is_not_overwritten():
    ring = Ring(10)
    assert ring.request("a", 4) == (0, True)
    assert ring.request("b", 4) == (4, True)
    assert ring.request("a", 4) == (0, False)
    assert ring.request("c", 3) == (0, True)
    assert ring.request("b", 4) == (4, False)
    assert ring.request("a", 4) == (3, True)
    assert ring.request("b", 4) == (0, True)
    with pytest.raises(DoesNotFit):
        ring.request("d", 11)


def test_buffers_alive_together_do_not_overlap_and_others_share():
    buffers = [Buffer(name=name, rows=60) for name in "abcd"]
    lifetimes = {"a": life(0, 2), "b": life(1, 3), "c": life(2, 4), "d": life(4, 5), "weights": life(0, 5)}
    placed = place(buffers, reserved(3), lifetimes, set(), {}, CONFIG, timed=True)
    for one in placed.values():
        for other in placed.values():
            if one.name < other.name and lifetimes[one.name].overlaps(lifetimes[other.name], True):
                assert one.address + one.words <= other.address or other.address + other.words <= one.address
    assert placed["d"].address in (placed["a"].address, placed["b"].address)


def test_pairs_that_must_be_apart_have_no_bank_in_common():
    buffers = [Buffer(name="long", rows=100), Buffer(name="a", rows=10), Buffer(name="b", rows=10)]
    lifetimes = {b.name: life(0, 1) for b in (*buffers, *reserved(0))}
    apart = {frozenset(pair) for pair in (("long", "a"), ("long", "b"), ("a", "b"))}
    placed = place(buffers, reserved(4), lifetimes, apart, {}, CONFIG, timed=True)
    banks = {name: {word // 64 for word in range(b.address, b.address + b.words)} for name, b in placed.items()}
    assert not banks["long"] & banks["a"] and not banks["long"] & banks["b"] and not banks["a"] & banks["b"]
    with pytest.raises(DoesNotFit):
        place(buffers, reserved(3), lifetimes, apart, {}, CONFIG, timed=True)


def test_a_pair_that_costs_time_is_put_in_different_banks():
    buffers = [Buffer(name=name, rows=10) for name in "abc"]
    lifetimes = {b.name: life(0, 1) for b in (*buffers, *reserved(0))}
    placed = place(buffers, reserved(2), lifetimes, set(), {frozenset("ab"): 100, frozenset("bc"): 5}, CONFIG, timed=True)
    assert placed["a"].address // 64 != placed["b"].address // 64 != placed["c"].address // 64


def test_buffers_dead_in_program_order_but_not_in_time_share_only_when_they_must():
    buffers = [Buffer(name=name, rows=60) for name in "ab"]
    lifetimes = {"a": Lifetime(first=0, last=1, start=0, end=50), "b": Lifetime(first=2, last=3, start=40, end=60)}
    lifetimes["weights"] = life(0, 5)
    apart = place(buffers, reserved(2), lifetimes, set(), {}, CONFIG, timed=True)
    assert apart["a"].address != apart["b"].address
    with pytest.raises(DoesNotFit):
        place(buffers, reserved(1), lifetimes, set(), {}, CONFIG, timed=True)
    together = place(buffers, reserved(1), lifetimes, set(), {}, CONFIG, timed=False)
    assert together["a"].address == together["b"].address == 0
