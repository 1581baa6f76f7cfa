"""A report as tables on the screen, as JSON and as CSV; files appear whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

__all__ = ["json_text", "layers_csv", "print_comparison", "print_report", "print_table", "write_json", "write_text"]


def print_report(content: Mapping[str, Any], file: TextIO) -> None:
    """The table of a report, with a column of measured cycles when it has them."""
    measured = "cycles_rtl" in content["total"]
    head = ["layer", "op", "M", "K", "N", "count", "MACs", "cycles", *(["RTL cycles"] if measured else []), "utilization", "bound"]
    rows = [_row(layer, measured) for layer in content["layers"]]
    total = {"name": "total", "op": "", "M": "", "K": "", "N": "", "count": "", "bound": "", **content["total"]}
    print_table(f"{content['network']} on {content['preset']}", head, [*rows, _row(total, measured)], file)
    print(file=file)
    _print_kinds(content, file)
    total, bound = content["total"], content["total"]["lower_bound_cycles"]
    print(f"{content['network']}: {content['origin']}", file=file)
    print(f"the array alone needs {bound} cycles ({100 * bound / total['cycles']:.1f} % of the total)", file=file)
    reasons = ", ".join(f"{name} {100 * count / total['cycles']:.2f} %" for name, count in total["reasons"].items())
    print(f"cycles by what bounds them: {reasons}", file=file)
    print(f"external memory: {total['bytes_loaded']} bytes loaded, {total['bytes_stored']} stored", file=file)
    if "clock_mhz" in content:
        rate = f"{total['milliseconds']:.3f} ms, {total['frames_per_second']:.1f} frames a second"
        print(f"at {content['clock_mhz']:g} MHz: {rate}", file=file)


def _print_kinds(content: Mapping[str, Any], file: TextIO) -> None:
    head = ["kind", "layers", "MACs", "cycles", "utilization", "bytes loaded", "bytes stored", "bound"]
    rows = [
        [
            entry["kind"],
            *(str(entry[name]) for name in ("layers", "macs", "cycles")),
            _share(entry),
            *(str(entry[name]) for name in ("bytes_loaded", "bytes_stored")),
            entry["bound"],
        ]
        for entry in content["kinds"]
    ]
    print_table("by kind of layer", head, rows, file, text_columns=(0, len(head) - 1))


def _share(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['utilization']:.1f} %" if entry["macs"] else ""


def print_comparison(content: Mapping[str, Any], file: TextIO) -> None:
    """The table of a comparison, with times when it has them."""
    entries = content["comparison"]
    timed = "milliseconds" in entries[0]
    head = ["preset", "lanes", "cycles", "array alone", "utilization", "bytes loaded", "bytes stored"]
    head += [f"ms at {content['clock_mhz']:g} MHz", "frames/s"] if timed else []
    names = ("lanes", "cycles", "lower_bound_cycles", "utilization", "bytes_loaded", "bytes_stored")
    rows = []
    for entry in entries:
        cells = [entry["preset"], *(str(entry[name]) for name in names)]
        cells[4] = f"{100 * entry['utilization']:.1f} %"
        rows.append([*cells, *([f"{entry['milliseconds']:.3f}", f"{entry['frames_per_second']:.1f}"] if timed else [])])
    print(file=file)
    print_table(f"{content['network']}, configurations side by side", head, rows, file, text_columns=(0,))


def _row(entry: Mapping[str, Any], measured: bool) -> list[str]:
    numbers = [str(entry[key]) for key in ("name", "op", "M", "K", "N", "count", "macs", "cycles")]
    counted = ["-" if entry["cycles_rtl"] is None else str(entry["cycles_rtl"])] if measured else []
    return [*numbers, *counted, _share(entry), entry["bound"]]


def print_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO, *, text_columns: Sequence[int] | None = None
) -> None:
    """A drawn table on a terminal that is wide enough, else plain text in columns.

    text_columns : those that are text, by default the first two and the last.
    """
    left = [column in ((0, 1, len(head) - 1) if text_columns is None else text_columns) for column in range(len(head))]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    console = Console(file=file)
    if console.is_terminal and console.width >= sum(widths) + 3 * len(widths) + 1:
        table = Table(title=title)
        for name, is_left in zip(head, left, strict=True):
            table.add_column(name, justify="left" if is_left else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    print(title, file=file)
    for row in (head, *rows):
        cells = [cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)]
        print("  ".join(cells).rstrip(), file=file)


def layers_csv(content: Mapping[str, Any]) -> str:
    """A line a layer, with the JSON's names as heads; what is an object in the JSON is a column for each of its fields."""
    text = io.StringIO()
    writer = None
    for layer in content["layers"]:
        flat = {name: value for name, value in layer.items() if name != "reasons"}
        flat |= {f"cycles_{reason}": cycles for reason, cycles in layer["reasons"].items()}
        if writer is None:
            writer = csv.DictWriter(text, flat, lineterminator="\n")
            writer.writeheader()
        writer.writerow(flat)
    return text.getvalue()


def json_text(content: Mapping[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(content, indent=2) + "\n"


def write_json(content: Mapping[str, Any], path: str) -> None:
    """:func:`write_text` of :func:`json_text`."""
    write_text(json_text(content), path)


def write_text(text: str, path: str) -> None:
    """Write a file, all of it or nothing; ``-`` is stdout."""
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
