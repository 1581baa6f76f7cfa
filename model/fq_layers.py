"""What the quantisers of all families share: layers of the scheme ``fq-vit-8-8-4``, appended to an integer network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .arith import scale_to_multiplier
from .float_ops import ImageConfig, State
from .layer_norm import layer_norm_parameters
from .log_softmax import MASKED, exp_table, log_table
from .network import (
    AttentionScores,
    AttentionValues,
    Constant,
    Form,
    ImageFormat,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Operator,
    Tensor,
)
from .observers import Affine, Calibration, PowerOfTwoFactors, affine, gelu_scales, power_of_two_factors
from .requantize import activation_table, gelu, residual_parameters

__all__ = ["INPUT", "PIXELS", "SCHEME", "IntegerWeight", "LayerBuilder", "Stream", "symmetric_factors"]

SCHEME = "fq-vit-8-8-4"
INPUT = "patches"
PIXELS = Affine(scale=1 / 255, zero_point=-128)


@dataclass(frozen=True, kw_only=True)
class IntegerWeight:
    """Integer weight (N, K) and bias (N,) of a linear layer, and the real value (N,) of one step of its accumulator."""

    weight: NDArray[np.int8]
    bias: NDArray[np.float64]
    step: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The residual stream: the tensor's name and its power-of-two factors."""

    name: str
    factors: PowerOfTwoFactors


@dataclass(kw_only=True)
class LayerBuilder:
    """Appends tensors, operators and arrays in execution order. Every method returns what its output is called or scaled by.

    Parameters
    ----------
    config, state, calibration
        The float network, and what its activations look like.
    epsilon : float
        Of every LayerNorm.
    """

    config: ImageConfig
    state: State
    calibration: Calibration
    epsilon: float
    tensors: list[Tensor] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    arrays: dict[str, NDArray] = field(default_factory=dict)

    def network(self, outputs: list[str], *, name: str, origin: str, labels: Sequence[str]) -> IntegerNetwork:
        """All that was appended."""
        config = self.config
        shape = {"channels": config.in_chans, "size": config.img_size, "patch": config.patch_size}
        return IntegerNetwork(
            name=name,
            scheme=SCHEME,
            origin=origin,
            image=ImageFormat(**shape, mean=list(config.mean), std=list(config.std)),
            input=INPUT,
            outputs=outputs,
            tensors=self.tensors,
            constants=self.constants,
            operators=self.operators,
            arrays=self.arrays,
            labels=list(labels),
        )

    def patches(self) -> IntegerWeight:
        """The input tensor of raw pixels; the patch embedding's weight with mean and standard deviation folded in."""
        config = self.config
        self.tensor(INPUT, PIXELS, rows=config.patches, channels=config.in_chans * config.patch_size**2)
        mean, std = (np.repeat(np.asarray(v, np.float64), config.patch_size**2) for v in (config.mean, config.std))
        weight = self.state["patch_embed.proj.weight"].reshape(config.embed_dim, -1) / std
        folded = _integer_weight(weight, self.state["patch_embed.proj.bias"], PIXELS.scale)
        # With the rounded weights a pixel equal to the mean gives the bias exactly.
        return replace(folded, bias=folded.bias - folded.weight @ mean / PIXELS.scale)

    def norm(self, name: str, stream: Stream, rows: int, output_rows: NDArray[np.uint16] | None = None) -> Affine:
        """LayerNorm of rows 0 .. ``rows`` - 1 of the stream, written to ``output_rows`` where these are given."""
        output = self.range_tensor(name, rows=rows, channels=len(stream.factors.alpha))
        self.norm_into(name, stream, rows, np.asarray(output.scale), output.zero_point, output_rows)
        return output

    def norm_into(
        self, name: str, stream: Stream, rows: int, steps: NDArray[np.float64], zero: int, output_rows: NDArray[np.uint16] | None = None
    ) -> None:
        """:meth:`norm` into a tensor that is there, whose channels have the ``steps``."""
        gamma, beta = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        factors = stream.factors
        gain, offset, epsilon = layer_norm_parameters(gamma, beta, factors.scale, self.epsilon, steps, zero, len(factors.alpha))
        self.arrays |= {f"{name}.alpha": factors.alpha, f"{name}.gain": gain, f"{name}.offset": offset}
        self._map(name, output_rows)
        mapped = output_rows is not None
        self.operators.append(LayerNorm(name=name, input=stream.name, output=name, rows=rows, epsilon=epsilon, mapped=mapped))

    def attention(self, name: str, source: str, normed: Affine, heads: int, windows: int = 1, **bias: NDArray) -> tuple[str, Affine]:
        """q, k, v, logits, softmax, attention times v; ``bias`` as :meth:`_scores` takes it."""
        rows, size = self.rows(source), self.state[f"{name}.proj.weight"].shape[1] // heads
        qkv, softmax, av = (f"{name}.{part}" for part in ("qkv", "softmax", "av"))
        largest = np.maximum(-self.calibration.low(qkv), self.calibration.high(qkv)).reshape(3, heads, size).max(axis=-1)
        scale_q, scale_k, scale_v = scales = np.where(largest > 0, largest, 1).astype(np.float64) / 127

        self.tensor(qkv, Affine(scale=1.0, zero_point=0), rows=rows, groups=3 * heads, channels=size)
        self.epilogue(qkv, self.weight(qkv, normed), normed, np.repeat(scales.reshape(-1), size))
        self.operators.append(Linear(name=qkv, input=source, output=qkv, rows=rows))

        logits = self.range_tensor(f"{name}.qk", rows=rows, groups=heads, channels=rows // windows)
        scores = self._scores(name, scale_q * scale_k / math.sqrt(size), logits, windows, **bias)
        self.operators.append(scores)

        self.tensor(softmax, Affine(scale=1.0, zero_point=0), rows=rows, groups=heads, channels=rows // windows)
        self.arrays |= {f"{softmax}.exp_table": exp_table(logits.scale), f"{softmax}.log_table": log_table(logits.scale)}
        self.operators.append(LogSoftmax(name=softmax, input=scores.output, output=softmax, windows=windows, masked=scores.masked))

        output = self.range_tensor(av, rows=rows, groups=heads, channels=size)
        self.multipliers(av, np.repeat(scale_v, size) * 2.0**-14 / output.scale)
        self.operators.append(AttentionValues(name=av, input=softmax, values=qkv, output=av, heads=heads, windows=windows))
        return av, output

    def _scores(
        self,
        name: str,
        step: NDArray[np.float64],
        logits: Affine,
        windows: int,
        positions: NDArray | None = None,
        masks: NDArray[np.bool_] | None = None,
        window_type: NDArray[np.uint8] | None = None,
    ) -> AttentionScores:
        """Logits of heads whose products have the ``step``.

        positions : (heads, T, T) real bias. masks : (types, T, T), true for a masked key. window_type : (windows,).
        """
        qk = f"{name}.qk"
        shift = self.multipliers(qk, step / logits.scale)
        scores = AttentionScores(name=qk, input=f"{name}.qkv", output=qk, heads=len(step), windows=windows)
        if positions is None or masks is None or window_type is None:
            return scores
        factors = symmetric_factors(positions.reshape(len(step), -1).T)
        bias = factors.quantize(positions.transpose(1, 2, 0)).transpose(2, 0, 1)
        multiplier, self.arrays[f"{qk}.residual_shift"] = residual_parameters(factors.steps / logits.scale, shift)
        self.arrays |= {f"{qk}.bias": np.where(masks[:, None], np.int8(MASKED), bias), f"{qk}.window_type": window_type}
        return replace(scores, bias=True, residual_multiplier=multiplier, masked=bool(masks.any()))

    def gelu_layer(self, name: str, source: str, normed: Affine) -> Affine:
        """A linear layer and its GELU, as one table."""
        low, high = self.calibration.low(name).min(), self.calibration.high(name).max()
        entry, output = gelu_scales(float(low), float(high), self.calibration.sample(name))
        weight = self.weight(name, normed)
        width = len(weight.weight)
        self.tensor(name, output, rows=self.rows(source), channels=width)
        self.arrays[f"{name}.table"] = activation_table(gelu, entry.scale, entry.zero_point, output.scale, output.zero_point)
        # The epilogue adds the output's zero point; the table starts from its own.
        moved = replace(weight, bias=weight.bias + (entry.zero_point - output.zero_point) * entry.scale / weight.step)
        self.epilogue(name, moved, normed, np.full(width, entry.scale))
        self.operators.append(Linear(name=name, input=source, output=name, form=Form.TABLE, rows=self.rows(source)))
        return output

    def new_stream(self, name: str, source: str, scale: Affine, layer: IntegerWeight) -> Stream:
        """A linear layer that starts a residual stream."""
        rows = self.rows(source)
        factors = self.stream_tensor(name, rows)
        self.epilogue(name, layer, scale, factors.steps)
        self.operators.append(Linear(name=name, input=source, output=name, rows=rows))
        return Stream(name=name, factors=factors)

    def onto_stream(
        self,
        name: str,
        source: str,
        scale: Affine,
        stream: Stream,
        output_rows: NDArray[np.uint16] | None = None,
        output_groups: NDArray[np.uint8] | None = None,
    ) -> Stream:
        """A linear layer added to the residual stream, written to ``output_rows`` where these are given.

        With ``output_groups`` the stream is merged: its rows are those of four groups, and the residual is read in the order of the input.
        """
        rows = self.rows(source)
        merged, mapped = output_groups is not None, output_rows is not None
        factors = self.stream_tensor(name, rows, groups=4 if merged else 1)
        multiplier = self.epilogue(name, self.weight(name, scale), scale, factors.steps, residual=stream.factors.steps)
        self._map(name, output_rows, output_groups)
        self.operators.append(
            Linear(
                name=name,
                input=source,
                output=name,
                form=Form.RESIDUAL,
                rows=rows,
                residual=stream.name,
                residual_zero=stream.factors.zero_point,
                residual_multiplier=multiplier,
                mapped=mapped,
                residual_mapped=mapped and not merged,
            )
        )
        return Stream(name=name, factors=replace(factors, alpha=np.tile(factors.alpha, 4)) if merged else factors)

    def heads(self, sources: dict[str, tuple[str, int]], normed: Affine) -> list[str]:
        """Logits of classifiers, given the tensor and the row that each reads; all have the same step."""
        weights = {name: self.weight(name, normed) for name in sources}
        step = max(float(weight.step.max()) for weight in weights.values())
        classes = self.config.num_classes
        for name, (source, row) in sources.items():
            self.tensor(name, Affine(scale=step, zero_point=0), rows=1, channels=classes, bits=32)
            self.epilogue(name, weights[name], normed, np.full(classes, step))
            self.operators.append(Linear(name=name, input=source, output=name, form=Form.RAW, rows=1, input_row=row))
        return list(sources)

    def weight(self, name: str, source: Affine) -> IntegerWeight:
        """Integer weight of a layer whose input has the scale ``source``."""
        weight = self.state[f"{name}.weight"]
        return _integer_weight(weight, self.state.get(f"{name}.bias", np.zeros(len(weight), np.float32)), source.scale)

    def epilogue(self, name: str, layer: IntegerWeight, source: Affine, steps: NDArray, residual: NDArray | None = None) -> int:
        """Arrays of a linear layer whose output channels have the ``steps``; the multiplier of the residual, 0 without."""
        total = layer.weight.sum(axis=1, dtype=np.int64)
        bias = np.rint(layer.bias).astype(np.int64) - source.zero_point * total
        bound = int((np.abs(layer.weight.astype(np.int64)).sum(axis=1) * 128 + np.abs(bias)).max())
        if bound >= 2**31:
            raise ValueError(f"{name}: the accumulator and its bias can reach {bound}, which 32 bits do not hold")
        self.arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": bias.astype(np.int32)}
        shift = self.multipliers(name, layer.step / steps)
        if residual is None:
            return 0
        multiplier, self.arrays[f"{name}.residual_shift"] = residual_parameters(residual / steps, shift)
        return multiplier

    def multipliers(self, name: str, scale: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Fixed-point form of real scales; the shifts."""
        multiplier, shift = scale_to_multiplier(scale)
        self.arrays |= {f"{name}.multiplier": multiplier, f"{name}.shift": shift}
        return shift

    def _map(self, name: str, rows: NDArray[np.uint16] | None, groups: NDArray[np.uint8] | None = None) -> None:
        """Arrays that say where the rows of a layer go, where it is mapped."""
        for part, places in (("output_rows", rows), ("output_groups", groups)):
            if places is not None:
                self.arrays[f"{name}.{part}"] = places

    def tensor(self, name: str, scale: Affine, *, rows: int, channels: int, groups: int = 1, bits: int = 8) -> None:
        """Append a tensor."""
        self.tensors.append(
            Tensor(name=name, rows=rows, groups=groups, channels=channels, zero_point=scale.zero_point, scale=scale.scale, bits=bits)
        )

    def rows(self, name: str) -> int:
        """Rows of a tensor."""
        return next(t.rows for t in self.tensors if t.name == name)

    def range_tensor(self, name: str, *, rows: int, channels: int, groups: int = 1) -> Affine:
        """An activation with one scale for the whole observed range."""
        scale = affine(self.calibration.low(name).min(), self.calibration.high(name).max())
        self.tensor(name, scale, rows=rows, groups=groups, channels=channels)
        return scale

    def stream_tensor(self, name: str, rows: int, groups: int = 1) -> PowerOfTwoFactors:
        """A tensor of the residual stream, of ``rows`` tokens that lie in ``groups`` groups."""
        seen = self.calibration
        factors = power_of_two_factors(seen.low(name), seen.high(name), seen.sample(name))
        scale = Affine(scale=factors.scale, zero_point=factors.zero_point)
        self.tensor(name, scale, rows=rows // groups, groups=groups, channels=len(factors.alpha))
        return factors


def symmetric_factors(values: NDArray) -> PowerOfTwoFactors:
    """Symmetric scale for (rows, C) parameters: of four, each half the next, each channel takes the smallest that holds it."""
    largest = np.abs(values).max(axis=0).astype(np.float64) / 127
    scale = float(largest.max()) / 8 or 1.0
    alpha = np.ceil(np.log2(np.maximum(largest, scale) / scale)).astype(np.uint8)
    return PowerOfTwoFactors(scale=scale, zero_point=0, alpha=np.minimum(alpha, 3))


def _integer_weight(weight: NDArray, bias: NDArray, input_scale: float) -> IntegerWeight:
    """Symmetric int8 weight with a scale per output channel; the bias, unrounded, in steps of the accumulator.

    A channel whose weights are tiny beside its bias gets a coarser scale, so that the bias stays below 2**29 steps.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64) / 127
    scale = np.maximum(largest, np.abs(bias) / (input_scale * 2**29))
    scale = np.where(scale > 0, scale, 1.0)
    integers = np.clip(np.rint(weight / scale[:, None]), -128, 127).astype(np.int8)
    step = scale * input_scale
    return IntegerWeight(weight=integers, bias=bias / step, step=step)
