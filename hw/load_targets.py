"""Sizes of what LOADs write to, in words of L bytes."""

from . import isa
from .config import CoreConfig
from .isa import Target

__all__ = ["block_words", "table_words", "target_words"]


def table_words(lanes: int) -> int:
    """Words of L bytes of a table of 256 entries; a last, partly filled word included."""
    return -(-isa.TABLE_ENTRIES * isa.ENTRY_BYTES // lanes)


def block_words(config: CoreConfig) -> int:
    """Words of L bytes of a block of a streamed program."""
    return config.program_block * isa.INSTRUCTION_BITS // (8 * config.lanes)


def target_words(config: CoreConfig, target: Target) -> int:
    """Size of a LOAD's target in words. Table t is at word ``t * table_words(lanes)``."""
    match target:
        case Target.SCRATCHPAD:
            return config.scratchpad_words
        case Target.CONSTANTS:
            return config.constant_channels // config.lanes * isa.CONSTANT_BYTES
        case Target.NORM_CONSTANTS | Target.EXP_TABLE if config.serial:
            return 0  # without row units
        case Target.NORM_CONSTANTS:
            return config.norm_channels // config.lanes * isa.NORM_BYTES
        case Target.ROW_MAP:
            return -(-config.map_rows * isa.ENTRY_BYTES // config.lanes)
        case Target.PROGRAM:
            return 2 * block_words(config) * config.program_stream
        case Target.CODE_TABLE if not config.narrow:
            return 0
        case _:
            return config.tables * table_words(config.lanes)
