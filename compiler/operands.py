"""The array mode that a product runs in, from the tensors and weights that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..hw import isa
from ..hw.config import NARROW, CoreConfig
from ..model.network import (
    AttentionScores,
    AttentionValues,
    AveragePool,
    Codes,
    Form,
    IntegerNetwork,
    Linear,
    LogSoftmax,
    Operator,
    Tensor,
)
from ..model.requantize import narrow

__all__ = ["Operand", "moving_operand", "narrowed", "packing", "padding_value", "require_modes"]

#: Mode by the bits of its operands.
_MODES = {8: isa.Mode.INT8} | {bits: isa.Mode[name.upper()] for name, bits in NARROW.items()}


@dataclass(frozen=True)
class Operand:
    """What the bytes of a moving operand mean: mode, codebook, and whether they hold more values than one."""

    mode: isa.Mode
    codebook: isa.Codebook

    @property
    def name(self) -> str:
        """As in :data:`..hw.config.MODES`."""
        return self.mode.name.lower()

    @property
    def row_sum(self) -> int:
        """Row sums that the product of an array has too many: it gives ``sum + popcount`` for operands of 0 and 1."""
        return int(self.mode is isa.Mode.BINARY and self.codebook is isa.Codebook.UNIT)

    @property
    def offset(self) -> int:
        """What the product of an array has too much for each value: 1 for operands of -1 and +1."""
        return int(self.mode is isa.Mode.BINARY and self.codebook is isa.Codebook.SIGNED)

    @property
    def fields(self) -> dict[str, int]:
        """Fields of the instruction."""
        return {"mode": self.mode.value, "codebook": self.codebook.value}


def moving_operand(tensor: Tensor, codes: Codes = Codes.LINEAR) -> Operand:
    """How the array takes a tensor that moves."""
    if codes is not Codes.LINEAR:
        return Operand(isa.Mode.LOG2, isa.Codebook.UNIT if codes is Codes.SQRT2 else isa.Codebook.SIGNED)
    return Operand(_MODES[tensor.bits], isa.Codebook.UNIT if tensor.unit else isa.Codebook.SIGNED)


def packing(bits: int) -> int:
    """log2 of the values in a byte, as instructions have it."""
    return max(1, 8 // bits).bit_length() - 1


def narrowed(tensor: Tensor, value: int) -> int:
    """An int8 as the tensor has it."""
    return int(narrow(np.array(value, np.int8), tensor.bits, unit=tensor.unit)) if tensor.bits < 8 else value


def padding_value(network: IntegerNetwork, name: str) -> int:
    """What the padding columns of a tensor hold: the zero point, through the table of the layer that writes it, in the tensor's bits."""
    tensor = network.tensor(name)
    value = tensor.zero_point
    for operator in network.operators:
        if operator.output == name and isinstance(operator, Linear) and operator.form is Form.TABLE:
            value = int(network.arrays[f"{operator.name}.table"][value + 128])
            break
    return narrowed(tensor, value)


def require_modes(network: IntegerNetwork, config: CoreConfig) -> None:
    """Raise ``ValueError`` that names the first operator that the core cannot run, and what it lacks."""
    tensors = {tensor.name: tensor for tensor in network.tensors}
    for operator in network.operators:
        if config.serial and not _is_serial(operator):
            raise ValueError(f"{operator.name} needs more than a serial core has: linear layers without a residual, and pooling")
        match operator:
            case Linear() | AttentionScores() | AttentionValues():
                codes = operator.codes if isinstance(operator, AttentionValues) else Codes.LINEAR
                operand = moving_operand(tensors[operator.input], codes)
                if operand.name not in config.modes:
                    raise ValueError(f"{operator.name} needs the operand mode {operand.name}; this core has {', '.join(config.modes)}")
                if isinstance(operator, Linear) and operator.weight_bits < 8 and not config.packed_weights:
                    weights = f"weights of {operator.weight_bits} bit{'s' * (operator.weight_bits > 1)}"
                    raise ValueError(f"{operator.name} has {weights}, which needs packed_weights; this core has none")
            case LogSoftmax(coded=True) if not config.narrow:
                modes = ", ".join(config.modes)
                raise ValueError(f"{operator.name} needs a code table, which cores with int4, int2 or binary have; this one has {modes}")


def _is_serial(operator: Operator) -> bool:
    """Whether a serial core has all that the operator needs."""
    return isinstance(operator, AveragePool) or isinstance(operator, Linear) and operator.form is not Form.RESIDUAL and not operator.mapped
