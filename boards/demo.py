"""A core that runs one program on one image, all of it on the FPGA: the part of a board's top that no board is needed for."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..hw.config import CoreConfig
from ..hw.core import Core
from .block_memory import BlockMemory
from .jobs import CLASSES, Job
from .standalone import Host, LargestLogit

__all__ = ["Demo"]


class Demo(wiring.Component):
    """A core, its memory in block RAM, and a state machine in place of a host.

    After reset it loads the program, runs it on the image in its memory and shows the class with the largest logit; at ``start`` it
    runs again.

    Parameters
    ----------
    config : CoreConfig
    job : Job

    Members
    -------
    start : ``In(1)``
    digit : ``Out(range(CLASSES))``
        The class, while ``done``.
    busy, done, error : ``Out(1)``
        One of them is high.
    """

    def __init__(self, config: CoreConfig, job: Job):
        size = config.port_bytes
        if not 1 <= len(job.instructions) <= config.program_depth:
            raise ValueError(f"a program has 1 to {config.program_depth} instructions, not {len(job.instructions)}")
        if job.logits % size:
            raise ValueError(f"logits must start at a multiple of {size} bytes, not at {job.logits}")
        beats = [int.from_bytes(job.memory[low : low + size], "little") for low in range(0, len(job.memory), size)]
        self.core = Core(config)
        self.memory = BlockMemory(size, len(beats), beats)
        self.host = Host(config, job.instructions)
        self.largest = LargestLogit(size, job.logits, job.classes)
        super().__init__({"start": In(1), "digit": Out(range(CLASSES)), "busy": Out(1), "done": Out(1), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        m.submodules.memory = memory = self.memory
        m.submodules.host = host = self.host
        m.submodules.largest = largest = self.largest
        connect(m, host=host.control, core=core.control)
        for name in ("write_request", "write_data", "write_response"):
            connect(m, core=getattr(core.memory, name), memory=getattr(memory.port, name))
        # The core is idle when the logits are read, so the two readers need no arbiter.
        with m.If(host.done):
            for name in ("read_request", "read_data"):
                connect(m, largest=getattr(largest, name), memory=getattr(memory.port, name))
        with m.Else():
            for name in ("read_request", "read_data"):
                connect(m, core=getattr(core.memory, name), memory=getattr(memory.port, name))
        m.d.comb += [
            host.start.eq(self.start & ~self.busy),
            largest.enable.eq(host.done),
            self.digit.eq(largest.index),
            self.done.eq(host.done & largest.valid),
            self.error.eq(host.error),
            self.busy.eq(host.busy | (host.done & ~largest.valid)),
        ]
        return m
