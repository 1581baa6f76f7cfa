"""Reports: every cycle belongs to one layer, the JSON has the promised shape, and files appear whole or not at all."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.compiler.program import WEIGHTS
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.model.networks import integer_network
from vitloom.sim import report_text
from vitloom.sim.report import REASONS, attribute, compare, kind_rows, layer_rows, model_timings, report
from vitloom.sim.report_text import layers_csv, print_comparison, print_report, write_json
from vitloom.sim.sequencer_timing import Timing

CONFIG = CoreConfig(lanes=8)


@pytest.fixture(scope="module")
def program():
    return compile_network(integer_network("digits_vit"), CONFIG)


@pytest.fixture(scope="module")
def content(program):
    return report(program, preset="l8")


def owner_by_cycle(program, timings, total):
    """The rule of :func:`attribute`, cycle by cycle."""
    layers = {index: number for number, layer in enumerate(program.layers) for index in layer.instructions}
    busy = [index for index in sorted(layers) if program.instructions[index].opcode in isa.OPCODE_QUEUE]
    reasons = {isa.Queue.ARRAY: "array", isa.Queue.ROWS: "rows", isa.Queue.LOAD: "memory", isa.Queue.STORE: "memory"}
    cycles = [{} for _ in program.layers]
    for cycle in range(total):
        flying = [index for index in busy if timings[index].start <= cycle < timings[index].done]
        reason, index = "dependency", None
        for queue, name in reasons.items():
            mine = [index for index in flying if program.instructions[index].queue is queue]
            if mine:
                reason, index = name, mine[0]
                break
        if index is None:
            later = [index for index in busy if timings[index].start > cycle]
            index = min(later, key=lambda each: timings[each].start) if later else max(busy, key=lambda each: timings[each].start)
        part = cycles[layers[index]]
        part[reason] = part.get(reason, 0) + 1
    return cycles


def test_every_cycle_goes_where_the_rule_says(program):
    timings, total = model_timings(program)
    rng = np.random.default_rng(0)
    shrunk = [replace(timing, start=timing.start // 30, done=timing.done // 30 + int(rng.integers(2))) for timing in timings]
    assert attribute(program, shrunk, total // 30) == owner_by_cycle(program, shrunk, total // 30)


def test_the_layers_cycles_and_macs_add_up_to_the_total(program, content):
    assert sum(layer["cycles"] for layer in content["layers"]) == content["total"]["cycles"]
    assert sum(layer["macs"] for layer in content["layers"]) == content["total"]["macs"]
    assert content["total"]["macs"] == sum(layer.macs for layer in program.layers) > 0


def test_utilization_is_macs_over_all_products_that_the_array_can_do(content):
    total = content["total"]
    assert total["utilization"] == pytest.approx(total["macs"] / (64 * total["cycles"]), abs=1e-6)
    assert total["lower_bound_cycles"] < total["cycles"]
    for layer in content["layers"]:
        assert 0 <= layer["utilization"] <= 1
        assert (layer["utilization"] == 0) == (layer["macs"] == 0)


def test_the_json_has_the_promised_fields(content):
    assert {"network", "origin", "preset", "lanes", "layers", "kinds", "roofline", "memory", "total", "configuration"} == set(content)
    fields = ["name", "op", "M", "K", "N", "count", "mode", "macs", "cycles", "utilization", "bound"]
    assert all(list(layer)[: len(fields)] == fields for layer in content["layers"])
    assert list(content["total"])[:4] == ["macs", "cycles", "lower_bound_cycles", "utilization"]
    assert "digits" in content["origin"]
    names = [layer["name"] for layer in content["layers"]]
    assert {"patch_embed", "blocks.3.attn.qkv", "blocks.0.mlp.fc2", "head"} <= set(names)
    assert len(names) == len(set(names))
    assert {layer["bound"] for layer in content["layers"]} <= {"array", "rows", "memory", "dependency", "hidden"}


def test_the_kinds_add_up_the_layers(content):
    assert [entry["kind"] for entry in content["kinds"]] == ["patch", "norm", "qkv", "qk", "softmax", "av", "proj", "fc1", "fc2", "head"]
    for name in ("macs", "cycles", "bytes_loaded", "bytes_stored"):
        assert sum(entry[name] for entry in content["kinds"]) == content["total"][name]
    assert sum(entry["layers"] for entry in content["kinds"]) == len(content["layers"])
    qkv = next(entry for entry in content["kinds"] if entry["kind"] == "qkv")
    assert qkv["cycles"] == sum(layer["cycles"] for layer in content["layers"] if layer["name"].endswith("qkv"))
    assert kind_rows(content["layers"], content["lanes"] ** 2) == content["kinds"]


def test_the_reasons_of_a_layer_are_its_cycles(content):
    for entry in (*content["layers"], *content["kinds"], content["total"]):
        assert list(entry["reasons"]) == list(REASONS)
        assert sum(entry["reasons"].values()) == entry["cycles"]


def test_the_traffic_is_what_the_instructions_load_and_store(program, content):
    """Every parameter is loaded once at least, the input and the logits exactly once."""
    layers = {layer["name"]: layer for layer in content["layers"]}
    total = content["total"]
    loaded, stored = (
        sum(8 * instruction.fields["words"] for instruction in program.instructions if instruction.opcode is opcode)
        for opcode in (isa.Opcode.LOAD, isa.Opcode.STORE)
    )
    assert (total["bytes_loaded"], total["bytes_stored"]) == (loaded, stored)
    assert total["bytes_loaded"] >= len(program.memory_image) + program.input_region[1] * 8
    assert layers["blocks.1.mlp.fc2"]["bytes_loaded"] == 64 * 256 + 64 * isa.CONSTANT_BYTES
    assert (total["bytes_stored"], layers["head"]["bytes_stored"]) == (64, 64)
    assert layers["blocks.1.mlp.fc2"]["macs_per_byte"] == pytest.approx(17 * 64 * 256 / (64 * 256 + 64 * 8), abs=1e-3)


def test_the_banks_hold_what_the_plan_puts_there(program, content):
    banks = content["memory"]["banks"]
    assert len(banks) == CONFIG.banks
    assert sum(bank["bytes"] for bank in banks) == content["memory"]["scratchpad_bytes"] == CONFIG.scratchpad_words * 8
    weights = {buffer.address // CONFIG.bank_words for name, buffer in program.buffers.items() if name.startswith(WEIGHTS)}
    assert weights and {bank["bank"] for bank in banks if bank["buffers"]} >= {0} | weights
    for bank in banks:
        assert (0 < bank["peak_bytes"] <= bank["bytes"]) == (bank["buffers"] > 0)


def test_times_are_given_for_a_clock_only(program, content):
    timed = report(program, preset="l8", clock_mhz=50)
    assert timed["total"]["milliseconds"] == pytest.approx(content["total"]["cycles"] / 50e3, abs=1e-6)
    assert timed["total"]["frames_per_second"] == pytest.approx(50e6 / content["total"]["cycles"], abs=1e-3)
    assert "milliseconds" not in content["total"]
    assert timed["layers"] == content["layers"]


def test_a_comparison_has_the_totals_of_each(program, content):
    other = report(compile_network(integer_network("digits_vit"), CoreConfig(lanes=4)), preset="l4")
    entries = compare([other, content])
    assert [(entry["preset"], entry["lanes"]) for entry in entries] == [("l4", 4), ("l8", 8)]
    for entry, of in zip(entries, (other, content), strict=True):
        assert all(entry[name] == of["total"][name] for name in ("cycles", "utilization", "lower_bound_cycles", "bytes_loaded"))
    text = io.StringIO()
    print_comparison({**content, "comparison": entries}, text)
    lines = text.getvalue().splitlines()[-2:]
    assert [line.split()[:3] for line in lines] == [[e["preset"], str(e["lanes"]), str(e["cycles"])] for e in entries]


def test_the_csv_has_the_layers_of_the_json(content):
    lines = list(csv.DictReader(io.StringIO(layers_csv(content))))
    assert [line["name"] for line in lines] == [layer["name"] for layer in content["layers"]]
    for line, layer in zip(lines, content["layers"], strict=True):
        assert [int(line[name]) for name in ("M", "K", "N", "macs", "cycles", "bytes_loaded")] == [
            layer[name] for name in ("M", "K", "N", "macs", "cycles", "bytes_loaded")
        ]
        assert sum(int(line[f"cycles_{reason}"]) for reason in REASONS) == layer["cycles"]


def test_a_slow_memory_makes_the_network_wait_for_memory():
    slow = compile_network(integer_network("digits_vit"), replace(CONFIG, memory_bytes_per_cycle=1))
    entries = report(slow, preset="l8")["layers"]
    assert {layer["bound"] for layer in entries if layer["name"].endswith("fc1")} == {"memory"}


def test_a_layer_beside_the_array_is_hidden(program):
    """A softmax that runs while the array runs has no cycles of its own."""
    timings = [Timing(dispatch=0, start=5, done=25)] * len(program.instructions)
    rows = {row["name"]: row for row in layer_rows(program, timings, 30)}
    assert rows["patch_embed"]["cycles"] >= 20
    assert (rows["blocks.1.attn.softmax"]["cycles"], rows["blocks.1.attn.softmax"]["bound"]) == (0, "hidden")


def test_the_plain_table_has_a_line_a_layer(content):
    text = io.StringIO()
    print_report(content, text)
    lines = text.getvalue().splitlines()
    end = len(content["layers"]) + 2
    assert lines[0] == "digits_vit on l8"
    assert lines[2].split()[:6] == ["patch_embed", "gemm", "16", "4", "64", "1"]
    assert str(content["total"]["cycles"]) in lines[end]
    assert [line.split()[0] for line in lines[end + 4 :]][: len(content["kinds"])] == [entry["kind"] for entry in content["kinds"]]
    assert content["origin"] in text.getvalue()


@pytest.mark.parametrize(("columns", "drawn"), [("140", True), ("80", False)])
def test_a_wide_terminal_gets_a_drawn_table(content, columns, drawn, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    text = Terminal()
    print_report(content, text)
    assert "blocks.0.attn.softmax" in text.getvalue()
    assert ("─" in text.getvalue()) == drawn


def test_json_goes_to_a_file_or_to_stdout(content, tmp_path, capsys):
    write_json(content, str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == content
    write_json(content, "-")
    assert json.loads(capsys.readouterr().out) == content


def test_a_failed_write_leaves_the_old_file(content, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(TypeError):
        write_json({"wrong": object()}, str(tmp_path / "a.json"))

    def full(self, text, encoding):
        self.open("w").close()
        raise OSError("no space left")

    monkeypatch.setattr(report_text.Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_json(content, str(tmp_path / "a.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
