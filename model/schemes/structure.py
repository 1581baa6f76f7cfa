"""Structure of low-bit networks: the float network's, with other bits, and q and k apart from v where they are narrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..architectures import Transformer
from ..float_swin import SwinConfig
from ..network import AttentionValues, Codes, Form, IntegerNetwork, LayerNorm, LogSoftmax
from ..structure import StructureBuilder, vit_structure
from ..swin_structure import swin_structure
from .scheme import Attention, Scheme, Weights

__all__ = ["low_bit_structure"]


def low_bit_structure(config: Transformer, scheme: Scheme, *, name: str, origin: str) -> IntegerNetwork:
    """Network of ``config`` in ``scheme`` without weights, as :func:`.structure.vit_structure`.

    Where q, k and v are narrow, ``attn.qkv`` is the two layers ``attn.qk`` and ``attn.v``; ``attn.qk_norm`` follows the first where the
    scheme has a LayerNorm over heads; ``attn.v``, ``attn.logits``, ``attn.softmax`` and ``attn.av`` follow.
    """
    build: Callable[..., StructureBuilder] = partial(_LowBitBuilder, scheme=scheme)
    if isinstance(config, SwinConfig):
        return swin_structure(config, name=name, scheme=scheme.name, origin=origin, build=build)
    return vit_structure(config, name=name, scheme=scheme.name, origin=origin, build=build)


@dataclass(kw_only=True)
class _LowBitBuilder(StructureBuilder):
    """Builder for a ``scheme``."""

    scheme: Scheme

    def bits(self, name: str) -> int:
        consumers = {"norm1": "attn.qkv", "attn.av": "attn.proj", "norm2": "mlp.fc1", "mlp.fc1": "mlp.fc2"}
        for part, consumer in consumers.items():
            if name.endswith(f".{part}") and "blocks." in name:
                return self.scheme.input_bits(name.removesuffix(part) + consumer)
        return 8

    def weight_bits(self, name: str) -> int:
        return self.scheme.layer_weight_bits(name)

    def hidden_form(self) -> Form:
        return Form.REQUANTIZE if self.scheme.hidden_bits == 1 else Form.TABLE

    def linear(self, name: str, source: str, form: Form = Form.REQUANTIZE, **options) -> None:
        super().linear(name, source, form, **options)
        if self.scheme.weights is Weights.ASYMMETRIC and self.weight_bits(name) < 8:
            output = self.tensors[-1]
            outputs = output.channels if output.rows < self.rows else output.shape[1]
            self.arrays[f"{name}.weight_zero"] = np.broadcast_to(np.int8(0), (outputs,))

    def attention(
        self,
        name: str,
        source: str,
        heads: int,
        windows: int = 1,
        masks: NDArray[np.bool_] | None = None,
        window_type: NDArray[np.uint8] | None = None,
    ) -> None:
        scheme = self.scheme
        if not scheme.split:
            super().attention(name, source, heads, windows, masks, window_type)
            return
        qk, logits, softmax, v, av = (f"{name}.{part}" for part in ("qk", "logits", "softmax", "v", "av"))
        size, keys = self.width // heads, self.rows // windows
        self.tensor(qk, groups=2 * heads, channels=size, bits=8 if scheme.head_norm else scheme.head_bits)
        self.linear(qk, source)
        if scheme.head_norm:
            norm = f"{name}.qk_norm"
            self.tensor(norm, groups=2 * heads, channels=size, bits=scheme.head_bits)
            self.operators.append(LayerNorm(name=norm, input=qk, output=norm, rows=self.rows, epsilon=1, by_group=True))
            qk = norm
        self.tensor(v, groups=heads, channels=size, bits=scheme.value_bits)
        # A table clips v to fewer bits than it is stored in.
        self.linear(v, source, Form.REQUANTIZE if scheme.value_bits == scheme.head_bits else Form.TABLE)
        masked = self.scores(logits, qk, heads, windows, masks, window_type)
        self.tensor(softmax, groups=heads, channels=keys, bits=scheme.map_bits, unit=scheme.map_bits == 1)
        options = {"coded": True, "relative": scheme.attention is Attention.MAXIMUM}
        self.operators.append(LogSoftmax(name=softmax, input=logits, output=softmax, windows=windows, masked=masked, **options))
        if scheme.attention in (Attention.THRESHOLD, Attention.UNIFORM):
            # Tables of heads that have a step each are loaded one by one: without numbers, they must differ at least.
            numbers = np.unpackbits(np.arange(heads, dtype=np.uint8)[:, None], axis=1).astype(np.int8)
            self.arrays[f"{softmax}.code_table"] = np.pad(numbers, ((0, 0), (0, 256 - numbers.shape[1])))
        self.tensor(av, groups=heads, channels=size)
        codes = Codes.SQRT2 if scheme.attention is Attention.SQRT2 else Codes.LINEAR
        self.operators.append(AttentionValues(name=av, input=softmax, values=v, output=av, heads=heads, windows=windows, codes=codes))
