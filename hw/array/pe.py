"""One processing element of the array, emitted into the module of its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import data

__all__ = ["CONTROL", "Above", "Left", "processing_element"]

#: What travels to the right with the wavefront: take the shadow register as active for the next row, take the stationary word from
#: the left (else from above), keep this stationary word in the shadow register.
CONTROL = data.StructLayout({"swap": 1, "from_left": 1, "capture": 1})


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a processing element gets from its left neighbour and gives to the right one, a cycle later.

    ``operand``: the moving operand; ``word``: the stationary word; ``control``: :data:`CONTROL`.
    """

    operand: Value
    word: Value
    control: data.View


@dataclass(frozen=True, kw_only=True)
class Above:
    """What a processing element gets from above and gives to the one below, a cycle later.

    ``word``: the stationary word; ``capture``: keep the stationary word; ``total``: the partial sum. ``capture`` here serves
    tiles that come by columns, ``control.capture`` those that come by rows.
    """

    word: Value
    capture: Value
    total: Value


def processing_element(
    m: Module,
    name: str,
    left: Left,
    above: Above,
    multiply: Callable[[Module, str, Value, Value], Value],
    add: Callable[[Value, Value], Value],
    sum_shape: ShapeLike,
) -> tuple[Left, Above]:
    """Emit a processing element into ``m``; returns what it gives to the right and below.

    ``multiply`` of a name, the operand and the active word is a value from registers, ``add`` of the total above and it the total.

    An operand that comes in cycle t is multiplied by the weight that is active in cycle t + 1 and is in the sum below in cycle t + 3, or
    later by what ``multiply`` takes more than a cycle.
    A swap in cycle t copies the shadow register: the new weight is active from cycle t + 1 on, that is for the operand of cycle t.
    A captured word is in the shadow register a cycle later, so that a swap in the cycle of the next capture still gets the old one.
    """
    operand = Signal.like(left.operand, name=f"{name}_operand", reset_less=True)
    control = Signal(CONTROL, name=f"{name}_control", reset_less=True)
    capture = Signal(name=f"{name}_capture", reset_less=True)
    word_next = Signal.like(left.word, name=f"{name}_word_next")
    word, shadow, active = (Signal.like(word_next, name=f"{name}_{register}", reset_less=True) for register in ("word", "shadow", "active"))
    total = Signal(sum_shape, name=f"{name}_total", reset_less=True)

    m.d.comb += word_next.eq(Mux(left.control.from_left, left.word, above.word))
    m.d.sync += [operand.eq(left.operand), control.eq(left.control), capture.eq(above.capture), word.eq(word_next)]
    with m.If(left.control.capture | above.capture):
        m.d.sync += shadow.eq(word_next)
    with m.If(left.control.swap):
        m.d.sync += active.eq(shadow)
    m.d.sync += total.eq(add(above.total, multiply(m, name, operand, active)))
    return Left(operand=operand, word=word, control=control), Above(word=word, capture=capture, total=total)
