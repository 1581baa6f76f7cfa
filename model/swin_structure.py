"""Structure of Swin transformers: windows, cyclic shift and patch merging as row maps and masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .float_swin import SwinConfig, SwinStage, shift_mask, window_rows
from .network import AveragePool, IntegerNetwork
from .structure import StructureBuilder

__all__ = ["merge_rows", "raster_rows", "swin_structure", "window_types"]


def swin_structure(
    config: SwinConfig, *, name: str, scheme: str, origin: str, build: Callable[..., StructureBuilder] = StructureBuilder
) -> IntegerNetwork:
    """As :func:`.structure.vit_structure`; the row maps, the masks in the position bias and the types of the windows are there."""
    builder = build(config=config, stream="", rows=config.patches, width=config.embed_dim)
    builder.embed("patch_embed.proj")
    builder.norm("patch_embed.norm")
    builder.stream = "patch_embed.norm"
    for index, stage in enumerate(config.stages):
        if index:
            norm, reduction = f"{stage.name}.downsample.norm", f"{stage.name}.downsample.reduction"
            builder.norm(norm, rows=stage.tokens, channels=2 * stage.width)
            builder.new_stream(reduction, norm, stage.tokens, stage.width)
        last = index == len(config.stages) - 1
        for block in range(stage.depth):
            _block(builder, stage, block, merging=not last and block == stage.depth - 1)
    builder.norm("norm")
    builder.tensor("pool", rows=1)
    builder.operators.append(AveragePool(name="pool", input="norm", output="pool"))
    builder.head("head.fc", "pool", 0)
    return builder.network(["head.fc"], {}, name=name, scheme=scheme, origin=origin)


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
    masks = {mask.tobytes(): mask for mask in shift_mask(stage, shift)}
    types = {key: index for index, key in enumerate(masks)}
    return np.stack(list(masks.values())), np.array([types[mask.tobytes()] for mask in shift_mask(stage, shift)], np.uint8)


def _block(builder: StructureBuilder, stage: SwinStage, block: int, *, merging: bool) -> None:
    """Attention by windows, between row maps into window order and back, and the MLP, which may write the merged tensor."""
    name, shift = f"{stage.name}.blocks.{block}", stage.shift(block)
    back = raster_rows(stage, shift)
    builder.norm(f"{name}.norm1", output_rows=np.argsort(back).astype(np.uint16))
    builder.attention(f"{name}.attn", f"{name}.norm1", stage.num_heads, stage.windows, *window_types(stage, shift))
    builder.onto_stream(f"{name}.attn.proj", f"{name}.attn.av", back)
    builder.mlp(name, merge_rows(stage.side) if merging else None)
