import json

import pytest

from vitloom.boards.out_of_context import CELLS
from vitloom.sim import bench

TABLES = ("resources", "accuracy", "networks")
DOCUMENT = "# Title\n<!-- bench resources -->\nold\n<!-- end -->\ntext\n<!-- bench accuracy -->\nold\n<!-- end -->\n"


def test_tables_replace_what_was_between_the_marks():
    unit = {"unit": "core", "lanes": 8, "cells": {cell: 10 + index for index, cell in enumerate(CELLS)}, "fmax": 81.26}
    text = bench.render({"core": unit}, DOCUMENT, TABLES)
    cells = " | ".join(str(10 + index) for index in range(len(CELLS)))
    assert f"| core | 8 | {cells} | 81 |\n<!-- end -->" in text
    assert text.count("old") == 1
    assert bench.render({"core": unit}, text, TABLES) == text


def test_a_document_without_the_mark_is_refused():
    with pytest.raises(ValueError, match="the mark '<!-- bench accuracy -->' once, not 0 times"):
        bench.render({"accuracy": {"network": "digits_vit", "correct": 1, "images": 1}}, "nothing", TABLES)


def test_accuracy_is_measured_kept_and_rendered(tmp_path):
    document, results = tmp_path / "synthesis.md", tmp_path / "bench.json"
    document.write_text(DOCUMENT)
    results.write_text(json.dumps({"kept": 1}))
    assert bench.main(["accuracy", "--json", str(results), "--document", str(document), "--readme", str(document)]) == 0
    measured = json.loads(results.read_text())
    assert measured["kept"] == 1 and measured["accuracy"]["images"] == 360
    assert measured["accuracy"]["correct"] > 0.95 * 360
    assert f"digits_vit: {measured['accuracy']['correct']} of 360 test images." in document.read_text()


def test_an_unknown_part_is_named_with_the_known_ones(capsys):
    assert bench.main(["speed"]) == 2
    assert "no part 'speed'; there are accuracy, formal, simulation, " in capsys.readouterr().err
