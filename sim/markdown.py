"""Tables of the benches' documents."""

from collections.abc import Iterable, Sequence

__all__ = ["markdown"]


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of rows of cells; the first is the head, the second its rule (``---``, ``---:``)."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
