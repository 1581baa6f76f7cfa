"""A liberty file, as far as area and clock of a netlist ask for it: areas, functions, input capacitances, flip-flops."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Group", "Library", "read_library"]

_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\]|\\.)*"|[{}();:,]|[^\s{}();:,"]+', re.S)
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "fs": 1e-15}
_FARADS = {"f": 1.0, "pf": 1e-12, "ff": 1e-15}
_GZIP = b"\x1f\x8b"


@dataclass
class Group:
    """``kind (names) { attributes, groups }``; an attribute with several values has them joined by commas."""

    kind: str
    names: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, *kinds: str) -> list[Group]:
        """Groups inside of these kinds."""
        return [group for group in self.groups if group.kind in kinds]


class Library:
    """Standard cells of a liberty file. Raises ``ValueError`` where it lacks what a figure needs.

    Parameters
    ----------
    group : Group
        ``library``.
    source : str
        Where it comes from, for messages.
    text : str
        The file.
    """

    def __init__(self, group: Group, source: str, text: str):
        self.source = source
        self.text = text
        self.name = group.names[0] if group.names else source
        self.cells = {cell.names[0]: cell for cell in group.all("cell") if cell.names}
        time = re.fullmatch(r"([\d.]+)\s*([a-z]+)", group.attributes.get("time_unit", "1ns").lower())
        capacitance = [part.strip() for part in group.attributes.get("capacitive_load_unit", "1,pf").lower().split(",")]
        try:
            assert time is not None
            self.seconds = float(time[1]) * _SECONDS[time[2]]
            self.farads = float(capacitance[0]) * _FARADS[capacitance[1]]
        except (AssertionError, KeyError, ValueError, IndexError):
            raise ValueError(f"{source} has units of time or capacitance that are none") from None

    def area(self, name: str) -> float:
        """Area of a cell in the library's unit, square micrometres in all that are public."""
        return float(self.cells[name].attributes.get("area", "0"))

    @property
    def nand2_area(self) -> float:
        """Area of the smallest NAND of two inputs: a gate equivalent."""
        return self.area(self._smallest(lambda a, b: not (a and b), 2, "NAND of two inputs"))

    @property
    def buffer(self) -> str:
        """The smallest buffer: what drives the inputs of a netlist."""
        return self._smallest(lambda a: a, 1, "buffer")

    @property
    def inverter(self) -> str:
        """The smallest inverter."""
        return self._smallest(lambda a: not a, 1, "inverter")

    @property
    def fanout_of_four(self) -> float:
        """Farads of the inputs of four of the smallest inverters: what loads the outputs of a netlist."""
        pin = next(pin for pin in self.cells[self.inverter].all("pin") if pin.attributes.get("direction") == "input")
        return 4 * float(pin.attributes.get("capacitance", "0")) * self.farads

    def flip_flop_delay(self, name: str) -> float:
        """Seconds that a flip-flop takes of a cycle: clock to output and set-up, each the slower edge, in the middle of its table.

        0 when the cell has no such tables.
        """
        output = setup = 0.0
        for pin in self.cells[name].all("pin"):
            for timing in pin.all("timing"):
                kind = timing.attributes.get("timing_type", "")
                if kind in ("rising_edge", "falling_edge"):
                    output = max(output, *(_middle(table) for table in timing.all("cell_rise", "cell_fall")), 0.0)
                elif kind in ("setup_rising", "setup_falling") and "scan" not in pin.attributes.get("nextstate_type", ""):
                    setup = max(setup, *(_middle(table) for table in timing.all("rise_constraint", "fall_constraint")), 0.0)
        return (output + setup) * self.seconds

    def is_flip_flop(self, name: str) -> bool:
        return name in self.cells and bool(self.cells[name].all("ff"))

    def _smallest(self, function: Callable[..., bool], inputs: int, what: str) -> str:
        """The cell of least area with this function of so many inputs."""
        table = [bool(function(*values)) for values in itertools.product((False, True), repeat=inputs)]
        found = [name for name, cell in self.cells.items() if _truth_table(cell, inputs) == table and "area" in cell.attributes]
        if not found:
            raise ValueError(f"{self.source} has no {what}")
        return min(found, key=lambda name: (self.area(name), name))


def read_library(path: Path) -> Library:
    """A liberty file, plain or compressed by gzip."""
    if not path.is_file():
        raise ValueError(f"there is no liberty file {path}")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content.startswith(_GZIP) else content).decode()
        group = _parse(text)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, IndexError, StopIteration):
        group, text = None, ""
    if group is None or group.kind != "library":
        raise ValueError(f"{path} is not a liberty file (.lib or .lib.gz): it has no library (…) {{ … }}")
    library = Library(group, str(path), text)
    if not library.cells:
        raise ValueError(f"{path} has no cells")
    return library


def _parse(text: str) -> Group | None:
    """The first group of a text."""
    tokens = (token[0] for token in _TOKEN.finditer(text) if not token[0].startswith(("/*", "//")) and token[0] != "\\")
    top = Group("", [])
    stack, words = [top], []
    for token in tokens:
        if token == "{":
            name, *arguments = words
            group = Group(name, [argument for argument in arguments if argument not in ("(", ")", ",")])
            stack[-1].groups.append(group)
            stack.append(group)
            words = []
        elif token in (";", "}"):
            if words:
                name, *values = words
                stack[-1].attributes[name] = ",".join(value for value in values if value not in (":", "(", ")", ","))
            words = []
            if token == "}":
                stack.pop()
                if len(stack) == 1:
                    return top.groups[0]
        else:
            words.append(token.strip('"'))
    return None


def _middle(table: Group) -> float:
    """The value in the middle of a table."""
    values = [float(value) for value in re.split(r"[,\s\\]+", table.attributes.get("values", "")) if value]
    rows = [value for value in table.attributes.get("index_1", "0").split(",") if value.strip()]
    columns = max(1, len(values) // max(1, len(rows)))
    return values[len(rows) // 2 * columns + columns // 2] if values else 0.0


def _truth_table(cell: Group, inputs: int) -> list[bool] | None:
    """Values of the only output over those of so many inputs; None for any other cell."""
    pins = {pin.names[0]: pin.attributes for pin in cell.all("pin") if pin.names}
    sources = sorted(name for name, pin in pins.items() if pin.get("direction") == "input")
    outputs = [pin for pin in pins.values() if pin.get("direction") == "output"]
    if cell.all("ff", "latch", "statetable") or len(sources) != inputs or len(outputs) != 1 or "three_state" in outputs[0]:
        return None
    if "function" not in outputs[0]:
        return None
    tables = itertools.product((False, True), repeat=inputs)
    try:
        return [_evaluate(outputs[0]["function"], dict(zip(sources, values, strict=True))) for values in tables]
    except (KeyError, StopIteration):
        return None


def _evaluate(function: str, values: Mapping[str, bool]) -> bool:
    """A boolean function as liberty writes it: ``!``, ``'``, ``*``, ``&`` or nothing, ``^``, ``+`` or ``|``."""
    tokens = [*re.findall(r"[A-Za-z_]\w*|[01!'*&^+|()]", function), ""]
    position = 0

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def operand() -> bool:
        token = take()
        if token == "!":
            return not operand()
        if token == "(":
            value = either()
            take()
        else:
            value = token == "1" if token in ("0", "1") else values[token]
        while tokens[position] == "'":
            take()
            value = not value
        return value

    def both() -> bool:
        value = operand()
        while tokens[position] and tokens[position] not in "^+|)":
            if tokens[position] in "*&":
                take()
            value = operand() and value
        return value

    def odd() -> bool:
        value = both()
        while tokens[position] == "^":
            take()
            value ^= both()
        return value

    def either() -> bool:
        value = odd()
        while tokens[position] and tokens[position] in "+|":
            take()
            value = odd() or value
        return value

    return either()
