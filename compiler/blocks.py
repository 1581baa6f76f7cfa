"""Programs that are longer than the program memory: the LOADs that bring them block by block."""

from __future__ import annotations

from collections.abc import Sequence

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.load_targets import block_words
from .layout import ceil_div
from .program import Instruction

__all__ = ["PROGRAM", "check_blocks", "fetch_blocks", "pack_blocks"]

#: Name of the blocks in the memory image.
PROGRAM = "program"
_QUEUE = isa.Queue.LOAD
_BYTES = isa.INSTRUCTION_BITS // 8


def fetch_blocks(instructions: Sequence[Instruction], config: CoreConfig) -> list[Instruction]:
    """The program, if it is longer than the program memory with a LOAD at the beginning of each block from 1 on that brings the next.

    Blocks 0 and 1 are written by the host. A block's LOAD comes when the block before, whose place it takes, is all dispatched.
    """
    if len(instructions) <= config.program_depth:
        return list(instructions)
    size, words = config.program_block, block_words(config)
    result, rest = list(instructions[:size]), list(instructions[size:])
    while len(rest) > size:
        number = len(result) // size + 1
        count = min(size, len(rest) - (size - 1))
        fields = {
            "target": isa.Target.PROGRAM.value,
            "words": ceil_div(count * _BYTES, config.lanes),
            "destination": number % 2 * words,
        }
        anchors = {"memory": (PROGRAM, (number - 2) * words)}
        give = 1 << _QUEUE.value
        load = Instruction(opcode=isa.Opcode.LOAD, queue=_QUEUE, layer=rest[0].layer, give=give, fields=fields, anchors=anchors)
        result += [load, *rest[: size - 1]]
        rest = rest[size - 1 :]
    return [*result, *rest]


def pack_blocks(words: Sequence[int], config: CoreConfig) -> bytes:
    """What external memory holds of a program's 384-bit instructions: blocks 2 and later; nothing if the program memory holds all."""
    if len(words) <= config.program_depth:
        return b""
    return b"".join(word.to_bytes(_BYTES, "little") for word in words[2 * config.program_block :])


def check_blocks(words: Sequence[int], config: CoreConfig, memory: int) -> None:
    """Raise ``RuntimeError`` unless LOADs bring every block of a program to its place, in the block before, from word ``memory`` on."""
    if len(words) <= config.program_depth:
        return
    size, block = config.program_block, block_words(config)
    brought = {}
    for index, word in enumerate(words):
        header = isa.unpack(isa.HEADER, word)
        if header["opcode"] != isa.Opcode.LOAD.value:
            continue
        body = isa.unpack(isa.BODIES[isa.Opcode.LOAD], word >> isa.HEADER.size)
        if body["target"] == isa.Target.PROGRAM.value:
            number = index // size + 1
            count = min(size, len(words) - number * size)
            right = memory + (number - 2) * block, number % 2 * block, ceil_div(count * _BYTES, config.lanes)
            if (body["memory"], body["destination"], body["words"]) != right or not header["give"] >> _QUEUE.value & 1 or number in brought:
                raise RuntimeError(f"instruction {index} does not bring block {number} of the program to its place")
            brought[number] = index
    missing = [number for number in range(2, ceil_div(len(words), size)) if number not in brought]
    if missing:
        raise RuntimeError(f"nothing brings block {missing[0]} of the program")
