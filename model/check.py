"""What an integer network may say: widths that hardware has, zero points where sums of rows exist, arrays of the right shape and range."""

from __future__ import annotations

import numpy as np

from .arith import check_array
from .matmul import ZERO_CODE
from .network import (
    AttentionScores,
    AttentionValues,
    AveragePool,
    Codes,
    Form,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Operator,
    Tensor,
)
from .packing import check_bits, check_values
from .structure import array_formats

__all__ = ["check_network", "check_structure"]

_LOGITS = 32
#: Zero points that a row sum takes off.
_ZEROS = range(-15, 16)
_CODES = range(16)


def check_network(network: IntegerNetwork) -> None:
    """Raise ``ValueError`` in one sentence for a network that :func:`.golden.run` does not run.

    Besides :func:`check_structure`: arrays that are missing or have another type or shape, weights and constants out of the range of
    their bits, zero points and codes out of theirs.
    """
    check_structure(network)
    arrays = network.arrays
    for name, (dtype, shape) in array_formats(network).items():
        if name not in arrays:
            raise ValueError(f"{network.name} has no array {name}")
        check_array(name, arrays[name], dtype)
        if arrays[name].shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, not {arrays[name].shape}")
    for constant in network.constants:
        name, tensor = f"{constant.name}.value", network.tensor(constant.output)
        if name not in arrays:
            raise ValueError(f"{network.name} has no array {name}")
        check_values(name, arrays[name], tensor.bits, unit=tensor.unit)
    for operator in network.operators:
        if isinstance(operator, Linear):
            check_values(f"{operator.name}.weight", arrays[f"{operator.name}.weight"], operator.weight_bits)
            zeros = arrays.get(f"{operator.name}.weight_zero")
            if zeros is not None and zeros.size and not (zeros.min() in _ZEROS and zeros.max() in _ZEROS):
                raise ValueError(f"{operator.name}.weight_zero must be -15..15, not {zeros.min()}..{zeros.max()}")
        elif isinstance(operator, LogSoftmax) and operator.coded:
            _check_codes(f"{operator.name}.code_table", network, operator)


def check_structure(network: IntegerNetwork) -> None:
    """Raise ``ValueError`` for bits, zero points and codebooks that no core has. Arrays may be empty of numbers."""
    tensors = {tensor.name: tensor for tensor in network.tensors}
    for tensor in network.tensors:
        if tensor.bits != _LOGITS:
            check_bits(tensor.name, tensor.bits, unit=tensor.unit)
    for operator in network.operators:
        for name in (operator.input, operator.output):
            if name not in tensors:
                raise ValueError(f"{operator.name} has no tensor {name}")
        if tensors[operator.input].bits == _LOGITS:
            raise ValueError(f"{operator.name} reads {operator.input}, which has 32 bits; only outputs of the network have")
        _check_operator(operator, tensors, f"{operator.name}.weight_zero" in network.arrays)


def _check_operator(operator: Operator, tensors: dict[str, Tensor], weight_zero: bool) -> None:
    source, target = tensors[operator.input], tensors[operator.output]
    name = operator.name
    match operator:
        case Linear():
            if operator.residual:
                _check_bytes(name, tensors[operator.residual])
            raw = operator.form is Form.RAW
            if raw != (target.bits == _LOGITS):
                kind = "int32" if target.bits == _LOGITS else f"of {target.bits} bits"
                raise ValueError(f"{name} has the form {operator.form}, but its output {target.name} is {kind}; only raw gives int32")
            check_bits(f"{name}.weight", operator.weight_bits)
            if operator.weight_bits > source.bits:
                given = f"{operator.weight_bits} bits"
                raise ValueError(f"{name} has weights of {given}; those of an input of {source.bits} bits have no more than it")
            _check_zero(f"{name}.weight_zero", source, int(weight_zero))
        case AttentionScores():
            _check_groups(name, source, {2: "q and k", 3: "q, k and v"}, operator.heads)
            if operator.query_zero and (source.bits != 4 or not -8 <= operator.query_zero <= 7):
                raise ValueError(f"{name}.query_zero must be -8..7, and 0 but for 4 bits; it is {operator.query_zero} for {source.bits}")
            _check_zero(f"{name}.key_zero", source, operator.key_zero)
        case LogSoftmax():
            _check_bytes(name, source)
            if not operator.coded and target.bits != 8:
                raise ValueError(f"{name} writes codes of octaves, which take 8 bits, not {target.bits}; other codes need a code table")
            if operator.relative and not operator.coded:
                raise ValueError(f"{name} is relative, which only a softmax with a code table can be")
        case AttentionValues():
            _check_values_operands(operator, source, tensors[operator.values])
        case LayerNorm():
            _check_bytes(name, source)
            if operator.by_group and (source.channels != target.channels or source.groups < target.groups):
                given = f"{source.groups} groups of {source.channels} to {target.groups} of {target.channels}"
                raise ValueError(f"{name} normalises groups, no more than there are and of the same channels, not {given}")
        case AveragePool():
            _check_bytes(name, source)


def _check_values_operands(operator: AttentionValues, source: Tensor, values: Tensor) -> None:
    name = operator.name
    _check_groups(name, source, {1: "codes"}, operator.heads)
    _check_groups(name, values, {1: "v", 3: "q, k and v"}, operator.heads)
    if source.channels * operator.windows != values.rows:
        given = f"{source.channels} keys and {values.rows} rows of values in {operator.windows} windows"
        raise ValueError(f"{name} needs a row of values for each key, and has {given}")
    if source.bits != values.bits:
        raise ValueError(f"{name} takes codes and values of the same bits, not {source.bits} and {values.bits}")
    if operator.codes is not Codes.LINEAR and source.bits != 8:
        raise ValueError(f"{name} takes {operator.codes} codes in 8 bits, not in {source.bits}")
    if source.bits == 1 and not source.unit:
        raise ValueError(f"{name} takes codes of 1 bit from a unit tensor, and {source.name} is none")
    if operator.codes is Codes.LINEAR and source.bits > 1 and source.zero_point and (source.bits != 4 or not -8 <= source.zero_point <= 7):
        raise ValueError(f"{name} takes codes with a zero point of -8..7 and 4 bits, not of {source.zero_point} and {source.bits} bits")
    _check_zero(f"{name}.value_zero", values, operator.value_zero)


def _check_bytes(name: str, tensor: Tensor) -> None:
    if tensor.bits != 8:
        raise ValueError(f"{name} reads {tensor.name} of {tensor.bits} bits where only 8 will do")


def _check_groups(name: str, tensor: Tensor, parts: dict[int, str], heads: int) -> None:
    if tensor.groups not in [count * heads for count in parts]:
        wanted = " or ".join(parts.values())
        raise ValueError(f"{name} takes {wanted} of {heads} heads, a group each; {tensor.name} has {tensor.groups} groups")


def _check_zero(name: str, moving: Tensor, zero: int) -> None:
    """A zero point of the stationary operand needs the row sums of the moving one."""
    if zero and moving.bits == 8:
        raise ValueError(f"{name} needs an operand of 4, 2 or 1 bits on the other side; {moving.name} has 8")
    if zero not in _ZEROS:
        raise ValueError(f"{name} must be -15..15, not {zero}")


def _check_codes(name: str, network: IntegerNetwork, operator: LogSoftmax) -> None:
    """Codes within their bits. The last one is that of a weight of zero: columns of padding and masked keys take it."""
    table, target = network.arrays[name], network.tensor(operator.output)
    if target.bits != 8:
        check_values(name, table, target.bits, unit=target.unit)
    elif table.size and not (table.min() in _CODES and table.max() in _CODES):
        raise ValueError(f"{name} must be codes of 0..15, not {table.min()}..{table.max()}")
    zeros = (0, ZERO_CODE) if target.bits == 8 else (0 if target.unit else target.zero_point,)
    if not np.isin(table[:, -1], zeros).all():
        raise ValueError(f"{name} must end with the code of zero, {' or '.join(map(str, zeros))}, and not with {table[:, -1].tolist()}")
