"""The low-bit schemes by name: which operands have how many bits, and by which rule each is rounded.

A checkpoint may bring what training learned, beside timm's parameters; what is missing is found from the weights and from calibration.
N outputs, H heads, d_h channels of a head:

===================================  ========  ===================================================================================
``<layer>.weight_scale``             (N,)      scale of each output channel's weights; negative ones turn the signs of 1-bit weights
``<layer>.act_scale``, ``act_zero``  (1,)      of the layer's input: ``scale * (clip(round(x / scale + zero)) - zero)``
``<attn>.q_scale``, ``q_zero``       (H,)      the same for each head's q; likewise ``k_``, ``v_`` and ``map_`` (the attention map)
``<attn>.q_norm.weight``, ``bias``   (d_h,)    LayerNorm over each head's q, timm's name; likewise ``k_norm``
===================================  ========  ===================================================================================

Layers are ``attn.qkv``, ``attn.proj``, ``mlp.fc1`` and ``mlp.fc2`` of a block. Zero points are rounded; those of the heads
of a layer must be equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from ..architectures import Config
from ..float_mlp import MlpConfig
from ..float_ops import Shapes
from ..float_swin import SwinConfig

__all__ = ["LOW_BIT", "Attention", "Grids", "Scheme", "Weights", "learned_shapes"]

_BLOCK_LAYER = re.compile(r"(.*blocks\.\d+)\.(attn|mlp)\.(qkv|qk|v|proj|fc1|fc2)")


class Weights(StrEnum):
    """Rule for the weights of a block's linear layers; each output channel has a scale."""

    #: Sign of the weight less its channel's mean (BiViT); scale learned, or the mean of ``|w|``.
    CENTRED_SIGN = "centred sign"
    #: Sign of the weight, scale the mean of ``|w|`` (Bi-ViT).
    SIGN = "sign"
    #: 0 below 0.7 times the mean of ``|w|``, and the sign above; scale the mean of ``|w|`` above (TerViT).
    TERNARY = "ternary"
    #: Two's complement, the step learned or of least squared error (Q-ViT).
    SYMMETRIC = "symmetric"
    #: Two's complement with a zero point, range of least squared error (RepQ-ViT).
    ASYMMETRIC = "asymmetric"


class Grids(StrEnum):
    """Rule for scale and zero point of an activation where nothing is learned."""

    #: The sign alone: scale 1, zero point 0.
    SIGN = "sign"
    #: 1 bit, scale the mean magnitude of each head.
    MEAN = "mean"
    #: Zero point 0, a step for each head, of least squared error.
    SYMMETRIC = "symmetric"
    #: A range for the tensor, of least squared error.
    AFFINE = "affine"


class Attention(StrEnum):
    """What becomes of the attention logits."""

    #: FQ-ViT's 4-bit powers of two, q, k and v in 8 bits.
    LOG2 = "log2"
    #: BiViT: 1 where the weight is at least a quarter of the row's greatest, else 0.
    MAXIMUM = "maximum"
    #: Bi-ViT: ``2 a`` where the weight is at least ``a``, else 0; a threshold for each head.
    THRESHOLD = "threshold"
    #: Q-ViT: unsigned codes of the head's bits, a step for each head.
    UNIFORM = "uniform"
    #: RepQ-ViT: 4-bit powers of the square root of two.
    SQRT2 = "sqrt2"


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A quantisation scheme of the linear layers and the attention of all blocks; the rest is as in FQ-ViT.

    Parameters
    ----------
    name, paper : str
    weights : Weights
    weight_bits : int
    token_bits : int
        Of what ``attn.qkv`` and ``attn.proj`` take.
    hidden_bits : int
        Of what ``mlp.fc1`` and ``mlp.fc2`` take.
    head_bits : int
        Of q, k and v.
    inputs, heads : Grids
        How a layer's input, and q, k and v, are rounded where they have less than 8 bits.
    attention : Attention
    head_norm : bool
        LayerNorm over each head's q and k.
    bias : bool
        Whether the linear layers of the blocks use their bias.
    clip : float
        Bound of GELU's result.
    reparameterised : bool
        Ranges per channel behind LayerNorm, moved into its parameters and the next layer's weights.
    """

    name: str
    paper: str
    weights: Weights
    weight_bits: int
    token_bits: int = 8
    hidden_bits: int = 8
    head_bits: int = 8
    inputs: Grids = Grids.SIGN
    heads: Grids = Grids.SIGN
    attention: Attention = Attention.LOG2
    head_norm: bool = False
    bias: bool = True
    clip: float = np.inf
    reparameterised: bool = False

    @property
    def split(self) -> bool:
        """Whether v comes from a layer of its own: where q, k and v are narrow, they are stored differently."""
        return self.attention is not Attention.LOG2

    @property
    def value_bits(self) -> int:
        """Bits in which v is stored: what the product with the map's codes takes."""
        return {Attention.SQRT2: 8, Attention.UNIFORM: 4}.get(self.attention, self.head_bits)

    @property
    def map_bits(self) -> int:
        """Bits in which the codes of the map are stored."""
        return {Attention.MAXIMUM: 1, Attention.THRESHOLD: 1, Attention.UNIFORM: 4}.get(self.attention, 8)

    def uses(self, learned: str) -> bool:
        """Whether a name of :func:`learned_shapes` means anything here."""
        owner, _, part = learned.rpartition(".")
        if owner.endswith(("q_norm", "k_norm")):
            return self.head_norm
        if part.startswith(("q_", "k_", "v_", "map_")):
            # BiViT compares the logits with their greatest, whose scale is known.
            return self.split and (self.attention is not Attention.MAXIMUM or part.startswith("v_"))
        return part == "weight_scale" or self.input_bits(owner) < 8

    def layer_weight_bits(self, name: str) -> int:
        """Bits of a linear layer's weights."""
        return self.weight_bits if _BLOCK_LAYER.fullmatch(name) else 8

    def input_bits(self, name: str) -> int:
        """Bits of what a linear layer takes."""
        match = _BLOCK_LAYER.fullmatch(name)
        return 8 if match is None else self.token_bits if match[2] == "attn" else self.hidden_bits


def learned_shapes(config: Config) -> Shapes:
    """Name and shape of everything that a checkpoint may have beside its architecture's parameters."""
    if isinstance(config, MlpConfig):
        return {}
    stages = {stage.name: stage.num_heads for stage in config.stages} if isinstance(config, SwinConfig) else {}
    shapes: Shapes = {}
    for name, shape in config.parameter_shapes().items():
        layer, _, kind = name.rpartition(".")
        match = _BLOCK_LAYER.fullmatch(layer)
        if match is None or kind != "weight":
            continue
        shapes |= {f"{layer}.weight_scale": shape[:1], f"{layer}.act_scale": (1,), f"{layer}.act_zero": (1,)}
        if match[3] == "qkv":
            attention = f"{match[1]}.attn"
            heads = stages[layer.partition(".blocks.")[0]] if isinstance(config, SwinConfig) else config.num_heads
            shapes |= {f"{attention}.{part}_{what}": (heads,) for part in ("q", "k", "v", "map") for what in ("scale", "zero")}
            shapes |= {f"{attention}.{part}_norm.{what}": (shape[1] // heads,) for part in "qk" for what in ("weight", "bias")}
    return shapes


_BIVIT = Scheme(
    name="bivit",
    paper="He et al., ICCV 2023",
    weights=Weights.CENTRED_SIGN,
    weight_bits=1,
    token_bits=1,
    head_bits=1,
    attention=Attention.MAXIMUM,
)
_W1A8 = Scheme(
    name="w1a8", paper="weights of He et al., ICCV 2023, attention of Lin et al., IJCAI 2022", weights=Weights.CENTRED_SIGN, weight_bits=1
)
_BI_VIT = Scheme(
    name="bi_vit",
    paper="Li et al., AAAI 2024",
    weights=Weights.SIGN,
    weight_bits=1,
    token_bits=1,
    hidden_bits=1,
    head_bits=1,
    heads=Grids.MEAN,
    attention=Attention.THRESHOLD,
    head_norm=True,
    bias=False,
)
_TERVIT = Scheme(name="tervit", paper="Xu et al., 2022", weights=Weights.TERNARY, weight_bits=2)
_QVIT = Scheme(
    name="qvit_w4a4",
    paper="Li et al., NeurIPS 2022",
    weights=Weights.SYMMETRIC,
    weight_bits=4,
    token_bits=4,
    hidden_bits=4,
    head_bits=4,
    inputs=Grids.AFFINE,
    heads=Grids.SYMMETRIC,
    attention=Attention.UNIFORM,
    head_norm=True,
    clip=10.0,
)
_REPQ_VIT = Scheme(
    name="repq_vit_w4a4",
    paper="Li et al., ICCV 2023",
    weights=Weights.ASYMMETRIC,
    weight_bits=4,
    token_bits=4,
    hidden_bits=4,
    head_bits=4,
    inputs=Grids.AFFINE,
    heads=Grids.AFFINE,
    attention=Attention.SQRT2,
    reparameterised=True,
)
_W1A1 = replace(_BIVIT, name="bivit_w1a1", hidden_bits=1)
_W2A2 = replace(_QVIT, name="qvit_w2a2", weight_bits=2, token_bits=2, hidden_bits=2, head_bits=2)

LOW_BIT: dict[str, Scheme] = {scheme.name: scheme for scheme in (_BIVIT, _W1A1, _W1A8, _BI_VIT, _TERVIT, _QVIT, _W2A2, _REPQ_VIT)}
"""Every scheme, by its name in ``vitloom quantize --scheme``."""
