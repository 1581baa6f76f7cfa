"""Floating-point reference of timm's VisionTransformer family in numpy, the source of every calibration statistic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LAYER_NORM_EPSILON", "Float", "Observer", "State", "ViTConfig", "forward", "gelu", "normalise", "random_state"]

LAYER_NORM_EPSILON = 1e-6
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

Float = NDArray[np.floating]
Observer = Callable[[str, Float], None]
State = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a vision transformer, in timm's names.

    Parameters
    ----------
    img_size, patch_size, in_chans : int
        Square images of whole patches.
    num_classes, embed_dim, depth, num_heads : int
    mlp_ratio : float
        Width of the hidden layer over ``embed_dim``.
    distilled : bool
        With DeiT's distillation token and second head; the logits are the mean of both heads.
    qkv_bias : bool
    mean, std : tuple of float
        Of pixels in 0..1, an entry per channel; one entry stands for all.
    """

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    distilled: bool = False
    qkv_bias: bool = True
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) not in (1, self.in_chans):
                raise ValueError(f"{name} has {len(values)} entries; 1 or {self.in_chans} (in_chans) are allowed")
            object.__setattr__(self, name, values * (self.in_chans // len(values)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and, if distilled, the distillation token."""
        return 2 if self.distilled else 1

    @property
    def patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        return self.prefix_tokens + self.patches

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def hidden_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of timm's state dict, in its order."""
        width, hidden = self.embed_dim, self.hidden_dim
        shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, self.tokens, width)}
        if self.distilled:
            shapes["dist_token"] = (1, 1, width)
        shapes["patch_embed.proj.weight"] = (width, self.in_chans, self.patch_size, self.patch_size)
        shapes["patch_embed.proj.bias"] = (width,)
        for block in (f"blocks.{i}" for i in range(self.depth)):
            shapes |= _norm_shapes(f"{block}.norm1", width)
            shapes |= _linear_shapes(f"{block}.attn.qkv", 3 * width, width, self.qkv_bias)
            shapes |= _linear_shapes(f"{block}.attn.proj", width, width)
            shapes |= _norm_shapes(f"{block}.norm2", width)
            shapes |= _linear_shapes(f"{block}.mlp.fc1", hidden, width)
            shapes |= _linear_shapes(f"{block}.mlp.fc2", width, hidden)
        shapes |= _norm_shapes("norm", width) | _linear_shapes("head", self.num_classes, width)
        if self.distilled:
            shapes |= _linear_shapes("head_dist", self.num_classes, width)
        return shapes


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear_shapes(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def random_state(config: ViTConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Untrained parameters, deterministic, that keep activations near deviation 1; for tests and timing only."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in config.parameter_shapes().items():
        value = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith(("_token", "pos_embed")):
            state[name] = value * np.float32(0.5)
        elif len(shape) > 1:
            state[name] = value * np.float32(math.prod(shape[1:]) ** -0.5)
        else:
            state[name] = value * np.float32(0.02) + np.float32("norm" in name and name.endswith(".weight"))
    return state


def normalise(config: ViTConfig, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(pixel / 255 - mean) / std`` of (B, C, H, W) uint8 images, float32."""
    shape = (config.in_chans, config.img_size, config.img_size)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"images are {images.dtype} of shape {images.shape}; this network takes uint8 of shape (B, {wanted})")
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (config.mean, config.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def forward(config: ViTConfig, state: State, images: Float, observe: Observer | None = None) -> Float:
    """Logits of normalised ``images``.

    images : (B, C, H, W) float32 or float64. Result (B, num_classes) of the same type; in float32 within 1e-4 of timm.
    observe : called with the name of an operator and what it gives, channels last: ``patch_embed`` (with class token and position);
    in each block ``norm1``, ``attn.qkv``, ``attn.qk`` (scaled logits), ``attn.softmax``, ``attn.av``, ``attn.proj`` (after the
    residual add), ``norm2``, ``mlp.fc1`` (before GELU), ``mlp.fc2`` (after the residual add); ``norm`` (prefix tokens only),
    ``head``, ``head_dist``.
    """
    saw = observe or (lambda name, array: None)
    x = _embed(config, state, images)
    saw("patch_embed", x)
    for block in (f"blocks.{i}" for i in range(config.depth)):
        x = x + _attention(config, state, f"{block}.attn", _norm(state, f"{block}.norm1", x, saw), saw)
        saw(f"{block}.attn.proj", x)
        hidden = _linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", x, saw))
        saw(f"{block}.mlp.fc1", hidden)
        x = x + _linear(state, f"{block}.mlp.fc2", gelu(hidden))
        saw(f"{block}.mlp.fc2", x)
    x = _norm(state, "norm", x[:, : config.prefix_tokens], saw)
    logits = _linear(state, "head", x[:, 0])
    saw("head", logits)
    if not config.distilled:
        return logits
    distilled = _linear(state, "head_dist", x[:, 1])
    saw("head_dist", distilled)
    return (logits + distilled) / 2


def _embed(config: ViTConfig, state: State, images: Float) -> Float:
    batch, side, patch = len(images), config.img_size // config.patch_size, config.patch_size
    cells = images.reshape(batch, config.in_chans, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5).reshape(batch, config.patches, -1)
    weight = state["patch_embed.proj.weight"].reshape(config.embed_dim, -1)
    prefix = [state[name] for name in ("cls_token", "dist_token")[: config.prefix_tokens]]
    tokens = [np.broadcast_to(p, (batch, 1, config.embed_dim)) for p in prefix] + [cells @ weight.T + state["patch_embed.proj.bias"]]
    return np.concatenate(tokens, axis=1) + state["pos_embed"]


def _attention(config: ViTConfig, state: State, name: str, x: Float, saw: Observer) -> Float:
    batch, tokens, width = x.shape
    qkv = _linear(state, f"{name}.qkv", x)
    saw(f"{name}.qkv", qkv)
    q, k, v = qkv.reshape(batch, tokens, 3, config.num_heads, config.head_dim).transpose(2, 0, 3, 1, 4)
    logits = (q * config.head_dim**-0.5) @ k.swapaxes(-1, -2)
    saw(f"{name}.qk", logits)
    attention = np.exp(logits - logits.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    saw(f"{name}.softmax", attention)
    mixed = (attention @ v).swapaxes(1, 2).reshape(batch, tokens, width)
    saw(f"{name}.av", mixed)
    return _linear(state, f"{name}.proj", mixed)


def _linear(state: State, name: str, x: Float) -> Float:
    product = x @ state[f"{name}.weight"].T
    return product + state[f"{name}.bias"] if f"{name}.bias" in state else product


def _norm(state: State, name: str, x: Float, saw: Observer) -> Float:
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    result = centred / np.sqrt(variance + LAYER_NORM_EPSILON) * state[f"{name}.weight"] + state[f"{name}.bias"]
    saw(name, result)
    return result


_ERF_END, _ERF_STEPS = 6.0, 1 << 15
_ERF = np.array([math.erf(_ERF_END * (2 * i / _ERF_STEPS - 1)) for i in range(_ERF_STEPS + 1)])
_ERF_SLOPE = np.diff(_ERF, append=1.0)


def gelu(x: Float) -> Float:
    """``x / 2 * (1 + erf(x / sqrt 2))`` in the type of x; erf is interpolated in a table of ``math.erf``, error below 2e-8."""
    position = np.clip(x * (math.sqrt(0.5) * _ERF_STEPS / (2 * _ERF_END)) + _ERF_STEPS / 2, 0, _ERF_STEPS, dtype=np.float64)
    index = position.astype(np.int32)
    erf = _ERF[index] + _ERF_SLOPE[index] * (position - index)
    return (0.5 * x * (1 + erf)).astype(x.dtype)
