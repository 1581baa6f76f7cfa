"""The table of low-bit networks: what is asked, what is counted, and what of it is said."""

import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import preset
from vitloom.model.architectures import ARCHITECTURES, LOW_BIT_NETWORKS
from vitloom.model.float_vit import ViTConfig
from vitloom.model.networks import network_structure
from vitloom.sim import bench
from vitloom.sim.bench_low_bit import LOW_BIT_CASES, LOW_BIT_RUNS, LowBitCase, low_bit, low_bit_text, weight_bytes
from vitloom.sim.bench_networks import rtl

FASTEST = LOW_BIT_CASES[0]
MODELLED = {
    case.model_name: {
        "cycles": 909334,
        "lower_bound_cycles": 898020,
        "utilization": 0.78254,
        "weight_bytes": 1004544,
        "weight_bytes_int8": 5649408,
    }
    for case in LOW_BIT_CASES
}


def lines(text):
    """Cells of the lines below a table's head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_every_number_that_is_asked_for_has_a_case():
    asked = {(case.network, case.memory): case.required for case in LOW_BIT_CASES if case.required}
    assert asked == {
        ("bivit_deit_tiny_w1a1", "16 B/cycle"): "<= 1 050 000 cycles",
        ("deit_tiny_w1a8", "16 B/cycle"): "weights <= 1/5.5",
        ("deit_tiny_w1a8", "1 B/cycle"): ">= 94.0 %, weights <= 1/5.5",
    }
    assert FASTEST.network == "bivit_deit_tiny_w1a1" and FASTEST.simulated and not FASTEST.layers


def test_every_run_is_a_part_of_the_bench():
    assert {"low_bit", "rtl-bivit_deit_tiny_w1a1-l16-all", "rtl-bivit_swin_tiny_w1a1-l16-all-layers.3"} < set(bench.PARTS)
    assert LOW_BIT_RUNS.keys() < bench.PARTS.keys()
    assert not LOW_BIT_RUNS.keys() & bench.RUNS.keys()


@pytest.mark.parametrize("case", [case for case in LOW_BIT_CASES if "deit_tiny" in case.network], ids=lambda case: case.model_name)
def test_deit_tiny_takes_what_is_asked_by_the_timing_model(case):
    (found,) = low_bit([case]).values()
    assert found["lower_bound_cycles"] < found["cycles"] <= (case.most_cycles or found["cycles"])
    assert found["utilization"] >= case.least
    assert found["weight_bytes_int8"] >= case.smaller * found["weight_bytes"]


def test_weights_are_counted_with_patch_embedding_and_head():
    block = 4 * 192**2 + 2 * 192 * 768
    program = compile_network(network_structure("deit_tiny"), preset("l16"))
    assert weight_bytes(program) == 768 * 192 + 12 * block + 192 * 1008  # 1000 classes are 63 tiles
    program = compile_network(network_structure("deit_tiny_w1a8"), preset("l16-all"))
    assert weight_bytes(program) == 768 * 192 + 12 * block // 8 + 192 * 1008


def test_what_was_not_measured_is_said_to_be_so():
    text = low_bit_text({})
    assert text.count("not measured") == sum(9 if case.simulated else 5 for case in LOW_BIT_CASES)


def test_measured_numbers_stand_beside_those_that_are_asked_for():
    ran = {
        "agreed": True,
        "values_compared": 7000000,
        "values_different": 0,
        "cycles": 909334,
        "cycles_allowed": [909334, 909334],
        "utilization": 0.78254,
        "cycles_per_second": 100000,
    }
    (first, *_, last) = lines(low_bit_text({"low_bit": MODELLED, FASTEST.part: ran}))
    assert first[:6] == ["bivit_deit_tiny_w1a1", "16 B/cycle", "<= 1 050 000 cycles", "898 020", "909 334", "78.3 %"]
    assert first[6:8] == ["1 004 544 B", "1/5.62"]
    assert first[8:] == ["all", "909 334", "78.3 %", "7 000 000, all equal", "100 000"]
    assert last[4] == "909 334" and last[-1] == "not measured"


def test_what_disagrees_fails_the_bench(tmp_path, capsys):
    results, text = tmp_path / "bench.json", tmp_path / "text"
    entry = {
        "agreed": False,
        "values_compared": 9,
        "values_different": 2,
        "cycles": 1,
        "cycles_allowed": [1, 1],
        "utilization": 0.5,
        "cycles_per_second": 1,
    }
    bench._store(results, {FASTEST.part: entry, "low_bit": MODELLED})
    text.write_text("<!-- bench low_bit -->\nformer\n<!-- end -->\n")
    assert bench.main(["low_bit", "--resume", f"--json={results}", f"--document={text}", f"--readme={text}"]) == 1
    assert f"not as the models say in {FASTEST.part}" in capsys.readouterr().err
    assert "2 DIFFERENT" in text.read_text() and "former" not in text.read_text()


@pytest.fixture
def small_binary(monkeypatch):
    """A fully binary network that is known by name in this test, and the settings of a core that is small as well."""
    config = ViTConfig(img_size=20, patch_size=4, in_chans=1, num_classes=5, embed_dim=32, depth=1, num_heads=2, mean=(0.5,), std=(0.5,))
    monkeypatch.setitem(ARCHITECTURES, "small_binary", config)
    monkeypatch.setitem(LOW_BIT_NETWORKS, "small_binary", ("small_binary", "bivit_w1a1"))
    sizes = {"scratchpad_bytes": 64 << 10, "accumulator_rows": 64, "constant_channels": 1024, "norm_channels": 512, "map_rows": 0}
    return tuple(f"{name}={value}" for name, value in {**sizes, "epilogue_lanes": 2}.items())


def test_a_part_of_a_low_bit_network_runs_on_the_rtl(small_binary):
    result = rtl(LowBitCase(network="small_binary", preset="l8-all", settings=small_binary, layers=("blocks.0",)))
    assert (result["agreed"], result["values_different"], result["differences"]) == (True, 0, [])
    assert result["values_compared"] > 10_000 and result["cycles"] == result["cycles_model"]
    macs = 26 * 32 * (12 * 32 + 2 * 26)
    assert result["utilization"] == pytest.approx(macs / 8 / 8**2 / result["cycles"], abs=1e-6)
