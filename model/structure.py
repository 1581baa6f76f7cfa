"""Structure of integer networks: tensors, operators and the shapes of their arrays, from a configuration alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .float_ops import ImageConfig
from .float_vit import ViTConfig
from .network import (
    AttentionScores,
    AttentionValues,
    AveragePool,
    Codes,
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

__all__ = ["StructureBuilder", "array_formats", "check_arrays", "vit_structure"]

Formats = dict[str, tuple[DTypeLike, tuple[int, ...]]]

_INPUT = "patches"
_TABLE = 256


def vit_structure(
    config: ViTConfig, *, name: str, scheme: str, origin: str, build: Callable[..., StructureBuilder] | None = None
) -> IntegerNetwork:
    """Network of ``config`` without weights: what a quantiser fills, and all that a compiler needs to know how long it takes.

    build : makes the builder, by default a :class:`StructureBuilder`.

    Zero points, the numbers of the operators and the arrays are 0, scales 1. The arrays are read-only views of one zero each: they
    have the shapes and types of :func:`array_formats` and take no memory.
    """
    stem, prefix = "patch_embed", config.prefix_tokens
    builder = (build or StructureBuilder)(config=config, stream=stem, rows=config.tokens, width=config.embed_dim)
    # Position is a parameter residual; the prefix tokens are constant rows before the patches.
    builder.tensor(stem)
    builder.operators.append(Linear(name=stem, input=_INPUT, output=stem, form=Form.RESIDUAL, rows=config.patches, output_row=prefix))
    for index in range(config.depth):
        block = f"blocks.{index}"
        builder.norm(f"{block}.norm1")
        builder.attention(f"{block}.attn", f"{block}.norm1", config.num_heads)
        builder.onto_stream(f"{block}.attn.proj", f"{block}.attn.av")
        builder.mlp(block)
    builder.norm("norm", rows=prefix)
    outputs = ["head", "head_dist"][:prefix]
    for row, head in enumerate(outputs):
        builder.head(head, "norm", row)
    constant: Formats = {"cls_token.value": (np.int8, (prefix, config.embed_dim))}
    return builder.network(outputs, constant, name=name, scheme=scheme, origin=origin)


def array_formats(network: IntegerNetwork) -> Formats:
    """Type and shape of every array of the operators, in their order.

    Rows of constants are free, so theirs are not here; neither are row maps, masks and their types. Zero points of weights are where
    the network has some.
    """
    tensors = {tensor.name: tensor for tensor in network.tensors}
    formats: Formats = {}
    for operator in network.operators:
        output = tensors[operator.output]
        merging = isinstance(operator, Linear) and operator.rows > output.rows
        columns = output.channels if merging else output.shape[1]
        parts = _operator_formats(operator, columns, tensors[operator.input])
        if f"{operator.name}.weight_zero" in network.arrays:
            parts["weight_zero"] = (np.int8, (columns,))
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


def _operator_formats(operator: Operator, outputs: int, source: Tensor) -> Formats:
    inputs = source.shape[1]
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
            formats = {"multiplier": (np.uint16, (operator.heads,)), "shift": (np.uint8, (operator.heads,))}
            return formats | ({"residual_shift": (np.uint8, (operator.heads,))} if operator.bias else {})
        case AttentionValues():
            return scale | ({"bias": (np.int32, (outputs,))} if operator.codes is Codes.LINEAR else {})
        case LogSoftmax():
            tables: Formats = {"exp_table": (np.uint16, (_TABLE,)), "log_table": (np.uint16, (_TABLE,))}
            return tables | ({"code_table": (np.int8, (source.groups, _TABLE))} if operator.coded else {})
        case LayerNorm():
            channels = outputs if operator.by_group else inputs
            return {"alpha": (np.uint8, (channels,)), "gain": (np.int32, (channels,)), "offset": (np.int32, (channels,))}
        case AveragePool():
            return {"bias": (np.int32, (1,)), "multiplier": (np.uint16, (1,)), "shift": (np.uint8, (1,))}


@dataclass(kw_only=True)
class StructureBuilder:
    """Appends tensors and operators in execution order; a network of other bits overrides :meth:`bits` and what follows it.

    Parameters
    ----------
    config : ImageConfig
    stream : str
        Tensor of the residual stream.
    rows, width : int
        Its shape, which other tensors have by default.
    arrays : dict of str to ndarray
        Row maps and masks, which are structure and not weights.
    """

    config: ImageConfig
    stream: str
    rows: int
    width: int
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    arrays: dict[str, NDArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.config
        self.tensor(_INPUT, rows=config.patches, channels=config.in_chans * config.patch_size**2)

    def bits(self, name: str) -> int:
        """Bits of an activation."""
        return 8

    def weight_bits(self, name: str) -> int:
        """Bits of a linear layer's weights."""
        return 8

    def hidden_form(self) -> Form:
        """Form of a block's hidden layer."""
        return Form.TABLE

    def network(self, outputs: list[str], constants: Formats, *, name: str, scheme: str, origin: str) -> IntegerNetwork:
        """All that was appended. constants : arrays of the constant rows in front of the first tensor of the stream."""
        config = self.config
        image = {"channels": config.in_chans, "size": config.img_size, "patch": config.patch_size}
        network = IntegerNetwork(
            name=name,
            scheme=scheme,
            origin=origin,
            image=ImageFormat(**image, mean=list(config.mean), std=list(config.std)),
            input=_INPUT,
            outputs=outputs,
            tensors=self.tensors,
            constants=[Constant(name=array.removesuffix(".value"), output=self.operators[0].output) for array in constants],
            operators=self.operators,
            arrays=self.arrays,
        )
        formats = constants | array_formats(network)
        network.arrays = {array: np.broadcast_to(np.zeros((), dtype), shape) for array, (dtype, shape) in formats.items()} | self.arrays
        return network

    def embed(self, name: str) -> None:
        """The first layer, on patches, where it is a plain one."""
        self.tensor(name)
        self.operators.append(Linear(name=name, input=_INPUT, output=name, rows=self.rows))
        self.stream = name

    def norm(self, name: str, *, rows: int = 0, channels: int = 0, output_rows: NDArray[np.uint16] | None = None) -> None:
        """LayerNorm of the stream, written to ``output_rows`` where these are given."""
        self.tensor(name, rows=rows, channels=channels)
        mapped = self._map(name, output_rows)
        self.operators.append(LayerNorm(name=name, input=self.stream, output=name, rows=rows or self.rows, epsilon=1, mapped=mapped))

    def attention(
        self,
        name: str,
        source: str,
        heads: int,
        windows: int = 1,
        masks: NDArray[np.bool_] | None = None,
        window_type: NDArray[np.uint8] | None = None,
    ) -> None:
        """q, k, v, logits, softmax and attention times v.

        masks : (types, T, T), true for a masked key, where the logits have a bias. window_type : (windows,).
        """
        qkv, qk, softmax, av = (f"{name}.{part}" for part in ("qkv", "qk", "softmax", "av"))
        size, keys = self.width // heads, self.rows // windows
        self.tensor(qkv, groups=3 * heads, channels=size)
        self.linear(qkv, source)
        masked = self.scores(qk, qkv, heads, windows, masks, window_type)
        self.tensor(softmax, groups=heads, channels=keys)
        self.operators.append(LogSoftmax(name=softmax, input=qk, output=softmax, windows=windows, masked=masked))
        self.tensor(av, groups=heads, channels=size)
        self.operators.append(AttentionValues(name=av, input=softmax, values=qkv, output=av, heads=heads, windows=windows))

    def scores(
        self, name: str, source: str, heads: int, windows: int, masks: NDArray[np.bool_] | None, window_type: NDArray[np.uint8] | None
    ) -> bool:
        """Logits, with the masks in their bias; whether any key is masked. Arguments as of :meth:`attention`."""
        self.tensor(name, groups=heads, channels=self.rows // windows)
        bias, masked = masks is not None, masks is not None and bool(masks.any())
        if masks is not None and window_type is not None:
            bytes_ = np.where(masks, np.int8(-128), np.int8(0))[:, None]
            self.arrays |= {f"{name}.bias": np.repeat(bytes_, heads, axis=1), f"{name}.window_type": window_type}
        self.operators.append(AttentionScores(name=name, input=source, output=name, heads=heads, windows=windows, bias=bias, masked=masked))
        return masked

    def mlp(self, block: str, merge: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None = None) -> None:
        """Norm, hidden layer and output layer of a block; ``merge`` as in :meth:`onto_stream`."""
        norm, fc1 = f"{block}.norm2", f"{block}.mlp.fc1"
        self.norm(norm)
        self.tensor(fc1, channels=int(self.width * self.config.mlp_ratio))
        self.linear(fc1, norm, self.hidden_form())
        self.onto_stream(f"{block}.mlp.fc2", fc1, merge=merge)

    def onto_stream(
        self,
        name: str,
        source: str,
        output_rows: NDArray[np.uint16] | None = None,
        merge: tuple[NDArray[np.uint16], NDArray[np.uint8]] | None = None,
    ) -> None:
        """A linear layer added to the residual stream, in the order of ``output_rows`` where these are given.

        merge : rows and groups that the tokens go to, for a stream of a quarter of the rows in four groups.
        """
        self.tensor(name, rows=self.rows // 4 if merge else 0, groups=4 if merge else 1)
        rows, groups = merge or (output_rows, None)
        mapped = self._map(name, rows, groups)
        self.linear(name, source, Form.RESIDUAL, residual=self.stream, mapped=mapped, residual_mapped=mapped and not merge)
        self.stream = name

    def new_stream(self, name: str, source: str, rows: int, width: int) -> None:
        """A linear layer that starts another residual stream."""
        self.rows, self.width = rows, width
        self.tensor(name)
        self.linear(name, source)
        self.stream = name

    def head(self, name: str, source: str, row: int) -> None:
        """Logits of one row."""
        self.tensor(name, rows=1, channels=self.config.num_classes, bits=32)
        self.operators.append(Linear(name=name, input=source, output=name, form=Form.RAW, rows=1, input_row=row))

    def linear(self, name: str, source: str, form: Form = Form.REQUANTIZE, **options) -> None:
        """A layer of every row."""
        options["weight_bits"] = self.weight_bits(name)
        self.operators.append(Linear(name=name, input=source, output=name, form=form, rows=self.rows, **options))

    def tensor(self, name: str, *, rows: int = 0, groups: int = 1, channels: int = 0, bits: int = 0, unit: bool = False) -> None:
        """By default of the stream's shape."""
        rows, channels, bits = rows or self.rows, channels or self.width, bits or self.bits(name)
        self.tensors.append(Tensor(name=name, rows=rows, groups=groups, channels=channels, bits=bits, unit=unit))

    def _map(self, name: str, rows: NDArray[np.uint16] | None, groups: NDArray[np.uint8] | None = None) -> bool:
        """Keep where the rows of a layer go; whether it is mapped."""
        for part, places in (("output_rows", rows), ("output_groups", groups)):
            if places is not None:
                self.arrays[f"{name}.{part}"] = places
        return rows is not None
