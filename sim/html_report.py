"""A report as one HTML page that needs nothing else: tables and charts are in it, a little script zooms and sorts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .charts import REASON_COLORS, color, layers_svg, number, roofline_svg, tag, timeline_svg
from .timeline import Window

__all__ = ["html_report"]

_TEMPLATE = Path(__file__).with_name("report.html")


def html_report(content: Mapping[str, Any], windows: Sequence[Window]) -> str:
    """The page of a report (:func:`.report.report`, with ``comparison`` if there is one) and of the blocks whose timelines it shows.

    The report itself is in it as JSON, in the element ``report``.
    """
    kinds = {layer["name"]: layer["kind"] for layer in content["layers"]}
    parts = {
        "title": escape(f"{content['network']} on {content['preset']}"),
        "core": escape(_core(content)),
        "origin": escape(content["origin"]),
        "cards": _cards(content),
        "reasons": _reasons(content["total"]),
        "kinds": _kinds_table(content),
        "legend": _legend({entry["kind"]: color(entry["kind"]) for entry in content["kinds"]}),
        "timelines": "".join(_timeline(window, kinds, content) for window in windows),
        "roofline": roofline_svg(content),
        "traffic": layers_svg(content["layers"]),
        "comparison": _comparison(content),
        "memory": _memory_table(content["memory"]),
        "layers": _layers_table(content),
        "configuration": _table(["field", "value"], [[escape(k), escape(_plain(v))] for k, v in content["configuration"].items()]),
        # The characters that could end the script element.
        "json": json.dumps(content).replace("<", "\\u003c"),
    }
    return re.sub(r"<!-- (\w+) -->", lambda place: parts[place[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f}\u202f{unit}"
    return f"{count}\u202fbytes"


def _core(content: Mapping[str, Any]) -> str:
    """The sizes that matter most."""
    memory, bandwidth = content["memory"], content["roofline"]["bytes_per_cycle"]
    scratchpad = f"{_bytes(memory['scratchpad_bytes'])} scratchpad in {len(memory['banks'])} banks"
    return f"{content['lanes']} × {content['lanes']} array · {scratchpad} · {bandwidth} bytes a cycle of external memory"


def _cards(content: Mapping[str, Any]) -> str:
    total = content["total"]
    cards = [
        ("utilisation", _percent(total["utilization"]), "MACs / (L² × cycles), everything included"),
        ("cycles", number(total["cycles"]), f"the array alone needs {number(total['lower_bound_cycles'])}"),
        ("MACs", number(total["macs"]), f"{number(round(total['macs'] / total['cycles'], 1))} a cycle"),
        ("external memory", _bytes(total["bytes_loaded"] + total["bytes_stored"]), f"of it {_bytes(total['bytes_stored'])} stored"),
    ]
    if "frames_per_second" in total:
        rate = f"{number(total['frames_per_second'])} frames a second"
        cards.append((f"at {content['clock_mhz']:g} MHz", f"{total['milliseconds']:.3f}\u202fms", rate))
    return "".join(
        tag("div", tag("span", escape(name)), tag("strong", escape(value)), tag("small", escape(note)), class_="card")
        for name, value, note in cards
    )


def _legend(colors: Mapping[str, str]) -> str:
    items = (tag("li", _swatch(fill) + escape(name)) for name, fill in colors.items())
    return tag("ul", *items, class_="legend")


def _reasons(total: Mapping[str, Any]) -> str:
    """The reasons of all cycles, with their shares in the legend."""
    shares = {f"{name} {_percent(count / total['cycles'])}": REASON_COLORS[name] for name, count in total["reasons"].items()}
    return _legend(shares) + _stack(total["reasons"], "big")


def _swatch(fill: str) -> str:
    return f'<i style="background:{fill}"></i>'


def _stack(reasons: Mapping[str, int], css: str = "") -> str:
    """A bar of the reasons' shares."""
    total = sum(reasons.values()) or 1
    text = ", ".join(f"{name} {number(count)}" for name, count in reasons.items() if count)
    parts = (
        f'<i style="width:{100 * count / total:.2f}%;background:{REASON_COLORS[name]}"></i>' for name, count in reasons.items() if count
    )
    return tag("span", "", *parts, class_=f"stack {css}".strip(), title=text or "hidden")


def _meter(share: float, text: str, fill: str = "var(--accent)") -> str:
    return f'<span class="meter"><i style="width:{100 * min(1.0, share):.2f}%;background:{fill}"></i><b>{text}</b></span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], **attributes: str) -> str:
    """Cells are markup. A number that is shown in another way is in ``data-value``, for sorting."""
    rows = [list(row) for row in rows]
    numbers = [all("data-value" in row[column] for row in rows) for column in range(len(head))]
    header = tag("tr", *(tag("th", escape(name), class_="number" if right else None) for name, right in zip(head, numbers, strict=True)))
    body = (tag("tr", *(cell if cell.startswith("<td") else tag("td", cell) for cell in row)) for row in rows)
    return tag("table", tag("thead", header), tag("tbody", *body), **attributes)


def _cell(value: float | None, shown: str | None = None) -> str:
    """A number to sort by, and what is shown for it."""
    text = (number(value) if value is not None else "–") if shown is None else shown
    return tag("td", text, class_="number", data_value=-1 if value is None else str(value))


def _measure_cells(entry: Mapping[str, Any], most: int) -> list[str]:
    """Cycles, utilisation, what bounds it, and traffic."""
    used = _meter(entry["utilization"], _percent(entry["utilization"])) if entry["macs"] else ""
    return [
        _cell(entry["macs"] or None),
        _cell(entry["cycles"], _meter(entry["cycles"] / most, number(entry["cycles"]), color(entry["kind"]))),
        _cell(entry["utilization"], used),
        escape(entry["bound"]),
        _stack(entry["reasons"]),
        _cell(entry["bytes_loaded"]),
        _cell(entry["bytes_stored"]),
        _cell(entry["macs_per_byte"] or None),
    ]


_MEASURES = ["MACs", "cycles", "utilisation", "bound", "cycles by reason", "bytes loaded", "bytes stored", "MACs per byte"]


def _kinds_table(content: Mapping[str, Any]) -> str:
    most = max(1, *(entry["cycles"] for entry in content["kinds"]))
    rows = [
        [_swatch(color(entry["kind"])) + escape(entry["kind"]), _cell(entry["layers"]), *_measure_cells(entry, most)]
        for entry in content["kinds"]
    ]
    return _table(["kind", "layers", *_MEASURES], rows, class_="sortable", id="kinds")


def _layers_table(content: Mapping[str, Any]) -> str:
    most = max(1, *(layer["cycles"] for layer in content["layers"]))
    sizes = ("M", "K", "N", "count")
    rows = [
        [
            _swatch(color(layer["kind"])) + escape(layer["name"]),
            escape(" ".join((layer["op"], layer["mode"])).strip()),
            *(_cell(layer[size]) for size in sizes),
            *_measure_cells(layer, most),
        ]
        for layer in content["layers"]
    ]
    return _table(["layer", "operation", *sizes, *_MEASURES], rows, class_="sortable", id="layers")


def _timeline(window: Window, kinds: Mapping[str, str], content: Mapping[str, Any]) -> str:
    shown = {layer: kind for layer, kind in kinds.items() if window.name == content["network"] or layer.startswith(f"{window.name}.")}
    cycles = f"{number(window.end - window.begin)} cycles from its first instruction to its last, of {len(shown)} layers"
    caption = tag("figcaption", tag("b", escape(window.name)), f" {escape(cycles)}")
    buttons = "".join(tag("button", text, type="button", data_zoom=name) for text, name in (("+", "in"), ("−", "out"), ("reset", "reset")))
    drawing = timeline_svg(window, kinds, content["memory"], content["lanes"])
    return tag("figure", caption, tag("div", buttons, class_="buttons"), drawing, class_="zoomable", tabindex="0")


def _memory_table(memory: Mapping[str, Any]) -> str:
    rows = []
    for bank in memory["banks"]:
        full = _meter(bank["peak_bytes"] / bank["bytes"], _bytes(bank["peak_bytes"]))
        rows.append(
            [_cell(bank["bank"]), _cell(bank["bytes"], _bytes(bank["bytes"])), _cell(bank["peak_bytes"], full), _cell(bank["buffers"])]
        )
    return _table(["bank", "size", "in use at most", "buffers in turn"], rows, id="banks")


def _comparison(content: Mapping[str, Any]) -> str:
    """A section of its own, or nothing."""
    entries = content.get("comparison", [])
    if not entries:
        return ""
    timed = "milliseconds" in entries[0]
    slowest = max(entry["cycles"] for entry in entries)
    rows = []
    for entry in entries:
        row = [
            escape(entry["preset"]),
            _cell(entry["lanes"]),
            _cell(entry["cycles"], _meter(entry["cycles"] / slowest, number(entry["cycles"]))),
            _cell(entry["lower_bound_cycles"]),
            _cell(entry["utilization"], _meter(entry["utilization"], _percent(entry["utilization"]))),
            _stack(entry["reasons"]),
            _cell(entry["bytes_loaded"]),
            _cell(entry["bytes_stored"]),
        ]
        rows.append([*row, *((_cell(entry["milliseconds"]), _cell(entry["frames_per_second"])) if timed else ())])
    head = ["preset", "lanes", "cycles", "array alone", "utilisation", "cycles by reason", "bytes loaded", "bytes stored"]
    table = _table([*head, *(["ms", "frames a second"] if timed else [])], rows, class_="sortable", id="comparison")
    clock = f" Times are for a clock of {content['clock_mhz']:g} MHz, whatever the number of lanes." if timed else ""
    note = tag("p", f"The same network on other configurations.{clock}", class_="note")
    return tag("section", tag("h2", "Configurations side by side"), note, tag("div", table, class_="scroll"))
