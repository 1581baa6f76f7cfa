"""The integer network: tensors and operators of a quantised vision transformer, as one safetensors file.

The description is plain data, in execution order; :mod:`.golden` runs it in numpy, :mod:`..compiler` maps it onto the core.
The arithmetic of each operator is in ``docs/arithmetic.md``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "AttentionScores",
    "AttentionValues",
    "AveragePool",
    "Codes",
    "Constant",
    "Form",
    "ImageFormat",
    "IntegerNetwork",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "Operator",
    "Tensor",
]

FORMAT = "vitloom-integer-network"
FORMAT_VERSION = 1


class Codes(StrEnum):
    """What the values of an attention map mean."""

    #: 0..14 is 2**-code, 15 is zero.
    LOG2 = "log2"
    #: 0..14 is 2**(-code / 2), 15 is zero.
    SQRT2 = "sqrt2"
    #: The integer minus the zero point; of 1 bit, 0 or 1 (a zero point there is only what the epilogue adds before the comparison).
    LINEAR = "linear"


class Form(StrEnum):
    """What the epilogue makes of an accumulator."""

    REQUANTIZE = "requantize"
    TABLE = "table"
    RESIDUAL = "residual"
    RAW = "raw"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An activation of ``rows`` tokens and ``groups * channels`` columns.

    A group is a set of channels that hardware pads to whole words on its own: a head of q, k, v or of the attention map.

    Parameters
    ----------
    rows, groups, channels : int
        Array shape is ``(rows, groups * channels)``.
    zero_point : int
        Stored value of real zero (-128..127).
    scale : float
        Real value of one step, for reading results only; no arithmetic uses it. For a PTF tensor the smallest scale.
    bits : int
        8, 4 or 2 (two's complement), 1 (-1 or +1), all in an int8 array; or 32 (int32 logits).
    unit : bool
        Values of 1 bit are 0 or 1.
    """

    name: str
    rows: int
    groups: int = 1
    channels: int
    zero_point: int = 0
    scale: float = 1.0
    bits: int = 8
    unit: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.groups * self.channels


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Rows of an activation that do not depend on the image (class token with its position), written before the first operator.

    Array: ``<name>.value`` int8 (rows, channels), placed in ``output`` from row 0 on.
    """

    name: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``output[row + output_row] = epilogue(input[row] . weight^T)`` for ``rows`` rows of ``input`` from ``input_row`` on.

    Arrays: ``<name>.weight`` int8 (N, K), ``.bias`` int32 (N), ``.multiplier`` uint16 (N), ``.shift`` uint8 (N); form ``table`` adds
    ``.table`` int8 (256); form ``residual`` adds ``.residual_shift`` uint8 (N), and where the residual is a parameter (the position
    embedding) ``residual`` is empty and the rows are ``.residual`` int8 (rows, N). Otherwise ``residual`` names a tensor, read at
    ``output_row + row``.
    The zero point that the epilogue adds is the output tensor's; the result is narrowed to the bits of that tensor.
    Weights have ``weight_bits``, 8, 4 or 2 (two's complement) or 1 (-1 or +1), and no more than the input. With an array
    ``.weight_zero`` int8 (N), -15..15, the weight is ``weight - weight_zero``.

    A ``mapped`` layer writes row r to ``output_rows[r]`` (array ``<name>.output_rows`` uint16 (rows)), and where the output tensor has
    groups, N is the channels of one and row r goes to group ``output_groups[r]`` (``<name>.output_groups`` uint8 (rows)). It reads the
    residual at the row that it writes (``residual_mapped``) or at r. ``input_row`` and ``output_row`` are 0 then.
    """

    name: str
    input: str
    output: str
    form: Form = Form.REQUANTIZE
    rows: int
    input_row: int = 0
    output_row: int = 0
    residual: str = ""
    residual_zero: int = 0
    residual_multiplier: int = 0
    mapped: bool = False
    residual_mapped: bool = False
    weight_bits: int = 8


@dataclass(frozen=True, kw_only=True)
class AttentionScores:
    """Logits ``(q - query_zero) . (k - key_zero)^T`` of each head, requantized to int8 with one scale for the layer.

    ``input`` has groups q heads, k heads, and v heads if :class:`AttentionValues` finds its values there too. ``query_zero`` only where
    it has 4 bits.

    Arrays, an entry per head: ``<name>.multiplier`` uint16, ``.shift`` uint8. ``output``: groups = heads, channels = keys.

    The rows are ``windows`` runs of T tokens, each of which sees its own keys only; ``output`` has T channels a group.
    With ``bias``, ``<name>.bias`` int8 (types, heads, T, T) is added as the residual, window w taking the type ``.window_type[w]``
    (uint8 (windows)); ``.residual_shift`` uint8 (heads). With ``masked``, a bias of -128 makes the logit -128 exactly, whatever the
    sum, and every other logit is at least -127.
    """

    name: str
    input: str
    output: str
    heads: int
    windows: int = 1
    bias: bool = False
    residual_zero: int = 0
    residual_multiplier: int = 0
    masked: bool = False
    query_zero: int = 0
    key_zero: int = 0


@dataclass(frozen=True, kw_only=True)
class LogSoftmax:
    """Log-Int-Softmax of each group of ``input``: 4-bit codes.

    Arrays: ``<name>.exp_table`` uint16 (256), ``.log_table`` uint16 (256).
    With ``coded``, the codes of each group come from ``<name>.code_table`` int8 (groups, 256), values of the output tensor, entry
    ``i`` for weights of ``2**(-i / 16)``: :func:`.log_softmax.coded_softmax`. With ``relative`` besides, for weights over the row's
    greatest one: no sum, so that BiViT's rule is a comparison with the maximum.
    The rows are those of ``windows`` windows. With ``masked``, a logit of -128 is a masked key: neither in the maximum nor in the sum,
    and its code is 15.
    """

    name: str
    input: str
    output: str
    windows: int = 1
    masked: bool = False
    coded: bool = False
    relative: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionValues:
    """Codes times v of each head; ``values`` has groups v heads, or q heads, k heads, v heads. ``output``: groups = heads.

    Arrays, an entry per output channel: ``<name>.multiplier`` uint16, ``.shift`` uint8. ``.bias`` int32 where ``codes`` is linear.
    For linear codes, ``(a - zero point of input) . (v - value_zero)``; a zero point only where the input has 4 bits.
    Input and values have the same bits, or values have 8 and codes are logarithmic.
    The rows of each of ``windows`` windows see the values of their own window.
    """

    name: str
    input: str
    values: str
    output: str
    heads: int
    windows: int = 1
    codes: Codes = Codes.LOG2
    value_zero: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """PTS LayerNorm of rows 0 .. ``rows`` - 1 of ``input``, narrowed to the bits of the output tensor.

    Arrays: ``<name>.alpha`` uint8 (C), ``.gain`` int32 (C), ``.offset`` int32 (C); if ``mapped``, ``.output_rows`` uint16 (rows): row r is
    written to row ``output_rows[r]``. The groups of ``input`` are normalised together; with ``by_group`` each for itself (a head's q
    or k), and only as many as the output has.
    """

    name: str
    input: str
    output: str
    rows: int
    epsilon: int
    mapped: bool = False
    by_group: bool = False


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Row 0 of ``output`` is the mean over all rows of ``input``: their sum, requantized, ``1 / rows`` being in the multiplier.

    Arrays: ``<name>.bias`` int32 (1), ``.multiplier`` uint16 (1), ``.shift`` uint8 (1).
    """

    name: str
    input: str
    output: str


Operator = Linear | AttentionScores | LogSoftmax | AttentionValues | LayerNorm | AveragePool
_OPERATORS = {kind.__name__: kind for kind in (Linear, AttentionScores, LogSoftmax, AttentionValues, LayerNorm, AveragePool)}


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What the network takes: ``channels`` x ``size`` x ``size`` uint8, cut into ``patch`` x ``patch`` patches.

    ``mean`` and ``std`` (of pixels in 0..1) are already folded into the patch embedding; they are kept for the record.
    """

    channels: int
    size: int
    patch: int
    mean: list[float]
    std: list[float]

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2


@dataclass(kw_only=True)
class IntegerNetwork:
    """A quantised network.

    Parameters
    ----------
    name, scheme, origin : str
        Network name, quantisation scheme (``fq-vit-8-8-4``), and where the weights come from.
    image : ImageFormat
    input, outputs : str, list of str
        Tensor of patches, ``(patches, channels * patch**2)`` int8 in the order of a convolution's weight; int32 logit tensors.
    tensors : list of Tensor
    constants : list of Constant
    operators : list of Operator
        In execution order.
    arrays : dict of str to ndarray
        Parameters, named as the operators' docstrings say.
    labels : list of str
        Class names, or empty.
    """

    name: str
    scheme: str
    origin: str
    image: ImageFormat
    input: str
    outputs: list[str]
    tensors: list[Tensor]
    constants: list[Constant]
    operators: list[Operator]
    arrays: dict[str, NDArray] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return next(t for t in self.tensors if t.name == name)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file: arrays as tensors, the rest as JSON in the metadata."""
        description = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        description["image"] = asdict(self.image)
        description["tensors"] = [asdict(t) for t in self.tensors]
        description["constants"] = [asdict(c) for c in self.constants]
        description["operators"] = [{"kind": type(o).__name__, **asdict(o)} for o in self.operators]
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        save_file(arrays, path, {"format": FORMAT, "version": str(FORMAT_VERSION), "description": json.dumps(description)})

    @classmethod
    def load(cls, path: Path | str) -> IntegerNetwork:
        """Read a file that :meth:`save` wrote. Raises ``ValueError`` in one sentence for anything else."""
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a safetensors file ({error})") from None
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not an integer network; a float checkpoint goes through 'vitloom quantize' first")
        if metadata.get("version") != str(FORMAT_VERSION):
            raise ValueError(f"{path} has format version {metadata.get('version')}; this vitloom reads {FORMAT_VERSION}")
        return cls._from_description(json.loads(metadata["description"]), arrays)

    @classmethod
    def _from_description(cls, text: dict, arrays: dict[str, NDArray]) -> IntegerNetwork:
        operators = [_OPERATORS[o.pop("kind")](**o) for o in text.pop("operators")]
        for index, operator in enumerate(operators):
            if isinstance(operator, Linear):
                operators[index] = replace(operator, form=Form(operator.form))
            elif isinstance(operator, AttentionValues):
                operators[index] = replace(operator, codes=Codes(operator.codes))
        return cls(
            image=ImageFormat(**text.pop("image")),
            tensors=[Tensor(**t) for t in text.pop("tensors")],
            constants=[Constant(**c) for c in text.pop("constants")],
            operators=operators,
            arrays=arrays,
            **text,
        )
