import os
from dataclasses import dataclass, field

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.boards.out_of_context import synthesize
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig, preset
from vitloom.hw.epilogue.epilogue import PLACING, Epilogue
from vitloom.hw.epilogue.lane import settings_layout
from vitloom.hw.isa import Form
from vitloom.hw.scratchpad import PARTS
from vitloom.model.packing import pack_rows, pack_values
from vitloom.model.requantize import apply_table, narrow, requantize, requantize_raw, requantize_residual
from vitloom.sim.runner import run_component
from vitloom.sim.streams import pack, reset, start_clock

INT32 = np.iinfo(np.int32)


def config(lanes, epilogue_lanes, modes="int8+log2"):
    return CoreConfig(lanes=int(lanes), epilogue_lanes=int(epilogue_lanes), modes=tuple(modes.split("+")), constant_channels=64)


@dataclass
class Row:
    """One output row of L channels with everything it is made of."""

    form: Form
    block: int
    settings: dict
    acc: np.ndarray
    residual: np.ndarray
    row_sum: int = 0
    placing: dict = field(default_factory=lambda: {"ends": 1})

    @property
    def bits(self):
        return 8 >> self.settings.get("output_packing", 0)


def pick(rng, shape, corners, low, high):
    """Random integers of low .. high, every third one a corner."""
    return np.where(rng.random(shape) < 1 / 3, rng.choice(corners, shape), rng.integers(low, high, shape, endpoint=True))


def random_constants(rng, channels):
    return {
        "bias": pick(rng, channels, [0, INT32.min, INT32.max], -(1 << 20), 1 << 20).astype(np.int32),
        "multiplier": pick(rng, channels, [0, 1, 0x8000, 0xFFFF], 0x8000, 0xFFFF).astype(np.uint16),
        "shift": pick(rng, channels, [1, 32], 1, 32).astype(np.uint8),
        "row_sum": pick(rng, channels, [-16, -1, 15], -16, 15).astype(np.int8),
        "residual_shift": pick(rng, channels, [0, 31], 0, 31).astype(np.uint8),
    }


def random_settings(rng, config):
    """A form with its settings, random rows of which make a word, and how many rows."""
    form = Form(int(rng.integers(4)))
    settings = {
        "table": int(rng.integers(config.tables)),
        "zero_out": int(pick(rng, (), [-128, 0, 127], -128, 127)),
        "residual_zero": int(pick(rng, (), [-128, 0, 127], -128, 127)),
        "residual_multiplier": int(pick(rng, (), [0, 0xFFFF], 0, 0xFFFF)),
        "masked": int(rng.integers(2)),
    }
    if not config.narrow or form in (Form.RAW, Form.RESIDUAL):
        return form, settings, [{"ends": 1}]
    settings["output_packing"] = int(rng.integers(4))
    parts = 1 << settings["output_packing"]
    if rng.random() < 0.5:
        return form, settings, [{"part": int(rng.integers(parts)), "ends": 1}]
    rows = int(rng.integers(1, 2 * parts + 1))
    ends = [row % parts == 0 or row == rows for row in range(1, rows + 1)]
    return form, settings, [{"pack_rows": 1, "part": row % parts, "ends": end} for row, end in enumerate(ends)]


def random_rows(rng, config, constants, count):
    """Rows of several instructions, whole instructions, ``count`` rows at least."""
    rows = []
    while len(rows) < count:
        form, settings, placings = random_settings(rng, config)
        block = int(rng.integers(len(constants["bias"])))
        rows += [random_row(rng, config, constants, block, form, settings, placing) for placing in placings]
    return rows


def random_row(rng, config, constants, block, form, settings, placing):
    """Sums that are extreme, or whose result is near the range of int8, a third of them a tie."""
    bias, multiplier, shift, zero = (constants[name][block].astype(np.int64) for name in ("bias", "multiplier", "shift", "row_sum"))
    step = (1 << shift) // np.maximum(multiplier, 1)
    near = pick(rng, config.lanes, [-129, -128, 127, 128], -200, 200) * step + pick(rng, config.lanes, [0], -40, 40) * step // 80
    ties = (2 * rng.integers(-130, 130, config.lanes) + 1) * step // 2
    extreme = pick(rng, config.lanes, [INT32.min, INT32.max, 0], INT32.min, INT32.max)
    total = np.choose(rng.integers(0, 3, config.lanes), [near, ties, extreme])
    residual = pick(rng, config.lanes, [-128, 127], -128, 127).astype(np.int8)
    if form == Form.RESIDUAL and rng.random() < 0.7:  # the sum is near the range, not the product
        residual_shift = constants["residual_shift"][block].astype(np.int64)
        term = (residual.astype(np.int64) - settings["residual_zero"]) * settings["residual_multiplier"] << residual_shift
        total = total - term // np.maximum(multiplier, 1)
    limit = 1 << config.row_sum_bits - 1
    row_sum = int(pick(rng, (), [-limit, 0, limit - 1], -1000, 1000)) if config.narrow else 0
    # The sum with its correction fits 32 bits, as it does without.
    acc = np.clip(np.clip(np.clip(total, INT32.min, INT32.max) - bias, INT32.min, INT32.max) - row_sum * zero, INT32.min, INT32.max)
    return Row(form, block, settings, acc.astype(np.int32), residual, row_sum, placing)


def corrected(row, constants):
    return row.acc.astype(np.int64) + row.row_sum * constants["row_sum"][row.block].astype(np.int64)


def golden(row, constants, tables):
    """The row's results before they are clipped, as bytes."""
    bias, multiplier, shift, residual_shift = (constants[name][row.block] for name in ("bias", "multiplier", "shift", "residual_shift"))
    arguments = (corrected(row, constants).astype(np.int32), bias, multiplier, shift)
    if row.form == Form.RAW:
        return requantize_raw(*arguments).view(np.int8)
    if row.form == Form.RESIDUAL:
        other = (row.residual, row.settings["residual_zero"], row.settings["residual_multiplier"], residual_shift)
        result = requantize_residual(*arguments, row.settings["zero_out"], *other)
        return np.where(row.residual == -128, -128, np.maximum(result, -127)).astype(np.int8) if row.settings["masked"] else result
    result = requantize(*arguments, row.settings["zero_out"])
    return apply_table(result, tables[row.settings["table"]]) if row.form == Form.TABLE else result


def expected_words(rows, results, lanes):
    """Bytes of the words that the rows give, and which bytes are valid: (words, L) uint8 and bool."""
    words, valid, column = [], [], []
    for row, result in zip(rows, results, strict=True):
        values, place, parts = narrow(result, row.bits), row.placing, 8 // row.bits
        if place.get("pack_rows"):
            column.append(values)
            if place["ends"]:
                words.append(pack_rows(np.stack(column), row.bits))
                column = []
        else:
            words.append(np.tile(pack_values(values, row.bits), parts).reshape(-1, lanes))
        if place["ends"]:
            whole = parts == 1 or "pack_rows" in place
            valid.append(np.broadcast_to(whole | (np.arange(lanes) * parts // lanes == place.get("part")), words[-1].shape))
    return np.concatenate(words), np.concatenate(valid)


def settings_word(config, row):
    return isa.pack(settings_layout(config), {"form": row.form, **row.settings})


async def start(dut):
    start_clock(dut)
    dut.i__valid.value = dut.constants__enable.value = dut.table__enable.value = 0
    await reset(dut)


async def write_constants(dut, config, constants):
    """constants: the fields of isa.CONSTANT_RECORD, each (blocks, L)."""
    channels = zip(*(value.ravel() for value in constants.values()), strict=True)
    packed = [isa.pack(isa.CONSTANT_RECORD, dict(zip(constants, channel, strict=True))) for channel in channels]
    records = b"".join(record.to_bytes(8, "little") for record in packed)
    dut.constants__enable.value = 1
    for address in range(len(records) // config.lanes):
        dut.constants__address.value = address
        dut.constants__data.value = int.from_bytes(records[address * config.lanes :][: config.lanes], "little")
        await RisingEdge(dut.clk)
    dut.constants__enable.value = 0


async def write_tables(dut, tables):
    dut.table__enable.value = 1
    for address, entry in enumerate(tables.ravel()):
        dut.table__address.value = address
        dut.table__data.value = int(entry) & 0xFF
        await RisingEdge(dut.clk)
    dut.table__enable.value = 0


async def present(dut, config, rows, rng, idle):
    """Present the groups as early as the rules allow, or with idle cycles; return words, which of their bytes
    are valid, their cycles and the cycles that are declared.
    """
    lanes, raw_words = config.epilogue_lanes, 4 * config.epilogue_lanes // config.lanes
    groups = [(row, group) for row in rows for group in range(config.groups)]
    words, valid, cycles, wanted = [], [], [], []
    latency = Epilogue.latency(config)
    hold, cycle = 0, 0
    while len(cycles) < len(wanted) or groups:
        dut.i__valid.value = go = int(bool(groups) and hold == 0 and rng.random() >= idle)
        hold = max(hold - 1, 0)
        if go:
            row, group = groups.pop(0)
            part = slice(group * lanes, (group + 1) * lanes)
            dut.i__acc.value = pack(row.acc[part], 32)
            dut.i__residual.value = pack(row.residual[part])
            dut.i__constant.value = row.block * config.groups + group
            dut.i__settings.value = settings_word(config, row)
            if config.narrow:
                dut.i__row_sum.value = row.row_sum & (1 << config.row_sum_bits) - 1
                dut.i__placing.value = isa.pack(PLACING, row.placing)
            if row.form == Form.RAW:
                wanted += [cycle + latency + word for word in range(raw_words)]
                hold = raw_words - 1
            elif group == config.groups - 1 and row.placing["ends"]:
                wanted.append(cycle + latency)
        await RisingEdge(dut.clk)
        if dut.o__valid.value:
            words.append(dut.o__data.value.to_unsigned().to_bytes(config.lanes, "little"))
            valid.append(dut.o__parts.value.to_unsigned() if config.narrow else (1 << PARTS) - 1)
            cycles.append(cycle)
        cycle += 1
        assert not wanted or cycle < wanted[-1] + 1000, "a word did not come"
    mask = np.array(valid)[:, None] >> np.arange(config.lanes) * PARTS // config.lanes & 1 == 1
    return np.frombuffer(b"".join(words), np.uint8).reshape(mask.shape), mask, cycles, wanted


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.5])
async def all_forms_mixed(dut, idle):
    config_ = config(*os.environ["CONFIG"].split())
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    blocks = config_.constant_channels // config_.lanes
    constants = {name: value.reshape(blocks, -1) for name, value in random_constants(rng, blocks * config_.lanes).items()}
    tables = rng.integers(-128, 128, (config_.tables, 256), dtype=np.int8)
    rows = random_rows(rng, config_, constants, 4800 // config_.lanes * (2 if config_.narrow else 1))
    results = [golden(row, constants, tables) for row in rows]
    check_coverage(rows, results, constants)
    await start(dut)
    await write_constants(dut, config_, constants)
    await write_tables(dut, tables)
    words, valid, cycles, wanted = await present(dut, config_, rows, rng, idle)
    np.testing.assert_array_equal(cycles, wanted)
    expected, expected_valid = expected_words(rows, results, config_.lanes)
    np.testing.assert_array_equal(valid, expected_valid)
    np.testing.assert_array_equal(np.where(valid, words, 0), np.where(valid, expected, 0))


def check_coverage(rows, results, constants):
    """The stimulus reaches both ends of each form's range, and ties of either sign."""
    for form in (Form.REQUANTIZE, Form.RESIDUAL):
        values = np.concatenate([result for row, result in zip(rows, results, strict=True) if row.form == form])
        assert {-128, 127} <= set(values)
        assert len(set(values)) > 100
    masked = [index for index, row in enumerate(rows) if row.form == Form.RESIDUAL and row.settings["masked"]]
    residual, result = (np.concatenate([values[index] for index in masked]) for values in ([row.residual for row in rows], results))
    assert (result[residual == -128] == -128).any() and (result[residual != -128] == -127).sum() > 10
    logits = np.concatenate([result for row, result in zip(rows, results, strict=True) if row.form == Form.RAW]).view(np.int32)
    assert {INT32.min, INT32.max} <= set(logits)
    assert {(row.form, row.settings["table"]) for row in rows} >= {(Form.TABLE, 0), (Form.TABLE, 1)}
    shift = np.stack([constants["shift"][row.block] for row in rows]).astype(np.int64)
    product = np.stack([(corrected(row, constants) + constants["bias"][row.block]) * constants["multiplier"][row.block] for row in rows])
    ties = (product & ((1 << shift) - 1)) == 1 << (shift - 1)
    assert (ties & (product > 0)).any() and (ties & (product < 0)).any()


@cocotb.test(timeout_time=100, timeout_unit="us")
async def sum_of_33_bits(dut):
    config_ = config(*os.environ["CONFIG"].split())
    ones = np.ones((1, config_.lanes), np.int64)
    await start(dut)
    for value in (INT32.max, INT32.min):
        fields = {"bias": value, "multiplier": 0xFFFF, "shift": 32, "row_sum": 0, "residual_shift": 0}
        await write_constants(dut, config_, {name: ones * field for name, field in fields.items()})
        row = Row(Form.RAW, 0, {}, (ones[0] * value).astype(np.int32), np.zeros(config_.lanes, np.int8))
        words, *_ = await present(dut, config_, [row], np.random.default_rng(0), 0.0)
        result = (2 * int(value) * 0xFFFF + (1 << 31)) >> 32
        np.testing.assert_array_equal(words.ravel().view(np.int32), np.full(config_.lanes, result))


@pytest.mark.parametrize(
    "sizes", ["8 2", "8 4", "8 8", "4 1", "12 3", "8 2 int8+int4", "8 4 log2+binary", "8 8 int8+int2", "16 8 int8+log2+int4+int2+binary"]
)
def test_epilogue_equals_the_golden_model_in_the_declared_cycles(sizes, tmp_path):
    component = Epilogue(config(*sizes.split()))
    run_component(component, name="epilogue", test_module=__file__, test_dir=tmp_path, env={"CONFIG": sizes}, seed=int(sizes.split()[0]))


def test_memories_are_block_ram_and_products_are_multipliers(tmp_path):
    cells = synthesize(Epilogue(preset("ulx3s-85f")), "epilogue", directory=tmp_path)
    assert cells["DP16KD"] == 4 + 2  # 512 rows of 128 bits; a table memory for each of two lanes
    assert cells["DPR16X4"] == 0
    assert cells["MULT18X18D"] == 3 * 2
