from vitloom.boards import BOARDS
from vitloom.sim.bench_devices import DEVICE_RUNS, devices_text


def test_each_board_is_measured():
    assert list(DEVICE_RUNS) == [f"device-{name}" for name in BOARDS]


def test_a_row_has_what_is_used_of_what_is_there_and_leaves_out_what_is_not():
    resources = [
        {"name": "LUT", "used": 12, "available": 100},
        {"name": "block RAM", "used": 7.5, "available": 6},
        {"name": "LUT sites", "used": 13, "available": 100},
    ]
    entry = {"preset": "p", "device": "D", "resources": resources, "macs_per_cycle": {"int8": 16, "binary": 128}, "does_not_fit": "x"}
    rows = devices_text({"device-ulx3s-85f": entry}).splitlines()
    assert rows[2] == "| p | D | 128 | 12 of 100 |  |  |  |  | 7.5 of 6 |  | no |"
    assert "| yes |" in devices_text({"device-ulx3s-85f": entry | {"does_not_fit": ""}})
