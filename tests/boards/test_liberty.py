import gzip
from pathlib import Path

import pytest

from vitloom.boards.liberty import read_library

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"


@pytest.fixture(scope="module")
def library():
    return read_library(TINY)


def test_cells_are_found_by_what_they_do_and_not_by_name(library):
    assert library.nand2_area == 4  # not_both; not_both_strong has 9
    assert (library.buffer, library.inverter) == ("drives", "inverts")
    assert [name for name in library.cells if library.is_flip_flop(name)] == ["keeps"]


def test_units_are_those_of_the_file(library):
    assert library.fanout_of_four == pytest.approx(8e-15)
    assert library.flip_flop_delay("keeps") == pytest.approx((0.11 + 0.06) * 1e-9)
    assert library.flip_flop_delay("inverts") == 0


def test_a_compressed_file_is_the_same(tmp_path):
    path = tmp_path / "tiny.lib.gz"
    path.write_bytes(gzip.compress(TINY.read_bytes()))
    compressed = read_library(path)
    assert compressed.text == TINY.read_text() and compressed.cells.keys() == read_library(TINY).cells.keys()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"module m; endmodule",
        b"cell (a) { area : 1; }",
        b"library (l) { cell (a) {",
        gzip.compress(b"library (l) { }", mtime=0)[:-9],
        b"\xff\xfe",
    ],
)
def test_a_file_that_is_no_liberty_file_is_refused(content, tmp_path):
    path = tmp_path / "wrong.lib"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong\.lib is not a liberty file \(\.lib or \.lib\.gz\)"):
        read_library(path)


def test_a_file_that_lacks_something_is_told_what(tmp_path):
    with pytest.raises(ValueError, match="there is no liberty file"):
        read_library(tmp_path / "none.lib")
    path = tmp_path / "few.lib"
    path.write_text("library (l) { }")
    with pytest.raises(ValueError, match=r"few\.lib has no cells"):
        read_library(path)
    path.write_text("library (l) { cell (a) { area : 1; } }")
    with pytest.raises(ValueError, match=r"few\.lib has no NAND of two inputs"):
        assert read_library(path).nand2_area
    path.write_text('library (l) { time_unit : "1h"; cell (a) { area : 1; } }')
    with pytest.raises(ValueError, match=r"few\.lib has units of time or capacitance that are none"):
        read_library(path)
