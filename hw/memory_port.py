"""Signatures of the port to external memory."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ADDRESS_BITS", "MAX_BURST", "REQUEST", "MemoryPort", "read_beat", "write_beat"]

#: Beats of one request, at most.
MAX_BURST = 64
ADDRESS_BITS = 32
#: A burst: ``address`` of its first beat, in beats, and the number of ``beats`` - 1.
REQUEST = data.StructLayout({"address": ADDRESS_BITS, "beats": (MAX_BURST - 1).bit_length()})


def read_beat(port_bytes: int) -> data.StructLayout:
    """Payload of ``read_data``: the first byte in the low bits; with ``error``, ``data`` has no meaning."""
    return data.StructLayout({"data": 8 * port_bytes, "error": 1})


def write_beat(port_bytes: int) -> data.StructLayout:
    """Payload of ``write_data``: the first byte in the low bits; ``last`` ends a burst."""
    return data.StructLayout({"data": 8 * port_bytes, "last": 1})


class MemoryPort(wiring.Signature):
    """Port to external memory, seen from the core.

    Read bursts are answered in order, write bursts too. Several may be requested before the first is answered. Beats of a write may be
    offered before their request.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat (``CoreConfig.port_bytes``).

    Members
    -------
    read_request : ``Out(stream of REQUEST)``
    read_data : ``In(stream of read_beat)``
        A beat a time.
    write_request : ``Out(stream of REQUEST)``
    write_data : ``Out(stream of write_beat)``
    write_response : ``In(stream of error)``
        One for each burst.
    """

    def __init__(self, port_bytes: int):
        self.port_bytes = port_bytes
        super().__init__(
            {
                "read_request": Out(stream.Signature(REQUEST)),
                "read_data": In(stream.Signature(read_beat(port_bytes))),
                "write_request": Out(stream.Signature(REQUEST)),
                "write_data": Out(stream.Signature(write_beat(port_bytes))),
                "write_response": In(stream.Signature(data.StructLayout({"error": 1}))),
            }
        )
