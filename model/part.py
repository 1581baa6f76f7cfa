"""Some consecutive layers of a network as a network of their own, and the values that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import golden
from .network import AttentionValues, IntegerNetwork, Linear, Operator

__all__ = ["part", "part_input"]

#: Names to show at each end of a long list.
_SHOWN = 4


def part(network: IntegerNetwork, layers: Sequence[str]) -> IntegerNetwork:
    """The operators that are named so, or whose names begin so and go on with a dot.

    Input is the tensor that they read and do not write, outputs are those that they write and do not read.
    Raises ``ValueError`` for an unknown name, operators that are not consecutive, and more than one input.
    """
    for name in layers:
        if not any(_belongs(operator, name) for operator in network.operators):
            raise ValueError(f"{network.name} has no layer {name!r}; there are {', '.join(_names(network))} and what they consist of")
    title = ",".join(layers)
    chosen = [index for index, operator in enumerate(network.operators) if any(_belongs(operator, name) for name in layers)]
    gap = next((index for index in range(chosen[0], chosen[-1]) if index not in chosen), None)
    if gap is not None:
        raise ValueError(f"{title} must be layers that follow each other; {network.operators[gap].name} lies between them")
    operators = network.operators[chosen[0] : chosen[-1] + 1]
    written = dict.fromkeys(operator.output for operator in operators)
    read = dict.fromkeys(name for operator in operators for name in _reads(operator))
    inputs = [name for name in read if name not in written]
    if len(inputs) != 1:
        raise ValueError(f"{title} must read one tensor of the layers before, not {len(inputs)}: {', '.join(inputs)}")
    outputs = [name for name in written if name not in read]
    return _restrict(network, operators, name=f"{network.name} ({title})", input=inputs[0], outputs=outputs)


def part_input(network: IntegerNetwork, part: IntegerNetwork, images: NDArray[np.uint8]) -> NDArray[np.int8]:
    """What ``part`` of ``network`` reads: (B, rows, groups * channels), from a golden run of the layers before it.

    images : (B, channels, size, size) uint8.
    """
    writers = [index for index, operator in enumerate(network.operators) if operator.output == part.input]
    if not writers:
        return golden.patches(network.image, images)
    before = _restrict(network, network.operators[: writers[-1] + 1], name=network.name, input=network.input, outputs=[part.input])
    return golden.run(before, images)[part.input]


def _belongs(operator: Operator, name: str) -> bool:
    return operator.name == name or operator.name.startswith(f"{name}.")


def _reads(operator: Operator) -> list[str]:
    """Tensors that an operator reads."""
    names = [operator.input]
    if isinstance(operator, Linear) and operator.residual:
        names.append(operator.residual)
    if isinstance(operator, AttentionValues):
        names.append(operator.values)
    return names


def _names(network: IntegerNetwork) -> list[str]:
    """The layers at the top, blocks and stages by number; of many, the first and the last."""
    parts = [operator.name.split(".") for operator in network.operators]
    names = list(dict.fromkeys(".".join(each[: 2 if each[1:] and each[1].isdecimal() else 1]) for each in parts))
    return names if len(names) <= 2 * _SHOWN else [*names[:_SHOWN], "…", *names[-_SHOWN:]]


def _restrict(network: IntegerNetwork, operators: list[Operator], *, name: str, input: str, outputs: list[str]) -> IntegerNetwork:
    """The network with these operators only, and what they need of the rest."""
    written = {operator.output for operator in operators}
    tensors = {input, *written}
    constants = [constant for constant in network.constants if constant.output in written]
    owners = {each.name for each in (*operators, *constants)}
    return replace(
        network,
        name=name,
        input=input,
        outputs=outputs,
        tensors=[tensor for tensor in network.tensors if tensor.name in tensors],
        constants=constants,
        operators=operators,
        arrays={array: values for array, values in network.arrays.items() if array.rpartition(".")[0] in owners},
    )
