"""Networks known by name: configurations of timm's vision transformers, and the trained network that ships with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .float_vit import ViTConfig
from .network import IntegerNetwork

__all__ = ["ARCHITECTURES", "DATA", "DIGITS", "SHIPPED", "architecture", "integer_network", "samples"]

DATA = Path(__file__).parent / "data"

DIGITS = ViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=2, mean=(0.5,), std=(0.5,))
_HALF = (0.5, 0.5, 0.5)  # timm's ViT weights, unlike DeiT's, take pixels in -1..1

ARCHITECTURES: dict[str, ViTConfig] = {
    "digits_vit": DIGITS,
    "deit_tiny": ViTConfig(embed_dim=192, depth=12, num_heads=3),
    "deit_small": ViTConfig(embed_dim=384, depth=12, num_heads=6),
    "deit_base": ViTConfig(embed_dim=768, depth=12, num_heads=12),
    "deit_tiny_distilled": ViTConfig(embed_dim=192, depth=12, num_heads=3, distilled=True),
    "vit_base": ViTConfig(embed_dim=768, depth=12, num_heads=12, mean=_HALF, std=_HALF),
    "vit_large": ViTConfig(embed_dim=1024, depth=24, num_heads=16, mean=_HALF, std=_HALF),
}

SHIPPED = ("digits_vit",)
"""Networks whose weights are in the package."""


def architecture(name: str) -> ViTConfig:
    """Configuration of a known name."""
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown architecture {name!r}; {hint}known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def integer_network(name: str) -> IntegerNetwork:
    """Trained network of a shipped name."""
    architecture(name)
    if name not in SHIPPED:
        raise ValueError(f"{name} ships without weights; quantize a checkpoint of it first (with weights: {', '.join(SHIPPED)})")
    return IntegerNetwork.load(DATA / f"{name}.int.safetensors")


def samples(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Test images (20, 1, 8, 8) uint8 and labels (20,) of a shipped network; none of them was used in training or calibration."""
    if name not in SHIPPED:
        raise ValueError(f"{name} ships without samples; networks with samples: {', '.join(SHIPPED)}")
    with np.load(DATA / "digits_samples.npz", allow_pickle=False) as file:
        return file["images"], file["labels"]
