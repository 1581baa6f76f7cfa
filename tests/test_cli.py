"""The command line: what it writes, and one clear sentence for everything that is wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from vitloom import cli
from vitloom.boards import BOARDS
from vitloom.hw.config import PRESETS
from vitloom.model.checkpoint import save_checkpoint
from vitloom.model.float_vit import random_state
from vitloom.model.networks import ARCHITECTURES, DATA, samples
from vitloom.model.quantize import SCHEMES
from vitloom.model.synthetic import shaped_images
from vitloom.sim.runner import SimulationError
from vitloom.sim.simulate import SimulationResult


@pytest.fixture
def run(capsys):
    """Run a command: exit status, stdout, stderr."""

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must be refused in one sentence, without writing anything; the sentence."""

    def refused(*arguments):
        before = sorted(tmp_path.rglob("*"))
        status, out, error = run(*arguments)
        assert (status, out) == (2, "")
        assert error.startswith("vitloom")
        assert error.count("\n") == 1, error
        assert sorted(tmp_path.rglob("*")) == before
        return error

    return refused


@pytest.fixture(scope="module")
def network_file(tiny_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    tiny_network.save(path)
    return path


def test_list_has_everything_that_the_other_commands_take(run):
    status, out, _ = run("list")
    assert status == 0
    for name in (*ARCHITECTURES, *PRESETS, *BOARDS, *SCHEMES):
        assert name in out


def test_a_report_goes_to_the_screen_and_to_a_file(run, tmp_path):
    status, out, _ = run("report", "digits_vit", "--preset", "l8", "--json", tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert status == 0
    assert (content["network"], content["preset"], content["lanes"]) == ("digits_vit", "l8", 8)
    assert str(content["total"]["cycles"]) in out


def test_json_on_stdout_is_all_there_is_on_stdout(run):
    status, out, _ = run("report", "digits_vit", "--preset", "l4", "--json", "-")
    assert (status, json.loads(out)["lanes"]) == (0, 4)


def test_a_report_goes_into_a_table_and_a_page(run, tmp_path):
    paths = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "html")}
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    status, out, _ = run("report", "digits_vit", "--preset", "l8", "--compare", "4,8", "--clock", "25", *options)
    content = json.loads(paths["json"].read_text())
    assert status == 0
    assert [entry["preset"] for entry in content["comparison"]] == ["l4", "l8"]
    assert content["comparison"][1]["cycles"] == content["total"]["cycles"]
    assert f"{content['total']['frames_per_second']:.1f} frames a second" in out
    assert len(paths["csv"].read_text().splitlines()) == len(content["layers"]) + 1
    assert json.dumps(content["layers"]) in paths["html"].read_text()


def test_a_comparison_needs_no_preset(run):
    status, out, _ = run("report", "digits_vit", "--compare", "8,4", "--json", "-")
    content = json.loads(out)
    assert (status, content["preset"], [entry["lanes"] for entry in content["comparison"]]) == (0, "l8", [8, 4])
    assert "milliseconds" not in content["total"]


def test_wrong_options_of_a_report_are_refused(refused, tmp_path):
    command = ("report", "digits_vit", "--preset", "l8")
    assert "4, 8, 12, 16, 32, 64 with commas between them, not '9'" in refused(*command, "--compare", "8,9")
    assert "not ''" in refused(*command, "--compare", "")
    assert "more than 0 MHz, not 0.0" in refused(*command, "--clock", "0")
    assert "more than 0 MHz, not nan" in refused(*command, "--clock", "nan")
    assert "invalid float value: 'fast'" in refused(*command, "--clock", "fast")
    assert "stdout cannot take two results" in refused(*command, "--json", "-", "--csv", "-")
    for option in ("--csv", "--html"):
        assert "cannot write" in refused(*command, option, tmp_path)
        small = ("--compare", "4,8", "--set", "scratchpad_bytes=8192", option, tmp_path / "r")
        assert "needs a scratchpad of" in refused(*command, *small)


def test_a_setting_overrides_the_preset(run):
    slow, fast = (
        json.loads(run("report", "digits_vit", "--preset", "l8", "--set", f"memory_bytes_per_cycle={value}", "--json", "-")[1])
        for value in (1, 8)
    )
    assert slow["total"]["cycles"] > 2 * fast["total"]["cycles"]


def test_a_network_file_is_reported(run, network_file):
    status, out, _ = run("report", network_file, "--preset", "l4", "--json", "-")
    assert (status, json.loads(out)["network"]) == (0, "tiny")


def test_a_network_is_reported_from_its_shapes_and_that_is_said(run):
    status, out, error = run("report", "deit_tiny", "--preset", "l16", "--json", "-")
    assert (status, json.loads(out)["total"]["macs"]) == (0, 1253683200)
    assert "deit_tiny: no weights: shapes only" in error


def test_a_checkpoint_gives_a_named_network_its_weights(run, refused, tmp_path, network_file):
    checkpoint, small = DATA / "digits_vit.safetensors", DATA / "digits_vit.int.safetensors"
    status, out, error = run("report", "digits_vit", "--preset", "l8", "--checkpoint", checkpoint, "--json", "-")
    assert (status, json.loads(out)["origin"]) == (0, "digits_vit.safetensors, calibrated on 2 images of 1/f noise")
    assert "1/f noise" in error
    assert run("report", "digits_vit", "--preset", "l8", "--checkpoint", small)[0] == 0
    assert "first in cls_token" in refused("report", "deit_tiny", "--preset", "l8", "--checkpoint", checkpoint)
    assert "does not exist" in refused("report", "deit_tiny", "--preset", "l8", "--checkpoint", tmp_path / "none.safetensors")
    assert "goes with the name of a network" in refused("report", network_file, "--preset", "l8", "--checkpoint", checkpoint)


def test_some_layers_are_reported_alone(run, refused):
    command = ("report", "deit_tiny", "--preset", "l16", "--layers")
    status, out, _ = run(*command, "blocks.3,blocks.4.norm1", "--json", "-")
    content = json.loads(out)
    assert (status, content["network"]) == (0, "deit_tiny (blocks.3,blocks.4.norm1)")
    assert [layer["name"] for layer in content["layers"]][7:] == ["blocks.3.mlp.fc1", "blocks.3.mlp.fc2", "blocks.4.norm1"]
    assert "no layer 'blocks.99'; there are patch_embed, blocks.0" in refused(*command, "blocks.99")
    assert "no layer ''" in refused(*command, "")
    assert "blocks.1.norm1 lies between" in refused(*command, "blocks.0,blocks.2")


def test_some_layers_are_simulated_alone(run):
    status, out, _ = run("simulate", "digits_vit", "--preset", "l8", "--layers", "blocks.1", "--json", "-")
    content = json.loads(out)
    assert (status, content["bit_exact"], content["differences"]) == (0, True, [])
    assert (content["predictions"], content["labels"]) == ([], [])
    assert {layer["name"].split(".")[1] for layer in content["layers"]} == {"1"}


def test_unknown_names_are_refused_with_the_known_ones(refused, tmp_path):
    assert "digits_vit" in refused("report", "digit_vit", "--preset", "l8")
    assert "ulx3s-85f" in refused("report", "digits_vit", "--preset", "l9")
    assert "icebreaker" in refused("elaborate", "--preset", "l4", "--board", "arty", "-o", tmp_path / "out")
    assert "mac_array" in refused("synth", "--preset", "l4", "--unit", "alu")
    assert "report" in refused("repport")
    assert "COMMAND" in refused()
    assert "--preset" in refused("report", "digits_vit")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lane=8", "there are lanes"),
        ("lanes=9", "one of 4, 8, 12"),
        ("lanes=x", "takes an integer, not 'x'"),
        ("banks=3", "power of two"),
        ("banks", "takes an integer"),
        ("modes=int8+int3", "modes must be some of int8"),
        ("scratchpad_bytes=16", "at least"),
        ("memory_latency=0", "at least 1"),
    ],
)
def test_wrong_settings_are_refused(refused, setting, said):
    assert said in refused("report", "digits_vit", "--preset", "l8", "--set", setting)


def test_files_that_are_no_integer_network_are_refused(refused, tmp_path):
    (tmp_path / "text.safetensors").write_text("not a network")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "float.safetensors")
    assert "not a safetensors file" in refused("report", tmp_path / "text.safetensors", "--preset", "l8")
    assert "vitloom quantize" in refused("report", tmp_path / "float.safetensors", "--preset", "l8")
    assert "neither a file nor" in refused("report", tmp_path / "missing.safetensors", "--preset", "l8")
    assert str(tmp_path) in refused("report", tmp_path, "--preset", "l8")


def test_a_network_that_is_too_large_is_refused_with_the_size(refused, network_file):
    assert "8192 too few" in refused("report", "digits_vit", "--preset", "l8", "--set", "scratchpad_bytes=8192")
    assert "--set program_depth=64" in refused("report", network_file, "--preset", "l8", "--set", "program_depth=32")


def test_wrong_images_are_refused(refused, tmp_path):
    image = samples("digits_vit")[0][0]
    command = ("simulate", "digits_vit", "--preset", "l8", "--image")
    np.save(tmp_path / "wide.npy", np.zeros((1, 8, 9), np.uint8))
    np.save(tmp_path / "float.npy", image.astype(np.float32))
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", image=image)
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert "uint8 of shape (1, 8, 9); the network takes uint8 of shape (1, 8, 8)" in refused(*command, tmp_path / "wide.npy")
    assert "is float32 of shape" in refused(*command, tmp_path / "float.npy")
    assert "not a .npy file" in refused(*command, tmp_path / "object.npy")
    assert "not a .npy file" in refused(*command, tmp_path / "image.png")
    assert "several arrays" in refused(*command, tmp_path / "several.npz")
    assert "does not exist" in refused(*command, tmp_path / "missing.npy")
    assert "not both" in refused(*command, tmp_path / "wide.npy", "--samples", 2)


def test_the_memory_may_stall_and_then_cycles_are_only_bounded(run, refused):
    command = ("simulate", "digits_vit", "--preset", "l8", "--layers", "head", "--stalls")
    status, out, _ = run(*command, 5)
    assert status == 0
    assert "memory stalls of seed 5, not predicted: cycles bounded by" in out
    assert "equal the timing model's" not in out
    assert "the seed of stalls must be 1 to 4294967295, not 0" in refused(*command, 0)


def test_wrong_numbers_of_samples_are_refused(refused):
    assert "at least 1, not 0" in refused("simulate", "digits_vit", "--preset", "l8", "--samples", 0)
    assert "has 20 samples, not 21" in refused("simulate", "digits_vit", "--preset", "l8", "--samples", 21)
    assert "invalid int value: 'all'" in refused("simulate", "digits_vit", "--preset", "l8", "--samples", "all")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "simulate", lambda *_, **__: pytest.fail("worked before it looked"))
    for path in (tmp_path, tmp_path / "missing" / "r.json"):
        assert "cannot write" in refused("simulate", "digits_vit", "--preset", "l8", "--json", path)


def test_a_failed_command_leaves_the_old_file(refused, tmp_path):
    (tmp_path / "r.json").write_text("old")
    refused("report", "digits_vit", "--preset", "l8", "--set", "banks=3", "--json", tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "old"


def outcome(network, config, **found):
    """The result of a simulation of one sample that found this."""
    program = cli.compile_network(network, config)
    return SimulationResult(program=program, **{"values_compared": 100, "predictions": [7], "labels": [7], "cycles": [9], **found})


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ({}, 0, "100 values compared with the golden model: all equal"),
        ({"wrong": 3}, 1, "3 differ"),
        ({"differences": ["run 0: the core counted 9 cycles, the model says 8"]}, 1, "the core counted 9 cycles"),
        ({"values_compared": 0}, 1, "0 values compared"),
    ],
)
def test_the_exit_status_says_whether_everything_agreed(run, monkeypatch, tmp_path, found, status, said):
    monkeypatch.setattr(cli, "simulate", lambda network, config, images, labels, **_: outcome(network, config, **found))
    got, out, _ = run("simulate", "digits_vit", "--preset", "l8", "--json", tmp_path / "r.json")
    assert (got, said in out) == (status, True)
    assert json.loads((tmp_path / "r.json").read_text())["total"]["cycles_rtl"] == 9


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [(SimulationError("it broke"), 1, "vitloom: it broke\n"), (KeyboardInterrupt(), 130, "vitloom: interrupted\n")],
)
def test_a_simulation_that_breaks_says_so_in_one_line(run, monkeypatch, raised, status, said):
    def broken(*_, **__):
        raise raised

    monkeypatch.setattr(cli, "simulate", broken)
    assert run("simulate", "digits_vit", "--preset", "l8") == (status, "", said)


def test_one_channel_may_be_left_out_of_an_image(run, monkeypatch, tmp_path):
    seen = []

    def look(network, config, images, labels, **_):
        seen.append((images, labels))
        return outcome(network, config, labels=[])

    monkeypatch.setattr(cli, "simulate", look)
    image = samples("digits_vit")[0][3]
    for name, array in (("a.npy", image), ("b.npy", image[0])):
        np.save(tmp_path / name, array)
        assert run("simulate", "digits_vit", "--preset", "l8", "--image", tmp_path / name)[0] == 0
    for images, labels in seen:
        np.testing.assert_array_equal(images, image[None])
        assert labels is None


def test_a_network_without_samples_gets_noise_like_photographs_and_that_is_said(run, monkeypatch, network_file, tiny_vit):
    seen = []

    def look(network, config, images, labels, **_):
        seen.append((images, labels))
        return outcome(network, config, labels=[])

    monkeypatch.setattr(cli, "simulate", look)
    status, _, error = run("simulate", network_file, "--preset", "l4", "--samples", 3)
    assert status == 0
    assert "tiny has no sample images; noise with the spectrum of photographs is in their place" in error
    ((images, labels),) = seen
    assert (images.shape, images.dtype, labels) == ((3, 3, 8, 8), np.uint8, None)
    spectrum = (np.abs(np.fft.fft2(images)) ** 2).mean((0, 1))
    assert spectrum[0, 1] + spectrum[1, 0] > 4 * (spectrum[0, 4] + spectrum[4, 0])
    assert np.any(images[:2] != shaped_images(tiny_vit, 2)), "synthetic weights are calibrated on these"


def test_quantize_writes_a_network_that_the_others_take(run, refused, tmp_path, tiny_vit, tiny_images):
    save_checkpoint(tmp_path / "float.safetensors", tiny_vit, random_state(tiny_vit, 0))
    np.savez(tmp_path / "images.npz", images=tiny_images)
    command = ("quantize", tmp_path / "float.safetensors", "--calibration", tmp_path / "images.npz", "-o", tmp_path / "out.safetensors")
    assert "unknown architecture" in refused(*command, "--arch", "vit_huge")
    assert "unknown scheme" in refused(*command, "--arch", "auto", "--scheme", "ternary")
    assert run(*command, "--arch", "auto")[0] == 0
    assert run("report", tmp_path / "out.safetensors", "--preset", "l4", "--json", "-")[0] == 0


def test_elaborate_writes_verilog(run, tmp_path, monkeypatch):
    tiny = replace(PRESETS["l4"], scratchpad_bytes=1 << 12, constant_channels=64, norm_channels=64, program_depth=32)
    monkeypatch.setitem(PRESETS, "l4", tiny)
    status, out, _ = run("elaborate", "--preset", "l4", "-o", tmp_path / "out")
    assert status == 0
    assert str(tmp_path / "out" / "core.v") in out.splitlines()
    assert "module core(" in (tmp_path / "out" / "core.v").read_text()
