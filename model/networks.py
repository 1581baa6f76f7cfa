"""Networks known by name: with the weights that ship with the package, a user's, synthetic ones, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .architectures import ARCHITECTURES, DATA, DIGITS, DIGITS_MLP, LOW_BIT_NETWORKS, architecture
from .check import check_network
from .checkpoint import is_integer_network, load_checkpoint
from .float_mlp import MlpConfig
from .float_swin import SwinConfig
from .fq_layers import SCHEME
from .fq_mlp import mlp_structure
from .network import IntegerNetwork
from .quantize import quantize
from .schemes.scheme import LOW_BIT
from .schemes.structure import low_bit_structure
from .structure import check_arrays, vit_structure
from .swin_structure import swin_structure
from .synthetic import shaped_images, synthetic_state

__all__ = ["ARCHITECTURES", "DATA", "DIGITS", "SHIPPED", "architecture", "integer_network", "network_structure", "read_network", "samples"]

SHIPPED = tuple(name for name in ARCHITECTURES if ARCHITECTURES[name] in (DIGITS, DIGITS_MLP))
"""Networks whose weights are in the package."""

_CALIBRATION_IMAGES = 2


def integer_network(name: str, checkpoint: Path | str | None = None) -> IntegerNetwork:
    """Network of a known name; its ``origin`` says where the weights come from.

    Without a checkpoint: the trained network of a shipped name, else synthetic weights (:func:`.synthetic.synthetic_state`, seed 0).
    checkpoint : an integer network's file, or a float checkpoint with timm's names. A float one is calibrated on shaped noise, which
    ``origin`` says; for accuracy, quantise it with images (:func:`.quantize.quantize_checkpoint`).
    Raises ``ValueError`` that names the first differing tensor for a checkpoint of another architecture.
    """
    config = architecture(name)
    if checkpoint is not None and is_integer_network(checkpoint):
        network = read_network(checkpoint)
        classes = len(network.arrays.get(f"{network.outputs[0]}.bias", ())) or config.num_classes
        check_arrays(network, _structure(name, classes), str(checkpoint))
        return network
    if checkpoint is None and name in SHIPPED:
        return IntegerNetwork.load(DATA / f"{name}.int.safetensors")
    if checkpoint is None:
        state, source = synthetic_state(config), "synthetic weights (seed 0)"
    else:
        (config, state), source = load_checkpoint(checkpoint, config), Path(checkpoint).name
    images = shaped_images(config, _CALIBRATION_IMAGES)
    origin = f"{source}, calibrated on {len(images)} images of 1/f noise"
    return quantize(config, state, images, scheme=_scheme(name), name=name, origin=origin)


def read_network(path: Path | str) -> IntegerNetwork:
    """The integer network in a file. Raises ``ValueError`` for what :func:`.check.check_network` finds, before anything is made of it."""
    network = IntegerNetwork.load(path)
    check_network(network)
    return network


def network_structure(name: str) -> IntegerNetwork:
    """Network of a known name without weights, at once: what a report needs, since cycles do not depend on weights."""
    return _structure(name, architecture(name).num_classes)


def samples(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Test images (20, 1, 8, 8) uint8 and labels (20,) of a shipped network; none of them was used in training or calibration."""
    if name not in SHIPPED:
        raise ValueError(f"{name} ships without samples; networks with samples: {', '.join(SHIPPED)}")
    with np.load(DATA / "digits_samples.npz", allow_pickle=False) as file:
        return file["images"], file["labels"]


def _structure(name: str, classes: int) -> IntegerNetwork:
    config = replace(architecture(name), num_classes=classes)
    origin = "no weights: shapes only"
    if (scheme := _scheme(name)) in LOW_BIT and not isinstance(config, MlpConfig):
        return low_bit_structure(config, LOW_BIT[scheme], name=name, origin=origin)
    if isinstance(config, SwinConfig):
        return swin_structure(config, name=name, scheme=SCHEME, origin=origin)
    if isinstance(config, MlpConfig):
        return mlp_structure(config, name=name, scheme=SCHEME, origin=origin)
    return vit_structure(config, name=name, scheme=SCHEME, origin=origin)


def _scheme(name: str) -> str:
    """Scheme that a name stands for."""
    return LOW_BIT_NETWORKS[name][1] if name in LOW_BIT_NETWORKS else SCHEME
