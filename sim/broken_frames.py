"""Frames as a bad cable leaves them, and a transport that sends them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..boards.frames import END, Decoder
from ..boards.host import Transport

__all__ = ["BrokenFrames", "broken"]

_KINDS = ("flip", "flips", "lose", "repeat", "insert", "cut", "head", "swap", "open")


def broken(rng: random.Random, frame: bytes) -> bytes:
    """``frame`` with something lost, gained or changed between its ENDs, or without its last END; never one that decodes to the same."""
    while True:
        result = _break(rng, frame)
        if Decoder().feed(frame) != Decoder().feed(result + bytes([END])):
            return result


def _break(rng: random.Random, frame: bytes) -> bytes:
    body = bytearray(frame[1:-1])
    kind = rng.choice(_KINDS)
    place = rng.randrange(len(body))
    if kind == "flip":
        body[place] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(rng.randint(2, 20)):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif kind == "lose":
        del body[place : place + rng.randint(1, 3)]
    elif kind == "repeat":
        body[place:place] = body[place : place + rng.randint(1, 3)]
    elif kind == "insert":
        body[place:place] = rng.randbytes(rng.randint(1, 5))
    elif kind == "cut":
        del body[place:]
    elif kind == "head":
        del body[: place + 1]
    elif kind == "swap":
        other = rng.randrange(len(body))
        body[place], body[other] = body[other], body[place]
    else:
        return bytes([END, *body[: place + 1]])
    return bytes([END, *body, END])


@dataclass(kw_only=True)
class BrokenFrames:
    """Before a request sends some that are broken, which must have no answer; and cuts some answers.

    Parameters
    ----------
    transport : Transport
    rng : random.Random
    left : int
        Broken requests still to send.
    often : float
        Probability of one more before a request.
    answered, sent, cut : int
        Broken requests that were answered; that were sent; answers that were cut.
    """

    transport: Transport
    rng: random.Random
    left: int
    often: float
    answered: int = 0
    sent: int = 0
    cut: int = 0

    def write(self, content: bytes) -> None:
        while self.left and self.rng.random() < self.often:
            self.left -= 1
            self.sent += 1
            self.transport.write(broken(self.rng, content))
            self.answered += bool(self.transport.read(0.0))
        self.transport.write(content)

    def read(self, timeout: float) -> bytes:
        content = self.transport.read(timeout)
        if self.left and content and self.rng.random() < self.often / 20:
            self.cut += 1
            return content[: self.rng.randrange(len(content))]
        return content

    def close(self) -> None:
        self.transport.close()
