"""The scheme ``fq-vit-8-8-4`` for a multilayer perceptron: int8 throughout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .float_mlp import MlpConfig
from .float_ops import State
from .fq_layers import PIXELS, SCHEME, Filler
from .network import Form, IntegerNetwork
from .observers import observe_images
from .structure import StructureBuilder

__all__ = ["mlp_structure", "quantize_mlp"]

_STEM = "patch_embed"


def mlp_structure(config: MlpConfig, *, name: str, scheme: str, origin: str) -> IntegerNetwork:
    """Network of ``config`` without weights, as :func:`.structure.vit_structure`."""
    builder = StructureBuilder(config=config, stream=_STEM, rows=1, width=config.embed_dim)
    source = builder.tensors[0].name
    for layer in (_STEM, *config.hidden_layers):
        builder.tensor(layer)
        builder.linear(layer, source, Form.TABLE)
        source = layer
    builder.head("head", source, 0)
    return builder.network(["head"], {}, name=name, scheme=scheme, origin=origin)


def quantize_mlp(
    config: MlpConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """Weights int8, symmetric, a scale per output channel; activations int8, asymmetric; arguments as :func:`.quantize.quantize`."""
    structure = mlp_structure(config, name=name, scheme=SCHEME, origin=origin)
    calibration = observe_images(config, state, images)
    filler = Filler(structure=structure, config=config, state=state, calibration=calibration, epsilon=0.0)
    source = filler.gelu_layer(_STEM, PIXELS, filler.pixels())
    for layer in config.hidden_layers:
        source = filler.gelu_layer(layer, source)
    filler.heads(source)
    return filler.network(list(labels))
