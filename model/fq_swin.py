"""The scheme ``fq-vit-8-8-4`` for Swin transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .float_ops import State
from .float_swin import LAYER_NORM_EPSILON, SwinConfig, SwinStage, relative_position_index
from .fq_layers import PIXELS, SCHEME, Filler
from .network import IntegerNetwork
from .observers import PowerOfTwoFactors, observe_images
from .swin_structure import swin_structure

__all__ = ["fill_swin", "quantize_swin"]


def quantize_swin(
    config: SwinConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """As :func:`.fq_vit.quantize_vit`; the relative-position bias is int8 with a power-of-two factor per head."""
    structure = swin_structure(config, name=name, scheme=SCHEME, origin=origin)
    calibration = observe_images(config, state, images)
    filler = Filler(structure=structure, config=config, state=state, calibration=calibration, epsilon=LAYER_NORM_EPSILON)
    fill_swin(filler, config)
    return filler.network(list(labels))


def fill_swin(filler: Filler, config: SwinConfig) -> None:
    """Fill the layers in their order."""
    stream = filler.new_stream("patch_embed.proj", filler.pixels(), PIXELS)
    stream = filler.norm_stream("patch_embed.norm", stream)
    for index, stage in enumerate(config.stages):
        if index:
            name = f"{stage.name}.downsample.reduction"
            normed = filler.norm(f"{stage.name}.downsample.norm", stream)
            stream = filler.new_stream(name, filler.weight(name, normed), normed)
        for block in range(stage.depth):
            stream = _block(filler, stage, f"{stage.name}.blocks.{block}", stream)
    filler.heads(filler.pool("pool", "norm", filler.norm("norm", stream)))


def _block(filler: Filler, stage: SwinStage, name: str, stream: PowerOfTwoFactors) -> PowerOfTwoFactors:
    """Attention and MLP with their norms and residual additions."""
    table = filler.state[f"{name}.attn.relative_position_bias_table"]
    positions = table[relative_position_index(stage.window)].transpose(2, 0, 1)
    mixed = filler.attention(f"{name}.attn", filler.norm(f"{name}.norm1", stream), positions)
    stream = filler.onto_stream(f"{name}.attn.proj", mixed, stream)
    hidden = filler.gelu_layer(f"{name}.mlp.fc1", filler.norm(f"{name}.norm2", stream))
    return filler.onto_stream(f"{name}.mlp.fc2", hidden, stream)
