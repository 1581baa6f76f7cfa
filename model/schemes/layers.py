"""The layers of the low-bit schemes: what :class:`..fq_layers.Filler` gives 8-bit layers, for operands of few bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..fq_layers import Filler, Weight, symmetric_factors
from ..layer_norm import layer_norm_parameters
from ..log_softmax import exp_table, log_table
from ..low_bit import maximum_distance, maximum_tables, sqrt2_codes, threshold_codes, uniform_codes
from ..observers import Affine, PowerOfTwoFactors, affine
from ..requantize import activation_table, gelu
from .grid import Grid
from .reference import Reference, head_norms
from .scheme import Attention, Weights

__all__ = ["LowBitFiller", "sign_steps", "whole_steps"]

_GELU_FLOOR = -4.0
"""GELU is within 0.0002 of 0 below."""


@dataclass(kw_only=True)
class LowBitFiller(Filler):
    """Fills a structure of :func:`.structure.low_bit_structure` with the weights and grids of ``reference``."""

    reference: Reference

    def norm(self, name: str, stream: PowerOfTwoFactors) -> Affine:
        consumer = name.replace("norm1", "attn.qkv").replace("norm2", "mlp.fc1")
        if self.tensors[name].bits == 8:
            return super().norm(name, stream)
        grid = self.reference.grids[consumer]
        output = Affine(scale=float(grid.scale[0]), zero_point=int(grid.zero[0]))
        steps, zero = self._norm_steps(grid, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
        self._norm(name, stream, steps, zero)
        self.scaled(name, output)
        return output

    def weight(self, name: str, source: Affine) -> Weight:
        scheme = self.reference.scheme
        if scheme.layer_weight_bits(name) == 8:
            return super().weight(name, source)
        part = name.rpartition(".")[2]
        layer = name.removesuffix(part) + ("qkv" if part in ("qk", "v") else part)
        low_bit, width = self.reference.weight(layer), self.state[f"{layer}.weight"].shape[1]
        chosen = {"qk": slice(2 * width), "v": slice(2 * width, None)}.get(part, slice(None))
        low_bit = low_bit.rows(chosen)
        bias = np.asarray(self.state.get(f"{layer}.bias", np.zeros(len(self.state[f"{layer}.weight"]))), np.float64)[chosen]
        # A channel whose weights are tiny beside its bias gets a coarser scale, so that the bias stays in 32 bits.
        scale = np.maximum(low_bit.scale, np.abs(bias) / (source.scale * 2**29))
        step = scale * source.scale
        zero = low_bit.zero if scheme.weights is Weights.ASYMMETRIC else None
        return Weight(weight=low_bit.weight, bias=bias / step, step=step, zero=zero)

    def gelu_layer(self, name: str, normed: Affine) -> Affine:
        bits = self.tensors[name].bits
        if bits == 8:
            return super().gelu_layer(name, normed)
        grid = self.reference.grids[name.replace("fc1", "fc2")]
        output = Affine(scale=float(grid.scale[0]), zero_point=int(grid.zero[0]))
        self.scaled(name, output)
        weight = self.weight(name, normed)
        if bits == 1:
            self.narrow_layer(name, weight, normed, *grid.columns(1, len(weight.step)))
            return output
        low, high = self.calibration.low(name).min(), self.calibration.high(name).max()
        entry = affine(max(float(low), _GELU_FLOOR), min(float(high), output.scale * (grid.high + 1 - output.zero_point)))
        table = activation_table(gelu, entry.scale, entry.zero_point, output.scale, output.zero_point)
        self.arrays[f"{name}.table"] = np.clip(table, grid.low, grid.high)
        steps = np.full(len(weight.step), entry.scale)
        self.narrow_layer(name, weight, normed, steps, np.full(len(steps), entry.zero_point))
        return output

    def attention(self, name: str, normed: Affine, positions: NDArray | None = None) -> Affine:
        if not self.reference.scheme.split:
            return super().attention(name, normed, positions)
        q, k = self._queries_keys(name, normed)
        logits = self._logits(f"{name}.logits", q, k, positions)
        step = self._map(f"{name}.softmax", logits)
        values = self._values(name, normed)
        av = self.tensors[f"{name}.av"]
        grid = self.reference.grids[f"{name}.proj"]
        output = Affine(scale=float(grid.scale[0]), zero_point=int(grid.zero[0]))
        self.scaled(av.name, output)
        steps = np.repeat(np.broadcast_to(step, av.groups), av.channels) * values
        bias = np.zeros(len(steps), np.int32)
        if av.bits == 1:
            bias = np.floor(output.zero_point * output.scale / steps).astype(np.int32)
            steps = np.full(len(steps), output.scale)
        if self.reference.scheme.attention is not Attention.SQRT2:
            self.arrays[f"{av.name}.bias"] = bias
        self.multipliers(av.name, steps / output.scale)
        return output

    def narrow_layer(self, name: str, layer: Weight, source: Affine, scale: NDArray[np.float64], zero: NDArray[np.int64]) -> None:
        """A linear layer whose output channels have the steps ``scale`` and zero points ``zero``, both (N,).

        Where the output has 1 bit, it is exactly ``weight . input + bias >= -zero scale`` of the real layer with these weights and inputs.
        """
        output = self.tensors[name]
        if output.bits == 1:
            bias = np.floor(layer.bias + zero * scale / layer.step)
            self.epilogue(name, Weight(weight=layer.weight, bias=bias, step=layer.step, zero=layer.zero), source, layer.step)
            return
        bias = layer.bias + (zero - output.zero_point) * scale / layer.step
        self.epilogue(name, Weight(weight=layer.weight, bias=bias, step=layer.step, zero=layer.zero), source, scale)

    def _queries_keys(self, name: str, normed: Affine) -> tuple[Grid, Grid]:
        """The layer of q and k, and their LayerNorm; the grids that they end in."""
        qk, grids = self.tensors[f"{name}.qk"], [self.reference.grids[f"{name}.{part}"] for part in "qk"]
        heads, size, weight = qk.groups // 2, qk.channels, self.weight(qk.name, normed)
        scale, zero = (np.concatenate(parts) for parts in zip(*(grid.columns(heads, size) for grid in grids), strict=True))
        if not self.reference.scheme.head_norm:
            self.narrow_layer(qk.name, weight, normed, scale, zero)
            return grids[0], grids[1]
        seen = self.calibration
        factors = symmetric_factors(np.stack([bound(f"{name}.linear")[: len(scale)] for bound in (seen.low, seen.high)]))
        self.scaled(qk.name, factors)
        self.narrow_layer(qk.name, weight, normed, factors.steps, np.zeros(len(scale), np.int64))
        norm = f"{name}.qk_norm"
        gamma, beta = (np.repeat(pair, heads, axis=0).reshape(-1) for pair in zip(*head_norms(self.state, name, size), strict=True))
        whole = Grid(scale=scale, zero=zero, bits=grids[0].bits)
        parameters = layer_norm_parameters(gamma, beta, factors.scale, self.epsilon, *self._norm_steps(whole, gamma, beta), len(scale))
        # The variance is over a head's channels.
        epsilon = int(np.clip(np.rint(size**2 * self.epsilon / factors.scale**2), 1, 2**32 - 1))
        self.arrays |= {f"{norm}.alpha": factors.alpha, f"{norm}.gain": parameters[0], f"{norm}.offset": parameters[1]}
        self.numbers(norm, epsilon=epsilon)
        return grids[0], grids[1]

    def _logits(self, name: str, q: Grid, k: Grid, positions: NDArray | None) -> Affine:
        """Logits of the grids' codes, with ``positions`` added; their scale."""
        tensor, source = self.tensors[name], self.tensors[self.operators[name].input]
        size, heads = source.channels, tensor.groups
        step = np.broadcast_to(q.scale * k.scale / math.sqrt(size), heads)
        factors = None if positions is None else symmetric_factors(positions.reshape(heads, -1).T)
        if self.reference.scheme.attention is not Attention.MAXIMUM:
            logits = self.ranged(name)
        else:
            logits = self._exact_logits(name, size, positions is not None)
            if positions is not None:
                factors = whole_steps(positions, logits.scale)
        self.scaled(name, logits)
        shift = self.multipliers(name, step / logits.scale)
        self.numbers(name, query_zero=q.common_zero(f"{name}: q"), key_zero=k.common_zero(f"{name}: k"))
        if positions is not None and factors is not None:
            self._positions(name, positions, factors, logits, shift)
        return logits

    def _exact_logits(self, name: str, size: int, biased: bool) -> Affine:
        """Scale of BiViT's logits: ``steps * dot / 2`` and a bias in whole steps are exact; the row's greatest ones are not saturated."""
        low, high = float(self.calibration.low(name).min()), float(self.calibration.high(name).max())
        half = 2 / math.sqrt(size)
        steps = max(1, math.floor(half * 200 / max(high - low, half))) if biased else 1
        zero = max(-128, min(0, 110 - round(high * steps / half))) if biased else 0
        return Affine(scale=half / steps, zero_point=zero)

    def _map(self, name: str, logits: Affine) -> NDArray[np.float64]:
        """Tables of the softmax; real value of a step of each head's map, or one for all."""
        scheme, heads = self.reference.scheme, self.tensors[name].groups
        logarithms, step = log_table(logits.scale), np.ones(1)
        if scheme.attention is Attention.MAXIMUM:
            size = self.tensors[name.replace("softmax", "v")].channels
            logarithms, codes = maximum_tables(maximum_distance(size, round(2 / (math.sqrt(size) * logits.scale))))
        else:
            scale = step = self.reference.grids[name.replace("softmax", "map")].scale
            match scheme.attention:
                case Attention.THRESHOLD:
                    codes, step = threshold_codes(scale), 2 * step
                case Attention.UNIFORM:
                    zero = -8 if scheme.head_bits == 4 else 0
                    self.scaled(name, Affine(scale=float(step.max()), zero_point=zero))
                    codes = uniform_codes(scale, 1 << scheme.head_bits, zero)
                case _:
                    codes, step = sqrt2_codes(scale), step * 2.0**-14
        self.arrays |= {f"{name}.exp_table": exp_table(logits.scale), f"{name}.log_table": logarithms}
        self.arrays[f"{name}.code_table"] = np.array(np.broadcast_to(codes, (heads, 256)))
        return step

    def _values(self, name: str, normed: Affine) -> NDArray[np.float64]:
        """The layer of v; real value of a step of each of its columns."""
        v, grid = self.tensors[f"{name}.v"], self.reference.grids[f"{name}.v"]
        scale, zero = grid.columns(v.groups, v.channels)
        common = grid.common_zero(v.name)
        if v.bits == 8:
            # Stored without zero point: the product with powers of two has no row sums.
            low, high, zero = grid.low - common, grid.high - common, np.zeros_like(zero)
        else:
            low, high = grid.low, grid.high
            self.numbers(f"{name}.av", value_zero=common)
            self.scaled(v.name, Affine(scale=float(scale.max()), zero_point=common if v.bits > 1 else 0))
        if v.bits != grid.bits:
            self.arrays[f"{v.name}.table"] = np.clip(np.arange(-128, 128), low, high).astype(np.int8)
        self.narrow_layer(v.name, self.weight(v.name, normed), normed, scale, zero)
        return scale

    def _norm_steps(self, grid: Grid, gamma: NDArray, beta: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and zero points of LayerNorm's columns."""
        scale, zero = np.broadcast_to(grid.scale, gamma.shape), np.broadcast_to(grid.zero, gamma.shape)
        if grid.bits > 1:
            return scale, zero.astype(np.float64)
        return sign_steps(np.asarray(gamma, np.float64), np.asarray(beta, np.float64), zero * scale)


def sign_steps(gamma: NDArray[np.float64], beta: NDArray[np.float64], shift: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and zero points of a LayerNorm whose results' signs are those of ``gamma n + beta + shift``; all (C,).

    The steps are as fine as gain and offset allow, and half a step is taken off because the result is rounded to nearest.
    """
    steps = np.maximum(np.maximum(np.abs(gamma) / 127.9, np.abs(beta + shift) / 511), 1e-12)
    return steps, shift / steps - 0.5


def whole_steps(positions: NDArray, step: float) -> PowerOfTwoFactors:
    """Factors for position biases (heads, T, T) in whole steps of the logits, each head's as coarse as its greatest one asks for."""
    largest = np.abs(positions).reshape(len(positions), -1).max(axis=1) / (127 * step)
    alpha = np.clip(np.ceil(np.log2(np.maximum(largest, 1))), 0, 3).astype(np.uint8)
    return PowerOfTwoFactors(scale=step, zero_point=0, alpha=alpha)
