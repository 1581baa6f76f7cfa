"""Charts of a report as SVG: the timeline of a block, the roofline, and cycles and memory traffic layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..compiler.program import WEIGHTS
from .timeline import Bar, Stay, Window

__all__ = ["REASON_COLORS", "color", "layers_svg", "number", "roofline_svg", "tag", "timeline_svg"]

_COLORS = {
    "patch": "#c9a27e",
    "norm": "#b39ddb",
    "qkv": "#7aa6f0",
    "qk": "#5cc8e6",
    "softmax": "#f29ac2",
    "av": "#5fd0b3",
    "proj": "#b7cf5a",
    "fc1": "#f7b955",
    "fc2": "#f28b66",
    "head": "#a9b4c2",
}
_OTHER_COLOR = "#d4c06a"
REASON_COLORS = {"array": "#5b8ff0", "rows": "#a97de8", "memory": "#f0a040", "dependency": "#e8605c"}
_INK = "#1b1f24"

_WIDTH = 1160
_GUTTER = 76  # left of a chart, for names
_PLOT = _WIDTH - _GUTTER - 12
_TRACK, _BANK = 22, 30
_ENGINES = ("load", "array", "rows", "store")


def color(kind: str) -> str:
    """Fill colour of a kind of layer, readable under dark text."""
    return _COLORS.get(kind, _OTHER_COLOR)


def number(value: float) -> str:
    """Digits in groups of three."""
    return f"{value:,}".replace(",", "\u202f")


def tag(name: str, *content: str, **attributes: str | float | None) -> str:
    """An element; ``_`` in an attribute stands for ``-``, one at its end for nothing, and None for no attribute. Content is markup."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    text = "".join(f' {key}="{escape(f"{round(value, 2):g}" if isinstance(value, float) else str(value))}"' for key, value in pairs)
    return f"<{name}{text}>{''.join(content)}</{name}>" if content else f"<{name}{text}/>"


def _svg(width: float, height: float, parts: Iterable[str], *, css: str, label: str, standalone: bool = False) -> str:
    """An ``<svg>`` that scales with the page; ``standalone`` as a file of its own."""
    own = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif", "font_size": 12, "fill": "#24292f"} if standalone else {}
    back = [tag("rect", width="100%", height="100%", fill="#ffffff")] if standalone else []
    return tag("svg", *back, *parts, **own, class_=css, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def _text(x: float, y: float, text: str, anchor: str = "start", css: str | None = None) -> str:
    return tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=css)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="#8b949e", stroke_opacity=0.35)


def timeline_svg(window: Window, kinds: Mapping[str, str], memory: Mapping[str, Any], lanes: int, *, standalone: bool = False) -> str:
    """Instructions of a block on the engines, and under them what is in each bank of the scratchpad, over the same cycles.

    kinds : by layer name. memory : as in the report. What has ``data-begin`` and ``data-end`` is placed by them when the page zooms.
    """
    margin = (window.end - window.begin) // 50
    begin, end = max(window.first, window.begin - margin), min(window.last, window.end + margin)
    tracks, names, height = _tracks(window.bars)
    top, banks = height + 24, len(memory["banks"])
    bottom = top + _BANK * banks
    bank_words = memory["banks"][0]["bytes"] // lanes
    names += [("scratchpad", top - 8), *((f"bank {bank}", top + bank * _BANK + 19) for bank in range(banks))]
    left = [_text(_GUTTER - 8, y, name, "end") for name, y in names]
    lines = [_line(_GUTTER, top + bank * _BANK, _GUTTER + _PLOT, top + bank * _BANK) for bank in range(banks + 1)]
    marks = [_bar(bar, tracks[bar.engine, bar.track], kinds, (begin, end)) for bar in window.bars]
    marks += [_stay(stay, top, bank_words, lanes, kinds, (begin, end)) for stay in window.stays]
    ticks = tag("g", *(_tick(value, begin, end, bottom) for value in _round_numbers(begin, end)), class_="ticks")
    view = {"data_begin": begin, "data_end": end, "data_first": window.first, "data_last": window.last}
    plot = tag("svg", ticks, *marks, class_="plot", x=_GUTTER, width=_PLOT, height=bottom + 4, overflow="hidden", **view)
    label = f"Timeline of {window.name}: instructions on the engines and contents of the banks"
    return _svg(_WIDTH, bottom + 4, [*left, *lines, plot], css="timeline", label=label, standalone=standalone)


def _tracks(bars: Sequence[Bar]) -> tuple[dict[tuple[str, int], float], list[tuple[str, float]], float]:
    """Top of each track by engine and number, names of the engines with the line that they stand on, and the height of all."""
    tops, names, y = {}, [], 24.0
    for engine in _ENGINES:
        count = max((bar.track + 1 for bar in bars if bar.engine == engine), default=1)
        tops |= {(engine, track): y + track * _TRACK for track in range(count)}
        names.append((engine, y + count * _TRACK / 2 + 3))
        y += count * _TRACK + 6
    return tops, names, y


def _bar(bar: Bar, y: float, kinds: Mapping[str, str], view: tuple[int, int]) -> str:
    kind = kinds.get(bar.layer, "")
    title = f"{bar.opcode} {bar.index} · {bar.layer} · cycles {bar.begin} to {bar.end} ({bar.end - bar.begin})"
    return _mark("bar", bar.begin, bar.end, (y, _TRACK - 3), kind, kind or bar.layer, title, view)


def _stay(stay: Stay, top: float, bank_words: int, lanes: int, kinds: Mapping[str, str], view: tuple[int, int]) -> str:
    kind = kinds.get(stay.layer, "")
    height = max(1.0, _BANK * stay.words / bank_words)
    title = f"{stay.name} · {stay.layer} · {stay.words * lanes} bytes at word {stay.address} · cycles {stay.begin} to {stay.end}"
    label = stay.name.split("blocks.")[-1].split(".", 1)[-1] if not stay.name.startswith(WEIGHTS) else f"{kind} weights"
    place = (top + _BANK * stay.address / bank_words, height)
    return _mark("stay", stay.begin, stay.end, place, kind, label if height >= 12 else "", title, view)


def _mark(css: str, begin: int, end: int, across: tuple[float, float], kind: str, label: str, title: str, view: tuple[int, int]) -> str:
    """A rectangle from cycle ``begin`` to ``end``; its label is shown where it has room."""
    y, height = across
    scale = _PLOT / (view[1] - view[0])
    x, width = (begin - view[0]) * scale, max(0.5, (end - begin) * scale)
    seen = max(x, 0.0)
    hidden = "none" if min(x + width, _PLOT) - seen < 7 * len(label) + 6 else None
    parts = [tag("title", escape(title)), tag("rect", x=x, y=y, width=width, height=height, rx=1.5, fill=color(kind))]
    if label:
        parts.append(tag("text", escape(label), x=seen + 4, y=y + height / 2 + 4, fill=_INK, display=hidden))
    return tag("g", *parts, class_=css, data_begin=begin, data_end=end)


def _round_numbers(begin: int, end: int, count: int = 8) -> list[int]:
    """At most about ``count`` round numbers from ``begin`` to ``end``."""
    power = 10 ** math.floor(math.log10(max(1, (end - begin) / count)))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= end - begin)
    return list(range(-(-begin // step) * step, end + 1, step))


def _tick(value: int, begin: int, end: int, height: float) -> str:
    x = (value - begin) * _PLOT / (end - begin)
    return _line(x, 18, x, height) + _text(x, 12, number(value), "middle", "muted")


def roofline_svg(content: Mapping[str, Any]) -> str:
    """Layers with products in them: MACs per byte of external memory, and MACs per cycle, both logarithmic, under the two roofs."""
    layers = [layer for layer in content["layers"] if layer["macs_per_byte"] and layer["macs_per_cycle"]]
    roof, bandwidth = content["roofline"]["macs_per_cycle"], content["roofline"]["bytes_per_cycle"]
    ridge = roof / bandwidth
    low_x = math.floor(math.log10(min([ridge / 8, *(layer["macs_per_byte"] for layer in layers)])))
    high_x = math.ceil(math.log10(max([ridge * 4, *(layer["macs_per_byte"] for layer in layers)])))
    low_y = math.floor(math.log10(min([roof / 32, *(layer["macs_per_cycle"] for layer in layers)])))
    high_y = math.log10(roof) + 0.3
    width, height, left, right, base = 640, 410, 58, 612, 356

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(x) - low_x) / (high_x - low_x), (math.log10(y) - low_y) / (high_y - low_y)
        return left + across * (right - left), base - up * (base - 12)

    parts = []
    for power in range(low_x, high_x + 1):
        x, _ = at(10.0**power, roof)
        parts += [_line(x, 12, x, base), _text(x, base + 17, f"{10.0**power:g}", "middle", "muted")]
    for power in range(low_y, math.floor(high_y) + 1):
        _, y = at(ridge, 10.0**power)
        parts += [_line(left, y, right, y), _text(left - 8, y + 4, f"{10.0**power:g}", "end", "muted")]
    start = max(10.0**low_x, 10.0**low_y / bandwidth)
    corners = [at(start, start * bandwidth), at(ridge, roof), at(10.0**high_x, roof)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    parts.append(tag("polyline", class_="roof", fill="none", stroke="currentColor", stroke_width=2, points=path))
    parts.append(_text(right - 4, corners[2][1] - 8, f"L² = {roof} MACs per cycle", "end"))
    middle = at(math.sqrt(start * ridge), math.sqrt(start * ridge) * bandwidth)
    parts.append(_text(middle[0] - 8, middle[1] - 6, f"{bandwidth} bytes per cycle", "end"))
    points = [(layer, *at(layer["macs_per_byte"], layer["macs_per_cycle"])) for layer in layers]
    parts += [_point(layer, x, y) for layer, x, y in points]
    parts += _point_labels([(layer["kind"], x, y) for layer, x, y in points])
    parts.append(_text((left + right) / 2, height - 10, "MACs per byte of external memory", "middle"))
    parts.append(tag("text", "MACs per cycle", transform=f"translate(14 {base / 2:g}) rotate(-90)", text_anchor="middle"))
    return _svg(width, height, parts, css="roofline", label="Roofline with the layers on it")


def _point(layer: Mapping[str, Any], x: float, y: float) -> str:
    title = f"{layer['name']} · {layer['macs_per_byte']} MACs per byte · {layer['macs_per_cycle']} MACs per cycle"
    return tag("circle", tag("title", escape(title)), cx=x, cy=y, r=5.5, fill=color(layer["kind"]), stroke=_INK, stroke_opacity=0.5)


def _point_labels(points: Iterable[tuple[str, float, float]]) -> list[str]:
    """One label under each group of points that lie together, with the kinds in it."""
    groups: list[tuple[float, float, list[str]]] = []
    for kind, x, y in points:
        near = next((group for group in groups if abs(group[0] - x) < 45 and abs(group[1] - y) < 16), None)
        if near is None:
            groups.append((x, y, [kind]))
        elif kind not in near[2]:
            near[2].append(kind)
    return [_text(x, y + 22, ", ".join(kinds), "middle") for x, y, kinds in groups]


def layers_svg(layers: Sequence[Mapping[str, Any]]) -> str:
    """A bar for each layer in program order: cycles upwards, bytes loaded and (lighter) stored downwards."""
    up, down, zero = 170, 110, 190
    most_cycles = max(1, *(layer["cycles"] for layer in layers))
    most_bytes = max(1, *(layer["bytes_loaded"] + layer["bytes_stored"] for layer in layers))
    step = _PLOT / len(layers)
    width = max(0.5, step - min(2.0, step / 5))
    parts = []
    for share in (0.5, 1.0):
        for y, most in ((zero - up * share, most_cycles), (zero + down * share, most_bytes)):
            parts += [_line(_GUTTER, y, _GUTTER + _PLOT, y), _text(_GUTTER - 8, y + 4, number(round(most * share)), "end", "muted")]
    for index, layer in enumerate(layers):
        traffic = f"{layer['bytes_loaded']} bytes loaded, {layer['bytes_stored']} stored"
        title = f"{layer['name']} · {layer['cycles']} cycles, {layer['bound']} · {traffic}"
        cycles, loaded, stored = (
            size * layer[name] / most
            for size, name, most in ((up, "cycles", most_cycles), (down, "bytes_loaded", most_bytes), (down, "bytes_stored", most_bytes))
        )
        boxes = [(zero - cycles, cycles, 1.0), (zero, loaded, 0.85), (zero + loaded, stored, 0.4)]
        shape = {"x": _GUTTER + index * step, "width": width, "fill": color(layer["kind"])}
        rects = [tag("rect", **shape, y=y, height=size, fill_opacity=opacity) for y, size, opacity in boxes if size > 0]
        parts.append(tag("g", tag("title", escape(title)), *rects))
    parts.append(tag("line", x1=_GUTTER, y1=zero, x2=_GUTTER + _PLOT, y2=zero, stroke="currentColor"))
    parts += [_text(_GUTTER, 12, "cycles", css="muted"), _text(_GUTTER, zero + down + 18, "bytes from and to external memory", css="muted")]
    return _svg(_WIDTH, zero + down + 26, parts, css="layers", label="Cycles and memory traffic of each layer")
