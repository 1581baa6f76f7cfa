"""What a configuration must have more of where a network does not fit: the least value that works, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..hw.config import CoreConfig

__all__ = ["TooLong", "TooSmall", "least"]

_MOST = 1 << 20  # of what the configuration itself does not limit


class TooLong(Exception):
    """A program has more instructions than the core can hold."""


class TooSmall(ValueError):
    """A field of the configuration is too small for what an operator needs at once.

    Parameters
    ----------
    message : str
        What is needed and what there is.
    field : str
        Of :class:`CoreConfig`.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def least(config: CoreConfig, field: str, works: Callable[[CoreConfig], bool]) -> CoreConfig | None:
    """The configuration with the first double of ``field`` that works, all else as it is; None if no value that it can have does.

    The scratchpad is doubled from what its banks, powers of two, really hold; instead of nothing, at least 16 is tried.
    """
    value = config.scratchpad_words * config.lanes if field == "scratchpad_bytes" else getattr(config, field) or 8
    while value < _MOST * config.lanes:
        value *= 2
        try:
            larger = replace(config, **{field: value})
        except ValueError:
            return None
        if works(larger):
            return larger
    return None
