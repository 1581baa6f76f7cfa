"""External memory as a cocotb coroutine, with the latency that the timing model assumes, stalls and errors."""

from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
from cocotb.triggers import RisingEdge

from ..hw.memory_port import ADDRESS_BITS

__all__ = ["Memory"]


class Memory:
    """Memory behind the streams of :class:`..hw.memory_port.MemoryPort` that a component has.

    Without stalls every request is accepted at once. A read's first beat comes ``latency`` cycles after its request was accepted or right
    after the burst before, then a beat a cycle. Written beats are accepted from the cycle after their request on, a beat a cycle; the
    response comes ``latency`` cycles after the last.

    Parameters
    ----------
    dut : cocotb handle
    content : bytearray
        From address 0 on; writes change it.
    port_bytes : int
        Bytes of a beat.
    latency : int
        In cycles, at least 1.
    rng : numpy Generator
    stall : float
        Probability that a stream waits for a cycle, for each cycle.
    errors : collection of int
        Addresses of beats that answer error.
    prefix : str
        Of the streams' names.
    """

    def __init__(
        self,
        dut: Any,
        content: bytearray,
        port_bytes: int,
        latency: int,
        *,
        rng: np.random.Generator | None = None,
        stall: float = 0.0,
        errors: Collection[int] = (),
        prefix: str = "",
    ) -> None:
        self.dut, self.content, self.port_bytes, self.latency = dut, content, port_bytes, latency
        self.rng, self.stall, self.errors, self.prefix = rng or np.random.default_rng(0), stall, errors, prefix
        #: (address, beats) of every request.
        self.requests: list[tuple[int, int]] = []

    def _stream(self, name: str) -> tuple[Any, Any, Any] | None:
        handles = [getattr(self.dut, f"{self.prefix}{name}__{part}", None) for part in ("valid", "ready", "payload")]
        return None if handles[0] is None else (handles[0], handles[1], handles[2])

    def _stalls(self) -> bool:
        return self.stall > 0 and self.rng.random() < self.stall

    def _request(self, payload: Any) -> tuple[int, int]:
        word = payload.value.to_unsigned()
        self.requests.append((word & (1 << ADDRESS_BITS) - 1, (word >> ADDRESS_BITS) + 1))
        return self.requests[-1]

    async def read(self) -> None:
        """Answer reads for ever."""
        request, answer = self._stream("read_request"), self._stream("read_data")
        assert request and answer, "the component reads no memory"
        beats: deque[tuple[int, int]] = deque()  # (cycle from which on it may come, address)
        held, cycle = False, 0
        while True:
            accept = not self._stalls()
            held = bool(beats) and cycle >= beats[0][0] and (held or not self._stalls())
            request[1].value, answer[0].value = int(accept), int(held)
            if held:
                address = beats[0][1]
                start = address * self.port_bytes
                word = int.from_bytes(self.content[start : start + self.port_bytes], "little")
                answer[2].value = word | int(address in self.errors) << 8 * self.port_bytes
            await RisingEdge(self.dut.clk)
            if held and answer[1].value:
                beats.popleft()
                held = False
            if accept and request[0].value:
                address, count = self._request(request[2])
                beats.extend((cycle + self.latency, address + beat) for beat in range(count))
            cycle += 1

    async def write(self) -> None:
        """Take writes for ever."""
        request, data, answer = self._stream("write_request"), self._stream("write_data"), self._stream("write_response")
        assert request and data and answer, "the component writes no memory"
        beats: deque[tuple[int, bool]] = deque()  # (address, last of its burst)
        responses: deque[tuple[int, bool]] = deque()  # (cycle from which on it may come, error)
        held, cycle, failed = False, 0, False
        while True:
            accept, take = not self._stalls(), bool(beats) and not self._stalls()
            held = bool(responses) and cycle >= responses[0][0] and (held or not self._stalls())
            request[1].value, data[1].value, answer[0].value = int(accept), int(take), int(held)
            if held:
                answer[2].value = int(responses[0][1])
            await RisingEdge(self.dut.clk)
            if held and answer[1].value:
                responses.popleft()
                held = False
            if take and data[0].value:
                address, last = beats.popleft()
                word = data[2].value.to_unsigned()
                assert word >> 8 * self.port_bytes == last, "the last beat of a write burst is not where its request says"
                start = address * self.port_bytes
                self.content[start : start + self.port_bytes] = (word & (1 << 8 * self.port_bytes) - 1).to_bytes(self.port_bytes, "little")
                failed |= address in self.errors
                if last:
                    responses.append((cycle + self.latency, failed))
                    failed = False
            if accept and request[0].value:
                address, count = self._request(request[2])
                beats.extend((address + beat, beat == count - 1) for beat in range(count))
            cycle += 1
