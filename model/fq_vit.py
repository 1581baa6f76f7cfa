"""The scheme ``fq-vit-8-8-4``: post-training quantisation after FQ-ViT (Lin et al., IJCAI 2022), operator by operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .arith import scale_to_multiplier
from .float_ops import State
from .float_vit import LAYER_NORM_EPSILON, ViTConfig
from .layer_norm import layer_norm_parameters
from .log_softmax import exp_table, log_table
from .network import IntegerNetwork, Operator, Tensor
from .observers import Affine, Calibration, PowerOfTwoFactors, affine, gelu_scales, observe_images, power_of_two_factors
from .requantize import activation_table, gelu, residual_parameters
from .structure import vit_structure

__all__ = ["SCHEME", "quantize_vit"]

SCHEME = "fq-vit-8-8-4"

_PIXELS = Affine(scale=1 / 255, zero_point=-128)


def quantize_vit(
    config: ViTConfig, state: State, images: NDArray[np.uint8], *, name: str, origin: str, labels: Sequence[str]
) -> IntegerNetwork:
    """FQ-ViT with 8-bit weights, 8-bit activations and 4-bit attention; arguments as :func:`.quantize.quantize`.

    Weights are int8, symmetric, a scale per output channel. Activations are int8 with min/max ranges: the residual stream with
    power-of-two factors per channel, q, k and v symmetric with a scale per head, all others asymmetric. Attention is 4-bit log2.
    """
    network = vit_structure(config, name=name, scheme=SCHEME, origin=origin)
    filler = _Filler(
        config=config,
        state=state,
        calibration=observe_images(config, state, images),
        tensors={tensor.name: tensor for tensor in network.tensors},
        operators={operator.name: operator for operator in network.operators},
    )
    stream = filler.embed(network.input)
    for index in range(config.depth):
        stream = filler.block(f"blocks.{index}", stream)
    filler.heads(network.outputs, stream)
    return replace(
        network,
        tensors=list(filler.tensors.values()),
        operators=list(filler.operators.values()),
        arrays={array: filler.arrays[array] for array in network.arrays},
        labels=list(labels),
    )


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """Integer weight (N, K) and bias (N,) of a linear layer, and the real value (N,) of one step of its accumulator."""

    weight: NDArray[np.int8]
    bias: NDArray[np.float64]
    step: NDArray[np.float64]


@dataclass(kw_only=True)
class _Filler:
    """Gives the tensors and operators of a structure their numbers and arrays. Methods return how what they fill is scaled."""

    config: ViTConfig
    state: State
    calibration: Calibration
    tensors: dict[str, Tensor]
    operators: dict[str, Operator]
    arrays: dict[str, NDArray] = field(default_factory=dict)

    def embed(self, patches: str) -> PowerOfTwoFactors:
        """Patch embedding of raw pixels, plus position as a parameter residual; class (and distillation) token as constant rows."""
        config, name = self.config, "patch_embed"
        self._scaled(patches, _PIXELS)
        factors = self._stream(name)
        position, prefix = self.state["pos_embed"][0], config.prefix_tokens
        tokens = [self.state[token][0, 0] for token in ("cls_token", "dist_token")[:prefix]]
        self.arrays["cls_token.value"] = factors.quantize(np.stack(tokens) + position[:prefix])

        mean, std = (np.repeat(np.asarray(v, np.float64), config.patch_size**2) for v in (config.mean, config.std))
        weight = self.state["patch_embed.proj.weight"].reshape(config.embed_dim, -1) / std
        folded = _integer_weight(weight, self.state["patch_embed.proj.bias"], _PIXELS.scale)
        # With the rounded weights a pixel equal to the mean gives the bias exactly.
        folded = _Weight(weight=folded.weight, bias=folded.bias - folded.weight @ mean / _PIXELS.scale, step=folded.step)
        table = _position_factors(position[prefix:])
        self.arrays[f"{name}.residual"] = table.quantize(position[prefix:])
        self._epilogue(name, folded, _PIXELS, factors.steps, residual=table)
        return factors

    def block(self, name: str, stream: PowerOfTwoFactors) -> PowerOfTwoFactors:
        """Attention and MLP with their norms and residual additions."""
        stream = self._onto_stream(f"{name}.attn.proj", self._attention(f"{name}.attn", self._norm(f"{name}.norm1", stream)), stream)
        return self._onto_stream(f"{name}.mlp.fc2", self._gelu_layer(f"{name}.mlp.fc1", self._norm(f"{name}.norm2", stream)), stream)

    def heads(self, names: list[str], stream: PowerOfTwoFactors) -> None:
        """Final norm of the prefix tokens and one head for each; all logits have the same step."""
        normed = self._norm("norm", stream)
        weights = {name: self._weight(name, normed) for name in names}
        step = max(float(weight.step.max()) for weight in weights.values())
        for name, weight in weights.items():
            self._scaled(name, Affine(scale=step, zero_point=0))
            self._epilogue(name, weight, normed, np.full(self.config.num_classes, step))

    def _norm(self, name: str, stream: PowerOfTwoFactors) -> Affine:
        output = self._ranged(name)
        gamma, beta = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        gain, offset, epsilon = layer_norm_parameters(
            gamma, beta, stream.scale, LAYER_NORM_EPSILON, output.scale, output.zero_point, self.config.embed_dim
        )
        self.arrays |= {f"{name}.alpha": stream.alpha, f"{name}.gain": gain, f"{name}.offset": offset}
        self._numbers(name, epsilon=epsilon)
        return output

    def _attention(self, name: str, normed: Affine) -> Affine:
        """q, k, v, logits, softmax, attention times v."""
        heads, size = self.config.num_heads, self.config.head_dim
        qkv, qk, softmax, av = (f"{name}.{part}" for part in ("qkv", "qk", "softmax", "av"))
        largest = np.maximum(-self.calibration.low(qkv), self.calibration.high(qkv)).reshape(3, heads, size).max(axis=-1)
        scale_q, scale_k, scale_v = scales = np.where(largest > 0, largest, 1).astype(np.float64) / 127
        self._epilogue(qkv, self._weight(qkv, normed), normed, np.repeat(scales.reshape(-1), size))
        logits = self._ranged(qk)
        self._multipliers(qk, scale_q * scale_k / (math.sqrt(size) * logits.scale))
        self.arrays |= {f"{softmax}.exp_table": exp_table(logits.scale), f"{softmax}.log_table": log_table(logits.scale)}
        output = self._ranged(av)
        self._multipliers(av, np.repeat(scale_v, size) * 2.0**-14 / output.scale)
        return output

    def _gelu_layer(self, name: str, normed: Affine) -> Affine:
        low, high = self.calibration.low(name).min(), self.calibration.high(name).max()
        entry, output = gelu_scales(float(low), float(high), self.calibration.sample(name))
        self._scaled(name, output)
        self.arrays[f"{name}.table"] = activation_table(gelu, entry.scale, entry.zero_point, output.scale, output.zero_point)
        weight = self._weight(name, normed)
        # The epilogue adds the output's zero point; the table starts from its own.
        moved = weight.bias + (entry.zero_point - output.zero_point) * entry.scale / weight.step
        steps = np.full(self.config.hidden_dim, entry.scale)
        self._epilogue(name, _Weight(weight=weight.weight, bias=moved, step=weight.step), normed, steps)
        return output

    def _onto_stream(self, name: str, source: Affine, stream: PowerOfTwoFactors) -> PowerOfTwoFactors:
        """A linear layer added to the residual stream."""
        factors = self._stream(name)
        self._epilogue(name, self._weight(name, source), source, factors.steps, residual=stream)
        return factors

    def _weight(self, name: str, source: Affine) -> _Weight:
        weight = self.state[f"{name}.weight"]
        return _integer_weight(weight, self.state.get(f"{name}.bias", np.zeros(len(weight), np.float32)), source.scale)

    def _epilogue(
        self, name: str, layer: _Weight, source: Affine, steps: NDArray[np.float64], residual: PowerOfTwoFactors | None = None
    ) -> None:
        """Arrays of a linear layer whose output channels have the ``steps``, and the numbers of its residual."""
        total = layer.weight.sum(axis=1, dtype=np.int64)
        bias = np.rint(layer.bias).astype(np.int64) - source.zero_point * total
        bound = int((np.abs(layer.weight.astype(np.int16)).sum(axis=1, dtype=np.int64) * 128 + np.abs(bias)).max())
        if bound >= 2**31:
            raise ValueError(f"{name}: the accumulator and its bias can reach {bound}, which 32 bits do not hold")
        self.arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": bias.astype(np.int32)}
        shift = self._multipliers(name, layer.step / steps)
        if residual is not None:
            multiplier, self.arrays[f"{name}.residual_shift"] = residual_parameters(residual.steps / steps, shift)
            self._numbers(name, residual_zero=residual.zero_point, residual_multiplier=multiplier)

    def _multipliers(self, name: str, scale: NDArray[np.float64]) -> NDArray[np.uint8]:
        multiplier, shift = scale_to_multiplier(scale)
        self.arrays |= {f"{name}.multiplier": multiplier, f"{name}.shift": shift}
        return shift

    def _numbers(self, name: str, **numbers: int) -> None:
        self.operators[name] = replace(self.operators[name], **numbers)

    def _scaled(self, name: str, scale: Affine | PowerOfTwoFactors) -> None:
        self.tensors[name] = replace(self.tensors[name], scale=scale.scale, zero_point=scale.zero_point)

    def _ranged(self, name: str) -> Affine:
        """An activation with one scale for the whole observed range."""
        scale = affine(self.calibration.low(name).min(), self.calibration.high(name).max())
        self._scaled(name, scale)
        return scale

    def _stream(self, name: str) -> PowerOfTwoFactors:
        """An activation of the residual stream."""
        seen = self.calibration
        factors = power_of_two_factors(seen.low(name), seen.high(name), seen.sample(name))
        self._scaled(name, factors)
        return factors


def _integer_weight(weight: NDArray, bias: NDArray, input_scale: float) -> _Weight:
    """Symmetric int8 weight with a scale per output channel; the bias, unrounded, in steps of the accumulator.

    A channel whose weights are tiny beside its bias gets a coarser scale, so that the bias stays below 2**29 steps.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64) / 127
    scale = np.maximum(largest, np.abs(bias) / (input_scale * 2**29))
    scale = np.where(scale > 0, scale, 1.0)
    integers = np.clip(np.rint(weight / scale[:, None]), -128, 127).astype(np.int8)
    step = scale * input_scale
    return _Weight(weight=integers, bias=bias / step, step=step)


def _position_factors(position: NDArray[np.float32]) -> PowerOfTwoFactors:
    """Symmetric scale for (rows, C) parameters: of four, each half the next, each channel takes the smallest that holds it."""
    largest = np.abs(position).max(axis=0).astype(np.float64) / 127
    scale = float(largest.max()) / 8 or 1.0
    alpha = np.ceil(np.log2(np.maximum(largest, scale) / scale)).astype(np.uint8)
    return PowerOfTwoFactors(scale=scale, zero_point=0, alpha=np.minimum(alpha, 3))
