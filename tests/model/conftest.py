"""Single operators of low-bit networks, without an image before them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitloom.model import golden
from vitloom.model.low_bit import maximum_distance, maximum_tables
from vitloom.model.network import (
    AttentionScores,
    AttentionValues,
    Codes,
    Constant,
    ImageFormat,
    IntegerNetwork,
    LogSoftmax,
    Operator,
    Tensor,
)

IMAGE = ImageFormat(channels=1, size=2, patch=2, mean=[0.0], std=[1.0])


def network(values: dict[str, np.ndarray], tensors: list[Tensor], operators: list[Operator], arrays: dict[str, np.ndarray]) -> Any:
    """Operators on tensors that hold ``values``, without an image before them."""
    return IntegerNetwork(
        name="part",
        scheme="none",
        origin="random",
        image=IMAGE,
        input="patches",
        outputs=[],
        tensors=[Tensor(name="patches", rows=1, channels=4), *tensors],
        constants=[Constant(name=name, output=name) for name in values],
        operators=operators,
        arrays={**arrays, **{f"{name}.value": value for name, value in values.items()}},
    )


def run(part: IntegerNetwork) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in golden.run(part, np.zeros((1, 1, 2, 2), np.uint8)).items()}


def exact(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and shift of a requantisation that changes nothing but saturates."""
    return np.full(count, 2, np.uint16), np.ones(count, np.uint8)


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def by_head(x: np.ndarray, heads: int, windows: int = 1) -> np.ndarray:
    """(windows * T, heads * channels) to (windows, heads, T, channels) in float64."""
    return x.reshape(windows, len(x) // windows, heads, -1).swapaxes(1, 2).astype(np.float64)


def flat(x: np.ndarray) -> np.ndarray:
    windows, heads, tokens, channels = x.shape
    return x.swapaxes(1, 2).reshape(windows * tokens, heads * channels)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def bivit(qk: np.ndarray, v: np.ndarray, heads: int, width: int, bias: np.ndarray | None = None, **biased: Any) -> Any:
    """BiViT's attention: qk (rows, 2 heads * width) and v (rows, heads * channels) of signs. The logits are ``dot / 2``, or
    ``2 dot + bias`` with bias (types, heads, T, T).
    """
    rows, channels = len(qk), v.shape[1] // heads
    windows = biased.get("windows", 1)
    keys = rows // windows
    tensors = [
        Tensor(name="qk", rows=rows, groups=2 * heads, channels=width, bits=1),
        Tensor(name="v", rows=rows, groups=heads, channels=channels, bits=1),
        Tensor(name="logits", rows=rows, groups=heads, channels=keys),
        Tensor(name="map", rows=rows, groups=heads, channels=keys, bits=1, unit=True),
        Tensor(name="av", rows=rows, groups=heads, channels=channels, bits=1),
    ]
    masked = biased.get("masked", False)
    operators: list[Operator] = [
        AttentionScores(
            name="scores", input="qk", output="logits", heads=heads, residual_multiplier=2 if bias is not None else 0, **biased
        ),
        LogSoftmax(name="softmax", input="logits", output="map", windows=windows, coded=True, relative=True, masked=masked),
        AttentionValues(name="values", input="map", values="v", output="av", heads=heads, windows=windows, codes=Codes.LINEAR),
    ]
    logs, codes = maximum_tables(maximum_distance(width, 1 if bias is None else 4))
    multiplier, shift = exact(heads * channels)
    arrays = {
        "scores.multiplier": np.full(heads, 1 if bias is None else 4, np.uint16),
        "scores.shift": np.ones(heads, np.uint8),
        "softmax.exp_table": np.zeros(256, np.uint16),
        "softmax.log_table": logs,
        "softmax.code_table": np.tile(codes, (heads, 1)),
        "values.multiplier": multiplier,
        "values.shift": shift,
        "values.bias": np.zeros(heads * channels, np.int32),
    }
    if bias is not None:
        arrays |= {"scores.bias": bias, "scores.residual_shift": np.zeros(heads, np.uint8)}
    return network({"qk": qk, "v": v}, tensors, operators, arrays)


@pytest.fixture
def low_bit() -> SimpleNamespace:
    """The functions above."""
    functions = (network, run, exact, signs, by_head, flat, softmax, bivit)
    return SimpleNamespace(**{function.__name__: function for function in functions})
