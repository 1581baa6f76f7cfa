"""Every matrix product of a network, from its configuration: what bounds and benchmarks count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

from .float_mlp import MlpConfig
from .float_ops import ImageConfig
from .float_swin import SwinConfig
from .float_vit import ViTConfig

__all__ = ["Gemm", "workload"]


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """``count`` products of (M, K) with (K, N).

    Parameters
    ----------
    layer : str
    kind : str
        ``fp`` for the patch embedding and the heads, which many accelerators leave in floating point, ``w`` for other products with
        weights, ``a`` for products of two activations.
    M, K, N, count : int
    """

    layer: str
    kind: str
    M: int
    K: int
    N: int
    count: int = 1

    @property
    def macs(self) -> int:
        """Products of numbers, all ``count`` together."""
        return self.M * self.K * self.N * self.count


@singledispatch
def workload(config: ImageConfig) -> list[Gemm]:
    """Products for one image, alike ones counted together, in the order of the network."""
    raise ValueError(f"a configuration of a known family is wanted, not {type(config).__name__}")


@workload.register
def _(config: ViTConfig) -> list[Gemm]:
    tokens, width = config.tokens, config.embed_dim
    blocks = _blocks(tokens, width, config.num_heads, config.hidden_dim, tokens, 1, config.depth)
    return [_embedding(config), *blocks, Gemm(layer="head", kind="fp", M=1, K=width, N=config.num_classes, count=config.prefix_tokens)]


@workload.register
def _(config: SwinConfig) -> list[Gemm]:
    gemms = [_embedding(config)]
    for number, stage in enumerate(config.stages, 1):
        if number > 1:
            merged = Gemm(layer=f"s{number - 1}.merge", kind="w", M=stage.tokens, K=2 * stage.width, N=stage.width)
            gemms.append(merged)
        hidden, window = int(stage.width * config.mlp_ratio), stage.window**2
        gemms += _blocks(stage.tokens, stage.width, stage.num_heads, hidden, window, stage.windows, stage.depth, f"s{number}.")
    return [*gemms, Gemm(layer="head", kind="fp", M=1, K=config.stages[-1].width, N=config.num_classes)]


@workload.register
def _(config: MlpConfig) -> list[Gemm]:
    width = config.embed_dim
    hidden = [Gemm(layer=name, kind="w", M=1, K=width, N=width) for name in config.hidden_layers]
    return [_embedding(config), *hidden, Gemm(layer="head", kind="fp", M=1, K=width, N=config.num_classes)]


def _embedding(config: ImageConfig) -> Gemm:
    return Gemm(layer="patch_embed", kind="fp", M=config.patches, K=config.in_chans * config.patch_size**2, N=config.embed_dim)


def _blocks(tokens: int, width: int, heads: int, hidden: int, window: int, windows: int, depth: int, prefix: str = "") -> Iterator[Gemm]:
    """The products of ``depth`` blocks whose attention sees ``window`` tokens at a time."""
    size, maps = width // heads, heads * windows * depth
    for layer, kind, m, k, n, count in (
        ("qkv", "w", tokens, width, 3 * width, depth),
        ("qk^T", "a", window, size, window, maps),
        ("attn.v", "a", window, window, size, maps),
        ("proj", "w", tokens, width, width, depth),
        ("fc1", "w", tokens, width, hidden, depth),
        ("fc2", "w", tokens, hidden, width, depth),
    ):
        yield Gemm(layer=prefix + layer, kind=kind, M=m, K=k, N=n, count=count)
