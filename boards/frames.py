"""Frames between a host and a core, the same in both directions: what :mod:`.link` (hardware) and :mod:`.host` (Python) agree on.

A frame is its content and the CRC-32 of it (as in Ethernet and zlib, low byte first), with END before and after. In between END is sent as
ESCAPE, ESCAPED_END and ESCAPE as ESCAPE, ESCAPED_ESCAPE (RFC 1055), so a receiver is in step again at the next END, whatever was lost.

A request's content is :data:`REQUEST` and the data to write; a response's is the request's tag, :data:`RESPONSE` | :class:`Status`, and
the data that were read. A request that does not arrive whole has no effect and no response. Units are 32-bit words of registers, and beats
of the memory port; one request takes :data:`MAX_DATA` bytes at most, but for DIGEST_MEMORY, whose response is the CRC-32 of the units.
"""

import enum
import struct
import zlib
from dataclasses import dataclass

__all__ = [
    "BAUD",
    "CRC_BYTES",
    "END",
    "ESCAPE",
    "ESCAPED_END",
    "ESCAPED_ESCAPE",
    "HEADER_BYTES",
    "MAX_DATA",
    "RESPONSE",
    "Command",
    "Decoder",
    "Status",
    "encode",
    "request",
]

#: Of the UART unless something else is asked for.
BAUD = 3_000_000
END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE = 0xC0, 0xDB, 0xDC, 0xDD
MAX_DATA = 1024
CRC_BYTES = 4
#: Tag, command, number of units (2 bytes), address of the first (4 bytes, in units); little-endian.
REQUEST = struct.Struct("<BBHI")
HEADER_BYTES = REQUEST.size
#: Bit of a status that no command has: a host whose own frames come back is not deceived.
RESPONSE = 0x80


class Command(enum.IntEnum):
    """Bit 0: write; bit 1: memory; bit 2: answer the CRC-32."""

    READ_REGISTERS = 0
    WRITE_REGISTERS = 1
    READ_MEMORY = 2
    WRITE_MEMORY = 3
    DIGEST_MEMORY = 6


class Status(enum.IntEnum):
    """Of a response."""

    OK = 0
    #: No such command, no units or too many, or another number of units than the data have.
    REFUSED = 1
    #: The memory answered an error: an address outside. No data follow, and some units may be written.
    MEMORY = 2


def request(tag: int, command: int, address: int, count: int, data: bytes = b"") -> bytes:
    """Content of a request."""
    return REQUEST.pack(tag, command, count, address) + data


def encode(content: bytes) -> bytes:
    """The frame around ``content``."""
    body = content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")
    escaped = body.replace(bytes([ESCAPE]), bytes([ESCAPE, ESCAPED_ESCAPE])).replace(bytes([END]), bytes([ESCAPE, ESCAPED_END]))
    return bytes([END]) + escaped + bytes([END])


@dataclass
class Decoder:
    """Finds frames in bytes as they arrive.

    Parameters
    ----------
    rejected : int
        Frames so far that had a wrong CRC.
    """

    rejected: int = 0
    _body: bytes = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Contents of the frames that ``received`` completes."""
        *whole, self._body = (self._body + received).split(bytes([END]))
        return [content for body in whole if body and (content := self._check(body)) is not None]

    def _check(self, body: bytes) -> bytes | None:
        plain = body.replace(bytes([ESCAPE, ESCAPED_END]), bytes([END])).replace(bytes([ESCAPE, ESCAPED_ESCAPE]), bytes([ESCAPE]))
        content, crc = plain[:-CRC_BYTES], plain[-CRC_BYTES:]
        if content and zlib.crc32(content) == int.from_bytes(crc, "little"):
            return content
        self.rejected += 1
        return None
