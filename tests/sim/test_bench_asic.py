from vitloom.sim import bench
from vitloom.sim.bench_asic import ASIC_RUNS, LIBERTY, asic_text, asic_units_text


def entry(lanes, *modes):
    array = {"kge": 1.5 * lanes**2, "path_ps": 3000.0}
    return {
        "lanes": lanes,
        "configuration": {"modes": modes},
        "kge": 4.0 * lanes**2,
        "area_um2": 2.5e6,
        "flip_flops": 1234,
        "memory_bits": 8192 * 2100,
        "path_ps": 5000.0,
        "mhz": 200.0,
        "gops_per_mm2": 10.24,
        "units": {"core": {"kge": 4.0 * lanes**2, "path_ps": 5000.0}, "core.array.array": array, "core.tiny": {"kge": 0.1, "path_ps": 1.0}},
    }


def test_a_core_s_row_has_what_a_mac_takes_and_the_rate_of_its_densest_mode():
    rows = asic_text({"asic-l8-int8+log2+binary": entry(8, "int8", "log2", "binary")}).splitlines()
    assert len(rows) == 3
    figures = "256 | 4.00 | 1.50 | 1234 | 2100 | 2.50 | 5.00 | 200 | 10.2 | 81.9"
    assert rows[2] == f"| 8 | int8, log2, binary | {figures} |"


def test_units_of_all_cores_are_side_by_side_without_the_smallest():
    results = {"asic-l8-int8+log2": entry(8, "int8", "log2"), "asic-l16-int8+log2": entry(16, "int8", "log2")}
    rows = asic_units_text(results).splitlines()
    assert rows[0] == "| unit | L = 8, int8, log2 | L = 16, int8, log2 |"
    assert rows[2:] == ["| core | 256.0; 5.00 | 1024.0; 5.00 |", "| array.array | 96.0; 3.00 | 384.0; 3.00 |"]


def test_without_a_liberty_file_the_parts_say_that_they_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(LIBERTY, raising=False)
    documents = []
    for name in ("document", "readme"):
        (tmp_path / name).write_text("nothing measured\n")
        documents += [f"--{name}", str(tmp_path / name)]
    part = next(iter(ASIC_RUNS))
    assert bench.main([part, "--json", str(tmp_path / "bench.json"), *documents]) == 0
    assert f"{part} is LEFT OUT: {LIBERTY} must be the path of a liberty file" in capsys.readouterr().err
    assert part not in (tmp_path / "bench.json").read_text()
