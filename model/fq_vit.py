"""The scheme ``fq-vit-8-8-4`` for ViT and DeiT: post-training quantisation after FQ-ViT (Lin et al., IJCAI 2022), operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .float_ops import State
from .float_vit import LAYER_NORM_EPSILON, ViTConfig
from .fq_layers import INPUT, PIXELS, LayerBuilder, Stream, symmetric_factors
from .network import Constant, Form, IntegerNetwork, Linear
from .observers import observe_images

__all__ = ["quantize_vit"]


def quantize_vit(
    config: ViTConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """FQ-ViT with 8-bit weights, 8-bit activations and 4-bit attention; arguments as :func:`.quantize.quantize`.

    Weights are int8, symmetric, a scale per output channel. Activations are int8 with min/max ranges: the residual stream with
    power-of-two factors per channel, q, k and v symmetric with a scale per head, all others asymmetric. Attention is 4-bit log2.
    """
    calibration = observe_images(config, state, images)
    builder = LayerBuilder(config=config, state=state, calibration=calibration, epsilon=LAYER_NORM_EPSILON)
    stream = _embed(builder, config)
    for index in range(config.depth):
        stream = _block(builder, config, f"blocks.{index}", stream)
    prefix = config.prefix_tokens
    normed = builder.norm("norm", stream, prefix)
    outputs = builder.heads({name: ("norm", row) for row, name in enumerate(("head", "head_dist")[:prefix])}, normed)
    return builder.network(outputs, name=name, origin=origin, labels=labels)


def _embed(builder: LayerBuilder, config: ViTConfig) -> Stream:
    """Patch embedding of raw pixels, plus position as a parameter residual; class (and distillation) token as constant rows."""
    name, prefix, state = "patch_embed", config.prefix_tokens, builder.state
    weight = builder.patches()
    factors = builder.stream_tensor(name, config.tokens)
    position = state["pos_embed"][0]
    tokens = [state[token][0, 0] for token in ("cls_token", "dist_token")[:prefix]]
    builder.constants.append(Constant(name="cls_token", output=name))
    builder.arrays["cls_token.value"] = factors.quantize(np.stack(tokens) + position[:prefix])

    table = symmetric_factors(position[prefix:])
    builder.arrays[f"{name}.residual"] = table.quantize(position[prefix:])
    multiplier = builder.epilogue(name, weight, PIXELS, factors.steps, residual=table.steps)
    builder.operators.append(
        Linear(
            name=name,
            input=INPUT,
            output=name,
            form=Form.RESIDUAL,
            rows=config.patches,
            output_row=prefix,
            residual_multiplier=multiplier,
        )
    )
    return Stream(name=name, factors=factors)


def _block(builder: LayerBuilder, config: ViTConfig, name: str, stream: Stream) -> Stream:
    """Attention and MLP with their norms and residual additions."""
    normed = builder.norm(f"{name}.norm1", stream, config.tokens)
    mixed = builder.attention(f"{name}.attn", f"{name}.norm1", normed, config.num_heads)
    stream = builder.onto_stream(f"{name}.attn.proj", *mixed, stream)
    normed = builder.norm(f"{name}.norm2", stream, config.tokens)
    hidden = builder.gelu_layer(f"{name}.mlp.fc1", f"{name}.norm2", normed)
    return builder.onto_stream(f"{name}.mlp.fc2", f"{name}.mlp.fc1", hidden, stream)
