import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.rows.layer_norm import LayerNorm
from vitloom.hw.rows.rsqrt import NORM_SETTINGS
from vitloom.hw.rows.rsqrt import rsqrt_table as hardware_rsqrt_table
from vitloom.model.layer_norm import layer_norm, row_scalars, rsqrt_table
from vitloom.sim.runner import run_component
from vitloom.sim.streams import check_stream, collect, drive, pack, reset, start_clock, unpack

LANES = int(os.environ.get("LANES", 4))
CONFIG = CoreConfig(lanes=LANES)


class Layer:
    """Constants of a layer, on chip from ``constant`` on; lanes past the last channel have gain and offset 0."""

    def __init__(self, rng, channels, *, zero, constant, epsilon=None, alpha=None, gain=None, offset=None):
        self.channels, self.zero, self.constant = channels, zero, constant
        self.alpha = rng.integers(0, 4, channels).astype(np.uint8) if alpha is None else np.full(channels, alpha, dtype=np.uint8)
        self.gain = np.full(channels, gain) if gain is not None else rng.integers(-30 << 10, 30 << 10, channels)
        self.offset = np.full(channels, offset) if offset is not None else rng.integers(-60 << 10, 60 << 10, channels)
        self.gain, self.offset = self.gain.astype(np.int32), self.offset.astype(np.int32)
        self.epsilon = int(rng.integers(1, channels**2 + 2)) if epsilon is None else epsilon
        self.words = -(-channels // LANES)

    @property
    def settings(self):
        size = self.channels.bit_length() - 1
        fields = {"channels": self.channels, "log2_channels": size, "zero": self.zero, "epsilon": self.epsilon, "constant": self.constant}
        return isa.pack(NORM_SETTINGS, fields)

    def planes(self):
        """Address and data of each write of the constants."""
        record = {"alpha": self.alpha, "gain": self.gain, "offset": self.offset}
        packed = [isa.pack(isa.NORM_RECORD, {name: int(vector[k]) for name, vector in record.items()}) for k in range(self.channels)]
        packed += [0] * (self.words * LANES - self.channels)
        for block in range(self.words):
            for byte in range(isa.NORM_BYTES):
                lanes = [value >> 8 * byte & 255 for value in packed[block * LANES : (block + 1) * LANES]]
                yield (self.constant + block) * isa.NORM_BYTES + byte, pack(lanes)

    def input_words(self, row):
        padded = np.full(self.words * LANES, self.zero, dtype=np.int8)
        padded[: self.channels] = row
        for index, word in enumerate(padded.reshape(-1, LANES)):
            yield pack(word) | (index == self.words - 1) << 8 * LANES

    def expected(self, row):
        return layer_norm(row, self.zero, self.alpha, self.gain, self.offset, self.epsilon)

    def sample_rows(self, rng):
        """Corners, then random rows."""
        outlier = np.full(self.channels, self.zero, dtype=np.int8)
        outlier[self.channels // 2] = 127
        corners = [np.full(self.channels, value, dtype=np.int8) for value in (self.zero, -128, 127, 0)]
        half = np.where(np.arange(self.channels) % 2, 127, -128).astype(np.int8)
        normal = [np.clip(rng.normal(10, rng.choice([1, 10, 80]), self.channels), -128, 127).astype(np.int8) for _ in range(8)]
        return [*corners, outlier, half, *normal, outlier, *corners]


def layers(rng):
    """Narrow, odd and wide rows, all extremes of the constants, and the greatest length."""
    yield Layer(rng, 1, zero=-3, constant=5)
    yield Layer(rng, 3, zero=127, constant=0, epsilon=2**32 - 1)
    yield Layer(rng, LANES, zero=0, constant=1, epsilon=1, alpha=0)
    yield Layer(rng, 5 * LANES - 1, zero=-128, constant=7, epsilon=1, alpha=3, gain=2**17 - 1, offset=2**19 - 1)
    yield Layer(rng, 64, zero=-128, constant=3, alpha=0, gain=1 - 2**17, offset=1 - 2**19)
    yield Layer(rng, 192, zero=17, constant=100)
    yield Layer(rng, 96, zero=0, constant=30, epsilon=1, gain=3 << 10, offset=0)


async def start(dut):
    start_clock(dut)
    for name in ("i__valid", "i__payload", "o__ready", "settings", "constants_write__enable"):
        getattr(dut, name).value = 0
    await reset(dut)
    cocotb.start_soon(check_stream(dut, "o"))


async def load(dut, layer):
    for address, word in layer.planes():
        dut.constants_write__enable.value = 1
        dut.constants_write__address.value = address
        dut.constants_write__data.value = word
        await RisingEdge(dut.clk)
    dut.constants_write__enable.value = 0
    dut.settings.value = layer.settings


async def check_layer(dut, layer, rows, rng, idle, stall):
    """Send rows and compare each with the golden model; returns their results."""
    words = [word for row in rows for word in layer.input_words(row)]
    cocotb.start_soon(drive(dut, "i", words, np.random.default_rng(len(words)), idle))
    results = []
    for index, row in enumerate(rows):
        words = await collect(dut, "o", layer.words, rng, stall)
        got = np.concatenate([unpack(word & (1 << 8 * LANES) - 1, LANES) for word in words])
        results.append(layer.expected(row))
        np.testing.assert_array_equal(got[: layer.channels], results[-1], err_msg=f"row {index} of {layer.channels} channels")
        np.testing.assert_array_equal(got[layer.channels :], 0)
        assert [word >> 8 * LANES for word in words] == [0] * (layer.words - 1) + [1]
    return results


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5])
async def matches_golden(dut, idle, stall):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await start(dut)
    results, shifts = [], []
    for layer in layers(rng):
        rows = layer.sample_rows(rng)
        await load(dut, layer)
        results += await check_layer(dut, layer, rows, rng, idle, stall)
        shifts += [int(row_scalars(row, layer.zero, layer.alpha, layer.epsilon)[2]) for row in rows]
    values = np.concatenate(results)
    assert values.min() == -128 and values.max() == 127 and len(np.unique(values)) > 150, "results must saturate and vary"
    assert min(shifts) < 11 < 24 < max(shifts), "the shift must go in both directions"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def takes_rows_of_the_greatest_length(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await start(dut)
    layer = Layer(rng, 2048, zero=127, constant=0, alpha=3, gain=3 << 10, epsilon=1)
    await load(dut, layer)
    extremes = [np.full(2048, -128, dtype=np.int8), np.where(np.arange(2048) % 2, 127, -128).astype(np.int8)]
    await check_layer(dut, layer, [*extremes, *rng.integers(-128, 128, (3, 2048)).astype(np.int8)], rng, 0.0, 0.0)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(words=[1, 2, 12])
async def latency_and_throughput(dut, words):
    await start(dut)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    layer, latency = Layer(rng, words * LANES, zero=0, constant=0), LayerNorm.latency(CONFIG, words)
    await load(dut, layer)
    sent = [word for row in rng.integers(-128, 128, (6, layer.channels)).astype(np.int8) for word in layer.input_words(row)]
    dut.o__ready.value = 1
    outputs = []
    for cycle in range(len(sent) + latency + 20):
        dut.i__valid.value = cycle < len(sent)
        dut.i__payload.value = sent[min(cycle, len(sent) - 1)]
        await RisingEdge(dut.clk)
        if dut.o__valid.value:
            outputs.append(cycle)
    assert outputs == list(range(latency, latency + len(sent)))


def test_table_of_reciprocal_roots_is_the_models():
    base, slope = rsqrt_table()
    assert [(entry["base"], entry["slope"]) for entry in hardware_rsqrt_table()] == list(zip(base, slope, strict=True))


@pytest.mark.parametrize("lanes", [4, 8])
def test_layer_norm(lanes, tmp_path):
    component = LayerNorm(CoreConfig(lanes=lanes))
    run_component(component, name=f"layer_norm_{lanes}", test_module=__file__, test_dir=tmp_path, env={"LANES": str(lanes)}, seed=lanes)
