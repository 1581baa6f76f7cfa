"""Calibration: what activations look like in floating point, and the scales and zero points chosen from that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import float_mlp, float_swin, float_vit
from .float_mlp import MlpConfig
from .float_ops import Float, FloatLayers, LayerFactory, State, normalise
from .float_ops import gelu as fast_gelu
from .float_swin import SwinConfig
from .float_vit import ViTConfig
from .requantize import activation_table, gelu

__all__ = ["Affine", "Calibration", "PowerOfTwoFactors", "affine", "gelu_scales", "observe_images", "power_of_two_factors"]

_LARGEST_BATCH = 1 << 21  # values of the widest activation: bounds the memory of a batch, its samples included
_SAMPLE_ROWS = 2048
_GELU_FLOORS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, np.inf)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``real = (stored - zero_point) * scale``, stored int8."""

    scale: float
    zero_point: int

    def quantize(self, x: NDArray) -> NDArray[np.int8]:
        """Nearest int8, ties to even, saturated."""
        return np.clip(np.rint(x / self.scale) + self.zero_point, -128, 127).astype(np.int8)

    def dequantize(self, q: NDArray[np.int8]) -> NDArray[np.float64]:
        return (q.astype(np.float64) - self.zero_point) * self.scale


@dataclass(frozen=True, kw_only=True)
class PowerOfTwoFactors:
    """``real = ((stored - zero_point) << alpha[channel]) * scale``, stored int8, alpha (C,) uint8 in 0..3."""

    scale: float
    zero_point: int
    alpha: NDArray[np.uint8]

    @property
    def steps(self) -> NDArray[np.float64]:
        """Real value of one step of each channel, (C,)."""
        return np.ldexp(self.scale, self.alpha.astype(np.int64))

    def quantize(self, x: NDArray) -> NDArray[np.int8]:
        """Nearest int8, ties to even, saturated; x (..., C)."""
        return np.clip(np.rint(x / self.steps) + self.zero_point, -128, 127).astype(np.int8)


@dataclass(kw_only=True)
class _Channels:
    """Range (C,) and some rows (n, C) of one activation."""

    low: Float
    high: Float
    sample: Float


@dataclass(kw_only=True)
class Calibration:
    """Collects, by operator name, the least and greatest value of each channel over all batches, and rows of the last batch."""

    channels: dict[str, _Channels] = field(default_factory=dict)

    def observe(self, name: str, array: Float) -> None:
        """Hook for the float networks' ``forward``."""
        rows = array.reshape(-1, array.shape[-1])
        low, high = rows.min(axis=0), rows.max(axis=0)
        if (seen := self.channels.get(name)) is not None:
            low, high = np.minimum(low, seen.low), np.maximum(high, seen.high)
        kept = _SAMPLE_ROWS if name.startswith("patch_embed") or name.endswith((".proj", ".fc1", ".fc2", ".reduction")) else 0
        chosen = np.linspace(0, len(rows) - 1, min(kept, len(rows)), dtype=np.int64)
        self.channels[name] = _Channels(low=low, high=high, sample=rows[chosen])

    def low(self, name: str) -> Float:
        return self.channels[name].low

    def high(self, name: str) -> Float:
        return self.channels[name].high

    def sample(self, name: str) -> Float:
        """At most 2048 rows (n, C), evenly taken from the last batch; kept for the residual stream and for the GELU's input."""
        return self.channels[name].sample


def observe_images(
    config: ViTConfig | SwinConfig | MlpConfig, state: State, images: NDArray[np.uint8], factory: LayerFactory = FloatLayers
) -> Calibration:
    """Statistics of the float network over uint8 ``images`` (B, C, H, W), at least one; ``factory`` makes its layers.

    In float64, so that rounding differences between BLAS libraries do not reach the integers.
    """
    if not len(images):
        raise ValueError("calibration needs at least one image")
    calibration = Calibration()
    widest = int(config.patches * config.embed_dim * config.mlp_ratio)
    for batch in _batches(images, max(1, _LARGEST_BATCH // widest)):
        pixels = normalise(config, batch).astype(np.float64)
        if isinstance(config, SwinConfig):
            float_swin.forward(config, state, pixels, calibration.observe, factory)
        elif isinstance(config, MlpConfig):
            float_mlp.forward(config, state, pixels, calibration.observe, factory)
        else:
            float_vit.forward(config, state, pixels, calibration.observe, factory)
    return calibration


def _batches(images: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """Nearly equal batches of at most ``size`` images."""
    yield from np.array_split(images, -(-len(images) // size))


def affine(low: float, high: float) -> Affine:
    """Scale and zero point of the range ``low .. high``, widened to hold 0: FQ-ViT's min/max observer, stored as ``u - 128``."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / 255 or 1.0
    return Affine(scale=scale, zero_point=round(min(-low / scale, 255)) - 128)


def power_of_two_factors(low: Float, high: Float, sample: Float) -> PowerOfTwoFactors:
    """FQ-ViT's Powers-of-Two Factors: of four scales, each half the next, each channel takes the one of least mean squared error.

    low, high : (C,), whose extremes give the largest scale and the common zero point. sample : (n, C) values for the error.
    """
    largest = affine(low.min(), high.max())
    errors = []
    for alpha in range(4):
        step = Affine(scale=largest.scale / 2 ** (3 - alpha), zero_point=largest.zero_point)
        errors.append(np.square(step.dequantize(step.quantize(sample)) - sample).mean(axis=0))
    return PowerOfTwoFactors(scale=largest.scale / 8, zero_point=largest.zero_point, alpha=np.argmin(errors, axis=0).astype(np.uint8))


def gelu_scales(low: float, high: float, sample: Float) -> tuple[Affine, Affine]:
    """Input and output of an 8-bit GELU table.

    GELU of very negative values is 0, so the input's range is cut below where the mean squared error at the output is least.
    low, high : range of the input. sample : input values.
    """
    exact = fast_gelu(sample)
    output = affine(float(exact.min()), float(gelu(high)))

    def error(entry: Affine) -> float:
        table = activation_table(gelu, entry.scale, entry.zero_point, output.scale, output.zero_point)
        given = output.dequantize(table[entry.quantize(sample).astype(np.int64) + 128])
        return float(np.square(given - exact).mean())

    candidates = [affine(max(low, -floor), high) for floor in _GELU_FLOORS]
    return min(candidates, key=error), output
