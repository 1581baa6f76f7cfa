"""What a board's core runs: a compiled network with one image, or a copy from memory to memory that shows that the core lives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..compiler.layout import ceil_div
from ..compiler.program import Instruction, Program
from ..hw import isa
from ..hw.config import CoreConfig

__all__ = ["CLASSES", "LOGIT_BYTES", "Job", "digits_network", "network_job", "self_test_job"]

#: Classes that four lamps can show.
CLASSES = 16
LOGIT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a :class:`.demo.Demo` runs.

    Parameters
    ----------
    name : str
    instructions : tuple of int
        The program.
    memory : bytes
        External memory before the run, image included, and room for what the program writes.
    logits : int
        Byte address of the int32 logits that the program leaves in memory.
    classes : int
        Number of logits, at most :data:`CLASSES`.
    """

    name: str
    instructions: tuple[int, ...]
    memory: bytes
    logits: int
    classes: int

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= CLASSES:
            raise ValueError(f"four lamps show 1 to {CLASSES} classes, not the {self.classes} of {self.name}")
        if not 0 <= self.logits <= len(self.memory) - LOGIT_BYTES * self.classes:
            raise ValueError(f"logits must be inside the memory of {len(self.memory)} bytes, not at {self.logits}")

    def memory_bytes(self, config: CoreConfig) -> int:
        """RAM that the core and this job take on an FPGA, at least: what holds weights, activations, sums, constants and the program."""
        instructions = config.program_depth * isa.INSTRUCTION_BITS // 8 + len(self.instructions) * isa.INSTRUCTION_WORDS * 4
        sums = 2 * config.accumulator_rows * config.lanes * 4
        constants = config.constant_channels * isa.CONSTANT_BYTES + config.norm_channels * isa.NORM_BYTES
        return len(self.memory) + config.scratchpad_words * config.lanes + instructions + sums + constants


def digits_network(config: CoreConfig) -> str:
    """Name of the network for digits that a core can run."""
    return "digits_mlp" if config.serial else "digits_vit"


def network_job(program: Program, image: bytes = b"") -> Job:
    """``program`` with the packed ``image`` (``layouts[input].pack``; zeros when it is empty) in memory, and its first output as logits."""
    lanes = program.config.lanes
    address, words = program.input_region
    if len(image) not in (0, words * lanes):
        raise ValueError(f"the image of {program.name} has {words * lanes} bytes, not {len(image)}")
    memory = bytearray(program.memory_words * lanes)
    memory[: len(program.memory_image)] = program.memory_image
    memory[address * lanes : address * lanes + len(image)] = image
    output, (logits, _) = next(iter(program.output_regions.items()))
    return Job(
        name=program.name,
        instructions=tuple(program.resident_words()),
        memory=bytes(memory),
        logits=logits * lanes,
        classes=program.layouts[output].channels,
    )


def self_test_job(config: CoreConfig, digit: int = 7) -> Job:
    """Loads ten numbers, the one at ``digit`` being the largest, stores them elsewhere, and takes the copy for logits."""
    numbers = np.full(10, -(1 << 30), "<i4")
    numbers[digit] = 1 << 30
    words = ceil_div(numbers.nbytes, config.lanes)
    load, store = isa.Queue.LOAD, isa.Queue.STORE
    instructions = (
        Instruction(opcode=isa.Opcode.LOAD, queue=load, give=1 << store.value, fields={"words": words}),
        Instruction(opcode=isa.Opcode.STORE, queue=store, wait=1 << load.value, fields={"words": words, "memory": words}),
        Instruction(opcode=isa.Opcode.END, queue=load),
    )
    size = words * config.lanes
    return Job(
        name="self test",
        instructions=tuple(instruction.word() for instruction in instructions),
        memory=numbers.tobytes().ljust(2 * size, b"\0"),
        logits=size,
        classes=len(numbers),
    )
