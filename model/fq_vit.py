"""The scheme ``fq-vit-8-8-4`` for ViT and DeiT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .float_ops import State
from .float_vit import LAYER_NORM_EPSILON, ViTConfig
from .fq_layers import PIXELS, SCHEME, Filler, symmetric_factors
from .network import IntegerNetwork
from .observers import PowerOfTwoFactors, observe_images
from .structure import vit_structure

__all__ = ["fill_vit", "quantize_vit"]


def quantize_vit(
    config: ViTConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """FQ-ViT with 8-bit weights, 8-bit activations and 4-bit attention; arguments as :func:`.quantize.quantize`.

    Weights are int8, symmetric, a scale per output channel. Activations are int8 with min/max ranges: the residual stream with
    power-of-two factors per channel, q, k and v symmetric with a scale per head, all others asymmetric. Attention is 4-bit log2.
    """
    structure = vit_structure(config, name=name, scheme=SCHEME, origin=origin)
    calibration = observe_images(config, state, images)
    filler = Filler(structure=structure, config=config, state=state, calibration=calibration, epsilon=LAYER_NORM_EPSILON)
    fill_vit(filler, config)
    return filler.network(list(labels))


def fill_vit(filler: Filler, config: ViTConfig) -> None:
    """Fill the layers in their order."""
    stream = _embed(filler, config)
    for block in (f"blocks.{index}" for index in range(config.depth)):
        mixed = filler.attention(f"{block}.attn", filler.norm(f"{block}.norm1", stream))
        stream = filler.onto_stream(f"{block}.attn.proj", mixed, stream)
        hidden = filler.gelu_layer(f"{block}.mlp.fc1", filler.norm(f"{block}.norm2", stream))
        stream = filler.onto_stream(f"{block}.mlp.fc2", hidden, stream)
    filler.heads(filler.norm("norm", stream))


def _embed(filler: Filler, config: ViTConfig) -> PowerOfTwoFactors:
    """Patch embedding of raw pixels, plus position as a parameter residual; class (and distillation) token as constant rows."""
    name, state, prefix = "patch_embed", filler.state, config.prefix_tokens
    factors = filler.stream(name)
    position = state["pos_embed"][0]
    tokens = [state[token][0, 0] for token in ("cls_token", "dist_token")[:prefix]]
    filler.arrays["cls_token.value"] = factors.quantize(np.stack(tokens) + position[:prefix])
    table = symmetric_factors(position[prefix:])
    filler.arrays[f"{name}.residual"] = table.quantize(position[prefix:])
    filler.epilogue(name, filler.pixels(), PIXELS, factors.steps, residual=table)
    return factors
