import os
from dataclasses import dataclass
from itertools import product

import cocotb
import numpy as np
import pytest
from amaranth import C, Mux
from cocotb.triggers import RisingEdge

from vitloom.hw.arith import tree_sum
from vitloom.hw.array.mac_array import MacArray
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import Codebook, LoadDirection, Mode
from vitloom.model.matmul import LOG2_WEIGHTS, SQRT2_WEIGHTS, int8_matmul, log2_matmul
from vitloom.model.packing import unpack_values
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

INT8, LOG2, INT4, INT2, BINARY = (Mode[name].value for name in ("INT8", "LOG2", "INT4", "INT2", "BINARY"))
UNIT = Codebook.UNIT.value
BITS = {INT4: 4, INT2: 2, BINARY: 1}
#: A tile of one of these modes serves rows of all of them.
WHOLE_BYTES = (INT8, LOG2)
COLUMN = LoadDirection.COLUMN.value
CORNERS = np.array([-128, 127, -1, 0, 1], np.int8)


@dataclass
class Inputs:
    """What the ports carry in each cycle."""

    moving: np.ndarray
    mode: np.ndarray
    codebook: np.ndarray
    zero: np.ndarray
    keep: np.ndarray
    swap: np.ndarray
    words: np.ndarray
    valid: np.ndarray
    first: np.ndarray
    direction: np.ndarray
    tile_mode: np.ndarray


def random_bytes(rng, shape):
    """Random int8 with many corner values."""
    return np.where(rng.random(shape) < 0.3, rng.choice(CORNERS, shape), rng.integers(-128, 128, shape)).astype(np.int8)


def products(inputs, cycle, tile):
    """Sums of the columns and sum of the row for the moving word of that cycle: integer products of the values, left-out bytes zero."""
    mode, keep, unit = inputs.mode[cycle], inputs.keep[cycle], inputs.codebook[cycle] == UNIT
    word = inputs.moving[cycle]
    if mode == LOG2:
        codes = np.where(keep, word & 15, 15).astype(np.uint8)
        return log2_matmul(codes[None], tile, SQRT2_WEIGHTS if unit else LOG2_WEIGHTS)[0], 0
    if mode == INT8:
        return int8_matmul((word * keep)[None], np.ascontiguousarray(tile.T))[0], 0
    bits = BITS[mode]
    moving = unpack_values(word.view(np.uint8)[:, None], bits, unit=mode == BINARY and unit).astype(int)
    moving = (moving - (inputs.zero[cycle] if mode == INT4 else 0)) * keep[:, None]
    weights = unpack_values(tile.view(np.uint8)[..., None], bits).astype(int)  # row, column, value
    sums = np.einsum("rv,rcv->c", moving, weights)
    if mode == BINARY:
        sums += moving.sum() if unit else 8 * keep.sum()
    return sums, moving.sum()


def random_inputs(rng, lanes, modes, cycles):
    """Inputs without a tile."""
    narrow = any(mode in BITS for mode in modes)
    return Inputs(
        moving=random_bytes(rng, (cycles, lanes)),
        mode=rng.choice(modes, cycles),
        codebook=rng.integers(0, 2, cycles) * narrow,
        zero=rng.integers(-8, 8, cycles),
        keep=rng.random((cycles, lanes)) < rng.choice([0.0, 0.5, 1.0, 1.0, 1.0], (cycles, 1)) if narrow else np.ones((cycles, lanes), bool),
        swap=np.zeros(cycles, bool),
        words=random_bytes(rng, (cycles, lanes)),
        valid=np.zeros(cycles, bool),
        first=rng.random(cycles) < 0.5,
        direction=rng.integers(0, 2, cycles),
        tile_mode=rng.choice(modes, cycles),
    )


def exhaustive(rng, lanes, modes):
    """Inputs in which every operand of every mode meets every weight, and the rows as :func:`schedule`.

    Of a row one byte is kept, or all in an array without narrow modes.
    """
    narrow = any(mode in BITS for mode in modes)
    unit = [(False, 0), (True, 0)] if narrow else [(False, 0)]
    operands = {mode: [(byte, *setting) for byte in range(256) for setting in unit] for mode in modes}
    if LOG2 in modes:
        operands[LOG2] = operands[LOG2][: 16 * len(unit)]
    if INT4 in modes:
        # One byte and zero point for each pair of differences.
        differences = {(low - z, high - z): (low & 15 | (high & 15) << 4, False, z) for low, high, z in product(range(-8, 8), repeat=3)}
        operands[INT4] = list(differences.values())
    cycles, expected = lanes, []
    inputs = random_inputs(rng, lanes, modes, sum(map(len, operands.values())) * 256 // lanes + 4 * lanes)
    for mode, weights in product(modes, range(0, 256, lanes)):
        tile = np.tile(np.arange(weights, weights + lanes).astype(np.uint8).view(np.int8), (lanes, 1))
        load, rows = slice(cycles - lanes, cycles), slice(cycles, cycles + len(operands[mode]))
        inputs.words[load], inputs.valid[load], inputs.direction[load], inputs.tile_mode[load] = tile, True, 1 - COLUMN, mode
        inputs.first[load], inputs.swap[cycles] = np.arange(lanes) == 0, True
        bytes_, units, zeros = map(np.array, zip(*operands[mode], strict=True))
        inputs.moving[rows] = bytes_.astype(np.uint8).view(np.int8)[:, None]
        inputs.codebook[rows], inputs.zero[rows], inputs.mode[rows] = np.where(units, UNIT, 1 - UNIT), zeros, mode
        if narrow:
            inputs.keep[rows] = np.arange(lanes) == rng.integers(0, lanes, (len(bytes_), 1))
        expected += [(cycle, *products(inputs, cycle, tile)) for cycle in range(rows.start, rows.stop)]
        cycles = rows.stop
    return inputs, expected


def schedule(rng, lanes, modes, rows, gaps, tiles=24):
    """Inputs for ``tiles`` tiles of ``rows`` rows each, as tightly as the rules allow, and (cycle, sums, row sum) of each row."""
    inputs = random_inputs(rng, lanes, modes, tiles * (max(rows, lanes) + 3 * gaps * lanes) + 6 * lanes)
    fetch, stream, expected = 0, 0, []
    for index in range(tiles):
        tile, direction = random_bytes(rng, (lanes, lanes)), rng.integers(0, 2) if gaps else index // 2 % 2
        fetch += gaps * int(rng.integers(0, lanes))
        stream = max(stream, fetch + lanes) + gaps * int(rng.integers(0, lanes))
        inputs.words[fetch : fetch + lanes] = tile.T if direction == COLUMN else tile
        inputs.valid[fetch : fetch + lanes], inputs.direction[fetch : fetch + lanes] = True, direction
        inputs.first[fetch : fetch + lanes] = np.arange(lanes) == 0
        mode = rng.choice(modes)
        inputs.tile_mode[fetch : fetch + lanes] = mode
        inputs.mode[stream : stream + rows] = rng.choice([m for m in modes if m in WHOLE_BYTES], rows) if mode in WHOLE_BYTES else mode
        inputs.swap[stream] = True
        expected += [(cycle, *products(inputs, cycle, tile)) for cycle in range(stream, stream + rows)]
        fetch, stream = stream, stream + rows
    return inputs, expected


async def check(dut, inputs, expected):
    """Put the inputs to the ports, cycle by cycle, and compare what comes out for the rows."""
    lanes, latency, narrow = int(os.environ["LANES"]), int(os.environ["LATENCY"]), hasattr(dut, "row_sum")
    start_clock(dut)
    await reset(dut)
    outputs, row_sums = [], []
    for cycle in range(len(inputs.moving)):
        dut.moving__data.value = pack(inputs.moving[cycle])
        dut.moving__mode.value = int(inputs.mode[cycle])
        dut.moving__swap.value = int(inputs.swap[cycle])
        dut.stationary__data.value = pack(inputs.words[cycle])
        dut.stationary__valid.value = int(inputs.valid[cycle])
        dut.stationary__first.value = int(inputs.first[cycle])
        dut.stationary__direction.value = int(inputs.direction[cycle])
        if narrow:
            dut.moving__codebook.value = int(inputs.codebook[cycle])
            dut.moving__zero.value = int(inputs.zero[cycle])
            dut.moving__keep.value = pack(inputs.keep[cycle], 1)
            dut.stationary__mode.value = int(inputs.tile_mode[cycle])
        await RisingEdge(dut.clk)
        if narrow:
            row_sums.append(dut.row_sum.value.to_signed())
        outputs.append(unpack(dut.sums.value.to_unsigned(), lanes, len(dut.sums) // lanes))
    outputs, cycles, columns = np.array(outputs), np.array([cycle for cycle, _, _ in expected]), np.arange(lanes)
    np.testing.assert_array_equal(outputs[cycles[:, None] + latency + columns, columns], [sums for _, sums, _ in expected])
    if narrow:
        np.testing.assert_array_equal(np.array(row_sums)[cycles + latency], [total for _, _, total in expected])


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(rows_per_lane=[0, 1, 5], more_rows=[0, 1], gaps=[False, True])
async def products_match_numpy(dut, rows_per_lane, more_rows, gaps):
    lanes, modes = int(os.environ["LANES"]), [int(mode) for mode in os.environ["MODES"]]
    assert hasattr(dut, "row_sum") == any(mode in BITS for mode in modes)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await check(dut, *schedule(rng, lanes, modes, max(rows_per_lane * lanes + more_rows, 1), gaps))


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def every_product_is_exact(dut):
    lanes, modes = int(os.environ["LANES"]), [int(mode) for mode in os.environ["MODES"]]
    if any(mode in BITS for mode in modes) or "MULTIPLIERS" in os.environ:
        await check(dut, *exhaustive(np.random.default_rng(cocotb.RANDOM_SEED), lanes, modes))


class ShiftAndAdd(MacArray):
    """An array without multipliers."""

    def multiply(self, m, operand, weight):
        terms = [Mux(weight[bit], operand, C(0)).shift_left(bit) for bit in range(8)]
        return tree_sum(terms[:7]) - terms[7]


ALL = ("int8", "log2", "int4", "int2", "binary")


@pytest.mark.parametrize(
    ("lanes", "modes", "multipliers", "kind"),
    [
        (4, ("int8", "log2"), 6, MacArray),
        (12, ("int8", "log2"), 0, MacArray),
        (4, ("int8",), 1, MacArray),
        (4, ("int8", "log2"), 0, ShiftAndAdd),
        (8, ALL, 0, MacArray),
        (8, ("binary",), 0, MacArray),
        (8, ("int2", "binary"), 0, MacArray),
        (16, ("int8", "int4"), 0, MacArray),
    ],
)
def test_mac_array_multiplies_tile_after_tile(lanes, modes, multipliers, kind, tmp_path):
    array = kind(CoreConfig(lanes=lanes, modes=modes, array_multipliers=multipliers))
    codes = "".join(str(Mode[mode.upper()].value) for mode in modes)
    model = build(array, name=f"{kind.__name__.lower()}_{lanes}_{multipliers}_{'_'.join(modes)}")
    env = {"LANES": str(lanes), "MODES": codes, "LATENCY": str(array.latency)}
    run(model, __file__, test_dir=tmp_path, seed=1, env=env | ({"MULTIPLIERS": str(multipliers)} if multipliers else {}))
