from vitloom.boards.synth import whole
from vitloom.sim.bench_designs import DESIGN_RUNS, designs_text, with_rate


def test_each_design_is_that_of_a_board():
    assert [whole(name.removeprefix("design-")) for name in DESIGN_RUNS] == ["board"] * len(DESIGN_RUNS)


def row(name, entry):
    """Of the table, after the measurement of ``entry``."""
    (line,) = designs_text({f"design-{name}": with_rate(name, entry)}).splitlines()[2:]
    return line


def test_a_row_has_cells_clock_and_images_at_that_clock():
    resources = [{"name": "LUT", "used": 12}, {"name": "block RAM", "used": 7.5}, {"name": "LUT sites", "used": 13}]
    entry = {"lanes": 4, "resources": resources, "fmax": 24.0}
    *cells, rate = row("icebreaker", entry).strip("| ").split(" | ")
    assert cells == ["icebreaker", "4", "12", "", "", "", "", "7.5", "", ">= 12", "24.0", "digits_mlp"]
    slow = row("icebreaker", entry | {"fmax": 12.0})
    assert float(rate) > 0 and float(slow.split("|")[-2]) == float(rate) / 2
    slower, faster = (float(row("ulx3s-85f", entry | {"fmax": mhz}).split("|")[-2]) for mhz in (50.0, 100.0))
    assert slower < faster < 2 * slower  # rows of the SDRAM take longer in cycles
    assert row("ulx3s-85f", {"lanes": 8, "resources": []}).endswith("| >= 100 |  | digits_vit |  |")
