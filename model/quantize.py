"""Post-training quantisation: a float vision transformer and some images give an integer network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .architectures import DATA, DIGITS, LOW_BIT_NETWORKS, Config, architecture
from .checkpoint import load_checkpoint
from .float_mlp import MlpConfig
from .float_ops import State
from .float_swin import SwinConfig
from .fq_layers import SCHEME
from .fq_mlp import quantize_mlp
from .fq_swin import quantize_swin
from .fq_vit import quantize_vit
from .network import IntegerNetwork
from .schemes.quantize import quantize_low_bit
from .schemes.scheme import LOW_BIT, learned_shapes

__all__ = ["SCHEMES", "load_images", "quantize", "quantize_checkpoint", "quantize_digits"]


def _fq_vit(config: Config, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]) -> IntegerNetwork:
    if isinstance(config, SwinConfig):
        return quantize_swin(config, state, images, name=name, origin=origin, labels=labels)
    if isinstance(config, MlpConfig):
        return quantize_mlp(config, state, images, name=name, origin=origin, labels=labels)
    return quantize_vit(config, state, images, name=name, origin=origin, labels=labels)


SCHEMES: dict[str, Callable[..., IntegerNetwork]] = {SCHEME: _fq_vit} | {
    name: partial(quantize_low_bit, scheme) for name, scheme in LOW_BIT.items()
}
"""Quantisers by the name of their scheme."""


def quantize(
    config: Config,
    state: State,
    calibration_images: NDArray[np.uint8],
    *,
    scheme: str = SCHEME,
    name: str,
    origin: str,
    labels: Sequence[str] = (),
) -> IntegerNetwork:
    """Integer network of a timm-named float ``state``; every number in it is an integer.

    calibration_images : (n, C, H, W) uint8, shown to the float network for the ranges of its activations.
    Raises ``ValueError`` for an unknown scheme, wrong images, and where a 32-bit accumulator could overflow.
    """
    quantiser = _quantiser(scheme)
    if scheme != SCHEME and isinstance(config, MlpConfig):
        raise ValueError(f"the scheme {scheme} is for transformers; a perceptron takes {SCHEME}")
    if scheme == SCHEME and (learned := next((name for name in state if name in learned_shapes(config)), None)):
        raise ValueError(f"the scheme {scheme} has no place for {learned}, which the checkpoint has learned")
    return quantiser(config, state, calibration_images, name=name, origin=origin, labels=labels)


def quantize_checkpoint(checkpoint: Path, arch: str, scheme: str, calibration: Path, output: Path) -> IntegerNetwork:
    """Quantise a file into a file, which appears whole or not at all; also returns the network.

    checkpoint : safetensors file with timm's parameter names. arch : a name of :data:`.networks.ARCHITECTURES`, or ``auto`` for
    the configuration in the file's metadata and its shapes, or ``auto:num_heads=3,mean=0.5,std=0.5`` to state fields of it (a mean or
    standard deviation of several channels: ``0.485/0.456/0.406``). calibration : npz file with ``images`` (n, C, H, W) uint8.
    Raises ``ValueError`` in one sentence for a wrong name or file.
    """
    _quantiser(scheme)
    family, _, fields = arch.partition(":")
    auto = family == "auto"
    config = None if auto else architecture(arch)
    checkpoint, output = Path(checkpoint), Path(output)
    if not output.parent.is_dir():
        raise ValueError(f"the folder {output.parent} of the output does not exist")
    config, state = load_checkpoint(checkpoint, config, _stated(fields) if auto else None)
    images = load_images(Path(calibration))
    name = checkpoint.stem if auto else arch
    network = quantize(config, state, images, scheme=scheme, name=name, origin=checkpoint.name)
    with TemporaryDirectory(dir=output.parent) as folder:
        partial = Path(folder) / output.name
        network.save(partial)
        os.replace(partial, output)
    return network


def quantize_digits(folder: Path = DATA, name: str = "digits_vit") -> IntegerNetwork:
    """A shipped network, made again from the parameters and the calibration images in ``folder``.

    Those of ``digits_vit`` are in a safetensors file, those of low-bit networks in a compressed npz file.
    """
    images = load_images(folder / "digits_calibration.npz")
    if name in LOW_BIT_NETWORKS:
        scheme, config, trainer = LOW_BIT_NETWORKS[name][1], DIGITS, "training.digits"
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            state = dict(file)
    else:
        scheme, trainer = SCHEME, "training.mlp" if name == "digits_mlp" else "train_digits"
        config, state = load_checkpoint(folder / f"{name}.safetensors", architecture(name))
    origin = f"trained on scikit-learn's digits by vitloom.model.{trainer}"
    return quantize(config, state, images, scheme=scheme, name=name, origin=origin, labels=[str(digit) for digit in range(10)])


def _stated(text: str) -> dict[str, Any]:
    """Fields of a configuration from ``name=value,name=value``."""
    fields: dict[str, Any] = {}
    for setting in filter(None, text.split(",")):
        name, _, value = setting.partition("=")
        try:
            numbers = [json.loads(part) for part in value.split("/")]
        except json.JSONDecodeError:
            raise ValueError(f"--arch auto:… takes name=number settings, not {setting!r}") from None
        fields[name] = tuple(numbers) if name in ("mean", "std") else numbers[0]
    return fields


def _quantiser(scheme: str) -> Callable[..., IntegerNetwork]:
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    return SCHEMES[scheme]


def load_images(path: Path) -> NDArray[np.uint8]:
    """``images`` of an npz file."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["images"]
    except (BadZipFile, ValueError, OSError, EOFError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not an npz file with an array 'images' ({error})") from None
