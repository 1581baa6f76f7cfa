"""The scheme ``fq-vit-8-8-4`` for Swin transformers: windows, shift and patch merging as row maps, position bias as a residual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .float_ops import State
from .float_swin import LAYER_NORM_EPSILON, SwinConfig, SwinStage, relative_position_index, shift_mask, window_rows
from .fq_layers import INPUT, PIXELS, LayerBuilder, Stream
from .network import AveragePool, IntegerNetwork
from .observers import Affine, observe_images

__all__ = ["merge_rows", "quantize_swin", "raster_rows", "window_types"]


def quantize_swin(
    config: SwinConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """As :func:`.fq_vit.quantize_vit`; the relative-position bias is int8 with a power-of-two factor per head, a masked key -128."""
    calibration = observe_images(config, state, images)
    builder = LayerBuilder(config=config, state=state, calibration=calibration, epsilon=LAYER_NORM_EPSILON)
    stream = _embed(builder, config)
    for index, stage in enumerate(config.stages):
        if index:
            stream = _reduction(builder, stage, stream)
        for block in range(stage.depth):
            merging = index < len(config.stages) - 1 and block == stage.depth - 1
            stream = _block(builder, stage, block, stream, merging)
    pooled = _pool(builder, stream, config.stages[-1].tokens)
    outputs = builder.heads({"head.fc": ("pool", 0)}, pooled)
    return builder.network(outputs, name=name, origin=origin, labels=labels)


def raster_rows(stage: SwinStage, shift: int) -> NDArray[np.uint16]:
    """Row in the image, (tokens,) uint16, of each token in window order."""
    return window_rows(stage, shift).reshape(-1).astype(np.uint16)


def merge_rows(side: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Row (side**2,) uint16 and group (side**2,) uint8 of each token in the tensor that patch merging makes.

    The tokens of a 2 x 2 cell are the groups of a row, in timm's order: (y, x) = (0, 0), (1, 0), (0, 1), (1, 1).
    """
    y, x = np.divmod(np.arange(side**2), side)
    return (y // 2 * (side // 2) + x // 2).astype(np.uint16), (2 * (x % 2) + y % 2).astype(np.uint8)


def window_types(stage: SwinStage, shift: int) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """The distinct masks (types, T, T), true for a masked key, and the type (windows,) uint8 of each window."""
    masks, types = np.unique(shift_mask(stage, shift), axis=0, return_inverse=True)
    return masks, types.reshape(-1).astype(np.uint8)


def _embed(builder: LayerBuilder, config: SwinConfig) -> Stream:
    """Patch embedding of raw pixels and its LayerNorm, which starts the residual stream."""
    name, rows = "patch_embed.norm", config.patches
    embedded = builder.new_stream("patch_embed.proj", INPUT, PIXELS, builder.patches())
    factors = builder.stream_tensor(name, rows)
    builder.norm_into(name, embedded, rows, factors.steps, factors.zero_point)
    return Stream(name=name, factors=factors)


def _reduction(builder: LayerBuilder, stage: SwinStage, merged: Stream) -> Stream:
    """LayerNorm and linear layer of patch merging, whose input lies merged already."""
    norm, name = f"{stage.name}.downsample.norm", f"{stage.name}.downsample.reduction"
    normed = builder.norm(norm, merged, stage.tokens)
    return builder.new_stream(name, norm, normed, builder.weight(name, normed))


def _block(builder: LayerBuilder, stage: SwinStage, block: int, stream: Stream, merging: bool) -> Stream:
    """Attention by windows, between row maps into window order and back, and the MLP, which may write the merged tensor."""
    name, shift = f"{stage.name}.blocks.{block}", stage.shift(block)
    norm1, attn, norm2, fc1, fc2 = (f"{name}.{part}" for part in ("norm1", "attn", "norm2", "mlp.fc1", "mlp.fc2"))
    back = raster_rows(stage, shift)
    masks, types = window_types(stage, shift)
    table = builder.state[f"{attn}.relative_position_bias_table"]
    positions = table[relative_position_index(stage.window)].transpose(2, 0, 1)

    normed = builder.norm(norm1, stream, stage.tokens, np.argsort(back).astype(np.uint16))
    bias = {"positions": positions, "masks": masks, "window_type": types}
    mixed = builder.attention(attn, norm1, normed, stage.num_heads, stage.windows, **bias)
    stream = builder.onto_stream(f"{attn}.proj", *mixed, stream, back)
    hidden = builder.gelu_layer(fc1, norm2, builder.norm(norm2, stream, stage.tokens))
    rows, groups = merge_rows(stage.side) if merging else (None, None)
    return builder.onto_stream(fc2, fc1, hidden, stream, rows, groups)


def _pool(builder: LayerBuilder, stream: Stream, rows: int) -> Affine:
    """Final norm and the mean over all tokens."""
    normed = builder.norm("norm", stream, rows)
    pooled = builder.range_tensor("pool", rows=1, channels=len(stream.factors.alpha))
    builder.multipliers("pool", np.asarray([normed.scale / (rows * pooled.scale)]))
    builder.arrays["pool.bias"] = np.asarray([-rows * normed.zero_point], np.int32)
    builder.operators.append(AveragePool(name="pool", input="norm", output="pool"))
    return pooled
