"""Low-bit vision transformers for training: the float network with quantisers in front of every product of its blocks."""

# pyright: reportMissingImports=false
# torch comes with the extra `train`.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..float_vit import LAYER_NORM_EPSILON, ViTConfig
from ..train_digits import Attention, Mlp, VisionTransformer
from .quantizers import LearnedStep, WeightScale, bit8, sign, softmax_aware, straight_through, ternary

__all__ = ["Recipe", "Student"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a network computes with.

    Parameters
    ----------
    weights : str
        Of the linear layers in the blocks: ``float``, ``binary`` (learned scale), ``binary_fixed`` (mean of |w|), ``ternary``, ``lsq``.
    centred : bool
        Binary weights are the signs of what is left when the mean of a row is taken off.
    bias : bool
        Whether these layers have a bias (Bi-ViT's have none).
    inputs : str
        Of the linear layers around attention: ``float``, ``sign``, ``bit8``, ``lsq``.
    mlp_inputs : str
        Of the linear layers of the MLP, the same.
    attention : str
        ``float``; ``softmax_aware`` (BiViT), ``positive`` (BiBERT: a score above 0), ``headwise`` (Bi-ViT: learned scale of each head),
        ``fixed`` (the same scale for all, not learned), ``lsq`` (a step for each head).
    head_norm : bool
        LayerNorm over each head's q and k.
    bits : int
        Of ``lsq``.
    """

    weights: str = "float"
    centred: bool = True
    bias: bool = True
    inputs: str = "float"
    mlp_inputs: str = "float"
    attention: str = "float"
    head_norm: bool = False
    bits: int = 8


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight and input are quantised as a recipe says; ``active`` switches both off for a first stage."""

    def __init__(self, source: nn.Linear, recipe: Recipe, inputs: str) -> None:
        super().__init__(source.in_features, source.out_features)
        self.load_state_dict(source.state_dict())
        self.weights, self.inputs, self.active = recipe.weights, inputs, True
        if not recipe.bias:
            nn.init.zeros_(self.bias).requires_grad_(False)
        if recipe.weights.startswith("binary"):
            self.weight_quantizer = WeightScale(self.weight, learned=recipe.weights == "binary", centred=recipe.centred)
        elif recipe.weights == "lsq":
            self.weight_quantizer = LearnedStep(recipe.bits, signed=True, shape=(source.out_features, 1))
        self.input_quantizer = LearnedStep(recipe.bits, signed=True) if inputs == "lsq" else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        if not self.active:
            return functional.linear(input, self.weight, self.bias)
        match self.inputs:
            case "sign":
                input = sign(input)
            case "bit8":
                input = bit8(input)
            case _:
                input = self.input_quantizer(input)
        weight = self.weight
        match self.weights:
            case "binary" | "binary_fixed":
                # The scale comes last: a sum of signs that is 0 stays 0, and so has the sign of 0.
                signs, scale = self.weight_quantizer(weight)
                return functional.linear(input, signs) * scale + self.bias
            case "ternary":
                weight = ternary(weight)
            case "bit8":
                weight = bit8(weight)
            case "lsq":
                weight = self.weight_quantizer(weight)
        return functional.linear(input, weight, self.bias)


class QuantizedAttention(nn.Module):
    """Self-attention with quantised q, k, v and attention map; keeps them for the losses."""

    def __init__(self, source: Attention, recipe: Recipe) -> None:
        super().__init__()
        width, self.heads, self.recipe, self.active = source.proj.in_features, source.heads, recipe, True
        self.qkv = QuantizedLinear(source.qkv, recipe, recipe.inputs)
        self.proj = QuantizedLinear(source.proj, recipe, recipe.inputs)
        size, heads = width // self.heads, (self.heads, 1, 1)
        if recipe.head_norm:
            self.q_norm, self.k_norm = nn.LayerNorm(size, eps=LAYER_NORM_EPSILON), nn.LayerNorm(size, eps=LAYER_NORM_EPSILON)
        if recipe.attention == "lsq":
            self.q_step, self.k_step, self.v_step = (LearnedStep(recipe.bits, signed=True, shape=heads) for _ in range(3))
            self.map_step = LearnedStep(recipe.bits, signed=False, shape=heads)
        if recipe.attention == "headwise":
            self.map_scale = nn.Parameter(torch.zeros(heads))
            self.head_scales = nn.Parameter(torch.ones(3, *heads))
        self.begun = False
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if not self.begun:
            self._begin(q, k, v)
        if self.recipe.head_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        self.seen = {"q": q, "k": k}
        kind = self.recipe.attention if self.active else "float"
        # Scales of signs come last, as in a layer: sums of signs that are 0 stay 0.
        score_scale = value_scale = torch.ones(())
        if kind == "lsq":
            q, k, v = self.q_step(q), self.k_step(k), self.v_step(v)
        elif kind == "headwise":
            # a sign(clip(x / a)), a learned for each head
            q_scale, k_scale, v_scale = self.head_scales.abs().clamp(min=1e-3)
            q, k, v = sign(q / q_scale), sign(k / k_scale), sign(v / v_scale)
            score_scale, value_scale = q_scale * k_scale, self._threshold * v_scale
        elif kind != "float":
            q, k, v = sign(q), sign(k), sign(v)
        scores = q @ k.mT * (score_scale * q.shape[-1] ** -0.5)
        self.seen["scores"] = scores
        mixed = self._map(kind, scores) @ v * value_scale
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def _begin(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Norms begin with the spread that q and k have without them, the thresholds with the mean of a row."""
        self.begun = True
        if self.recipe.head_norm:
            for norm, x in ((self.q_norm, q), (self.k_norm, k)):
                norm.weight.data.fill_(x.detach().std(-1).mean())
        if self.recipe.attention == "headwise":
            self.map_scale.data.fill_(1 / q.shape[-2])
            self.head_scales.data[2].fill_(v.detach().abs().mean())
            for index, norm in enumerate((self.q_norm, self.k_norm)):
                self.head_scales.data[index].copy_(norm.weight.detach().mean().expand_as(self.head_scales[index]))

    @property
    def _threshold(self) -> Tensor:
        """Of the attention weights of each head, (heads, 1, 1)."""
        return self.map_scale.clamp(min=1e-4)

    def _map(self, kind: str, scores: Tensor) -> Tensor:
        """The attention map (B, heads, tokens, tokens); ``headwise`` gives 0 and 2, to be scaled by the threshold."""
        if kind == "positive":
            return straight_through((scores > 0).to(scores.dtype), scores.clamp(-1, 1))
        weights = scores.softmax(-1)
        match kind:
            case "softmax_aware":
                return softmax_aware(weights)
            case "fixed":
                return straight_through((weights >= 1 / weights.shape[-1]).to(weights.dtype), weights * weights.shape[-1])
            case "headwise":
                # zero point -1: sign(clip(p / a - 1)) + 1
                scaled = (weights / self._threshold - 1).clamp(-1, 1)
                return straight_through(torch.where(scaled >= 0, 1.0, -1.0), scaled) + 1
            case "lsq":
                return self.map_step(weights)
            case _:
                return weights


class QuantizedMlp(nn.Module):
    """The two linear layers of a block."""

    def __init__(self, source: Mlp, recipe: Recipe) -> None:
        super().__init__()
        self.fc1 = QuantizedLinear(source.fc1, recipe, recipe.mlp_inputs)
        self.fc2 = QuantizedLinear(source.fc2, recipe, recipe.mlp_inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        hidden = self.fc1(x)
        # GELU keeps signs, but for those of very negative numbers, which it turns into zeros.
        return self.fc2(hidden if self.fc2.inputs == "sign" and self.fc2.active else functional.gelu(hidden))


class Student(VisionTransformer):
    """The network of ``recipe``, from the parameters of a float one.

    Parameters
    ----------
    config : ViTConfig
    teacher : VisionTransformer
        Gives the parameters to begin with.
    recipe : Recipe
    """

    def __init__(self, config: ViTConfig, teacher: VisionTransformer, recipe: Recipe) -> None:
        super().__init__(config)
        self.load_state_dict(teacher.state_dict())
        for block in self.blocks:
            block.attn = QuantizedAttention(block.attn, recipe)
            block.mlp = QuantizedMlp(block.mlp, recipe)

    def activate(self, *, attention: bool = True, mlp: bool = True) -> None:
        """Which parts of the blocks are quantised from now on."""
        for block in self.blocks:
            block.attn.active = block.attn.qkv.active = block.attn.proj.active = attention
            block.mlp.fc1.active = block.mlp.fc2.active = mlp

    def set_weights(self, weights: str) -> None:
        """Another form for all weights of the blocks (TerViT begins with ``bit8``)."""
        for block in self.blocks:
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                layer.weights = weights
