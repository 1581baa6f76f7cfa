"""The page of a report: it needs nothing else, its numbers are the JSON's, its charts are well formed, and its script runs."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.compiler.program import Space
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.model.networks import integer_network
from vitloom.sim.charts import timeline_svg
from vitloom.sim.html_report import html_report
from vitloom.sim.report import compare, model_timings, report
from vitloom.sim.timeline import stays, windows

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
CONFIG = CoreConfig(lanes=8)


@pytest.fixture(scope="module")
def program():
    return compile_network(integer_network("digits_vit"), CONFIG)


@pytest.fixture(scope="module")
def shown(program):
    return windows(program, model_timings(program)[0])


@pytest.fixture(scope="module")
def content(program):
    content = report(program, preset="l8", clock_mhz=50)
    other = report(compile_network(integer_network("digits_vit"), CoreConfig(lanes=4)), preset="l4", clock_mhz=50)
    return {**content, "comparison": compare([other, content])}


@pytest.fixture(scope="module")
def page(content, shown):
    return html_report(content, shown)


def table(page, name):
    """Rows of a table: the text of its cells, or the number that a cell sorts by."""
    body = re.search(rf'<table [^>]*id="{name}"[^>]*>.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    cells = re.compile(r'<td(?: class="number" data-value="([^"]*)")?>(.*?)</td>', re.S)
    return [
        [value or html.unescape(re.sub("<[^>]*>", "", text)) for value, text in cells.findall(row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


def charts(page):
    """The outermost SVG elements, parsed."""
    found = re.findall(r'<svg class="(?:timeline|roofline|layers)".*?</svg>(?=</figure>|\n)', page, re.S)
    return {chart.get("class"): chart for chart in map(ElementTree.fromstring, found)}


def test_the_page_asks_for_nothing_from_outside(page):
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|<link(?! rel=\"icon\" href=\"data:)|<(?:iframe|img|script) [^>]*src", page)
    assert "<!-- " not in page


def test_the_page_has_the_json_in_it(page, content):
    text = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)[1]
    assert json.loads(text) == json.loads(json.dumps(content))


def test_the_page_says_where_the_weights_come_from(page, content):
    assert f"· {html.escape(content['origin'])}</p>" in page


def test_names_are_no_markup(program, content, shown):
    evil = "</script><script>alert(1)</script>"
    page = html_report({**content, "network": evil, "origin": evil}, shown)
    assert "<script>alert" not in page


def test_every_layer_is_in_the_table_with_the_numbers_of_the_json(page, content):
    rows = table(page, "layers")
    assert [row[0] for row in rows] == [layer["name"] for layer in content["layers"]]
    for row, layer in zip(rows, content["layers"], strict=True):
        expected = [layer[name] for name in ("M", "K", "N", "count", "macs", "cycles", "utilization")]
        np.testing.assert_array_equal(
            np.array(row[2:9], float), [number or (-1 if index == 4 else 0) for index, number in enumerate(expected)]
        )
        assert row[9] == layer["bound"]
        assert [float(number) for number in row[11:13]] == [layer["bytes_loaded"], layer["bytes_stored"]]


def test_kinds_banks_and_configurations_are_those_of_the_json(page, content):
    assert [[row[0], int(row[3])] for row in table(page, "kinds")] == [[entry["kind"], entry["cycles"]] for entry in content["kinds"]]
    banks = content["memory"]["banks"]
    assert [[int(row[0]), int(row[2])] for row in table(page, "banks")] == [[bank["bank"], bank["peak_bytes"]] for bank in banks]
    names = ("lanes", "cycles", "lower_bound_cycles")
    rows = [[row[0], *map(int, row[1:4]), float(row[-2])] for row in table(page, "comparison")]
    assert rows == [[e["preset"], *(e[name] for name in names), e["milliseconds"]] for e in content["comparison"]]


def test_without_a_comparison_there_is_no_such_section(content, shown):
    page = html_report({name: value for name, value in content.items() if name != "comparison"}, shown)
    assert "side by side" not in page


def test_the_timeline_has_every_instruction_of_the_block(program, page, shown):
    timings, _ = model_timings(program)
    plot = charts(page)["timeline"].find("svg[@class='plot']")
    drawn = {
        (int(group.get("data-begin")), int(group.get("data-end")), group.find("title").text.split(" · ")[1])
        for group in plot.findall("g[@class='bar']")
    }
    (window,) = shown
    assert window.name == "blocks.2"
    expected = {
        (timing.start, timing.done, instruction.layer)
        for instruction, timing in zip(program.instructions, timings, strict=False)
        if instruction.opcode is not isa.Opcode.SYNC and timing.start < window.last and timing.done > window.first
    }
    assert drawn == expected
    layers = {layer.name for layer in program.layers if layer.name.startswith("blocks.2.")}
    assert {layer for *_, layer in drawn} >= layers


def test_bars_lie_where_their_cycles_are(page):
    plot = charts(page)["timeline"].find("svg[@class='plot']")
    begin, end, width = (int(plot.get(name)) for name in ("data-begin", "data-end", "width"))
    for group in plot.findall("g[@data-end]"):
        rect, first, last = group.find("rect"), int(group.get("data-begin")), int(group.get("data-end"))
        assert float(rect.get("x")) == pytest.approx((first - begin) * width / (end - begin), abs=0.1)
        assert float(rect.get("width")) == pytest.approx(max(0.5, (last - first) * width / (end - begin)), abs=0.1)


def test_bars_of_one_track_do_not_overlap(shown):
    ends = {}
    for bar in shown[0].bars:
        assert bar.begin >= ends.get((bar.engine, bar.track), 0)
        ends[bar.engine, bar.track] = bar.end


def test_what_is_in_the_scratchpad_at_one_time_does_not_overlap(program):
    """Stays that share words are not there at one time: a check of the memory plan against the timing model."""
    kept = stays(program, model_timings(program)[0])
    for index, one in enumerate(kept):
        for other in kept[index + 1 :]:
            apart = one.address + one.words <= other.address or other.address + other.words <= one.address
            assert apart or one.end <= other.begin or other.end <= one.begin, (one, other)
    placed = {name for name, buffer in program.buffers.items() if buffer.space is Space.SCRATCHPAD}
    assert {stay.name for stay in kept} == placed


def test_the_roofline_has_a_dot_for_each_layer_with_products_and_cycles(page, content):
    dots = charts(page)["roofline"].findall("circle/title")
    layers = [layer["name"] for layer in content["layers"] if layer["macs"] and layer["cycles"]]
    assert [dot.text.split(" · ")[0] for dot in dots] == layers


def test_the_bars_of_the_layers_are_as_high_as_their_cycles_and_bytes(page, content):
    groups = charts(page)["layers"].findall("g")
    assert len(groups) == len(content["layers"])
    most = max(layer["cycles"] for layer in content["layers"])
    for group, layer in zip(groups, content["layers"], strict=True):
        heights = [float(rect.get("height")) for rect in group.findall("rect")]
        if layer["cycles"]:
            assert heights[0] == pytest.approx(170 * layer["cycles"] / most, abs=0.1)
        assert len(heights) == sum(layer[name] > 0 for name in ("cycles", "bytes_loaded", "bytes_stored"))


def test_a_network_without_blocks_is_shown_whole(program):
    renamed = replace(program, layers=[replace(layer, name=layer.name.replace("blocks", "parts")) for layer in program.layers])
    (window,) = windows(renamed, model_timings(program)[0])
    assert (window.name, window.first) == ("digits_vit", 0)


def test_a_timeline_can_be_a_file_of_its_own(program, content, shown):
    kinds = {layer["name"]: layer["kind"] for layer in content["layers"]}
    drawing = ElementTree.fromstring(timeline_svg(shown[0], kinds, content["memory"], content["lanes"], standalone=True))
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"


# Everything above reads the page; this runs it.
SCRIPT = """
<script>
addEventListener("error", (event) => document.body.dataset.error = event.message);
addEventListener("load", () => {
  const figure = document.querySelector(".zoomable"), plot = figure.querySelector(".plot");
  const width = () => Math.max(...[...plot.querySelectorAll("g.bar rect")].map((rect) => Number(rect.getAttribute("width"))));
  const before = width();
  figure.querySelector("[data-zoom=in]").click();
  const zoomed = width();
  plot.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, ctrlKey: true, clientX: 400, bubbles: true }));
  const more = width();
  plot.dispatchEvent(new PointerEvent("pointerdown", { clientX: 400, bubbles: true }));
  dispatchEvent(new PointerEvent("pointermove", { clientX: 300 }));
  dispatchEvent(new PointerEvent("pointerup"));
  figure.dispatchEvent(new KeyboardEvent("keydown", { key: "0" }));
  const rect = plot.querySelector("g.bar rect");
  rect.dispatchEvent(new PointerEvent("pointermove", { clientX: 300, clientY: 300, bubbles: true }));
  const head = [...document.querySelectorAll("#layers th")].find((cell) => cell.textContent === "cycles");
  head.click();
  const first = document.querySelector("#layers tbody tr").cells[0].textContent;
  const filter = document.getElementById("filter");
  filter.value = "norm1";
  filter.dispatchEvent(new Event("input"));
  const kept = document.querySelectorAll("#layers tbody tr:not([hidden])").length;
  document.body.dataset.result = JSON.stringify(
    { before, zoomed, more, after: width(), first, kept, tip: document.getElementById("tip").textContent });
});
</script></head>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH to run the page's script")
def test_the_script_zooms_sorts_filters_and_shows_tips(page, content, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</head>", SCRIPT, 1), encoding="utf-8")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    command = [CHROMIUM, "--headless", *sandbox, *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=120)
    assert "data-error" not in done.stdout, re.search('data-error="[^"]*"', done.stdout)[0]
    result = json.loads(html.unescape(re.search('data-result="([^"]*)"', done.stdout)[1]))
    assert result["zoomed"] == pytest.approx(2 * result["before"], rel=1e-3)
    assert result["more"] == pytest.approx(1.2 * result["zoomed"], rel=1e-3)
    assert result["after"] == pytest.approx(result["before"], rel=1e-3)
    assert result["first"] == max(content["layers"], key=lambda layer: layer["cycles"])["name"]
    assert result["kept"] == sum("norm1" in layer["name"] for layer in content["layers"])
    assert "cycles" in result["tip"]
