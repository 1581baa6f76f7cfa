"""The host's side of a board: find a core at a serial port, upload a program and its weights, run images, read logits."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..compiler.compile import pack_input, unpack_output
from ..compiler.program import Program
from ..hw import isa
from ..hw.control import version_number
from ..hw.isa import Register
from .frames import BAUD, MAX_DATA, RESPONSE, Command, Decoder, Status, encode, request

__all__ = ["CoreError", "Device", "LinkError", "Result", "SerialTransport", "Transport", "WrongDevice", "open_device"]

_START, _CLEAR = 1, 2
_BUSY, _DONE = 1, 2
_WORD = 4
#: Bytes of memory that are compared, and uploaded when they differ, at one time.
_CHUNK = 1 << 12


class LinkError(RuntimeError):
    """The device does not answer, or refuses a request. After it, the next request starts anew."""


class WrongDevice(RuntimeError):
    """What answers is no core, one of another version, or one of another configuration than the program's."""


class CoreError(RuntimeError):
    """The core stopped with an error. ``error`` and ``instruction`` say which one and where."""

    def __init__(self, error: isa.Error, instruction: int):
        super().__init__(f"the core stopped with error {error.name} at instruction {instruction}")
        self.error, self.instruction = error, instruction


class Transport(Protocol):
    """Bytes to and from a device."""

    def write(self, content: bytes) -> None:
        """Send all of ``content``. Raises ``OSError`` when the device is gone."""
        ...

    def read(self, timeout: float) -> bytes:
        """Bytes that have come, as soon as there are any; empty after ``timeout`` seconds. Raises ``OSError`` when the device is gone."""
        ...

    def close(self) -> None: ...


class SerialTransport:
    """A serial port; needs pyserial, the extra ``host``. A port that failed is opened again by the next write.

    Parameters
    ----------
    port : str
        For example /dev/ttyUSB0, COM3, or a URL of pyserial.
    baud : int
    """

    def __init__(self, port: str, baud: int = BAUD):
        self._port, self._baud = port, baud
        self._serial = self._open()

    def write(self, content: bytes) -> None:
        if self._serial is None:
            self._serial = self._open()
        with self._closed_when_gone():
            self._serial.write(content)

    def read(self, timeout: float) -> bytes:
        if self._serial is None:
            raise OSError(f"{self._port} is closed")
        with self._closed_when_gone():
            self._serial.timeout = timeout
            first = self._serial.read(1)
            return first + self._serial.read(self._serial.in_waiting) if first else b""

    def close(self) -> None:
        if self._serial is not None:
            self._serial.close()
            self._serial = None

    def _open(self) -> Any:
        try:
            import serial
        except ModuleNotFoundError:
            raise RuntimeError("a serial port needs pyserial: pip install 'vitloom[host]'") from None
        port = serial.serial_for_url(self._port, baudrate=self._baud, timeout=0, write_timeout=5)
        # Else an adapter keeps short answers for 16 ms. Not every system and adapter can be told.
        with suppress(AttributeError, NotImplementedError, OSError, ValueError):
            port.set_low_latency_mode(True)
        return port

    @contextmanager
    def _closed_when_gone(self) -> Iterator[None]:
        """Close the port when it fails: the next write opens it again, for a cable that was plugged in again."""
        try:
            yield
        except OSError:
            with suppress(OSError):
                self.close()
            self._serial = None
            raise


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one image: logits, int32 by output name, and the cycles of the run."""

    logits: dict[str, NDArray[np.int32]]
    cycles: int


@dataclass(kw_only=True)
class Device:
    """A core behind a :class:`.link.Link`.

    Every request is repeated when no whole response comes within ``timeout``, ``attempts`` times in all; then it raises
    :class:`LinkError`, and the device can be used again as soon as it is back. A repeated request does again what it did: writing the
    same, reading, or starting the program on the same memory.

    Parameters
    ----------
    transport : Transport
    timeout : float
        Seconds.
    attempts : int
    retries : int
        Requests repeated so far.
    program : Program or None
        What was uploaded.
    """

    transport: Transport
    timeout: float = 0.5
    attempts: int = 4
    retries: int = 0
    program: Program | None = None
    _tag: int = 0
    _port_bytes: int = field(default=0, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.transport.close()

    def read_registers(self, address: int, count: int = 1) -> list[int]:
        """Registers from a word address on."""
        content = self._request(Command.READ_REGISTERS, address, count)
        return [int.from_bytes(content[low : low + _WORD], "little") for low in range(0, len(content), _WORD)]

    def write_registers(self, address: int, values: list[int]) -> None:
        """Registers from a word address on, or words of the program memory."""
        step = MAX_DATA // _WORD
        for low in range(0, len(values), step):
            part = values[low : low + step]
            self._request(
                Command.WRITE_REGISTERS,
                address + low,
                len(part),
                b"".join((value & 0xFFFF_FFFF).to_bytes(_WORD, "little") for value in part),
            )

    def read_memory(self, address: int, size: int) -> bytes:
        """``size`` bytes from byte ``address`` on, a multiple of the memory port's bytes, as is ``size``."""
        beats, first = self._beats(address, size), address // self.port_bytes
        step = MAX_DATA // self.port_bytes
        parts = [self._request(Command.READ_MEMORY, first + low, min(step, beats - low)) for low in range(0, beats, step)]
        return b"".join(parts)

    def write_memory(self, address: int, content: bytes) -> None:
        """``content`` from byte ``address`` on, both a multiple of the memory port's bytes."""
        self._beats(address, len(content))
        for low in range(0, len(content), MAX_DATA):
            part = content[low : low + MAX_DATA]
            self._request(Command.WRITE_MEMORY, (address + low) // self.port_bytes, len(part) // self.port_bytes, part)

    @property
    def port_bytes(self) -> int:
        """Bytes of a beat of the memory port, as the device says."""
        if not self._port_bytes:
            self._port_bytes = self.read_registers(Register.SHAPE)[0] >> 16 & 0xFF
        return self._port_bytes

    def check(self, fingerprint: int | None = None) -> None:
        """Raise :class:`WrongDevice` unless a core of this version answers, of the configuration ``fingerprint`` if it is given."""
        identity, version, configuration = self.read_registers(Register.IDENTITY, 3)
        if identity != isa.IDENTITY:
            raise WrongDevice(f"what answers is no vitloom core: its identity is {identity:#010x}, not {isa.IDENTITY:#010x}")
        if version != version_number():
            raise WrongDevice(f"the device has version {_version(version)} of vitloom, this is {_version(version_number())}")
        if fingerprint is not None and configuration != fingerprint:
            raise WrongDevice(f"the program is for configuration {fingerprint:#010x}, the device has {configuration:#010x}")

    def digest(self, address: int, size: int) -> int:
        """CRC-32 of ``size`` bytes from byte ``address`` on, both a multiple of the memory port's bytes."""
        content = self._request(Command.DIGEST_MEMORY, address // self.port_bytes, self._beats(address, size))
        return int.from_bytes(content, "little")

    def upload(self, program: Program, progress: Callable[[int, int, int], None] = lambda sent, kept, size: None) -> None:
        """Stop what runs; write the program and all that external memory holds before a run, but for what is there already.

        ``progress`` is called with the bytes that were sent, those that were there already, and all of them, as they get more. Raises
        :class:`LinkError` when memory does not keep what is written.
        """
        self.upload_program(program)
        image, sent, kept = program.memory_image, 0, 0
        for low in range(0, len(image), _CHUNK):
            part = image[low : low + _CHUNK]
            if self.digest(low, len(part)) == zlib.crc32(part):
                kept += len(part)
            else:
                self.write_memory(low, part)
                if self.digest(low, len(part)) != zlib.crc32(part):
                    raise LinkError(f"the device's memory does not keep what is written to bytes {low} to {low + len(part) - 1}")
                sent += len(part)
            progress(sent, kept, len(image))

    def upload_program(self, program: Program) -> None:
        """Stop what runs; write the program, for weights that are in memory already."""
        self.check(program.fingerprint)
        self.write_registers(Register.CONTROL, [_CLEAR])
        self.write_registers(isa.PROGRAM_WINDOW, [word for instruction in program.resident_words() for word in _slots(instruction)])
        self.write_registers(Register.EXPECTED, [program.fingerprint])
        self.write_registers(Register.MEMORY_BASE, [0])
        self.program = program

    def run(self, patches: NDArray[np.int8], *, limit: float = 10.0) -> Result:
        """Run the uploaded program on one image, (patches, channels * patch**2) int8 of :func:`..model.golden.patches`.

        Raises :class:`CoreError` when the core stops with an error, :class:`LinkError` when it is not done after ``limit`` seconds.
        """
        program = self.program
        if program is None:
            raise ValueError("no program is uploaded; upload one before running it")
        lanes = program.config.lanes
        self.write_memory(program.input_region[0] * lanes, pack_input(program, patches))
        self.write_registers(Register.CONTROL, [_CLEAR])
        self.write_registers(Register.CONTROL, [_START])
        end = time.monotonic() + limit
        while (status := self.read_registers(Register.STATUS)[0]) & _BUSY:
            if time.monotonic() > end:
                raise LinkError(f"the core is still busy after {limit:g} s")
        if status != _DONE:
            error, instruction = self.read_registers(Register.ERROR, 2)
            raise CoreError(isa.Error(error), instruction)
        low, high = self.read_registers(Register.CYCLES_LOW, 2)
        logits = {
            name: unpack_output(program, name, self.read_memory(address * lanes, words * lanes))
            for name, (address, words) in program.output_regions.items()
        }
        return Result(logits=logits, cycles=high << 32 | low)

    def _beats(self, address: int, size: int) -> int:
        if address % self.port_bytes or size % self.port_bytes:
            raise ValueError(f"address and size must be multiples of {self.port_bytes}, not {address} and {size}")
        return size // self.port_bytes

    def _request(self, command: Command, address: int, count: int, data: bytes = b"") -> bytes:
        """The data of the response."""
        problem = f"no answer within {self.timeout:g} s"
        for attempt in range(self.attempts):
            self.retries += attempt > 0
            self._tag = self._tag + 1 & 0xFF
            try:
                self.transport.write(encode(request(self._tag, command, address, count, data)))
                response = self._response()
            except OSError as error:
                problem = str(error)
                continue
            if response is not None:
                return self._checked(response, command, address)
        raise LinkError(f"the device does not answer after {self.attempts} attempts: {problem}")

    def _response(self) -> bytes | None:
        """Status and data of the response to the newest request; None when its time is over. Other responses are late ones."""
        decoder, end = Decoder(), time.monotonic() + self.timeout
        while (left := end - time.monotonic()) > 0:
            received = self.transport.read(left)
            if not received:
                return None
            for content in decoder.feed(received):
                if len(content) >= 2 and content[0] == self._tag and content[1] & RESPONSE:
                    return content[1:]
        return None

    def _checked(self, response: bytes, command: Command, address: int) -> bytes:
        status = response[0] & ~RESPONSE
        if status != Status.OK:
            name = Status(status).name if status in set(Status) else str(status)
            raise LinkError(f"the device answers {name} to {command.name} at {address:#x}")
        return response[1:]


def open_device(port: str, baud: int = BAUD) -> Device:
    """The device at a serial port."""
    return Device(transport=SerialTransport(port, baud))


def _slots(instruction: int) -> list[int]:
    """An instruction's 32-bit words as the program memory's addresses have them, 16 to an instruction."""
    return [instruction >> 32 * word & 0xFFFF_FFFF if word < isa.INSTRUCTION_WORDS else 0 for word in range(16)]


def _version(number: int) -> str:
    return f"{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"
