"""Tensors, weights and constants as words."""

import numpy as np
import pytest

from vitloom.compiler.constants import code_tables, pack_norm_constants, pack_records, pack_weights, weight_words
from vitloom.compiler.layout import Layout
from vitloom.hw import isa
from vitloom.model.packing import unpack_rows, unpack_values

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("lanes", [4, 8, 12, 16])
@pytest.mark.parametrize(("groups", "channels"), [(1, 20), (3, 10), (2, 16), (5, 1)])
@pytest.mark.parametrize("bits", [8, 32])
def test_a_tensor_comes_back_from_its_words(lanes, groups, channels, bits):
    layout = Layout(rows=3, groups=groups, channels=channels, lanes=lanes, bits=bits)
    values = RNG.integers(-128, 128, (3, groups * channels)).astype(np.int8 if bits == 8 else np.int32)
    content = layout.pack(values, fill=7)
    assert len(content) == 3 * layout.width * lanes
    np.testing.assert_array_equal(layout.unpack(content), values)


def test_each_group_begins_a_word():
    layout = Layout(rows=1, groups=2, channels=5, lanes=4)
    content = np.frombuffer(layout.pack(np.arange(10, dtype=np.int8)[None], fill=-1), np.int8)
    np.testing.assert_array_equal(content, [0, 1, 2, 3, 4, -1, -1, -1, 5, 6, 7, 8, 9, -1, -1, -1])


def test_logits_take_four_words_a_tile_lane_by_lane():
    layout = Layout(rows=1, groups=1, channels=5, lanes=4, bits=32)
    assert layout.width == 8
    content = layout.pack(np.array([[1, -2, 3, 4, 5]], np.int32))
    assert content[4:8] == (-2).to_bytes(4, "little", signed=True)
    assert content[16:20] == (5).to_bytes(4, "little")


def test_weights_are_tiles_of_one_word_for_each_k():
    source, target = Layout(rows=1, groups=2, channels=5, lanes=4), Layout(rows=1, groups=1, channels=6, lanes=4)
    weight = RNG.integers(-128, 128, (6, 10)).astype(np.int8)
    tiles = np.frombuffer(pack_weights(weight, source, target), np.int8).reshape(2, 4, 4, 4)  # n tile, k tile, word, byte
    for n in range(8):
        for k in range(16):
            group, channel = divmod(k, 8)
            inside = n < 6 and channel < 5
            expected = weight[n, group * 5 + channel] if inside else 0
            assert tiles[n // 4, k // 4, k % 4, n % 4] == expected


def test_records_decode_as_the_hardware_does():
    count = 50
    fields = {
        "bias": RNG.integers(-(1 << 31), 1 << 31, count),
        "multiplier": RNG.integers(0, 1 << 16, count),
        "shift": RNG.integers(1, 33, count),
        "row_sum": RNG.integers(-16, 16, count),
        "residual_shift": RNG.integers(0, 32, count),
    }
    records = pack_records(isa.CONSTANT_RECORD, isa.CONSTANT_BYTES, **fields)
    for index, record in enumerate(records):
        expected = {name: int(values[index]) for name, values in fields.items()}
        assert isa.unpack(isa.CONSTANT_RECORD, int.from_bytes(record.tobytes(), "little")) == expected


def test_norm_constants_are_planes_of_bytes():
    layout = Layout(rows=1, groups=1, channels=6, lanes=4)
    alpha = RNG.integers(0, 4, 6).astype(np.uint8)
    gain = RNG.integers(-(1 << 17) + 1, 1 << 17, 6, dtype=np.int32)
    offset = RNG.integers(-(1 << 19) + 1, 1 << 19, 6, dtype=np.int32)
    planes = np.frombuffer(pack_norm_constants(alpha, gain, offset, layout, -9), np.uint8).reshape(2, 5, 4)
    for channel in range(8):
        record = int.from_bytes(planes[channel // 4, :, channel % 4].tobytes(), "little")
        expected = {"alpha": 0, "gain": 0, "offset": -9 << 10}
        if channel < 6:
            expected = {"alpha": int(alpha[channel]), "gain": int(gain[channel]), "offset": int(offset[channel])}
        assert isa.unpack(isa.NORM_RECORD, record) == expected


@pytest.mark.parametrize(("bits", "inputs"), [(1, 8), (2, 8), (4, 8), (1, 1), (1, 4), (2, 2)])
def test_weights_are_words_of_consecutive_k(bits, inputs):
    source = Layout(rows=1, groups=1, channels=40, lanes=8, bits=inputs)
    target = Layout(rows=1, groups=1, channels=10, lanes=8)
    weight = RNG.choice([-1, 1], (10, 40)).astype(np.int8)
    content = np.frombuffer(pack_weights(weight, source, target, bits), np.uint8)
    assert content.size == 2 * weight_words(source, bits) * 8
    columns = unpack_rows(content.reshape(2, -1, 8), bits).swapaxes(1, 2).reshape(16, -1)
    np.testing.assert_array_equal(columns[:10, :40], weight)
    if bits > 1:
        assert not columns[10:].any() and not columns[:, 40:].any()


def test_packed_heads_follow_each_other_and_begin_a_word_for_q_and_for_k():
    """3 heads of 16 bits of q, then of k, in words of 4 bytes."""
    layout = Layout(rows=2, groups=6, channels=16, lanes=4, bits=1, run=3, dense=True)
    values = RNG.choice([-1, 1], (2, 96)).astype(np.int8)
    content = np.frombuffer(layout.pack(values), np.uint8).reshape(2, 16)
    np.testing.assert_array_equal(unpack_values(np.ascontiguousarray(content[:, :6]), 1), values[:, :48])
    np.testing.assert_array_equal(unpack_values(np.ascontiguousarray(content[:, 8:14]), 1), values[:, 48:])
    np.testing.assert_array_equal(layout.unpack(content.tobytes()), values)
    heads = [layout.head(group) for group in range(6)]
    assert [(h.word, h.words, h.skip, h.pad) for h in heads] == [
        (0, 1, 0, 2),
        (0, 1, 2, 0),
        (1, 1, 0, 2),
        (2, 1, 0, 2),
        (2, 1, 2, 0),
        (3, 1, 0, 2),
    ]


def test_values_packed_along_rows_begin_anew_in_every_window():
    layout = Layout(rows=10, groups=1, channels=3, lanes=4, bits=2, window=5)
    values = RNG.integers(-2, 2, (10, 3)).astype(np.int8)
    words = np.frombuffer(layout.pack(values), np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(unpack_rows(words[:2], 2, 5)[:, :3], values[:5])
    np.testing.assert_array_equal(unpack_rows(words[2:], 2, 5)[:, :3], values[5:])
    assert (layout.line(4), layout.line(5), layout.lines(5, 5)) == (1, 2, 2)


def test_equal_code_tables_of_heads_are_one():
    one, other = np.zeros(256, np.int8), np.ones(256, np.int8)
    numbers, tables = code_tables(np.stack([one, other, one]))
    assert numbers == [0, 1, 0]
    np.testing.assert_array_equal(tables, [one, other])
