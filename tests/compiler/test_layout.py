"""Tensors, weights and constants as words."""

import numpy as np
import pytest

from vitloom.compiler.constants import pack_norm_constants, pack_records, pack_weights
from vitloom.compiler.layout import Layout
from vitloom.hw import isa

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
