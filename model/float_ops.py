"""Floating-point operators of timm's transformers in numpy, and what the configurations of all families have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Float",
    "FloatLayers",
    "ImageConfig",
    "LayerFactory",
    "Observer",
    "Shapes",
    "State",
    "check_positive",
    "cut_patches",
    "gelu",
    "linear_shapes",
    "masked_logits",
    "norm_shapes",
    "normalise",
    "normalised",
    "scores",
    "softmax",
]

Float = NDArray[np.floating]
Observer = Callable[[str, Float], None]
State = Mapping[str, NDArray[np.float32]]
Shapes = dict[str, tuple[int, ...]]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What a network takes and gives, in timm's names.

    Parameters
    ----------
    img_size, patch_size, in_chans : int
        Square images of whole patches.
    num_classes, embed_dim : int
    mlp_ratio : float
        Width of the hidden layer over that of the tokens.
    qkv_bias : bool
    mean, std : tuple of float
        Of pixels in 0..1, an entry per channel; one entry stands for all.
    """

    img_size: int = 224
    patch_size: int
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim"):
            check_positive(name, getattr(self, name))
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} is not a multiple of patch_size {self.patch_size}")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) not in (1, self.in_chans):
                raise ValueError(f"{name} has {len(values)} entries; 1 or {self.in_chans} (in_chans) are allowed")
            object.__setattr__(self, name, values * (self.in_chans // len(values)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter of timm's state dict, in its order."""
        raise NotImplementedError

    @property
    def patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2

    @property
    def patch_shapes(self) -> Shapes:
        """Parameters of the patch embedding."""
        shape = (self.embed_dim, self.in_chans, self.patch_size, self.patch_size)
        return {"patch_embed.proj.weight": shape, "patch_embed.proj.bias": (self.embed_dim,)}


def check_positive(name: str, value: object) -> None:
    """Raise ``ValueError`` for anything else than a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")


def norm_shapes(name: str, width: int) -> Shapes:
    """Parameters of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear_shapes(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    """Parameters of a linear layer."""
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def normalise(config: ImageConfig, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(pixel / 255 - mean) / std`` of (B, C, H, W) uint8 images, float32."""
    shape = (config.in_chans, config.img_size, config.img_size)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"images are {images.dtype} of shape {images.shape}; this network takes uint8 of shape (B, {wanted})")
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (config.mean, config.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def cut_patches(config: ImageConfig, images: Float) -> Float:
    """Patches as rows: (B, C, H, W) to (B, patches, C * patch**2), columns in the order (channel, y, x)."""
    batch, side, patch = len(images), config.img_size // config.patch_size, config.patch_size
    cells = images.reshape(batch, config.in_chans, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, config.patches, -1)


class FloatLayers:
    """The layers of a float network with the parameters ``state``; what they give is shown to ``saw``.

    A quantised network's reference overrides those that it computes otherwise.
    """

    def __init__(self, state: State, saw: Observer) -> None:
        self.state, self.saw = state, saw

    def linear(self, name: str, x: Float) -> Float:
        """``x . weight^T + bias``; a convolution's weight is flattened, a bias that is not there is 0."""
        return self.product(name, x, self.state[f"{name}.weight"])

    def product(self, name: str, x: Float, weight: Float) -> Float:
        """:meth:`linear` with another weight."""
        # One product: numpy multiplies a stack of matrices one by one, which is slow for windows.
        result = (x.reshape(-1, x.shape[-1]) @ weight.reshape(len(weight), -1).T).reshape(*x.shape[:-1], -1)
        return result + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else result

    def layer_norm(self, name: str, x: Float, epsilon: float) -> Float:
        """LayerNorm over the last axis with its parameters."""
        result = normalised(x, epsilon) * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]
        self.saw(name, result)
        return result

    def hidden(self, x: Float) -> Float:
        """What a block's hidden layer makes of its sums."""
        return gelu(x)

    def attention(self, name: str, x: Float, heads: int, bias: Float | None = None, mask: Float | None = None) -> Float:
        """Multi-head self-attention of (B, tokens, width), its projection included.

        bias : (heads, tokens, tokens), added to the scaled logits. mask : (W, tokens, tokens), added after ``saw`` has had the logits;
        batch entry ``b`` takes ``mask[b % W]``.
        """
        batch, tokens, width = x.shape
        qkv = self.linear(f"{name}.qkv", x)
        self.saw(f"{name}.qkv", qkv)
        q, k, v = qkv.reshape(batch, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        logits = scores(q, k, bias)
        self.saw(f"{name}.qk", logits)
        weights = softmax(logits, mask)
        self.saw(f"{name}.softmax", weights)
        mixed = (weights @ v).swapaxes(1, 2).reshape(batch, tokens, width)
        self.saw(f"{name}.av", mixed)
        return self.linear(f"{name}.proj", mixed)


LayerFactory = Callable[[State, Observer], FloatLayers]


def normalised(x: Float, epsilon: float) -> Float:
    """Mean 0 and deviation 1 over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon)


def scores(q: Float, k: Float, bias: Float | None = None) -> Float:
    """Scaled logits of (..., tokens, size) queries and keys, and a bias."""
    logits = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
    return logits if bias is None else logits + bias


def masked_logits(logits: Float, mask: Float | None) -> Float:
    """``mask`` (W, tokens, tokens) added to (B, heads, tokens, tokens); batch entry ``b`` takes ``mask[b % W]``."""
    return logits if mask is None else (logits.reshape(-1, len(mask), *logits.shape[1:]) + mask[:, None]).reshape(logits.shape)


def softmax(logits: Float, mask: Float | None = None) -> Float:
    """Over the last axis of the masked logits."""
    logits = masked_logits(logits, mask)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


_ERF_END, _ERF_STEPS = 6.0, 1 << 15
_ERF = np.array([math.erf(_ERF_END * (2 * i / _ERF_STEPS - 1)) for i in range(_ERF_STEPS + 1)])
_ERF_SLOPE = np.diff(_ERF, append=1.0)


def gelu(x: Float) -> Float:
    """``x / 2 * (1 + erf(x / sqrt 2))`` in the type of x; erf is interpolated in a table of ``math.erf``, error below 2e-8."""
    position = np.clip(x * (math.sqrt(0.5) * _ERF_STEPS / (2 * _ERF_END)) + _ERF_STEPS / 2, 0, _ERF_STEPS, dtype=np.float64)
    index = position.astype(np.int32)
    erf = _ERF[index] + _ERF_SLOPE[index] * (position - index)
    return (0.5 * x * (1 + erf)).astype(x.dtype)
