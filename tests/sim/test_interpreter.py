"""Single instructions on random memories, against their byte pairs and entries one by one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import Codebook, Form, LoadDirection, Mode, Opcode, Target
from vitloom.hw.load_targets import table_words
from vitloom.model.layer_norm import layer_norm
from vitloom.model.log_softmax import coded_softmax, exp_table, log_table
from vitloom.sim.interpreter import Interpreter

L = 8
CONFIG = CoreConfig(
    lanes=L, modes=("int8", "log2", "int4", "int2", "binary"), scratchpad_bytes=1 << 15, constant_channels=64, norm_channels=64, map_rows=16
)
PACKING = {Mode.INT8: 0, Mode.LOG2: 0, Mode.INT4: 1, Mode.INT2: 2, Mode.BINARY: 3}


def _interpreter(opcode: Opcode, **fields: Any) -> Any:
    """An interpreter of one instruction; its memories hold noise."""
    word = isa.pack(isa.HEADER, {"opcode": opcode.value}) | isa.pack(isa.BODIES[opcode], fields) << isa.HEADER.size
    program: Any = SimpleNamespace(config=CONFIG, words=lambda: [word], memory_words=256, memory_image=b"")
    return Interpreter(program)


def _signed(code: int, bits: int) -> int:
    if bits == 1:
        return 2 * code - 1
    return code - (1 << bits) if code >> bits - 1 else code


def _products(mode: Mode, codebook: Codebook, moving: int, weight: list[int], zero: int) -> tuple[int, int]:
    """Product of a byte and the weights against it, and what the byte adds to the row sum."""
    bits = 8 >> PACKING[mode]
    codes = [moving >> bits * place & (1 << bits) - 1 for place in range(8 // bits)]
    if mode is Mode.LOG2:
        code = moving & 15
        octaves = code / 2 if codebook is Codebook.UNIT else code
        return (0 if code == 15 else round(2 ** (14 - octaves))) * weight[0], 0
    if mode is Mode.BINARY:
        signs = sum((w > 0) << place for place, w in enumerate(weight))
        if codebook is Codebook.UNIT:
            return 2 * (moving & signs).bit_count(), moving.bit_count()
        return 2 * (~(moving ^ signs) & 255).bit_count(), 2 * moving.bit_count() - 8
    values = [_signed(code, bits) - zero for code in codes]
    return sum(x * w for x, w in zip(values, weight, strict=True)), sum(values) if mode is not Mode.INT8 else 0


_CASES = [
    *((mode, Codebook.SIGNED, LoadDirection.ROW, PACKING[mode]) for mode in Mode),
    *((mode, Codebook.SIGNED, LoadDirection.COLUMN, PACKING[mode]) for mode in Mode),
    *((mode, Codebook.UNIT, LoadDirection.ROW, PACKING[mode]) for mode in (Mode.LOG2, Mode.BINARY)),
    *((Mode.INT8, Codebook.SIGNED, LoadDirection.ROW, packing) for packing in (1, 2, 3)),
    *((Mode.INT4, Codebook.SIGNED, LoadDirection.ROW, packing) for packing in (2, 3)),
    (Mode.INT2, Codebook.SIGNED, LoadDirection.ROW, 3),
]


@pytest.mark.parametrize(("mode", "codebook", "direction", "packing"), _CASES)
@pytest.mark.parametrize(("output_packing", "pack_rows", "part"), [(0, 0, 0), (1, 0, 1), (2, 0, 3), (3, 0, 6), (1, 1, 0), (3, 1, 0)])
def test_a_product_is_the_sum_of_its_byte_pairs(mode, codebook, direction, packing, output_packing, pack_rows, part):
    rng = np.random.default_rng([mode.value, packing, output_packing, pack_rows])
    rows, k_tiles, n_tiles = 5, 2, 3
    zero = int(rng.integers(-8, 8)) if mode is Mode.INT4 else 0
    skip, pad = (int(count) for count in rng.integers(0, 4, 2))
    fields = {"rows": rows, "k_tiles": k_tiles, "n_tiles": n_tiles, "mode": mode, "codebook": codebook, "direction": direction}
    fields |= {"moving_row": k_tiles, "moving_k": 1, "moving_zero": zero, "k_skip": skip, "k_pad": pad}
    fields |= {"stationary": 100, "stationary_word": 1, "stationary_k": L, "stationary_n": L * k_tiles, "stationary_packing": packing}
    fields |= {"output": 300, "output_row": 40, "output_n": 7, "output_packing": output_packing, "pack_rows": pack_rows, "part": part}
    fields |= {"constant_n": 1, "form": Form.REQUANTIZE, "zero_out": 1}
    interpreter = _interpreter(Opcode.MATMUL, **fields)
    memory = interpreter.scratchpad
    if mode is Mode.LOG2:
        # Powers of two that together stay in 32 bits.
        memory[: rows * k_tiles] = rng.integers(2, 16, (rows * k_tiles, L))
    n = n_tiles * L
    row_sum, bias, multiplier = rng.integers(-16, 16, n), rng.integers(-100, 100, n), rng.integers(1, 4000, n)
    shift = np.full(n, {Mode.INT8: (22, 18, 17, 16)[packing], Mode.LOG2: 28}.get(mode, 15))
    for channel in range(n):
        values = {"bias": bias, "multiplier": multiplier, "shift": shift, "row_sum": row_sum}
        record = isa.pack(isa.CONSTANT_RECORD, {name: int(value[channel]) for name, value in values.items()})
        interpreter.memories[Target.CONSTANTS].reshape(-1)[8 * channel : 8 * channel + 8] = list(record.to_bytes(8, "little"))
    before = memory.copy()
    interpreter.execute(0)

    per_byte, bits = 1 << PACKING[mode], 8 >> packing
    results = np.zeros((rows, n), int)
    for row in range(rows):
        for channel in range(n):
            tile, column = divmod(channel, L)
            acc = total = 0
            for k in range(k_tiles):
                first = 100 + k * L + tile * L * k_tiles
                stored = before[first : first + L]
                stream = int.from_bytes((stored[:, column] if direction is LoadDirection.ROW else stored[column]).tobytes(), "little")
                for byte in range(skip if k == 0 else 0, L - (pad if k == k_tiles - 1 else 0)):
                    codes = (stream >> bits * (byte * per_byte + place) & (1 << bits) - 1 for place in range(per_byte))
                    moving = int(before[row * k_tiles + k, byte])
                    product, added = _products(mode, codebook, moving, [_signed(code, bits) for code in codes], zero)
                    acc, total = acc + product, total + added
            scaled = (acc + int(row_sum[channel]) * total + int(bias[channel])) * int(multiplier[channel])
            results[row, channel] = (scaled + (1 << int(shift[channel]) - 1) >> int(shift[channel])) + 1
    assert np.ptp(results) > 4
    expected = before.copy()
    for row in range(rows):
        for channel in range(n):
            _place(expected, fields, row, channel, int(results[row, channel]), rows)
    np.testing.assert_array_equal(memory, expected)


def _place(memory: np.ndarray, f: dict[str, Any], row: int, channel: int, result: int, rows: int) -> None:
    """Write one narrowed result at its bits."""
    tile, column = divmod(channel, L)
    bits, parts = 8 >> f["output_packing"], 1 << f["output_packing"]
    code = int(result >= 0) if bits == 1 else max(-(1 << bits - 1), min((1 << bits - 1) - 1, result)) % (1 << bits)
    if f["pack_rows"]:
        address = f["output"] + row // parts * f["output_row"] + tile * f["output_n"]
        byte, place = column, bits * (row % parts)
        if row == rows - 1:
            memory[address, byte] &= (1 << place) - 1  # rows missing in the last word are 0
    else:
        word, part = divmod(f["part"] + tile, parts)
        address = f["output"] + row * f["output_row"] + word * f["output_n"]
        byte, place = divmod(part * L * bits + column * bits, 8)
    mask = (1 << bits) - 1 << place
    memory[address, byte] = int(memory[address, byte]) & ~mask | code << place


@pytest.mark.parametrize("relative", [0, 1])
@pytest.mark.parametrize("packing", [0, 1, 2, 3])
def test_a_softmax_looks_its_codes_up_and_packs_them(packing, relative):
    rng = np.random.default_rng(packing)
    rows, words, columns = 4, 5, 37
    fields = {"rows": rows, "words": words, "columns": columns, "input_row": words, "input_word": 1, "table": 1, "code_table": 1}
    fields |= {"output": 200, "output_row": 8, "output_word": 1, "coded": 1, "relative": relative, "output_packing": packing, "masked": 1}
    interpreter = _interpreter(Opcode.SOFTMAX, **fields)
    exps, logs = exp_table(0.05), log_table(0.05)
    codes = rng.integers(0, 16, 256)
    first = table_words(L)
    for target, entries in ((Target.EXP_TABLE, exps.astype(int) + (logs.astype(int) << 16)), (Target.CODE_TABLE, codes)):
        interpreter.memories[target][first:] = entries.astype("<u4").view(np.uint8).reshape(-1, L)
    memory = interpreter.scratchpad
    logits = memory[: rows * words].view(np.int8).reshape(rows, -1)
    expected = coded_softmax(logits, exps, logs, codes.astype(np.int8), columns, masked=True, relative=bool(relative))
    interpreter.execute(0)
    bits, out = 8 >> packing, -(-words >> packing)
    for row in range(rows):
        number = sum((int(code) & (1 << bits) - 1) << bits * place for place, code in enumerate(expected[row]))
        assert memory[200 + 8 * row : 200 + 8 * row + out].tobytes() == number.to_bytes(out * L, "little")


@pytest.mark.parametrize("packing", [0, 1, 2, 3])
def test_a_layer_norm_packs_its_rows(packing):
    rng = np.random.default_rng(packing)
    rows, words = 3, 3
    channels = words * L
    fields = {"rows": rows, "words": words, "channels": channels, "log2_channels": 4, "epsilon": 9, "zero": 3}
    fields |= {"input_row": words, "input_word": 1, "output": 200, "output_row": 8, "output_word": 2, "output_packing": packing}
    interpreter = _interpreter(Opcode.NORM, **fields)
    alpha = rng.integers(0, 4, channels).astype(np.uint8)
    gain, offset = rng.integers(500, 5000, channels, dtype=np.int32), rng.integers(-900, 900, channels, dtype=np.int32)
    for channel in range(channels):
        record = isa.pack(isa.NORM_RECORD, {"alpha": alpha[channel], "gain": gain[channel], "offset": offset[channel]})
        block, lane = divmod(channel, L)
        interpreter.memories[Target.NORM_CONSTANTS][5 * block : 5 * block + 5, lane] = list(record.to_bytes(5, "little"))
    memory = interpreter.scratchpad
    values = layer_norm(memory[: rows * words].view(np.int8).reshape(rows, -1), 3, alpha, gain, offset, 9)
    interpreter.execute(0)
    bits = 8 >> packing
    for row in range(rows):
        codes = [int(v >= 0) if bits == 1 else max(-(1 << bits - 1), min((1 << bits - 1) - 1, int(v))) % (1 << bits) for v in values[row]]
        number = sum(code << bits * place for place, code in enumerate(codes))
        out = -(-words >> packing)
        assert memory[200 + 8 * row : 200 + 8 * row + 2 * out : 2].tobytes() == number.to_bytes(out * L, "little")


def test_a_code_table_is_loaded_where_it_begins():
    size = table_words(L)
    interpreter = _interpreter(Opcode.LOAD, target=Target.CODE_TABLE, words=size, memory=3, destination=size)
    interpreter.external[:] = np.random.default_rng(0).integers(0, 256, interpreter.external.shape)
    interpreter.execute(0)
    np.testing.assert_array_equal(interpreter.memories[Target.CODE_TABLE][size:], interpreter.external[3 : 3 + size])


def test_weights_of_more_bits_than_the_mode_are_refused():
    with pytest.raises(ValueError, match="mode BINARY takes weights of 1 bits and less, not 8"):
        _interpreter(Opcode.MATMUL, rows=1, k_tiles=1, n_tiles=1, mode=Mode.BINARY).execute(0)
    with pytest.raises(ValueError, match="in columns has the bits of mode INT8, not 1"):
        columns = {"direction": LoadDirection.COLUMN, "stationary_packing": 3}
        _interpreter(Opcode.MATMUL, rows=1, k_tiles=1, n_tiles=1, mode=Mode.INT8, **columns).execute(0)
