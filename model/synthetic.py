"""Synthetic weights and images: what stands in for a trained network where only its shape is known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .architectures import Config
from .float_ops import ImageConfig
from .float_swin import SwinConfig

__all__ = ["OUTLIER_SHARE", "shaped_images", "shaped_noise", "synthetic_state"]

OUTLIER_SHARE = 1 / 64
"""Of the residual stream's channels, those with outliers; at least two."""

_OUTLIER_GAINS = (4.0, 12.0)
_QUERY_KEY_GAIN = 2.0
_HIDDEN_GAIN, _HIDDEN_BIAS = 1.3, -0.7
_BRANCH_GAIN = 2.0


def synthetic_state(config: Config, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Parameters of timm's names and shapes that make activations like a trained network's in range, not in meaning; deterministic.

    Weights are normal, truncated at two deviations (timm's initialisation), with deviation ``gain / sqrt(inputs)``, and a log-normal
    spread of 0.2 over output channels. Gains: patch embedding, values and heads 1; queries and keys 2, for logits of deviation 2 and
    maps that are neither flat nor one-hot; fc1 1.3 with biases around -0.7, for GELU inputs that are mostly negative; proj and fc2
    ``2 / sqrt(depth)``, so that the stream's deviation grows by a small factor through any depth.
    A 64th of the stream's channels are outliers, the same ones in every layer: what is added to them (rows of the patch embedding, proj
    and fc2 with their biases, tokens and positions) is 4 to 12 times the others', as in trained transformers, and LayerNorm's gammas
    are divided by as much. Gammas are log-normal with spread 0.3 around 1, betas and the other biases normal with deviation 0.1.
    In a Swin transformer each width has its outliers, to which patch merging's reduction writes too; position biases have deviation 0.5.

    DeiT-Tiny on two images of :func:`shaped_images`: deviation of the stream 1.2 before the first block and 2.2 after the last, its
    widest channel 8 to 11 times the median one (3 after LayerNorm), logits of deviation 2.0 to 2.8 within +-20, attention of 4.9 bits
    of entropy (7.6 would be flat), 77 % of GELU's inputs negative; the correlation of integer and float logits is 0.97.
    """
    rng = np.random.default_rng(seed)
    widths = [stage.width for stage in config.stages] if isinstance(config, SwinConfig) else [config.embed_dim]
    streams = {width: _stream(rng, width) for width in widths}
    state = {}
    for name, shape in config.parameter_shapes().items():
        layer, _, kind = name.rpartition(".")
        if not layer:
            state[name] = _truncated_normal(rng, shape, 0.3) * streams[shape[-1]]
        elif kind == "relative_position_bias_table":
            state[name] = _truncated_normal(rng, shape, 0.5)
        elif "norm" in layer:
            normal = rng.standard_normal(shape, dtype=np.float32)
            value = np.exp(np.float32(0.3) * normal) if kind == "weight" else np.float32(0.1) * normal
            state[name] = value if layer == "patch_embed.norm" else value / _normalised(layer, shape[0], streams)
        elif kind == "bias":
            state[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
            state[name] = _onto(layer, state[name], streams) + np.float32(_HIDDEN_BIAS if layer.endswith("fc1") else 0)
        else:
            gains = _gains(config, layer, shape[0]) * np.exp(0.2 * rng.standard_normal(shape[0]))
            value = _truncated_normal(rng, shape, math.prod(shape[1:]) ** -0.5)
            state[name] = _onto(layer, _by_output(gains.astype(np.float32), value), streams)
    return state


def shaped_images(config: ImageConfig, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of :func:`shaped_noise` for a network: (count, C, H, W) uint8."""
    return shaped_noise(count, config.in_chans, config.img_size, seed)


def shaped_noise(count: int, channels: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise with the spectrum of photographs: (count, channels, size, size) uint8; deterministic.

    Amplitudes are 1 / frequency, phases random. The channels share nine tenths of their variance, as colours do; each has mean 118 and
    deviation 60 before it saturates.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((count, channels + 1, size, size))) / frequency
    noise = np.fft.irfft2(spectrum, s=(size, size))
    noise /= noise.std((-1, -2), keepdims=True)
    mixed = math.sqrt(0.9) * noise[:, :1] + math.sqrt(0.1) * noise[:, 1:]
    return np.clip(np.rint(118 + 60 * mixed), 0, 255).astype(np.uint8)


def _stream(rng: np.random.Generator, width: int) -> NDArray[np.float32]:
    """Gain of each channel of a residual stream."""
    stream = np.ones(width, np.float32)
    outliers = rng.permutation(width)[: max(2, round(width * OUTLIER_SHARE))]
    stream[outliers] = np.geomspace(*_OUTLIER_GAINS, len(outliers), dtype=np.float32)
    return stream


def _normalised(layer: str, width: int, streams: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Gains of what a LayerNorm takes: a stream, or four merged tokens of one."""
    return np.tile(streams[width // 4], 4) if "downsample" in layer else streams[width]


def _gains(config: Config, layer: str, outputs: int) -> NDArray[np.float64]:
    """Gain of each output channel of a linear layer, or one for all."""
    if layer.endswith("qkv"):
        return np.repeat([_QUERY_KEY_GAIN, _QUERY_KEY_GAIN, 1.0], outputs // 3)
    if layer.endswith("fc1"):
        return np.array([_HIDDEN_GAIN])
    depth = sum(config.depths) if isinstance(config, SwinConfig) else config.depth
    return np.array([_BRANCH_GAIN / math.sqrt(depth) if layer.endswith(("proj", "fc2")) and "patch" not in layer else 1.0])


def _onto(layer: str, value: NDArray[np.float32], streams: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """A parameter (outputs, ...), with outliers where its layer writes to the residual stream."""
    return _by_output(streams[len(value)], value) if layer.endswith(("proj", "fc2", "reduction")) else value


def _by_output(factors: NDArray[np.float32], value: NDArray[np.float32]) -> NDArray[np.float32]:
    """A parameter (outputs, ...) times a factor for each output, or one for all."""
    return value * factors.reshape(-1, *[1] * (value.ndim - 1))


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> NDArray[np.float32]:
    """Normal, redrawn outside two deviations."""
    value = rng.standard_normal(shape, dtype=np.float32)
    flat = value.reshape(-1)
    outside = np.flatnonzero(np.abs(flat) > 2)
    while outside.size:
        flat[outside] = rng.standard_normal(outside.size, dtype=np.float32)
        outside = outside[np.abs(flat[outside]) > 2]
    value *= np.float32(deviation)
    return value
