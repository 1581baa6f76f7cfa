"""Reference pages of the instruction set and the registers from :mod:`.isa`; ``python -m vitloom.hw.isa_docs`` writes them."""

import enum
import inspect
import re
from collections import defaultdict
from pathlib import Path

from amaranth import Shape
from amaranth.lib import data

from . import isa

__all__ = ["comment", "instruction_set", "registers", "write"]

_NOTE = "<!-- Written by `python -m vitloom.hw.isa_docs`; change hw/isa.py instead. -->\n"
#: What the source of :mod:`.isa` calls the fields of a body.
_BODIES = {
    isa.Opcode.LOAD: "_LOAD",
    isa.Opcode.STORE: "_STORE",
    isa.Opcode.MATMUL: "_MATMUL",
    isa.Opcode.SOFTMAX: "_ROW_FIELDS",
    isa.Opcode.NORM: "_ROW_FIELDS",
}


def _comments() -> dict[str, dict[str, str]]:
    """Comment lines of :mod:`.isa`, by the class or layout that they are in ("" for none), and by the name in the line after them."""
    comments: dict[str, dict[str, str]] = defaultdict(lambda: defaultdict(str))
    block, text = "", []
    for line in inspect.getsource(isa).splitlines():
        if comment := re.match(r"\s*#:? (.*)", line):
            text.append(comment[1])
            continue
        if name := re.match(r'(?:class )?(\s*)"?(\w+)', line):
            block = block if name[1] else name[2]
            comments[block if name[1] else ""][name[2]] = " ".join(text)
        text = []
    return comments


def comment(block: str, name: str) -> str:
    """What the comment before ``name`` in the class or layout ``block`` of :mod:`.isa` says."""
    return _comments()[block][name]


def _plain(text: str) -> str:
    """Markdown of a docstring, with single empty lines."""
    text = re.sub(r":\w+:`\.*([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _table(head: list[str], rows: list[list[object]]) -> str:
    """A table; its last column is left out when it is empty."""
    count = len(head) if any(row[-1] for row in rows) else len(head) - 1
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line[:count]) + " |\n" for line in lines)


def _codes(members: type[enum.Enum]) -> str:
    """Section on an enumeration."""
    comments = _comments()[members.__name__]
    rows: list[list[object]] = [[member.value, member.name, comments[member.name]] for member in members]
    return f"## {members.__name__}\n\n{inspect.getdoc(members)}\n\n" + _table(["code", "name", "meaning"], rows)


def _fields(layout: data.StructLayout, block: str = "", offset: int = 0) -> str:
    """Table of the fields of a layout whose bit 0 is bit ``offset``."""
    rows: list[list[object]] = []
    for name, field in layout:
        shape, low = Shape.cast(field.shape), field.offset + offset
        kind = field.shape.__name__ if isinstance(field.shape, type) else "signed" if shape.signed else "unsigned"
        rows.append([low if shape.width == 1 else f"{low + shape.width - 1}:{low}", name, kind, _comments()[block][name]])
    return _table(["bits", "field", "type", "meaning"], rows)


def instruction_set() -> str:
    """Text of ``docs/instruction-set.md``."""
    comments = _comments()[""]
    summary = (inspect.getdoc(isa) or "").partition("\n\n")[2]
    parts = [_NOTE, "# Instruction set\n", summary, "", "## Header\n", _fields(isa.HEADER), comments["HEADER"], ""]
    parts += [_codes(members) for members in (isa.Opcode, isa.Queue)]
    for opcode, block in _BODIES.items():
        parts += [
            f"## {opcode.name}\n",
            f"In the queue {isa.OPCODE_QUEUE[opcode].name}.\n",
            _fields(isa.BODIES[opcode], block, isa.HEADER.size),
        ]
    parts += [_codes(members) for members in (isa.Target, isa.Mode, isa.LoadDirection, isa.Form)]
    parts.append("## Constants in memory\n")
    for name, layout in (("CONSTANT_BYTES", isa.CONSTANT_RECORD), ("NORM_BYTES", isa.NORM_RECORD), ("EXP_ENTRY", isa.EXP_ENTRY)):
        parts += [comments[name], "", _fields(layout)]
    return _plain("\n".join(parts))


def registers() -> str:
    """Text of ``docs/registers.md``."""
    comments = _comments()
    rows: list[list[object]] = [[f"0x{register:05x}", register.name, comments["Register"][register.name]] for register in isa.Register]
    rows.append([f"0x{isa.PROGRAM_WINDOW:05x}", "program", comments[""]["PROGRAM_WINDOW"]])
    parts = [_NOTE, "# Control registers\n", inspect.getdoc(isa.Register) or "", "", _table(["address", "name", "meaning"], rows)]
    return _plain("\n".join([*parts, _codes(isa.Error)]))


def write(folder: Path) -> None:
    """Write both pages into ``folder``."""
    (folder / "instruction-set.md").write_text(instruction_set())
    (folder / "registers.md").write_text(registers())


if __name__ == "__main__":
    write(Path(__file__).parents[1] / "docs")
