"""Packing of arrays into bus words, and cocotb coroutines that drive, collect and check Amaranth streams."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_stream", "collect", "drive", "pack", "pack_fields", "reset", "start_clock", "unpack", "unpack_fields"]

Random = np.random.Generator | random.Random


def _dtype(width: int, signed: bool) -> np.dtype:
    size = next((size for size in (8, 16, 32, 64) if width <= size), None)
    if width < 1 or size is None:
        raise ValueError(f"a lane has 1 to 64 bits, not {width}")
    return np.dtype(f"<{'i' if signed else 'u'}{size // 8}")


def pack(lanes: ArrayLike, width: int = 8) -> int:
    """One bus word from the lanes of ``lanes`` in C order, lane 0 in the least significant bits.

    lanes : (n,) integers of ``-2**(width - 1) .. 2**width - 1``; a negative number goes in as two's complement.
    """
    values = np.asarray(lanes)
    if values.dtype in (np.int8, np.uint8) and width == 8:
        return int.from_bytes(values.tobytes(), "little")
    if values.size and values.dtype.kind not in "biu":
        raise ValueError(f"lanes must be integers, not {values.dtype}")
    if values.size and not -(1 << width - 1) <= values.min() <= values.max() < 1 << width:
        raise ValueError(f"lanes from {values.min()} to {values.max()} do not fit into {width} bits")
    if width == _dtype(width, signed=False).itemsize * 8:
        return int.from_bytes(values.astype(_dtype(width, signed=bool(values.min(initial=0) < 0))).tobytes(), "little")
    return pack_fields([(int(value) & (1 << width) - 1, width) for value in values.ravel()])


def unpack(word: int, lanes: int, width: int = 8, signed: bool = True) -> NDArray:
    """Lanes of a bus word, the inverse of :func:`pack`: (lanes,) of the narrowest dtype with ``width`` bits.

    ``word`` is an int, or the value of a cocotb handle.
    """
    word = int(word)
    dtype = _dtype(width, signed)
    if width == dtype.itemsize * 8:
        return np.frombuffer(word.to_bytes(lanes * dtype.itemsize, "little"), dtype)
    if word >> lanes * width:
        raise ValueError(f"a word of {word.bit_length()} bits does not fit into {lanes} lanes of {width} bits")
    values = np.array(unpack_fields(word, [width] * lanes), dtype=object)
    return (values - (values >> width - 1 << width) if signed else values).astype(dtype)


def pack_fields(fields: Iterable[tuple[int, int]]) -> int:
    """One bus word from ``(value, width)`` pairs, the first in the least significant bits; a negative value as two's complement."""
    word = offset = 0
    for value, width in fields:
        if not -(1 << width >> 1) <= value < 1 << width:
            raise ValueError(f"{value} does not fit into a field of {width} bits")
        word |= (value & (1 << width) - 1) << offset
        offset += width
    return word


def unpack_fields(word: int, widths: Sequence[int]) -> list[int]:
    """Unsigned fields of a bus word, the inverse of :func:`pack_fields`."""
    word, values = int(word), []
    for width in widths:
        values.append(word & (1 << width) - 1)
        word >>= width
    return values


def start_clock(dut: Any, period: int = 10) -> None:
    """Start the clock ``clk`` with a period in ns."""
    Clock(dut.clk, period, unit="ns").start()


async def reset(dut: Any, cycles: int = 2) -> None:
    """Hold ``rst`` for some cycles; return just after the edge that ends it."""
    dut.rst.value = 1
    await ClockCycles(dut.clk, cycles)
    dut.rst.value = 0


async def drive(dut: Any, name: str, words: Iterable[int], rng: Random | None = None, idle: float = 0.0) -> None:
    """Send ``words`` into the stream ``name``; before each word, wait a cycle with probability ``idle``, again and again."""
    valid, ready, payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
    for word in words:
        while rng is not None and rng.random() < idle:
            valid.value = 0
            await RisingEdge(dut.clk)
        valid.value = 1
        payload.value = word
        await RisingEdge(dut.clk)
        while not ready.value:
            await RisingEdge(dut.clk)
    valid.value = 0


async def collect(dut: Any, name: str, count: int, rng: Random | None = None, stall: float = 0.0) -> list[int]:
    """``count`` words from the stream ``name``, as unsigned integers; not ready in a cycle with probability ``stall``."""
    valid, ready, payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
    words = []
    while len(words) < count:
        offer = rng is None or rng.random() >= stall
        ready.value = int(offer)
        await RisingEdge(dut.clk)
        if offer and valid.value:
            words.append(int(payload.value))
    ready.value = 0
    return words


async def check_stream(dut: Any, name: str) -> None:
    """Run for ever beside a test, and fail it when ``valid`` falls or ``payload`` changes before ``ready`` came."""
    valid, ready, payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
    waiting = None
    while True:
        await RisingEdge(dut.clk)
        if dut.rst.value:
            waiting = None
            continue
        if waiting is not None:
            assert valid.value, f"{name}: valid fell before ready"
            word = int(payload.value)
            assert word == waiting, f"{name}: payload changed from {waiting:#x} to {word:#x} before ready"
        waiting = int(payload.value) if valid.value and not ready.value else None
