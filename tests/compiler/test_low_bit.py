"""Programs of low-bit networks: every word that an instruction writes is the golden model's, in all forms, sizes and orders.

The networks are noise, with no accuracy and all corner cases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from vitloom.compiler import compile_network, expected_words
from vitloom.hw import isa
from vitloom.hw.config import MODES, CoreConfig, preset
from vitloom.model import golden
from vitloom.model.log_softmax import exp_table, log_table
from vitloom.model.network import (
    AttentionScores,
    AttentionValues,
    Codes,
    Constant,
    Form,
    ImageFormat,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Tensor,
)
from vitloom.model.packing import unpack_rows, value_range
from vitloom.sim.trace import Trace, check_coverage, compare_values


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Bits of what goes into layers, of weights, of q and k, of the attention map and v; and what else is special.

    Parameters
    ----------
    inputs, weights, heads_bits, map_bits : int
    zeros : bool
        Zero points of weights, q, k, v and the map.
    normalised : bool
        q and k have 8 bits first, and a LayerNorm for each head.
    codes : Codes
    relative, per_head : bool
        Softmax without a sum; a code table for each head.
    width, heads, prefix, windows, depth : int
    """

    inputs: int
    weights: int
    heads_bits: int = 8
    map_bits: int = 8
    zeros: bool = False
    normalised: bool = False
    codes: Codes = Codes.LOG2
    relative: bool = False
    per_head: bool = False
    width: int = 64
    heads: int = 2
    prefix: int = 1
    windows: int = 1
    depth: int = 2


SHAPES = {
    "w1a8": Shape(inputs=8, weights=1),
    "w1a8, padded heads": Shape(inputs=8, weights=1, width=20),
    "w2a8": Shape(inputs=8, weights=2, width=36),
    "w4a8": Shape(inputs=8, weights=4),
    "w1a1": Shape(inputs=1, weights=1, heads_bits=1, map_bits=1, codes=Codes.LINEAR, relative=True),
    "w1a1, a threshold per head": Shape(
        inputs=1, weights=1, heads_bits=1, map_bits=1, codes=Codes.LINEAR, per_head=True, width=72, heads=3
    ),
    "w1a1, zero points": Shape(inputs=1, weights=1, heads_bits=1, map_bits=1, codes=Codes.LINEAR, zeros=True, heads=4),
    "w1a1, windows": Shape(
        inputs=1, weights=1, heads_bits=1, map_bits=1, codes=Codes.LINEAR, relative=True, prefix=0, windows=4, width=32, heads=1
    ),
    "w4a4": Shape(inputs=4, weights=4, heads_bits=4, map_bits=4, codes=Codes.LINEAR, zeros=True, per_head=True),
    "w2a4, odd heads": Shape(inputs=4, weights=2, heads_bits=4, map_bits=4, codes=Codes.LINEAR, zeros=True, width=60, heads=3, depth=1),
    "w2a2": Shape(inputs=2, weights=2, heads_bits=2, map_bits=4, codes=Codes.LINEAR),
    "w2a2, all of it": Shape(
        inputs=2, weights=1, heads_bits=2, map_bits=2, codes=Codes.LINEAR, zeros=True, width=24, heads=1, windows=4, prefix=0
    ),
    "normalised heads": Shape(inputs=4, weights=4, heads_bits=4, map_bits=4, codes=Codes.LINEAR, normalised=True, width=40),
    "normalised heads of 2 bits": Shape(inputs=2, weights=2, heads_bits=2, map_bits=4, codes=Codes.LINEAR, normalised=True),
    "half octaves": Shape(inputs=4, weights=4, heads_bits=4, map_bits=8, codes=Codes.SQRT2, zeros=True),
}


class _Builder:
    """Appends operators with parameters that spread their results over the range of the output."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape, self.rng = shape, np.random.default_rng(seed)
        self.tensors: list[Tensor] = []
        self.operators: list = []
        self.arrays: dict[str, np.ndarray] = {}
        self.side = 4 if shape.windows == 1 else 6
        self.rows = self.side**2 + shape.prefix

    def tensor(self, name: str, bits: int, *, groups: int = 1, channels: int = 0, rows: int = 0, zero: int = 0, unit: bool = False) -> str:
        channels = channels or self.shape.width // groups
        zero_point = zero if bits in (8, 4) else 0
        self.tensors.append(
            Tensor(name=name, rows=rows or self.rows, groups=groups, channels=channels, zero_point=zero_point, bits=bits, unit=unit)
        )
        return name

    def find(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def spread(self, tensor: Tensor) -> float:
        """About what the values deviate."""
        return {8: 60.0, 4: 4.0, 2: 1.2, 1: 1.0, 32: 1000.0}[tensor.bits]

    def scale(self, name: str, count: int, deviation: float, target: Tensor) -> None:
        """Multiplier and shift of results whose sums deviate by so much."""
        wanted = self.spread(target) / deviation
        shift = min(32, 15 - int(np.floor(np.log2(wanted))))
        self.arrays[f"{name}.multiplier"] = np.rint(wanted * 2.0**shift * self.rng.uniform(0.6, 0.99, count)).astype(np.uint16)
        self.arrays[f"{name}.shift"] = np.full(count, shift, np.uint8)

    def linear(self, name: str, source: str, target: str, *, bits: int, form: Form = Form.REQUANTIZE, **options) -> None:
        inside, outside = self.find(source), self.find(target)
        columns, k = outside.groups * outside.channels, inside.groups * inside.channels
        low, high = value_range(bits)
        weight = self.rng.integers(low, high + 1, (columns, k)).astype(np.int8)
        self.arrays[f"{name}.weight"] = np.where(self.rng.integers(0, 2, weight.shape), 1, -1).astype(np.int8) if bits == 1 else weight
        deviation = self.spread(inside) * max(1.0, high / 2) * np.sqrt(k)
        if self.shape.zeros and bits < 8 and inside.bits < 8:
            self.arrays[f"{name}.weight_zero"] = self.rng.integers(-1 if bits == 1 else -3, 2 if bits == 1 else 4, columns).astype(np.int8)
        self.arrays[f"{name}.bias"] = self.rng.normal(0, deviation / 2, columns).astype(np.int32)
        self.scale(name, columns, deviation, outside)
        if form is Form.TABLE:
            self.arrays[f"{name}.table"] = self.rng.permutation(np.arange(-128, 128)).astype(np.int8)
        if form is Form.RESIDUAL:
            self.arrays[f"{name}.residual_shift"] = self.arrays[f"{name}.shift"] - np.uint8(8)
            options = {"residual_multiplier": 150, **options}
        options = {"rows": outside.rows, **options}
        self.operators.append(Linear(name=name, input=source, output=target, form=form, weight_bits=bits, **options))

    def norm(self, name: str, source: str, bits: int, *, rows: int = 0, zero: int = 0, groups: int = 0) -> str:
        zero = zero if bits in (8, 4) else 0
        target = self.tensor(name, bits, rows=rows or self.rows, zero=zero, groups=groups or 1, channels=self.find(source).channels)
        columns = self.find(target).shape[1]
        spread = self.spread(self.find(target)) * 1024
        self.arrays[f"{name}.alpha"] = self.rng.integers(0, 3, columns).astype(np.uint8)
        self.arrays[f"{name}.gain"] = np.clip(self.rng.normal(0, spread, columns), -(2**17) + 1, 2**17 - 1).astype(np.int32)
        self.arrays[f"{name}.offset"] = self.rng.normal(zero * 1024, spread / 2, columns).astype(np.int32)
        by_group = {"by_group": True} if groups else {}
        self.operators.append(LayerNorm(name=name, input=source, output=target, rows=rows or self.rows, epsilon=9, **by_group))
        return target

    def attention(self, block: str, source: str) -> str:
        shape, heads = self.shape, self.shape.heads
        apart = shape.heads_bits < 8
        zero = 2 if shape.zeros else 0
        if apart:
            first = self.tensor(f"{block}.qk", 8 if shape.normalised else shape.heads_bits, groups=2 * heads, channels=shape.width // heads)
            self.linear(f"{block}.qk", source, first, bits=shape.weights)
            queries = first
            if shape.normalised:
                queries = self.norm(f"{block}.qk_norm", first, shape.heads_bits, groups=2 * heads)
            values = self.tensor(f"{block}.v", shape.map_bits, groups=heads)
            self.linear(f"{block}.v", source, values, bits=shape.weights)
        else:
            queries = values = self.tensor(f"{block}.qkv", 8, groups=3 * heads, channels=shape.width // heads)
            self.linear(f"{block}.qkv", source, queries, bits=shape.weights)
        keys = self.rows // shape.windows
        logits = self.tensor(f"{block}.logits", 8, groups=heads, channels=keys, zero=3)
        size = shape.width // heads
        self.scale(f"{block}.scores", heads, self.spread(self.find(queries)) ** 2 * np.sqrt(size), self.find(logits))
        zeros = {"query_zero": zero if shape.heads_bits == 4 else 0, "key_zero": -3 if shape.zeros and apart else 0}
        names = {"input": queries, "output": logits, "heads": heads, "windows": shape.windows}
        self.operators.append(AttentionScores(name=f"{block}.scores", **names, **zeros))
        coded = shape.codes is not Codes.LOG2
        map_zero = zero if shape.map_bits == 4 else 0
        codes = self.tensor(f"{block}.map", shape.map_bits, groups=heads, channels=keys, unit=shape.map_bits == 1, zero=map_zero)
        self.softmax(f"{block}.softmax", logits, codes, coded)
        target = self.tensor(f"{block}.av", shape.inputs, groups=heads, channels=size, zero=zero)
        unit = 2.0**14 if shape.codes is not Codes.LINEAR else 1.0
        self.scale(f"{block}.av", shape.width, self.spread(self.find(values)) * 2 * unit, self.find(target))
        if shape.codes is Codes.LINEAR:
            self.arrays[f"{block}.av.bias"] = self.rng.integers(-3, 4, shape.width).astype(np.int32)
        names = {"input": codes, "values": values, "output": target, "heads": heads, "windows": shape.windows, "codes": shape.codes}
        self.operators.append(AttentionValues(name=f"{block}.av", **names, value_zero=-1 if shape.zeros and shape.map_bits < 8 else 0))
        return target

    def softmax(self, name: str, logits: str, codes: str, coded: bool) -> None:
        shape, target = self.shape, self.find(codes)
        self.arrays[f"{name}.exp_table"], self.arrays[f"{name}.log_table"] = exp_table(0.03), log_table(0.03)
        if coded:
            tables = []
            for head in range(shape.heads):
                index, steepness = np.arange(256), 1 + head * shape.per_head
                if shape.codes is Codes.SQRT2:
                    table = np.minimum(index * steepness // 8, 15)
                elif shape.map_bits == 1:
                    table = (index < (24 if shape.relative else 70) * steepness).astype(int)
                else:
                    low, high = value_range(shape.map_bits)
                    table = np.rint(9 * (high - target.zero_point) * 2.0 ** (-index * steepness / 16)) + target.zero_point
                    table = np.clip(table, low, high)
                tables.append(table.astype(np.int8))
            self.arrays[f"{name}.code_table"] = np.stack(tables)
        options = {"coded": coded, "relative": shape.relative, "windows": shape.windows}
        self.operators.append(LogSoftmax(name=name, input=logits, output=codes, **options))


def low_bit_network(shape: Shape, seed: int = 0) -> IntegerNetwork:
    """A vision transformer of that shape on 4 x 4 patches, or with windows 6 x 6."""
    builder = _Builder(shape, seed)
    rows, prefix, zero = builder.side**2, shape.prefix, 3
    builder.tensor("patches", 8, rows=rows, channels=4, zero=-128)
    stream = builder.tensor("embed", 8, zero=5)
    builder.linear("embed", "patches", stream, bits=8, rows=rows, output_row=prefix)
    constants = []
    if prefix:
        constants = [Constant(name="token", output=stream)]
        builder.arrays["token.value"] = builder.rng.integers(-100, 100, (prefix, shape.width)).astype(np.int8)
    for index in range(shape.depth):
        block = f"blocks.{index}"
        normed = builder.norm(f"{block}.norm1", stream, shape.inputs, zero=zero)
        values = builder.attention(block, normed)
        after = builder.tensor(f"{block}.proj", 8, zero=-4)
        builder.linear(
            f"{block}.proj",
            values,
            after,
            bits=shape.weights,
            form=Form.RESIDUAL,
            residual=stream,
            residual_zero=builder.find(stream).zero_point,
        )
        normed = builder.norm(f"{block}.norm2", after, shape.inputs, zero=zero)
        hidden = builder.tensor(f"{block}.fc1", shape.inputs, channels=2 * shape.width, zero=-zero)
        form = Form.TABLE if shape.inputs > 1 else Form.REQUANTIZE
        builder.linear(f"{block}.fc1", normed, hidden, bits=shape.weights, form=form)
        stream = builder.tensor(f"{block}.fc2", 8, zero=7)
        builder.linear(f"{block}.fc2", hidden, stream, bits=shape.weights, form=Form.RESIDUAL, residual=after, residual_zero=-4)
    normed = builder.norm("norm", stream, 8, rows=1)
    logits = builder.tensor("head", 32, rows=1, channels=5)
    builder.linear("head", normed, logits, bits=8, form=Form.RAW)
    return IntegerNetwork(
        name="small",
        scheme="test",
        origin="noise",
        image=ImageFormat(channels=1, size=2 * builder.side, patch=2, mean=[0.5], std=[0.5]),
        input="patches",
        outputs=["head"],
        tensors=builder.tensors,
        constants=constants,
        operators=builder.operators,
        arrays=builder.arrays,
    )


def core(lanes: int = 8, **settings) -> CoreConfig:
    return CoreConfig(lanes=lanes, **{"modes": MODES, **settings})


def weights_of(program, layer: str) -> np.ndarray:
    first, words = program.memory_plan[f"{layer}.weight"]
    lanes = program.config.lanes
    return np.frombuffer(program.memory_image, np.uint8)[first * lanes : (first + words) * lanes]


@pytest.fixture(scope="module")
def networks() -> dict:
    return {name: low_bit_network(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("lanes", [8, 16, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_written_word_is_the_golden_one(networks, shape, lanes, assert_runs_as_golden):
    network = networks[shape]
    assert_runs_as_golden(network, compile_network(network, core(lanes)), [None, 0])


@pytest.mark.parametrize("shape", ["w1a1", "w1a1, windows", "normalised heads", "w1a8"])
@pytest.mark.parametrize(
    "settings",
    [
        {"scratchpad_bytes": 8 << 10},
        {"accumulator_rows": 8},
        {"constant_channels": 32},
        {"queue_depth": 2, "banks": 4},
        {"memory_bytes_per_cycle": 1, "epilogue_lanes": 8},
    ],
    ids=str,
)
def test_small_memories_change_the_program_but_not_its_results(networks, shape, settings, assert_runs_as_golden):
    assert_runs_as_golden(networks[shape], compile_network(networks[shape], core(**settings)), [None, 0, 1])


@pytest.mark.parametrize("shape", ["w1a8", "w1a8, padded heads", "w2a8"])
def test_packed_weights_alone_are_enough_for_operands_of_8_bits(networks, shape, assert_runs_as_golden):
    """Such a core takes no bytes out: what padding adds is in the bias."""
    program = compile_network(networks[shape], CoreConfig(lanes=16, packed_weights=True))
    assert_runs_as_golden(networks[shape], program, [None])
    assert not any(i.fields.get("k_pad") or i.fields.get("k_skip") for i in program.instructions)


def test_weights_of_1_bit_are_the_same_for_operands_of_8_bits_and_of_1():
    """K is 64, one k tile of bits at L = 8 and eight of bytes."""
    images = [weights_of(compile_network(low_bit_network(SHAPES[name]), core()), "blocks.1.fc1") for name in ("w1a8", "w1a1")]
    assert images[0].size == 128 * 64 // 8
    signs = [low_bit_network(SHAPES[name]).arrays["blocks.1.fc1.weight"] for name in ("w1a8", "w1a1")]
    for image, weight in zip(images, signs, strict=True):
        words = unpack_rows(image.reshape(16, 8, 8), 1)  # n tile, k, output
        np.testing.assert_array_equal(words.swapaxes(1, 2).reshape(128, 64), weight)


def test_layers_say_their_mode_and_count_what_multipliers_do(networks):
    layers = {layer.name: layer for layer in compile_network(networks["w1a1"], core()).layers}
    modes = {name: layers[name].mode for name in ("embed", "blocks.0.qk", "blocks.0.scores", "blocks.0.av", "blocks.0.fc2", "head")}
    assert set(modes.values()) == {"int8", "binary"} and modes["embed"] == modes["head"] == "int8"
    fc1 = layers["blocks.0.fc1"]
    assert (fc1.M, fc1.K, fc1.N, fc1.macs) == (17, 64, 128, 17 * 64 * 128)
    assert (fc1.multiplier_cycles, fc1.lower_bound_cycles) == (17 * 64 * 128 / 8, 17 * 16)


def test_a_tile_limit_is_half_a_quarter_and_an_eighth_where_k_fills_the_tiles():
    cycles = {}
    for bits, name in ((8, "w1a8"), (4, "w4a4"), (2, "w2a2"), (1, "w1a1")):
        shape = replace(SHAPES[name], width=128, zeros=False)
        layers = {layer.name: layer for layer in compile_network(low_bit_network(shape), core(16)).layers}
        cycles[bits] = layers["blocks.0.fc1"].lower_bound_cycles
    assert [cycles[8] // cycles[bits] for bits in (4, 2, 1)] == [2, 4, 8]


@pytest.mark.parametrize(
    ("shape", "config", "message"),
    [
        ("w1a1", {"modes": ("int8", "log2")}, r"blocks.0.qk needs the operand mode binary; this core has int8, log2"),
        ("w4a4", {"modes": ("int8", "binary")}, r"blocks.0.qk needs the operand mode int4; this core has int8, binary"),
        ("half octaves", {"modes": ("int8", "int4")}, r"blocks.0.av needs the operand mode log2; this core has int8, int4"),
        ("w1a1", {"modes": ("binary",)}, r"embed needs the operand mode int8; this core has binary"),
        ("w2a8", {"modes": ("int8", "log2")}, r"blocks.0.qkv has weights of 2 bits, which needs packed_weights; this core has none"),
        ("w1a1", {"accumulator_rows": 4}, r"small has values packed 8 rows to a word, so accumulator_rows of 8 at least, not 4"),
    ],
)
def test_what_a_core_lacks_is_refused_by_name(networks, shape, config, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        compile_network(networks[shape], core(**config))


def test_values_that_do_not_fill_bytes_are_refused():
    network = low_bit_network(replace(SHAPES["w1a1"], width=36, heads=3))
    with pytest.raises(ValueError, match="^blocks.0.norm1 has groups of 36 channels of 1 bit; they must fill whole bytes$"):
        compile_network(network, preset("l8-all"))


def written_words(program, tensors) -> tuple[Trace, dict[str, int]]:
    """The trace of a core without a fault, each part of a word written for itself, and where in it each layer begins."""
    begins: dict[str, int] = {}
    lanes = program.config.lanes
    record = np.dtype([("address", "<u4"), ("parts", "<u4"), ("data", "u1", (lanes,))])
    writes: dict[isa.Queue, list] = {isa.Queue.ARRAY: [], isa.Queue.ROWS: []}
    for instruction in program.instructions:
        if instruction.queue not in writes or instruction.slice is None:
            continue
        begins.setdefault(instruction.layer, len(writes[instruction.queue]))
        parts = program.layouts[instruction.slice.tensor].parts if instruction.queue is isa.Queue.ARRAY else 1
        for part in range(parts):
            size = 8 // parts
            bits = (1 << size) - 1 << part * size
            for address, (content, mask) in expected_words(program, instruction, tensors).items():
                here = slice(part * lanes // parts, (part + 1) * lanes // parts)
                if any(mask[here]):
                    writes[instruction.queue].append((address, bits, np.frombuffer(content, np.uint8)))
    return Trace(starts={}, dones={}, writes={queue: np.array(records, record) for queue, records in writes.items()}), begins


@pytest.mark.parametrize("shape", ["w1a1", "w1a1, windows", "w2a4, odd heads"])
def test_a_trace_of_parts_of_words_is_compared_value_by_value(networks, shape, image_of):
    program = compile_network(networks[shape], core())
    tensors = {name: tensor[0] for name, tensor in golden.run(networks[shape], image_of(networks[shape])).items()}
    trace, begins = written_words(program, tensors)
    check_coverage(program)
    compared, mismatches = compare_values(program, trace, tensors, 0)
    loaded = sum(tensors[name].size for name in ("patches",)) + networks[shape].tensor("embed").channels * len(networks[shape].constants)
    assert not mismatches and compared == sum(tensor.size for tensor in tensors.values()) - loaded
    for queue, layer in ((isa.Queue.ARRAY, "blocks.0.v"), (isa.Queue.ROWS, "blocks.0.softmax")):
        part = next(i.slice for i in program.instructions if i.layer == layer and i.slice is not None)
        writes = trace.writes[queue].copy()
        bits = program.layouts[part.tensor].bits
        writes["data"][begins[layer], 0] ^= (1 << bits) - 1 << bits
        _, mismatches = compare_values(program, replace(trace, writes={**trace.writes, queue: writes}), tensors, 0)
        row, column = (1, 0) if queue is isa.Queue.ARRAY else (0, 1)
        assert (part.tensor, row, column) in [(entry.tensor, entry.row, entry.column) for entry in mismatches]


def test_a_core_with_all_modes_loads_code_tables_for_each_head(networks):
    program = compile_network(networks["w1a1, a threshold per head"], core())
    loads = [i for i in program.instructions if i.opcode is isa.Opcode.LOAD and i.fields["target"] == isa.Target.CODE_TABLE.value]
    assert len(loads) >= 3
