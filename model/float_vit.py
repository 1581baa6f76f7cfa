"""Floating-point reference of timm's VisionTransformer family in numpy, the source of every calibration statistic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .float_ops import (
    Float,
    FloatLayers,
    ImageConfig,
    LayerFactory,
    Observer,
    Shapes,
    State,
    check_positive,
    cut_patches,
    linear_shapes,
    norm_shapes,
)

__all__ = ["LAYER_NORM_EPSILON", "ViTConfig", "forward", "random_state"]

LAYER_NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ImageConfig):
    """Shape of a vision transformer, in timm's names; see also :class:`.float_ops.ImageConfig`.

    Parameters
    ----------
    depth, num_heads : int
    distilled : bool
        With DeiT's distillation token and second head; the logits are the mean of both heads.
    """

    patch_size: int = 16
    depth: int
    num_heads: int
    distilled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "num_heads"):
            check_positive(name, getattr(self, name))
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and, if distilled, the distillation token."""
        return 2 if self.distilled else 1

    @property
    def tokens(self) -> int:
        return self.prefix_tokens + self.patches

    @property
    def hidden_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter of timm's state dict, in its order."""
        width, hidden = self.embed_dim, self.hidden_dim
        shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, self.tokens, width)}
        if self.distilled:
            shapes["dist_token"] = (1, 1, width)
        shapes |= self.patch_shapes
        for block in (f"blocks.{i}" for i in range(self.depth)):
            shapes |= norm_shapes(f"{block}.norm1", width)
            shapes |= linear_shapes(f"{block}.attn.qkv", 3 * width, width, self.qkv_bias)
            shapes |= linear_shapes(f"{block}.attn.proj", width, width)
            shapes |= norm_shapes(f"{block}.norm2", width)
            shapes |= linear_shapes(f"{block}.mlp.fc1", hidden, width)
            shapes |= linear_shapes(f"{block}.mlp.fc2", width, hidden)
        shapes |= norm_shapes("norm", width) | linear_shapes("head", self.num_classes, width)
        if self.distilled:
            shapes |= linear_shapes("head_dist", self.num_classes, width)
        return shapes


def random_state(config: ImageConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Untrained parameters, deterministic, that keep activations near deviation 1; for tests of small networks only."""
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


def forward(config: ViTConfig, state: State, images: Float, observe: Observer | None = None, factory: LayerFactory = FloatLayers) -> Float:
    """Logits of normalised ``images``.

    images : (B, C, H, W) float32 or float64. Result (B, num_classes) of the same type; in float32 within 1e-4 of timm.
    observe : called with the name of an operator and what it gives, channels last: ``patch_embed`` (with class token and position);
    in each block ``norm1``, ``attn.qkv``, ``attn.qk`` (scaled logits), ``attn.softmax``, ``attn.av``, ``attn.proj`` (after the
    residual add), ``norm2``, ``mlp.fc1`` (before GELU), ``mlp.fc2`` (after the residual add); ``norm`` (prefix tokens only),
    ``head``, ``head_dist``. factory : makes the layers.
    """
    saw = observe or (lambda name, array: None)
    layers = factory(state, saw)
    x = _embed(config, layers, images)
    saw("patch_embed", x)
    for block in (f"blocks.{i}" for i in range(config.depth)):
        normed = layers.layer_norm(f"{block}.norm1", x, LAYER_NORM_EPSILON)
        x = x + layers.attention(f"{block}.attn", normed, config.num_heads)
        saw(f"{block}.attn.proj", x)
        hidden = layers.linear(f"{block}.mlp.fc1", layers.layer_norm(f"{block}.norm2", x, LAYER_NORM_EPSILON))
        saw(f"{block}.mlp.fc1", hidden)
        x = x + layers.linear(f"{block}.mlp.fc2", layers.hidden(hidden))
        saw(f"{block}.mlp.fc2", x)
    x = layers.layer_norm("norm", x[:, : config.prefix_tokens], LAYER_NORM_EPSILON)
    logits = layers.linear("head", x[:, 0])
    saw("head", logits)
    if not config.distilled:
        return logits
    distilled = layers.linear("head_dist", x[:, 1])
    saw("head_dist", distilled)
    return (logits + distilled) / 2


def _embed(config: ViTConfig, layers: FloatLayers, images: Float) -> Float:
    """Class (and distillation) token and patches, with their position."""
    state = layers.state
    prefix = [state[name] for name in ("cls_token", "dist_token")[: config.prefix_tokens]]
    tokens = [np.broadcast_to(p, (len(images), 1, config.embed_dim)) for p in prefix]
    return np.concatenate([*tokens, layers.linear("patch_embed.proj", cut_patches(config, images))], axis=1) + state["pos_embed"]
