import numpy as np
import pytest
from amaranth import *
from amaranth.lib import data
from amaranth.sim import Simulator

from vitloom.hw.arith import delay, leading_one, narrow, round_shift, saturate, tree_max, tree_sum
from vitloom.model import arith as golden


def evaluate(value, signal, stimulus):
    """``value`` for each number of ``stimulus`` on ``signal``."""
    results = []

    async def bench(ctx):
        for number in stimulus:
            ctx.set(signal, int(number))
            results.append(ctx.get(value))

    m = Module()
    m.d.comb += Signal().eq(value.any())
    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    return results


@pytest.mark.parametrize("shape", [signed(10), unsigned(9)])
@pytest.mark.parametrize(
    ("hardware", "model"),
    [
        *((lambda v, bits=bits: saturate(v, bits), lambda v, bits=bits: golden.saturate(v, bits)) for bits in (4, 8, 9, 10, 12)),
        *((lambda v, shift=shift: round_shift(v, shift), lambda v, shift=shift: golden.round_shift(v, shift)) for shift in (0, 1, 3, 8)),
    ],
)
def test_rounding_and_saturation_agree_with_the_model(shape, hardware, model):
    signal = Signal(shape)
    stimulus = np.arange(-512 if shape.signed else 0, 512)
    np.testing.assert_array_equal(evaluate(hardware(signal), signal, stimulus), model(stimulus))


@pytest.mark.parametrize("packing", range(4))
def test_narrow_values_are_clipped_and_one_bit_is_the_sign(packing):
    signal, bits = Signal(signed(8)), 8 >> packing
    stimulus = np.arange(-128, 128)
    model = stimulus >= 0 if bits == 1 else np.clip(stimulus, -(1 << bits - 1), (1 << bits - 1) - 1)
    results = np.array(evaluate(narrow(signal, C(packing, 2))[:bits], signal, stimulus))
    np.testing.assert_array_equal(results, model & ((1 << bits) - 1))


@pytest.mark.parametrize("width", [1, 2, 5, 8, 9])
def test_leading_one_agrees_with_the_model(width):
    signal = Signal(width)
    stimulus = np.arange(1, 1 << width)
    np.testing.assert_array_equal(evaluate(leading_one(signal), signal, stimulus), golden.leading_one(stimulus))


@pytest.mark.parametrize("lanes", [1, 2, 5, 16])
def test_trees_are_exact_and_narrow(lanes):
    word = Signal(data.ArrayLayout(signed(8), lanes))
    rng = np.random.default_rng(lanes)
    values = np.concatenate([[[-128] * lanes, [127] * lanes], rng.integers(-128, 128, (20, lanes))])
    stimulus = [int.from_bytes(row.astype(np.int8).tobytes(), "little") for row in values]
    total, largest = tree_sum(word), tree_max(word)
    assert (len(total), len(largest)) == (8 + (lanes - 1).bit_length(), 8)
    np.testing.assert_array_equal(evaluate(total, word.as_value(), stimulus), values.sum(1))
    np.testing.assert_array_equal(evaluate(largest, word.as_value(), stimulus), values.max(1))


@pytest.mark.parametrize("cycles", [0, 1, 3])
def test_delay_keeps_the_layout(cycles):
    word, m = Signal(data.ArrayLayout(signed(8), 2)), Module()
    late = delay(m, word, cycles, name="word")
    m.d.sync += Signal().eq(late[0])
    seen = []

    async def bench(ctx):
        for number in range(-5, 5):
            ctx.set(word[1], number)
            seen.append(ctx.get(late[1]))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == [*[0] * cycles, *range(-5, 5 - cycles)]


@pytest.mark.parametrize(("call", "text"), [(lambda: tree_sum([]), "at least 1"), (lambda: round_shift(Signal(4), -1), "at least 0")])
def test_bad_arguments_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
