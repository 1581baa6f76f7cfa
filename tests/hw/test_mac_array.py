import os
from dataclasses import dataclass

import cocotb
import numpy as np
import pytest
from amaranth import C, Mux
from cocotb.triggers import RisingEdge

from vitloom.hw.arith import tree_sum
from vitloom.hw.array.mac_array import MacArray
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import LoadDirection, Mode
from vitloom.model.matmul import int8_matmul, log2_matmul
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

INT8, LOG2 = Mode.INT8.value, Mode.LOG2.value
COLUMN = LoadDirection.COLUMN.value
CORNERS = np.array([-128, 127, -1, 0, 1], np.int8)


@dataclass
class Inputs:
    """What the ports carry in each cycle."""

    moving: np.ndarray
    mode: np.ndarray
    swap: np.ndarray
    words: np.ndarray
    valid: np.ndarray
    first: np.ndarray
    direction: np.ndarray


def random_bytes(rng, shape):
    """Random int8 with many corner values."""
    return np.where(rng.random(shape) < 0.3, rng.choice(CORNERS, shape), rng.integers(-128, 128, shape)).astype(np.int8)


def schedule(rng, lanes, modes, rows, gaps, tiles=24):
    """Inputs for ``tiles`` tiles of ``rows`` rows each, as tightly as the rules allow, and the list of (cycle, sums of the row)."""
    cycles = tiles * (max(rows, lanes) + 3 * gaps * lanes) + 6 * lanes
    inputs = Inputs(
        moving=random_bytes(rng, (cycles, lanes)),
        mode=rng.choice(modes, cycles),
        swap=np.zeros(cycles, bool),
        words=random_bytes(rng, (cycles, lanes)),
        valid=np.zeros(cycles, bool),
        first=rng.random(cycles) < 0.5,
        direction=rng.integers(0, 2, cycles),
    )
    fetch, stream, expected = 0, 0, []
    for index in range(tiles):
        tile, direction = random_bytes(rng, (lanes, lanes)), rng.integers(0, 2) if gaps else index // 2 % 2
        fetch += gaps * int(rng.integers(0, lanes))
        stream = max(stream, fetch + lanes) + gaps * int(rng.integers(0, lanes))
        inputs.words[fetch : fetch + lanes] = tile.T if direction == COLUMN else tile
        inputs.valid[fetch : fetch + lanes], inputs.direction[fetch : fetch + lanes] = True, direction
        inputs.first[fetch : fetch + lanes] = np.arange(lanes) == 0
        inputs.swap[stream] = True
        for cycle in range(stream, stream + rows):
            word = inputs.moving[cycle]
            if inputs.mode[cycle] == LOG2:
                sums = log2_matmul((word & 15).astype(np.uint8)[None], tile)
            else:
                sums = int8_matmul(word[None], np.ascontiguousarray(tile.T))
            expected.append((cycle, sums[0]))
        fetch, stream = stream, stream + rows
    return inputs, expected


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(rows_per_lane=[0, 1, 5], more_rows=[0, 1], gaps=[False, True])
async def products_match_numpy(dut, rows_per_lane, more_rows, gaps):
    lanes, modes, latency = int(os.environ["LANES"]), [int(mode) for mode in os.environ["MODES"]], int(os.environ["LATENCY"])
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    inputs, expected = schedule(rng, lanes, modes, max(rows_per_lane * lanes + more_rows, 1), gaps)
    start_clock(dut)
    await reset(dut)
    outputs = []
    for cycle in range(len(inputs.moving)):
        dut.moving__data.value = pack(inputs.moving[cycle])
        dut.moving__mode.value = int(inputs.mode[cycle])
        dut.moving__swap.value = int(inputs.swap[cycle])
        dut.stationary__data.value = pack(inputs.words[cycle])
        dut.stationary__valid.value = int(inputs.valid[cycle])
        dut.stationary__first.value = int(inputs.first[cycle])
        dut.stationary__direction.value = int(inputs.direction[cycle])
        await RisingEdge(dut.clk)
        outputs.append(unpack(dut.sums.value.to_unsigned(), lanes, len(dut.sums) // lanes))
    outputs = np.array(outputs)
    columns = np.arange(lanes)
    got = np.array([outputs[cycle + latency + columns, columns] for cycle, _ in expected])
    np.testing.assert_array_equal(got, [sums for _, sums in expected])


class ShiftAndAdd(MacArray):
    """An array without multipliers."""

    def multiply(self, m, operand, weight):
        terms = [Mux(weight[bit], operand, C(0)).shift_left(bit) for bit in range(8)]
        return tree_sum(terms[:7]) - terms[7]


@pytest.mark.parametrize(
    ("lanes", "modes", "kind"),
    [(4, ("int8", "log2"), MacArray), (12, ("int8", "log2"), MacArray), (4, ("int8",), MacArray), (4, ("int8", "log2"), ShiftAndAdd)],
)
def test_mac_array_multiplies_tile_after_tile(lanes, modes, kind, tmp_path):
    array = kind(CoreConfig(lanes=lanes, modes=modes))
    codes = "".join(str(Mode[mode.upper()].value) for mode in modes)
    model = build(array, name=f"{kind.__name__.lower()}_{lanes}_{'_'.join(modes)}")
    run(model, __file__, test_dir=tmp_path, seed=1, env={"LANES": str(lanes), "MODES": codes, "LATENCY": str(array.latency)})
