"""The papers' training methods, each beside the naive baseline that its paper improves on."""

# pyright: reportMissingImports=false
# torch comes with the extra `train`.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..train_digits import VisionTransformer
from .student import Recipe, Student

__all__ = ["METHODS", "Method", "Stage", "attention_order", "distribution", "similarity"]

#: A loss of the student's and the teacher's logits and networks, after both saw the same images.
Loss = Callable[[Tensor, Tensor, Student, VisionTransformer], Tensor]


def distribution(student: Tensor, teacher: Tensor, *_: object) -> Tensor:
    """Cross entropy to the teacher's distribution (BiViT, Q-ViT, Bi-ViT distil from the float network)."""
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


def attention_order(_student: Tensor, _teacher: Tensor, student: Student, teacher: VisionTransformer) -> Tensor:
    """Bi-ViT's ranking-aware distillation: keys that the teacher ranks one above the other shall be so for the student."""
    total = torch.zeros(())
    for mine, theirs in zip(student.blocks, teacher.blocks, strict=True):
        scores, wanted = mine.attn.seen["scores"], theirs.attn.seen["scores"]
        order = torch.randperm(scores.shape[-1])
        difference, sense = scores - scores[..., order], (wanted - wanted[..., order]).sign()
        total = total + functional.softplus(-sense * difference).mean()
    return total / len(student.blocks)


def similarity(_student: Tensor, _teacher: Tensor, student: Student, teacher: VisionTransformer) -> Tensor:
    """Q-ViT's distribution-guided distillation: distance of the normalised q.q^T and k.k^T of every head."""
    total = torch.zeros(())
    for mine, theirs in zip(student.blocks, teacher.blocks, strict=True):
        for name in ("q", "k"):
            a, b = (functional.normalize(each.attn.seen[name], dim=-1) for each in (mine, theirs))
            total = total + (a @ a.mT - b @ b.mT).square().mean()
    return total / (2 * len(student.blocks))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training.

    Parameters
    ----------
    share : float
        Of all epochs.
    mlp : bool
        Whether the MLPs are quantised.
    weights : str
        Form of the weights, if another than the recipe's.
    """

    share: float = 1.0
    mlp: bool = True
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A recipe and how it is trained.

    Parameters
    ----------
    recipe : Recipe
    stages : tuple of Stage
    losses : dict of Loss to float
        Weights of the losses besides the labels'.
    """

    recipe: Recipe
    stages: tuple[Stage, ...] = (Stage(),)
    losses: tuple[tuple[Loss, float], ...] = ()


_SIGNS: dict[str, Any] = {"inputs": "sign"}
_BI_VIT: dict[str, Any] = {"weights": "binary_fixed", "centred": False, "bias": False, "inputs": "sign", "mlp_inputs": "sign"}
_TERNARY = Recipe(weights="ternary", inputs="bit8", mlp_inputs="bit8")
_TWO_BITS: dict[str, Any] = {"weights": "lsq", "inputs": "lsq", "mlp_inputs": "lsq", "attention": "lsq", "bits": 2}

#: By name: the method, and its naive baseline. All begin with the float network's parameters and train for as many epochs.
METHODS: dict[str, tuple[Method, Method]] = {
    # Softmax-aware attention, learned scales, attention first, distillation; beside BiBERT's attention and scales.
    "bivit": (
        Method(
            recipe=Recipe(weights="binary", attention="softmax_aware", mlp_inputs="bit8", **_SIGNS),
            stages=(Stage(share=0.5, mlp=False), Stage(share=0.5)),
            losses=((distribution, 1.0),),
        ),
        Method(recipe=Recipe(weights="binary_fixed", attention="positive", mlp_inputs="bit8", **_SIGNS)),
    ),
    # Learned threshold of each head, ranking-aware distillation; beside one threshold for all.
    "bi_vit": (
        Method(
            recipe=Recipe(attention="headwise", head_norm=True, **_BI_VIT),
            losses=((distribution, 1.0), (attention_order, 0.5)),
        ),
        Method(recipe=Recipe(attention="fixed", **_BI_VIT)),
    ),
    # 8 bits first, then ternary; beside ternary at once.
    "tervit": (
        Method(recipe=_TERNARY, stages=(Stage(share=0.4, weights="bit8"), Stage(share=0.6)), losses=((distribution, 1.0),)),
        Method(recipe=_TERNARY),
    ),
    # LayerNorm over q and k of each head, distribution-guided distillation; beside plain LSQ.
    "qvit": (
        Method(recipe=Recipe(head_norm=True, **_TWO_BITS), losses=((distribution, 1.0), (similarity, 100.0))),
        Method(recipe=Recipe(**_TWO_BITS)),
    ),
}
