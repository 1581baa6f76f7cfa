"""The array mode that a product runs in, from the tensors and weights that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..hw import isa
from ..hw.config import CoreConfig
from ..model.network import Codes, Tensor
from ..model.requantize import narrow

__all__ = ["Operand", "moving_operand", "narrowed", "packing", "require_packed_weights"]

_MODES = {8: isa.Mode.INT8, 4: isa.Mode.INT4, 2: isa.Mode.INT2, 1: isa.Mode.BINARY}


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

    def require(self, name: str, config: CoreConfig) -> None:
        """Raise ``ValueError`` where the core cannot run operator ``name``."""
        if self.name not in config.modes:
            raise ValueError(f"{name} needs the operand mode {self.name}; this core has {', '.join(config.modes)}")
        if self.mode is isa.Mode.LOG2 and self.codebook is isa.Codebook.UNIT and not config.narrow:
            raise ValueError(f"{name} takes codes of half octaves, which a core with int4, int2 or binary has; this core has none of them")


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


def require_packed_weights(name: str, bits: int, config: CoreConfig) -> None:
    """Raise ``ValueError`` where the core cannot unpack the weights of operator ``name``."""
    if bits < 8 and not config.packed_weights:
        raise ValueError(f"{name} has weights of {bits} bit{'s' * (bits > 1)}, which needs packed_weights; this core has none")
