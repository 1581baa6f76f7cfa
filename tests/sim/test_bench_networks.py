import json

import pytest

from vitloom.hw.config import preset
from vitloom.sim import bench, bench_networks
from vitloom.sim.bench_networks import CASES, NETWORKS, RUNS, Case, model, networks_text, report_seconds, rtl

SMALL = ("scratchpad_bytes=32768", "accumulator_rows=32", "constant_channels=256", "norm_channels=128", "map_rows=0", "program_depth=256")
DIGITS = Case(network="digits_vit", preset="l4", settings=(*SMALL, "memory_bytes_per_cycle=2"), layers=("blocks.0",))
MODELLED = {
    "networks": {case.model_name: {"cycles": 100, "utilization": 0.9876, "instructions": 7} for case in CASES},
    "reports": {"vit_large": 0.31},
}
RAN = {
    "agreed": True,
    "values_compared": 8280728,
    "values_different": 0,
    "cycles": 4956929,
    "cycles_allowed": [4956929, 4956929],
    "utilization": 0.988,
    "cycles_per_second": 168473,
    "wall_seconds": 64.04,
    "elaborate_seconds": 7.5,
    "compile_seconds": 50.25,
}


def row(text, *cells):
    """The only line of a text that begins with these cells."""
    begin = "| " + " | ".join(cells) + " |"
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    return line


def test_every_number_that_is_asked_for_has_a_case():
    asked = {(case.network, case.config.lanes): case.least for case in CASES if case.least and not case.settings}
    assert asked == {
        ("deit_tiny", 16): 0.97,
        ("deit_tiny", 32): 0.94,
        ("deit_small", 16): 0.98,
        ("deit_small", 32): 0.965,
        ("deit_base", 16): 0.985,
        ("deit_base", 32): 0.975,
        ("swin_tiny", 16): 0.95,
        ("swin_tiny", 32): 0.92,
    }
    assert {case.memory for case in CASES if case.network == "deit_tiny" and case.preset == "l16"} == {
        "16 B/cycle",
        "4 B/cycle",
        "2 B/cycle",
        "16 B/cycle, random stalls",
        "320 KiB scratchpad, 16 B/cycle",
        "256 KiB scratchpad, 2 B/cycle",
    }


def test_every_run_is_a_part_of_the_bench():
    assert len(RUNS) == sum(case.simulated for case in CASES)
    assert {"networks", "rtl-deit_tiny-l16", "rtl-deit_base-l16-blocks.0", "rtl-deit_tiny-l16-stalls=1"} < set(bench.PARTS)
    assert NETWORKS.keys() < bench.PARTS.keys()


def test_what_was_not_measured_is_said_to_be_so():
    text = networks_text({})
    assert text.count("not measured") == sum(5 if case.simulated else 1 for case in CASES) + 7
    for line in text.splitlines():
        assert not any(character.isdigit() for character in line.rpartition("not measured")[2])


def test_measured_numbers_stand_beside_those_that_are_asked_for():
    text = networks_text(MODELLED | {"rtl-deit_tiny-l16": RAN})
    begin = ("deit_tiny", "16", "16 B/cycle", ">= 97.0 %", "98.8 %")
    assert row(text, *begin).endswith("| all | 4 956 929 | 98.8 % | 8 280 728, all equal | 168 473 |")
    assert row(text, "`vitloom report vit_large --preset l16`").endswith("| < 10 s | 0.3 s |")
    assert row(text, "elaborate and compile a core, l16, once, the slowest").endswith("| <= 120 s | 57.8 s |")
    assert row(text, "elaborate and compile a core, l32, once, the slowest").endswith("| <= 300 s | not measured |")
    assert row(text, "an image of deit_tiny, l16, from start to interrupt").endswith("| <= 60 s | 29.4 s |")


def test_what_disagrees_is_shown_and_fails_the_bench(tmp_path, capsys):
    stalls = RAN | {"agreed": False, "values_different": 3, "cycles": 5000001, "cycles_allowed": [4956929, 5000000]}
    results = tmp_path / "bench.json"
    results.write_text(json.dumps({"accuracy": {"network": "digits_vit", "correct": 1, "images": 1}, "rtl-deit_tiny-l16-stalls=1": stalls}))
    for name in ("document", "readme"):
        marks = [f"<!-- bench {table} -->\nformer\n<!-- end -->\n" for table in (["accuracy"] if name == "document" else ["networks"])]
        (tmp_path / name).write_text("".join(marks))
    paths = [f"--{name}={tmp_path / name}" for name in ("document", "readme")]
    assert bench.main(["accuracy", "--resume", f"--json={results}", *paths]) == 1
    assert "not as the models say in rtl-deit_tiny-l16-stalls=1" in capsys.readouterr().err
    assert json.loads(results.read_text())["accuracy"]["images"] == 1
    text = (tmp_path / "readme").read_text()
    line = row(text, "deit_tiny", "16", "16 B/cycle, random stalls")
    assert "5 000 001 (allowed 4 956 929 to 5 000 000), NOT AS THE MODELS SAY" in line
    assert "3 DIFFERENT" in line
    assert "former" not in text


def test_the_timing_model_takes_a_case_with_its_settings():
    slow = Case(network="digits_vit", preset="l8", settings=("memory_bytes_per_cycle=1",))
    found = model((Case(network="digits_vit", preset="l8"), slow, slow))
    assert list(found) == ["digits_vit-l8", "digits_vit-l8-memory_bytes_per_cycle=1"]
    fast, slow = found.values()
    assert fast["cycles"] < slow["cycles"]
    assert fast["utilization"] == pytest.approx(3495040 / 64 / fast["cycles"], abs=1e-6)


def test_the_command_is_timed():
    assert 0 < report_seconds(["digits_vit"])["digits_vit"] < 60


def test_a_case_runs_on_the_rtl():
    result = rtl(DIGITS)
    assert result["agreed"] and result["values_compared"] > 10_000 and result["values_different"] == 0
    assert result["cycles"] == result["cycles_model"]
    assert result["cycles_allowed"] == [result["cycles"]] * 2
    macs = 17 * 64 * (12 * 64 + 2 * 17)
    assert result["utilization"] == pytest.approx(macs / preset("l4").lanes ** 2 / result["cycles"], abs=1e-6)
    assert bench_networks.networks_text({"rtl-deit_tiny-l16": result})
