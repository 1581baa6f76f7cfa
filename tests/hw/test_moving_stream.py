import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.array.moving import MovingStream
from vitloom.hw.config import CoreConfig
from vitloom.hw.scratchpad import READ_LATENCY
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

CONFIG = CoreConfig(lanes=8, modes=("int8", "int4", "binary"), accumulator_rows=32)
BODY = isa.BODIES[isa.Opcode.MATMUL]
TILE = ("output", "residual", "part", "block", "pack_rows", "output_packing", "last")


def random_matmul(rng):
    packing = int(rng.integers(4))
    k_tiles = int(rng.integers(1, 4))
    return {
        "mode": int(rng.choice([isa.Mode.INT8.value, isa.Mode.INT4.value, isa.Mode.BINARY.value])),
        "codebook": int(rng.integers(2)),
        "moving_zero": int(rng.integers(-8, 8)),
        "rows": int(rng.integers(1, 20)),
        "k_tiles": k_tiles,
        "n_tiles": int(rng.integers(1, 12)),
        "moving": int(rng.integers(1000)),
        "moving_row": int(rng.integers(1, 10)),
        "moving_k": int(rng.integers(1, 10)),
        "k_skip": int(rng.choice([0, rng.integers(CONFIG.lanes)])),
        "k_pad": int(rng.choice([0, rng.integers(CONFIG.lanes)])),
        "output": int(rng.integers(1000)),
        "output_n": int(rng.integers(1, 10)),
        "residual": int(rng.integers(1000)),
        "output_packing": packing,
        "pack_rows": int(rng.integers(2)),
        "part": int(rng.integers(1 << packing)),
        "constant": int(rng.integers(100)),
        "constant_n": int(rng.integers(2)),
    }


def kept(f, k):
    """Bytes of the words of k tile k that count."""
    byte = np.arange(CONFIG.lanes)
    skipped = (byte < f["k_skip"]) & (k == 0)
    padded = (byte >= CONFIG.lanes - f["k_pad"]) & (k == f["k_tiles"] - 1)
    return ~skipped & ~padded


def result_tiles(f):
    """What the drain is told of each n tile, by the text of the instruction set."""
    for n in range(f["n_tiles"]):
        words, part = divmod(f["part"] + n, 1 << f["output_packing"])
        if f["pack_rows"]:
            words, part = n, None
        yield {
            "output": f["output"] + words * f["output_n"],
            "residual": f["residual"] + n * f["output_n"],
            "part": part,
            "block": f["constant"] + n * f["constant_n"],
            "pack_rows": f["pack_rows"],
            "output_packing": f["output_packing"],
            "last": int(n == f["n_tiles"] - 1),
        }


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def rows_come_with_their_operand_and_tiles_with_their_place(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    instructions = [random_matmul(rng) for _ in range(40)]
    dut.body__valid.value = dut.drain_ready.value = dut.full.value = 0
    start_clock(dut)
    await reset(dut)
    words = rng.integers(-128, 128, (4096, CONFIG.lanes)).astype(np.int8)
    pending, rows, tiles, offered, cycle = {}, [], [], 0, 0
    layout = MovingStream(CONFIG).signature.members["tile"].shape
    passes = [(f, k) for f in instructions for _ in range(f["n_tiles"]) for k in range(f["k_tiles"])]
    expected_rows = [(f, k, row) for f, k in passes for row in range(f["rows"])]
    while len(rows) < len(expected_rows):
        dut.body__valid.value = int(offered < len(instructions))
        dut.body__payload.value = isa.pack(BODY, instructions[min(offered, len(instructions) - 1)])
        dut.full.value, dut.drain_ready.value = int(rng.random() < 0.8), int(rng.random() < 0.8)
        asked = pending.pop(cycle, None)
        dut.read__data.value = pack(words[0 if asked is None else asked])
        await RisingEdge(dut.clk)
        offered += int(dut.body__valid.value and dut.body__ready.value)
        if dut.begin.value:
            tiles.append(isa.unpack(layout, dut.tile.value.to_unsigned()))
        if dut.read__enable.value:
            pending[cycle + READ_LATENCY] = dut.read__address.value.to_unsigned()
        if asked is not None:
            operand = {name: int(getattr(dut, f"moving__{name}").value) for name in ("mode", "codebook")}
            keep = unpack(dut.moving__keep.value.to_unsigned(), CONFIG.lanes, 1, signed=False)
            data = unpack(dut.moving__data.value.to_unsigned(), CONFIG.lanes)
            rows.append((asked, operand, dut.moving__zero.value.to_signed(), keep, data))
        cycle += 1
    for (f, k, row), (address, operand, zero, keep, data) in zip(expected_rows, rows, strict=True):
        assert address == f["moving"] + row * f["moving_row"] + k * f["moving_k"]
        assert operand == {name: f[name] for name in operand}
        assert zero == f["moving_zero"]
        np.testing.assert_array_equal(keep, kept(f, k))
        np.testing.assert_array_equal(data, words[address])
    expected_tiles = [tile for f in instructions for tile in result_tiles(f)]
    for tile, expected in zip(tiles, expected_tiles, strict=True):
        assert {name: tile[name] for name in TILE if expected[name] is not None} == {n: v for n, v in expected.items() if v is not None}


def test_moving_stream(tmp_path):
    run(build(MovingStream(CONFIG), name="moving_stream"), __file__, test_dir=tmp_path, seed=5)
