"""Floating-point reference of timm's SwinTransformer (1.0.31) in numpy."""

from __future__ import annotations

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

__all__ = [
    "LAYER_NORM_EPSILON",
    "MASKED",
    "SwinConfig",
    "SwinStage",
    "forward",
    "merge",
    "relative_position_index",
    "shift_mask",
    "window_rows",
]

LAYER_NORM_EPSILON = 1e-5
MASKED = -100.0
"""What the published networks add to the logit of a key from another region."""


@dataclass(frozen=True, kw_only=True)
class SwinStage:
    """One stage, derived from a :class:`SwinConfig`.

    Parameters
    ----------
    name : str
        ``layers.<i>``.
    depth, num_heads, width : int
    side : int
        Tokens along an edge, after the merging that starts every stage but the first.
    window : int
        Tokens along an edge of a window, at most ``side``.
    """

    name: str
    depth: int
    num_heads: int
    width: int
    side: int
    window: int

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def windows(self) -> int:
        return (self.side // self.window) ** 2

    def shift(self, block: int) -> int:
        """Cyclic shift of a block: half a window in every other one, none where a window is the whole image."""
        return self.window // 2 if block % 2 and self.window < self.side else 0


@dataclass(frozen=True, kw_only=True)
class SwinConfig(ImageConfig):
    """Shape of a Swin transformer, in timm's names; see also :class:`.float_ops.ImageConfig`.

    Parameters
    ----------
    depths, num_heads : tuple of int
        Blocks and heads of each stage; a stage has twice the width and half the edge of the one before.
    window_size : int
        Tokens along an edge of a window. Every stage's edge is a multiple of it, or no longer.
    """

    patch_size: int = 4
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("window_size", self.window_size)
        for name in ("depths", "num_heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            for value in getattr(self, name):
                check_positive(f"each of {name}", value)
        if not len(self.depths) == len(self.num_heads) > 0:
            raise ValueError(f"depths has {len(self.depths)} entries and num_heads {len(self.num_heads)}; one of each per stage")
        if self.img_size // self.patch_size % 2 ** (len(self.depths) - 1):
            side, halvings = self.img_size // self.patch_size, len(self.depths) - 1
            raise ValueError(f"an edge of {side} patches cannot be halved {halvings} times, as {len(self.depths)} stages do")
        for stage in self.stages:
            if stage.width % stage.num_heads:
                raise ValueError(f"{stage.name}: width {stage.width} is not a multiple of its {stage.num_heads} heads")
            if stage.side % stage.window:
                raise ValueError(f"{stage.name}: an edge of {stage.side} tokens is not a multiple of window_size {self.window_size}")

    @property
    def stages(self) -> tuple[SwinStage, ...]:
        """The stages, with the sizes that each has."""
        side, stages = self.img_size // self.patch_size, []
        for index, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            sizes = {"width": self.embed_dim << index, "side": side >> index, "window": min(self.window_size, side >> index)}
            stages.append(SwinStage(name=f"layers.{index}", depth=depth, num_heads=heads, **sizes))
        return tuple(stages)

    def parameter_shapes(self) -> Shapes:
        """Name and shape of every parameter of timm's state dict, in its order."""
        shapes = self.patch_shapes | norm_shapes("patch_embed.norm", self.embed_dim)
        for index, stage in enumerate(self.stages):
            width, hidden = stage.width, int(stage.width * self.mlp_ratio)
            if index:
                shapes |= norm_shapes(f"{stage.name}.downsample.norm", 2 * width)
                shapes |= linear_shapes(f"{stage.name}.downsample.reduction", width, 2 * width, bias=False)
            for block in (f"{stage.name}.blocks.{i}" for i in range(stage.depth)):
                shapes |= norm_shapes(f"{block}.norm1", width)
                shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * stage.window - 1) ** 2, stage.num_heads)
                shapes |= linear_shapes(f"{block}.attn.qkv", 3 * width, width, self.qkv_bias)
                shapes |= linear_shapes(f"{block}.attn.proj", width, width)
                shapes |= norm_shapes(f"{block}.norm2", width)
                shapes |= linear_shapes(f"{block}.mlp.fc1", hidden, width)
                shapes |= linear_shapes(f"{block}.mlp.fc2", width, hidden)
        return shapes | norm_shapes("norm", width) | linear_shapes("head.fc", self.num_classes, width)


def window_rows(stage: SwinStage, shift: int) -> NDArray[np.intp]:
    """(windows, window**2): the rows, of an image's ``side**2`` tokens, that each window takes after a cyclic shift by ``-shift``."""
    count, window = stage.side // stage.window, stage.window
    rows = np.roll(np.arange(stage.tokens).reshape(stage.side, stage.side), (-shift, -shift), (0, 1))
    return rows.reshape(count, window, count, window).swapaxes(1, 2).reshape(stage.windows, window**2)


def shift_mask(stage: SwinStage, shift: int) -> NDArray[np.bool_]:
    """(windows, window**2, window**2): true where a query and a key come from regions that only the cyclic shift made neighbours."""
    edge = np.arange(stage.side)
    band = (edge >= stage.side - stage.window).astype(int) + (edge >= stage.side - shift)
    region = (3 * band[:, None] + band).reshape(-1)[window_rows(stage, 0)]
    return region[:, :, None] != region[:, None, :] if shift else np.zeros((stage.windows, *[stage.window**2] * 2), bool)


def relative_position_index(window: int) -> NDArray[np.intp]:
    """(window**2, window**2): the row of the bias table for each query and key."""
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = (v[:, None] - v + window - 1 for v in (y, x))
    return dy * (2 * window - 1) + dx


def merge(x: Float, side: int) -> Float:
    """Four neighbours to one token: (B, side**2, C) to (B, side**2 / 4, 4 C), in the order (y, x) = (0,0), (1,0), (0,1), (1,1)."""
    batch, _, width = x.shape
    cells = x.reshape(batch, side // 2, 2, side // 2, 2, width).transpose(0, 1, 3, 4, 2, 5)
    return cells.reshape(batch, side**2 // 4, 4 * width)


def forward(config: SwinConfig, state: State, images: Float, observe: Observer | None = None, factory: LayerFactory = FloatLayers) -> Float:
    """Logits of normalised ``images``.

    images : (B, C, H, W) float32 or float64. Result (B, num_classes) of the same type; in float32 within 1e-4 of timm.
    observe : called with the name of an operator and what it gives, channels last: ``patch_embed.proj``, ``patch_embed.norm``; at the
    start of every stage but the first ``downsample.norm``, ``downsample.reduction``; in each block ``norm1``, ``attn.qkv``, ``attn.qk``
    (scaled logits with the relative-position bias, before the mask), ``attn.softmax``, ``attn.av`` (these four by windows,
    (B * windows, ...)), ``attn.proj`` (after the residual add), ``norm2``, ``mlp.fc1`` (before GELU), ``mlp.fc2`` (after the residual
    add); ``norm``, ``pool``, ``head.fc``. factory : makes the layers.
    """
    saw = observe or (lambda name, array: None)
    layers = factory(state, saw)
    x = layers.linear("patch_embed.proj", cut_patches(config, images))
    saw("patch_embed.proj", x)
    x = layers.layer_norm("patch_embed.norm", x, LAYER_NORM_EPSILON)
    for index, stage in enumerate(config.stages):
        if index:
            x = layers.layer_norm(f"{stage.name}.downsample.norm", merge(x, 2 * stage.side), LAYER_NORM_EPSILON)
            x = layers.linear(f"{stage.name}.downsample.reduction", x)
            saw(f"{stage.name}.downsample.reduction", x)
        for block in range(stage.depth):
            x = _block(layers, stage, block, x)
    pooled = layers.layer_norm("norm", x, LAYER_NORM_EPSILON).mean(1)
    saw("pool", pooled)
    logits = layers.linear("head.fc", pooled)
    saw("head.fc", logits)
    return logits


def _block(layers: FloatLayers, stage: SwinStage, block: int, x: Float) -> Float:
    name, shift = f"{stage.name}.blocks.{block}", stage.shift(block)
    rows = window_rows(stage, shift)
    normed = layers.layer_norm(f"{name}.norm1", x, LAYER_NORM_EPSILON)
    windows = normed[:, rows].reshape(-1, stage.window**2, stage.width)
    table = layers.state[f"{name}.attn.relative_position_bias_table"]
    bias = table[relative_position_index(stage.window)].transpose(2, 0, 1)
    mask = shift_mask(stage, shift) * x.dtype.type(MASKED) if shift else None
    mixed = np.empty_like(x)
    attended = layers.attention(f"{name}.attn", windows, stage.num_heads, bias, mask)
    mixed[:, rows.reshape(-1)] = attended.reshape(x.shape)
    x = x + mixed
    layers.saw(f"{name}.attn.proj", x)
    hidden = layers.linear(f"{name}.mlp.fc1", layers.layer_norm(f"{name}.norm2", x, LAYER_NORM_EPSILON))
    layers.saw(f"{name}.mlp.fc1", hidden)
    x = x + layers.linear(f"{name}.mlp.fc2", layers.hidden(hidden))
    layers.saw(f"{name}.mlp.fc2", x)
    return x
