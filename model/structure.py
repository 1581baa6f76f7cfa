"""Structure of integer networks: tensors, operators and the shapes of their arrays, from a configuration alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from .float_vit import ViTConfig
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

__all__ = ["array_formats", "check_arrays", "vit_structure"]

Formats = dict[str, tuple[DTypeLike, tuple[int, ...]]]

_INPUT = "patches"
_TABLE = 256


def vit_structure(config: ViTConfig, *, name: str, scheme: str, origin: str) -> IntegerNetwork:
    """Network of ``config`` without weights: what a quantiser fills, and all that a compiler needs to know how long it takes.

    Zero points, the numbers of the operators and the arrays are 0, scales 1. The arrays are read-only views of one zero each: they
    have the shapes and types of :func:`array_formats` and take no memory.
    """
    builder = _Builder(config=config)
    builder.embed()
    for index in range(config.depth):
        builder.block(f"blocks.{index}")
    outputs = builder.heads()
    network = IntegerNetwork(
        name=name,
        scheme=scheme,
        origin=origin,
        image=ImageFormat(
            channels=config.in_chans, size=config.img_size, patch=config.patch_size, mean=list(config.mean), std=list(config.std)
        ),
        input=_INPUT,
        outputs=outputs,
        tensors=builder.tensors,
        constants=[Constant(name="cls_token", output="patch_embed")],
        operators=builder.operators,
    )
    formats = {"cls_token.value": (np.int8, (config.prefix_tokens, config.embed_dim))} | array_formats(network)
    network.arrays = {array: np.broadcast_to(np.zeros((), dtype), shape) for array, (dtype, shape) in formats.items()}
    return network


def array_formats(network: IntegerNetwork) -> Formats:
    """Type and shape of every array of the operators, in their order. Rows of constants are free, so theirs are not here."""
    tensors = {tensor.name: tensor for tensor in network.tensors}
    formats: Formats = {}
    for operator in network.operators:
        columns = tensors[operator.output].shape[1]
        parts = _operator_formats(operator, columns, tensors[operator.input].shape[1])
        formats |= {f"{operator.name}.{part}": form for part, form in parts.items()}
    return formats


def check_arrays(network: IntegerNetwork, wanted: IntegerNetwork, source: str) -> None:
    """Raise ``ValueError`` that names the first array of ``wanted`` which ``network`` lacks or has in another shape or type."""
    for name, array in wanted.arrays.items():
        given = network.arrays.get(name)
        if given is None:
            raise ValueError(f"{source} is not a {wanted.name}: it has no {name}")
        if (given.shape, given.dtype) != (array.shape, array.dtype):
            found, expected = (f"{a.dtype} {a.shape}" for a in (given, array))
            raise ValueError(f"{source} is not a {wanted.name}: {name} is {found} instead of {expected}")
    if extra := next((name for name in network.arrays if name not in wanted.arrays), None):
        raise ValueError(f"{source} is not a {wanted.name}, which has no {extra}")


def _operator_formats(operator: Operator, outputs: int, inputs: int) -> Formats:
    scale: Formats = {"multiplier": (np.uint16, (outputs,)), "shift": (np.uint8, (outputs,))}
    match operator:
        case Linear():
            formats: Formats = {"weight": (np.int8, (outputs, inputs)), "bias": (np.int32, (outputs,))} | scale
            if operator.form is Form.TABLE:
                formats["table"] = (np.int8, (_TABLE,))
            if operator.form is Form.RESIDUAL:
                formats["residual_shift"] = (np.uint8, (outputs,))
                if not operator.residual:
                    formats["residual"] = (np.int8, (operator.rows, outputs))
            return formats
        case AttentionScores():
            return {"multiplier": (np.uint16, (operator.heads,)), "shift": (np.uint8, (operator.heads,))}
        case AttentionValues():
            return scale
        case LogSoftmax():
            return {"exp_table": (np.uint16, (_TABLE,)), "log_table": (np.uint16, (_TABLE,))}
        case LayerNorm():
            return {"alpha": (np.uint8, (inputs,)), "gain": (np.int32, (inputs,)), "offset": (np.int32, (inputs,))}


@dataclass(kw_only=True)
class _Builder:
    """Appends tensors and operators in execution order; ``stream`` is the tensor of the residual stream."""

    config: ViTConfig
    stream: str = "patch_embed"
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)

    def embed(self) -> None:
        """Patch embedding, plus position as a parameter residual; the prefix tokens are constant rows before the patches."""
        config, name = self.config, self.stream
        self.tensors.append(Tensor(name=_INPUT, rows=config.patches, channels=config.in_chans * config.patch_size**2))
        self._tensor(name)
        self.operators.append(
            Linear(name=name, input=_INPUT, output=name, form=Form.RESIDUAL, rows=config.patches, output_row=config.prefix_tokens)
        )

    def block(self, name: str) -> None:
        """Attention and MLP with their norms and residual additions."""
        self._norm(f"{name}.norm1", self.config.tokens)
        self._attention(f"{name}.attn", f"{name}.norm1")
        self._onto_stream(f"{name}.attn.proj", f"{name}.attn.av")
        self._norm(f"{name}.norm2", self.config.tokens)
        self._tensor(f"{name}.mlp.fc1", channels=self.config.hidden_dim)
        self._linear(f"{name}.mlp.fc1", f"{name}.norm2", Form.TABLE)
        self._onto_stream(f"{name}.mlp.fc2", f"{name}.mlp.fc1")

    def heads(self) -> list[str]:
        """Final norm of the prefix tokens and one head for each."""
        prefix = self.config.prefix_tokens
        self._norm("norm", prefix)
        names = ["head", "head_dist"][:prefix]
        for row, name in enumerate(names):
            self.tensors.append(Tensor(name=name, rows=1, channels=self.config.num_classes, bits=32))
            self.operators.append(Linear(name=name, input="norm", output=name, form=Form.RAW, rows=1, input_row=row))
        return names

    def _attention(self, name: str, source: str) -> None:
        heads, size, tokens = self.config.num_heads, self.config.head_dim, self.config.tokens
        qkv, qk, softmax, av = (f"{name}.{part}" for part in ("qkv", "qk", "softmax", "av"))
        self._tensor(qkv, groups=3 * heads, channels=size)
        self._linear(qkv, source, Form.REQUANTIZE)
        self._tensor(qk, groups=heads, channels=tokens)
        self.operators.append(AttentionScores(name=qk, input=qkv, output=qk, heads=heads))
        self._tensor(softmax, groups=heads, channels=tokens)
        self.operators.append(LogSoftmax(name=softmax, input=qk, output=softmax))
        self._tensor(av, groups=heads, channels=size)
        self.operators.append(AttentionValues(name=av, input=softmax, values=qkv, output=av, heads=heads))

    def _norm(self, name: str, rows: int) -> None:
        self._tensor(name, rows=rows)
        self.operators.append(LayerNorm(name=name, input=self.stream, output=name, rows=rows, epsilon=1))

    def _onto_stream(self, name: str, source: str) -> None:
        """A linear layer added to the residual stream."""
        self._tensor(name)
        self._linear(name, source, Form.RESIDUAL, residual=self.stream)
        self.stream = name

    def _linear(self, name: str, source: str, form: Form, residual: str = "") -> None:
        self.operators.append(Linear(name=name, input=source, output=name, form=form, rows=self.config.tokens, residual=residual))

    def _tensor(self, name: str, *, rows: int = 0, groups: int = 1, channels: int = 0) -> None:
        """By default of the stream's shape."""
        rows, channels = rows or self.config.tokens, channels or self.config.embed_dim
        self.tensors.append(Tensor(name=name, rows=rows, groups=groups, channels=channels))
