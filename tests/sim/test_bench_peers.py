"""Side by side with SCALE-Sim: what it is given, what is read from it, and how the two are put together. SCALE-Sim does not run here."""

import configparser
import io
import json
import sys
from pathlib import Path

import pytest

from vitloom.compiler.compile import compile_network
from vitloom.hw.config import preset
from vitloom.model.networks import integer_network
from vitloom.sim.bench_peers import PUBLISHED, collect_gemms, compare, main, print_comparison
from vitloom.sim.report import report
from vitloom.sim.scalesim import DATAFLOWS, Gemm, config_text, parse_report, run_scalesim, topology_text

DEIT_TINY = [
    Gemm(kind=kind, M=M, K=K, N=N, count=1, cycles=0)
    for kind, M, K, N in (
        ("patch_embed", 196, 768, 192),
        ("attn.qkv", 197, 192, 576),
        ("attn.qk", 197, 64, 197),
        ("attn.av", 197, 197, 64),
        ("attn.proj", 197, 192, 192),
        ("mlp.fc1", 197, 192, 768),
        ("mlp.fc2", 197, 768, 192),
        ("head", 1, 192, 1000),
    )
]


@pytest.fixture
def sample():
    """COMPUTE_REPORT.csv of SCALE-Sim 3.0.0 for DEIT_TINY on a 16 x 16 weight-stationary array."""
    return (Path(__file__).parents[1] / "data" / "scalesim_compute_report.csv").read_text()


@pytest.fixture(scope="module")
def content():
    return report(compile_network(integer_network("digits_vit"), preset("l8")), preset="l8")


def test_the_cycles_in_a_compute_report_fill_and_drain_the_array_for_each_tile(sample):
    tiles = [-(-gemm.K // 16) * -(-gemm.N // 16) for gemm in DEIT_TINY]
    assert parse_report(sample, len(DEIT_TINY)) == [n * (gemm.M + 2 * 16 + 16 - 2) - 1 for n, gemm in zip(tiles, DEIT_TINY, strict=True)]


def test_a_report_of_another_shape_is_refused(sample):
    with pytest.raises(ValueError, match="reported 8 products, not 9"):
        parse_report(sample, 9)
    with pytest.raises(ValueError, match="no column"):
        parse_report(sample.replace(" Total Cycles,", " Cycles,"), 8)
    with pytest.raises(ValueError, match="no column"):
        parse_report(sample.replace("139391", "nan"), 8)


def test_the_topology_has_a_line_a_product_in_scalesims_order():
    lines = topology_text(DEIT_TINY).splitlines()
    assert lines[:2] == ["Layer,M,N,K,", "patch_embed,196,192,768,"]
    assert len(lines) == len(DEIT_TINY) + 1


def test_the_configuration_has_the_array_and_a_memory_that_never_waits():
    config = configparser.ConfigParser()
    config.read_string(config_text(32, "os"))
    array = config["architecture_presets"]
    assert (array["ArrayHeight"], array["ArrayWidth"], array["Dataflow"]) == ("32", "32", "os")
    assert config["run_presets"]["InterfaceBandwidth"] == "CALC"
    assert config["layout"]["FilterCustomLayout"] == "False"


def test_products_of_a_kind_are_added_over_the_blocks(content):
    gemms = {gemm.kind: gemm for gemm in collect_gemms(content["layers"], "cycles")}
    assert list(gemms) == ["patch_embed", "attn.qkv", "attn.qk", "attn.av", "attn.proj", "mlp.fc1", "mlp.fc2", "head"]
    assert (gemms["attn.qk"].count, gemms["mlp.fc1"].count, gemms["head"].count) == (8, 4, 1)
    assert gemms["mlp.fc2"].cycles == sum(layer["cycles"] for layer in content["layers"] if layer["name"].endswith("fc2"))
    assert sum(gemm.macs for gemm in gemms.values()) == content["total"]["macs"]


def test_both_sides_count_every_product_and_ours_everything_else(content):
    entry = compare(content, {"ws": [1000] * 8, "os": [900] * 7 + [1100]})  # 34 products, one of them the last kind
    assert {dataflow: each["cycles"] for dataflow, each in entry["scalesim"].items()} == {"ws": 34_000, "os": 30_800}
    assert entry["scalesim_switching_cycles"] == 30_700
    assert (entry["scalesim_best"], entry["origin"], entry["scalesim"]["os"]["origin"]) == ("os", "modelled", "modelled")
    assert sum(kind["cycles"] for kind in entry["kinds"]) + entry["other_cycles"] == content["total"]["cycles"]
    assert entry["total"]["utilization"] == content["total"]["utilization"]
    text = io.StringIO()
    print_comparison(entry, text)
    lines = text.getvalue().splitlines()
    assert [word in lines[1] for word in ("vitloom, modelled", "SCALE-Sim ws, modelled", "SCALE-Sim os, modelled")] == [True] * 3
    assert lines[-4].split() == ["total", str(content["total"]["cycles"]), "34000", "30800"]


def test_cycles_of_the_rtl_are_called_measured(content):
    layers = [{**layer, "cycles_rtl": layer["cycles"] + 1} for layer in content["layers"]]
    total = {**content["total"], "cycles_rtl": content["total"]["cycles"] + len(layers)}
    entry = compare({**content, "layers": layers, "total": total}, {"ws": [1000] * 8})
    assert (entry["origin"], entry["total"]["cycles"]) == ("measured", total["cycles_rtl"])


def test_published_figures_say_where_they_come_from():
    for each in PUBLISHED:
        assert each.origin in ("published", "derived")
        assert each.source and each.caveat


def refusal(capsys, *arguments):
    """The one sentence on stderr of a command that must fail."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_scalesim_one_sentence_says_what_to_do(capsys, tmp_path):
    assert "'make bench-peers' makes" in refusal(capsys, "--python", str(tmp_path / "python"))
    assert "cannot import SCALE-Sim (ModuleNotFoundError" in refusal(capsys, "--python", sys.executable)


def test_a_failed_run_says_why():
    with pytest.raises(ValueError, match="SCALE-Sim failed: ModuleNotFoundError: .*scalesim"):
        run_scalesim(Path(sys.executable), DEIT_TINY, 16, DATAFLOWS[0])


def test_a_file_without_measured_cycles_is_refused(capsys, tmp_path, content, monkeypatch):
    monkeypatch.setattr("vitloom.sim.bench_peers.scalesim_version", lambda python: "3.0.0")
    for text in (json.dumps(content), "[]", "no json"):
        (tmp_path / "run.json").write_text(text)
        sentence = refusal(capsys, "digits_vit", "--presets", "l8", "--measured", str(tmp_path / "run.json"))
        assert "not a finished 'vitloom simulate --json' of digits_vit on l8" in sentence
