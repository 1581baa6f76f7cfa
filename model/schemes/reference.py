"""The float reference of a low-bit network: its weights and activations rounded as the papers say, all else in floating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .. import float_swin, float_vit
from ..architectures import Transformer
from ..float_ops import Float, FloatLayers, Observer, State, gelu, masked_logits, normalised, scores, softmax
from ..float_swin import SwinConfig
from ..observers import observe_images
from .grid import Grid, fit_grid, fit_sqrt2, fit_steps, fit_thresholds
from .scheme import Attention, Grids, Scheme
from .weights import LowBitWeight, low_bit_weight

__all__ = ["Reference", "head_norms", "reparameterised"]


@dataclass(kw_only=True)
class Reference:
    """A low-bit network in float64; what is not learned is fixed by the first batch of images that it sees.

    Parameters
    ----------
    scheme : Scheme
    config : ViTConfig or SwinConfig
    state : dict of str to ndarray
        Parameters of timm's names, and learned ones (:mod:`.scheme`).
    weights : dict of str to LowBitWeight
        By the name of a block's linear layer.
    grids : dict of str to Grid
        By the layer that takes the activation, and ``<attn>.q``, ``.k``, ``.v`` and ``.map``.
    """

    scheme: Scheme
    config: Transformer
    state: State
    weights: dict[str, LowBitWeight] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)

    def forward(self, images: Float, observe: Observer | None = None) -> NDArray[np.float64]:
        """Logits of normalised images (B, C, H, W).

        Besides what the float network shows, without its ``attn.qkv`` and ``attn.qk``: ``attn.linear`` (q, k and v before their
        LayerNorm and rounding), ``attn.logits``, and the codes of what is rounded, ``<layer>.codes`` for a layer's input (-1, +1 for 1
        bit) and ``attn.q.codes``, ``attn.k.codes``, ``attn.v.codes`` (B, heads, tokens, channels).
        """
        family = float_swin if isinstance(self.config, SwinConfig) else float_vit
        return family.forward(self.config, self.state, images.astype(np.float64), observe, self.layers)  # type: ignore[arg-type]

    def layers(self, state: State, saw: Observer) -> FloatLayers:
        """What computes the layers."""
        return _LowBitLayers(self, saw)

    def weight(self, name: str) -> LowBitWeight:
        """Weight of a block's linear layer."""
        if name not in self.weights:
            self.weights[name] = low_bit_weight(self.scheme, self.state[f"{name}.weight"], self.state.get(f"{name}.weight_scale"))
        return self.weights[name]

    def grid(self, name: str, learned: str, rule: Grids, bits: int, x: Float) -> Grid:
        """Grid of an activation, learned or found from x."""
        if name not in self.grids:
            self.grids[name] = self._learned(learned, bits) or fit_grid(rule, x, bits)
        return self.grids[name]

    def map_grid(self, name: str, weights: Float) -> Grid:
        """Grid of an attention map; of 1 bit the zero point is -1, of others the codes are unsigned."""
        if name not in self.grids:
            scheme = self.scheme
            found = self._learned(name, scheme.map_bits)
            if found is None and scheme.attention is Attention.SQRT2:
                scale = np.array([fit_sqrt2(weights)])
            elif found is None:
                threshold = scheme.attention is Attention.THRESHOLD
                scale = fit_thresholds(weights) if threshold else fit_steps(weights, scheme.head_bits)
            else:
                scale = found.scale
            if found is not None and found.zero.any() and not (scheme.attention is Attention.THRESHOLD and np.all(found.zero == -1)):
                raise ValueError(f"{name}_zero is {found.zero.tolist()}; a map of 1 bit has -1, others 0")
            self.grids[name] = Grid(scale=scale, zero=np.full(len(scale), -(scheme.attention is Attention.THRESHOLD)), bits=scheme.map_bits)
        return self.grids[name]

    def _learned(self, name: str, bits: int) -> Grid | None:
        if (scale := self.state.get(f"{name}_scale")) is None:
            return None
        if not np.all(scale > 0):
            raise ValueError(f"{name}_scale must be positive, not {float(scale.min()):g}")
        zero = self.state.get(f"{name}_zero", np.zeros(len(scale)))
        return Grid(scale=scale.astype(np.float64), zero=np.rint(zero).astype(np.int64), bits=bits)


class _LowBitLayers(FloatLayers):
    """Layers of a :class:`Reference`."""

    def __init__(self, reference: Reference, saw: Observer) -> None:
        super().__init__(reference.state, saw)
        self.reference, self.scheme = reference, reference.scheme

    def linear(self, name: str, x: Float) -> Float:
        if self.scheme.layer_weight_bits(name) == 8:
            return super().linear(name, x)
        weight, scale = self.reference.weight(name), 1.0
        if (bits := self.scheme.input_bits(name)) < 8:
            grid = self.reference.grid(name, f"{name}.act", self.scheme.inputs, bits, x)
            codes = grid.quantize(x)
            self.saw(f"{name}.codes", codes)
            x, scale = codes - grid.zero, float(grid.scale[0])
        # Scales come last: sums of integers are exact, so that a sum of 0 has the sign of 0.
        result = self.product("", x, weight.integers) * (scale * weight.scale)
        return result + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else result

    def hidden(self, x: Float) -> Float:
        # sign(GELU(x)) = sign(x), and GELU of very negative x underflows to a zero.
        return x if self.scheme.hidden_bits == 1 else np.clip(gelu(x), -self.scheme.clip, self.scheme.clip)

    def attention(self, name: str, x: Float, heads: int, bias: Float | None = None, mask: Float | None = None) -> Float:
        if not self.scheme.split:
            return super().attention(name, x, heads, bias, mask)
        batch, tokens, width = x.shape
        linear = self.linear(f"{name}.qkv", x)
        self.saw(f"{name}.linear", linear)
        q, k, v = linear.reshape(batch, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        if self.scheme.head_norm:
            (q_gamma, q_beta), (k_gamma, k_beta) = head_norms(self.state, name, width // heads)
            epsilon = float_swin.LAYER_NORM_EPSILON if isinstance(self.reference.config, SwinConfig) else float_vit.LAYER_NORM_EPSILON
            q, k = normalised(q, epsilon) * q_gamma + q_beta, normalised(k, epsilon) * k_gamma + k_beta
        (q, q_scale), (k, k_scale), (v, v_scale) = (self._head(f"{name}.{part}", x) for part, x in (("q", q), ("k", k), ("v", v)))
        logits = scores(q, k) * (q_scale * k_scale)
        logits = logits if bias is None else logits + bias
        self.saw(f"{name}.logits", logits)
        weights, scale = self._map(name, logits, mask)
        self.saw(f"{name}.softmax", weights * scale)
        mixed = ((weights @ v) * (scale * v_scale)).swapaxes(1, 2).reshape(batch, tokens, width)
        self.saw(f"{name}.av", mixed)
        return self.linear(f"{name}.proj", mixed)

    def _head(self, name: str, x: Float) -> tuple[Float, Float]:
        """q, k or v (B, heads, tokens, channels), rounded: integers and the scale of each head."""
        grid = self.reference.grid(name, name, self.scheme.heads, self.scheme.head_bits, x)
        codes = grid.quantize(x)
        self.saw(f"{name}.codes", codes)
        return codes - grid.zero[:, None, None], grid.scale[:, None, None]

    def _map(self, name: str, logits: Float, mask: Float | None) -> tuple[Float, Float]:
        """The attention map as the scheme has it: codes' values, and the scale of each head or of all."""
        if self.scheme.attention is Attention.MAXIMUM:
            logits = masked_logits(logits, mask)
            return (logits >= logits.max(-1, keepdims=True) - np.log(4)).astype(np.float64), np.ones((1, 1, 1))
        weights = softmax(logits, mask)
        scale = self.reference.map_grid(f"{name}.map", weights).scale[:, None, None]
        match self.scheme.attention:
            case Attention.THRESHOLD:
                return (weights >= scale).astype(np.float64), 2 * scale
            case Attention.UNIFORM:
                return np.clip(np.rint(weights / scale), 0, (1 << self.scheme.head_bits) - 1), scale
            case _:
                codes = np.maximum(np.rint(-2 * np.log2(np.maximum(weights, 1e-30) / scale)), 0)
                return np.where(codes < 15, 2 ** (-codes / 2), 0), scale


def head_norms(state: State, attention: str, size: int) -> list[tuple[NDArray, NDArray]]:
    """Gamma and beta (``size``,) of the LayerNorm over each head's q, and over k; 1 and 0 where the checkpoint has none."""
    default = {"weight": np.ones(size), "bias": np.zeros(size)}
    names = ([f"{attention}.{part}_norm.{what}" for what in default] for part in "qk")
    return [(state.get(gamma, default["weight"]), state.get(beta, default["bias"])) for gamma, beta in names]


def reparameterised(config: Transformer, state: State, images: NDArray[np.uint8], bits: int) -> dict[str, NDArray]:
    """RepQ-ViT's scale reparameterisation: LayerNorm's outputs, ranged by channel, brought to one scale and zero point.

    The inverse is in the weights and biases of the layer behind, so that the float network stays the same function. Zero points are
    integers.
    """
    seen, steps = observe_images(config, state, images), (1 << bits) - 1
    result: dict[str, NDArray] = dict(state)
    blocks = [name.removesuffix(".norm1.weight") for name in state if name.endswith(".norm1.weight")]
    for norm, layer in ((f"{b}.{n}", f"{b}.{x}") for b in blocks for n, x in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1"))):
        low, high = (np.asarray(v, np.float64) for v in (seen.low(norm), seen.high(norm)))
        scale = np.maximum((high - low) / steps, 1e-9)
        zero = np.rint(-low / scale)
        common, middle = scale.mean(), np.rint(zero.mean())
        factor, offset = scale / common, scale * (zero - middle)
        weight = np.asarray(state[f"{layer}.weight"], np.float64)
        bias: NDArray = np.asarray(_bias(state, layer, len(weight)), np.float64)
        result[f"{norm}.weight"] = state[f"{norm}.weight"] / factor
        result[f"{norm}.bias"] = (state[f"{norm}.bias"] + offset) / factor
        result |= {f"{layer}.weight": weight * factor, f"{layer}.bias": bias - weight @ offset}
    return result


def _bias(state: Mapping[str, NDArray], layer: str, outputs: int) -> NDArray:
    return state.get(f"{layer}.bias", np.zeros(outputs))
