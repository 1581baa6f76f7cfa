"""The layers of the scheme ``fq-vit-8-8-4`` (FQ-ViT, Lin et al., IJCAI 2022), as all families of networks use them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arith import scale_to_multiplier
from .float_ops import ImageConfig, State
from .layer_norm import layer_norm_parameters
from .log_softmax import MASKED, exp_table, log_table
from .network import IntegerNetwork, Operator, Tensor
from .observers import Affine, Calibration, PowerOfTwoFactors, affine, gelu_scales, power_of_two_factors
from .requantize import activation_table, gelu, residual_parameters

__all__ = ["PIXELS", "SCHEME", "Filler", "Weight", "symmetric_factors"]

SCHEME = "fq-vit-8-8-4"
PIXELS = Affine(scale=1 / 255, zero_point=-128)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Integer weight (N, K) and bias (N,) of a linear layer, and the real value (N,) of one step of its accumulator.

    zero : (N,), where the weights have zero points.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.float64]
    step: NDArray[np.float64]
    zero: NDArray[np.int8] | None = None


@dataclass(kw_only=True)
class Filler:
    """Gives the tensors and operators of a structure their numbers and arrays. Methods return how what they fill is scaled.

    Parameters
    ----------
    structure : IntegerNetwork
    config, state, calibration
        The float network, and what its activations look like.
    epsilon : float
        Of every LayerNorm.
    """

    structure: IntegerNetwork
    config: ImageConfig
    state: State
    calibration: Calibration
    epsilon: float
    tensors: dict[str, Tensor] = field(init=False)
    operators: dict[str, Operator] = field(init=False)
    arrays: dict[str, NDArray] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = {tensor.name: tensor for tensor in self.structure.tensors}
        self.operators = {operator.name: operator for operator in self.structure.operators}
        self.arrays = dict(self.structure.arrays)

    def network(self, labels: list[str]) -> IntegerNetwork:
        """The structure with all that was filled."""
        tensors, operators = list(self.tensors.values()), list(self.operators.values())
        return replace(self.structure, tensors=tensors, operators=operators, arrays=self.arrays, labels=labels)

    def pixels(self) -> Weight:
        """Scales the input, raw pixels; the patch embedding's weight with mean and standard deviation folded in."""
        config = self.config
        self.scaled(self.structure.input, PIXELS)
        mean, std = (np.repeat(np.asarray(v, np.float64), config.patch_size**2) for v in (config.mean, config.std))
        weight = self.state["patch_embed.proj.weight"].reshape(config.embed_dim, -1) / std
        folded = _integer_weight(weight, self.state["patch_embed.proj.bias"], PIXELS.scale)
        # With the rounded weights a pixel equal to the mean gives the bias exactly.
        return replace(folded, bias=folded.bias - folded.weight @ mean / PIXELS.scale)

    def norm(self, name: str, stream: PowerOfTwoFactors) -> Affine:
        """LayerNorm of the stream."""
        output = self.ranged(name)
        self._norm(name, stream, np.asarray(output.scale), output.zero_point)
        return output

    def norm_stream(self, name: str, stream: PowerOfTwoFactors) -> PowerOfTwoFactors:
        """LayerNorm that starts another stream."""
        factors = self.stream(name)
        self._norm(name, stream, factors.steps, factors.zero_point)
        return factors

    def _norm(self, name: str, stream: PowerOfTwoFactors, steps: NDArray[np.float64], zero: ArrayLike) -> None:
        groups = self.tensors[self.operators[name].input].groups
        alpha = np.tile(stream.alpha, groups)
        gamma, beta = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        gain, offset, epsilon = layer_norm_parameters(gamma, beta, stream.scale, self.epsilon, steps, zero, len(alpha))
        self.arrays |= {f"{name}.alpha": alpha, f"{name}.gain": gain, f"{name}.offset": offset}
        self.numbers(name, epsilon=epsilon)

    def attention(self, name: str, normed: Affine, positions: NDArray | None = None) -> Affine:
        """q, k, v, logits, softmax, attention times v. positions : (heads, T, T) real bias of the logits."""
        qkv, qk, softmax, av = (f"{name}.{part}" for part in ("qkv", "qk", "softmax", "av"))
        size, heads = self.tensors[av].channels, self.tensors[av].groups
        largest = np.maximum(-self.calibration.low(qkv), self.calibration.high(qkv)).reshape(3, heads, size).max(axis=-1)
        scale_q, scale_k, scale_v = scales = np.where(largest > 0, largest, 1).astype(np.float64) / 127
        self.epilogue(qkv, self.weight(qkv, normed), normed, np.repeat(scales.reshape(-1), size))
        logits = self.ranged(qk)
        shift = self.multipliers(qk, scale_q * scale_k / (math.sqrt(size) * logits.scale))
        if positions is not None:
            factors = symmetric_factors(positions.reshape(heads, -1).T)
            self._positions(qk, positions, factors, logits, shift)
        self.arrays |= {f"{softmax}.exp_table": exp_table(logits.scale), f"{softmax}.log_table": log_table(logits.scale)}
        output = self.ranged(av)
        self.multipliers(av, np.repeat(scale_v, size) * 2.0**-14 / output.scale)
        return output

    def _positions(self, name: str, positions: NDArray, factors: PowerOfTwoFactors, logits: Affine, shift: NDArray[np.uint8]) -> None:
        """Bias of the logits as their residual, in the places that the structure does not mask; ``factors`` of the heads."""
        bias = factors.quantize(positions.transpose(1, 2, 0)).transpose(2, 0, 1)
        masks = self.arrays[f"{name}.bias"]
        self.arrays[f"{name}.bias"] = np.where(masks == MASKED, masks, bias)
        multiplier, self.arrays[f"{name}.residual_shift"] = residual_parameters(factors.steps / logits.scale, shift)
        self.numbers(name, residual_multiplier=multiplier)

    def gelu_layer(self, name: str, normed: Affine, layer: Weight | None = None) -> Affine:
        """A linear layer and its GELU, as one table. layer : its weight, by default that of the name."""
        low, high = self.calibration.low(name).min(), self.calibration.high(name).max()
        entry, output = gelu_scales(float(low), float(high), self.calibration.sample(name))
        self.scaled(name, output)
        self.arrays[f"{name}.table"] = activation_table(gelu, entry.scale, entry.zero_point, output.scale, output.zero_point)
        weight = layer or self.weight(name, normed)
        # The epilogue adds the output's zero point; the table starts from its own.
        moved = replace(weight, bias=weight.bias + (entry.zero_point - output.zero_point) * entry.scale / weight.step)
        self.epilogue(name, moved, normed, np.full(len(weight.step), entry.scale))
        return output

    def new_stream(self, name: str, layer: Weight, source: Affine) -> PowerOfTwoFactors:
        """A linear layer that starts a residual stream."""
        factors = self.stream(name)
        self.epilogue(name, layer, source, factors.steps)
        return factors

    def onto_stream(self, name: str, source: Affine, stream: PowerOfTwoFactors) -> PowerOfTwoFactors:
        """A linear layer added to the residual stream."""
        factors = self.stream(name)
        self.epilogue(name, self.weight(name, source), source, factors.steps, residual=stream)
        return factors

    def pool(self, name: str, source: str, normed: Affine) -> Affine:
        """Mean over the rows of ``source``."""
        output, rows = self.ranged(name), self.tensors[source].rows
        self.multipliers(name, np.asarray([normed.scale / (rows * output.scale)]))
        self.arrays[f"{name}.bias"] = np.asarray([-rows * normed.zero_point], np.int32)
        return output

    def heads(self, source: Affine) -> None:
        """The network's outputs; all logits have the same step."""
        weights = {name: self.weight(name, source) for name in self.structure.outputs}
        step = max(float(weight.step.max()) for weight in weights.values())
        for name, weight in weights.items():
            self.scaled(name, Affine(scale=step, zero_point=0))
            self.epilogue(name, weight, source, np.full(self.config.num_classes, step))

    def weight(self, name: str, source: Affine) -> Weight:
        """Integer weight of a layer whose input has the scale ``source``."""
        weight = self.state[f"{name}.weight"]
        return _integer_weight(weight, self.state.get(f"{name}.bias", np.zeros(len(weight), np.float32)), source.scale)

    def epilogue(
        self, name: str, layer: Weight, source: Affine, steps: NDArray[np.float64], residual: PowerOfTwoFactors | None = None
    ) -> None:
        """Arrays of a linear layer whose output channels have the ``steps``, and the numbers of its residual."""
        weight = layer.weight.astype(np.int64) if layer.zero is None else layer.weight - layer.zero[:, None].astype(np.int64)
        bias = np.rint(layer.bias).astype(np.int64) - source.zero_point * weight.sum(axis=1)
        bound = int((np.abs(weight).sum(axis=1) * 128 + np.abs(bias)).max())
        if bound >= 2**31:
            raise ValueError(f"{name}: the accumulator and its bias can reach {bound}, which 32 bits do not hold")
        self.arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": bias.astype(np.int32)}
        if layer.zero is not None:
            self.arrays[f"{name}.weight_zero"] = layer.zero
        shift = self.multipliers(name, layer.step / steps)
        if residual is not None:
            multiplier, self.arrays[f"{name}.residual_shift"] = residual_parameters(residual.steps / steps, shift)
            self.numbers(name, residual_zero=residual.zero_point, residual_multiplier=multiplier)

    def multipliers(self, name: str, scale: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Fixed-point form of real scales; the shifts."""
        multiplier, shift = scale_to_multiplier(scale)
        self.arrays |= {f"{name}.multiplier": multiplier, f"{name}.shift": shift}
        return shift

    def numbers(self, name: str, **numbers: int) -> None:
        """Fields of an operator."""
        self.operators[name] = replace(self.operators[name], **numbers)

    def scaled(self, name: str, scale: Affine | PowerOfTwoFactors) -> None:
        """Scale and zero point of a tensor."""
        self.tensors[name] = replace(self.tensors[name], scale=scale.scale, zero_point=scale.zero_point)

    def ranged(self, name: str) -> Affine:
        """An activation with one scale for the whole observed range."""
        scale = affine(self.calibration.low(name).min(), self.calibration.high(name).max())
        self.scaled(name, scale)
        return scale

    def stream(self, name: str) -> PowerOfTwoFactors:
        """An activation of the residual stream."""
        seen = self.calibration
        factors = power_of_two_factors(seen.low(name), seen.high(name), seen.sample(name))
        self.scaled(name, factors)
        return factors


def symmetric_factors(values: NDArray) -> PowerOfTwoFactors:
    """Symmetric scale for (rows, C) parameters: of four, each half the next, each channel takes the smallest that holds it."""
    largest = np.abs(values).max(axis=0).astype(np.float64) / 127
    scale = float(largest.max()) / 8 or 1.0
    alpha = np.ceil(np.log2(np.maximum(largest, scale) / scale)).astype(np.uint8)
    return PowerOfTwoFactors(scale=scale, zero_point=0, alpha=np.minimum(alpha, 3))


def _integer_weight(weight: NDArray, bias: NDArray, input_scale: float) -> Weight:
    """Symmetric int8 weight with a scale per output channel; the bias, unrounded, in steps of the accumulator.

    A channel whose weights are tiny beside its bias gets a coarser scale, so that the bias stays below 2**29 steps.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64) / 127
    scale = np.maximum(largest, np.abs(bias) / (input_scale * 2**29))
    scale = np.where(scale > 0, scale, 1.0)
    integers = np.clip(np.rint(weight / scale[:, None]), -128, 127).astype(np.int8)
    step = scale * input_scale
    return Weight(weight=integers, bias=bias / step, step=step)
