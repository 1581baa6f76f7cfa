"""Architectures known by name: configurations of timm's vision transformers and of the network that ships with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from .float_mlp import MlpConfig
from .float_swin import SwinConfig
from .float_vit import ViTConfig

__all__ = ["ARCHITECTURES", "DATA", "DIGITS", "DIGITS_MLP", "LOW_BIT_NETWORKS", "SWIN", "Config", "Transformer", "architecture"]

Transformer = ViTConfig | SwinConfig
Config = Transformer | MlpConfig

DATA = Path(__file__).parent / "data"
"""The files that ship with the package."""

DIGITS = ViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=2, mean=(0.5,), std=(0.5,))
DIGITS_MLP = MlpConfig(img_size=8, patch_size=8, in_chans=1, num_classes=10, embed_dim=64, depth=2, mean=(0.5,), std=(0.5,))
_HALF = (0.5, 0.5, 0.5)  # timm's ViT weights, unlike DeiT's, take pixels in -1..1

SWIN: dict[str, SwinConfig] = {
    "swin_tiny": SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "swin_small": SwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "swin_base": SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}

ARCHITECTURES: dict[str, Config] = {
    "digits_vit": DIGITS,
    "digits_mlp": DIGITS_MLP,
    "deit_tiny": ViTConfig(embed_dim=192, depth=12, num_heads=3),
    "deit_small": ViTConfig(embed_dim=384, depth=12, num_heads=6),
    "deit_base": ViTConfig(embed_dim=768, depth=12, num_heads=12),
    "deit_tiny_distilled": ViTConfig(embed_dim=192, depth=12, num_heads=3, distilled=True),
    "deit_small_distilled": ViTConfig(embed_dim=384, depth=12, num_heads=6, distilled=True),
    "vit_base": ViTConfig(embed_dim=768, depth=12, num_heads=12, mean=_HALF, std=_HALF),
    "vit_large": ViTConfig(embed_dim=1024, depth=24, num_heads=16, mean=_HALF, std=_HALF),
    **SWIN,
}

LOW_BIT_NETWORKS: dict[str, tuple[str, str]] = {
    "bivit_deit_tiny": ("deit_tiny", "bivit"),
    "bivit_deit_tiny_w1a1": ("deit_tiny", "bivit_w1a1"),
    "deit_tiny_w1a8": ("deit_tiny", "w1a8"),
    "bivit_swin_tiny": ("swin_tiny", "bivit"),
    "bivit_swin_tiny_w1a1": ("swin_tiny", "bivit_w1a1"),
    "bi_vit_deit_tiny": ("deit_tiny_distilled", "bi_vit"),
    "tervit_deit_tiny": ("deit_tiny", "tervit"),
    "qvit_deit_small": ("deit_small_distilled", "qvit_w4a4"),
    "qvit_deit_small_w4a4": ("deit_small_distilled", "qvit_w4a4"),
    "qvit_deit_small_w2a2": ("deit_small_distilled", "qvit_w2a2"),
    "repq_vit_deit_small": ("deit_small", "repq_vit_w4a4"),
    "bivit_digits": ("digits_vit", "bivit"),
    "tervit_digits": ("digits_vit", "tervit"),
    "qvit_digits": ("digits_vit", "qvit_w2a2"),
}
"""Networks of a low-bit scheme: the architecture, and the scheme's name. Q-ViT and Bi-ViT use the distilled DeiT."""

ARCHITECTURES |= {name: ARCHITECTURES[base] for name, (base, _) in LOW_BIT_NETWORKS.items()}


def architecture(name: str) -> Config:
    """Configuration of a known name."""
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown architecture {name!r}; {hint}known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
