"""From a float vision transformer and some images to a low-bit integer network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import float_swin, float_vit
from ..architectures import Transformer
from ..float_ops import State
from ..float_swin import SwinConfig
from ..fq_swin import fill_swin
from ..fq_vit import fill_vit
from ..network import IntegerNetwork
from ..observers import Calibration, observe_images
from .layers import LowBitFiller
from .reference import Reference, reparameterised
from .scheme import Scheme, learned_shapes
from .structure import low_bit_structure

__all__ = ["calibrated_reference", "quantize_low_bit"]


def quantize_low_bit(
    scheme: Scheme, config: Transformer, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """Integer network of ``scheme``; arguments as :func:`..quantize.quantize`, ``state`` with what training learned (:mod:`.scheme`).

    Residual stream, LayerNorm, patch embedding, patch merging and heads are FQ-ViT's, calibrated on the low-bit network itself.
    """
    reference, calibration = calibrated_reference(scheme, config, state, images)
    filler = LowBitFiller(
        structure=low_bit_structure(config, scheme, name=name, origin=origin),
        config=config,
        state=reference.state,
        calibration=calibration,
        epsilon=float_swin.LAYER_NORM_EPSILON if isinstance(config, SwinConfig) else float_vit.LAYER_NORM_EPSILON,
        reference=reference,
    )
    if isinstance(config, SwinConfig):
        fill_swin(filler, config)
    else:
        fill_vit(filler, config)
    return filler.network(list(labels))


def calibrated_reference(scheme: Scheme, config: Transformer, state: State, images: NDArray[np.uint8]) -> tuple[Reference, Calibration]:
    """The float reference with all scales fixed, and what its activations look like over ``images``."""
    learned = learned_shapes(config)
    if unused := next((name for name in state if name in learned and not scheme.uses(name)), None):
        raise ValueError(f"the scheme {scheme.name} has no place for {unused}, which the checkpoint has learned")
    if not scheme.bias:
        # The published layers have one and never add it.
        unused = {name.replace(".weight_scale", ".bias") for name in learned if name.endswith(".weight_scale")}
        state = {name: value for name, value in state.items() if name not in unused}
    if scheme.reparameterised:
        state = reparameterised(config, state, images, scheme.token_bits)
    reference = Reference(scheme=scheme, config=config, state=state)
    return reference, observe_images(config, state, images, reference.layers)
