"""A whole network on the RTL: every value of every tensor, every start and end of every instruction."""

import json

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.hw.config import preset
from vitloom.model import golden
from vitloom.model.networks import integer_network, samples
from vitloom.model.part import part
from vitloom.sim import conversion
from vitloom.sim import simulate as simulate_module
from vitloom.sim.report import model_timings
from vitloom.sim.simulate import simulate
from vitloom.sim.stalls import cycle_bounds, handshakes
from vitloom.sim.trace import read_outputs


def values_of(network, count):
    """Values that the engines compute in ``count`` runs; the outputs are compared in the scratchpad and in external memory."""
    loaded = {network.input: network.tensor(network.input).rows}
    for constant in network.constants:
        loaded[constant.output] = len(network.arrays[f"{constant.name}.value"])
    inside = sum((t.rows - loaded.get(t.name, 0)) * t.groups * t.channels for t in network.tensors)
    return count * (inside + sum(np.prod(network.tensor(name).shape) for name in network.outputs))


@pytest.fixture(scope="module")
def result(tiny_network, tiny_config, tiny_images):
    return simulate(tiny_network, tiny_config(4), tiny_images, labels=[1, 2, 3])


def test_every_value_and_every_cycle_agrees(result, tiny_network):
    assert (result.mismatches, result.differences) == ([], [])
    assert (result.bit_exact, result.agreed) == (True, True)
    assert result.values_compared == values_of(tiny_network, 3)


def test_the_predictions_are_the_golden_models(result, tiny_network, tiny_images):
    np.testing.assert_array_equal(result.predictions, golden.predict(tiny_network, tiny_images))
    assert result.labels == [1, 2, 3]


def test_the_cycles_are_the_cores(result):
    _, total = model_timings(result.program)
    assert result.cycles == [total] * 3
    assert sum(result.layer_cycles) == total
    assert result.cycles_per_second > 0


def test_the_json_is_the_report_with_what_was_measured(result):
    content = json.loads(json.dumps(result.content(preset="tiny")))
    assert content["total"]["cycles_rtl"] == content["total"]["cycles"]
    assert [layer["cycles_rtl"] for layer in content["layers"]] == [layer["cycles"] for layer in content["layers"]]
    names = {"bit_exact", "values_compared", "mismatches", "predictions", "labels", "cycles_per_second", "wall_seconds"}
    assert names <= content.keys()


def test_the_seconds_of_the_build_are_kept_with_it(result, tiny_network, tiny_config, tiny_images, monkeypatch):
    model = simulate_module.core_model(tiny_config(4), result.program)
    assert (result.elaborate_seconds, result.compile_seconds) == (model.elaborate_seconds, model.compile_seconds)
    assert result.elaborate_seconds > 0
    content = result.content(preset="tiny")
    assert content["stalls"] is None
    assert (content["elaborate_seconds"], content["compile_seconds"]) == (model.elaborate_seconds, model.compile_seconds)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(conversion.verilog, "to_verilog", lambda *_: pytest.fail("converted again"))
    assert simulate(tiny_network, tiny_config(4), tiny_images[:1]).elaborate_seconds == result.elaborate_seconds


@pytest.mark.parametrize("changes", [{"lanes": 4}, {"lanes": 8}, {"lanes": 8, "memory_bytes_per_cycle": 1}], ids=str)
@pytest.mark.parametrize("seed", [1, 4242, (1 << 32) - 1])
def test_stalls_of_the_memory_change_cycles_and_nothing_else(tiny_network, tiny_config, tiny_images, changes, seed):
    result = simulate(tiny_network, tiny_config(**changes), tiny_images[:2], stalls=seed)
    _, total = model_timings(result.program)
    assert (result.mismatches, result.differences) == ([], [])
    assert result.values_compared == values_of(tiny_network, 2)
    assert result.bounds == cycle_bounds(result.program, total)
    assert all(total < cycles <= result.bounds[1] for cycles in result.cycles)
    content = json.loads(json.dumps(result.content(preset="tiny")))
    assert content["stalls"] == {"seed": seed, "least_cycles": total, "most_cycles": result.bounds[1], "cycles": result.cycles}


def test_nearly_all_waits_count_where_the_memory_is_the_bottleneck(tiny_network, tiny_config, tiny_images):
    result = simulate(tiny_network, tiny_config(8, memory_bytes_per_cycle=1), tiny_images[:1], stalls=3)
    least, _ = result.bounds
    assert result.cycles[0] - least > handshakes(result.program) / 4


def test_cycles_outside_their_bounds_are_reported(tiny_network, tiny_config, tiny_images, monkeypatch):
    monkeypatch.setattr(simulate_module, "cycle_bounds", lambda program, cycles: (cycles, cycles + 1))
    result = simulate(tiny_network, tiny_config(4), tiny_images[:1], stalls=1)
    _, total = model_timings(result.program)
    assert result.bit_exact
    assert result.differences == [f"run 0: the core counted {result.cycles[0]} cycles, the model says {total} to {total + 1} with stalls"]


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 8},
        {"lanes": 8, "memory_bytes_per_cycle": 2, "memory_latency": 3},
        {"lanes": 4, "epilogue_lanes": 4, "memory_latency": 100},
        {"lanes": 8, "epilogue_lanes": 4, "queue_depth": 2, "banks": 4, "program_depth": 16, "program_stream": True},
        {"lanes": 12, "scratchpad_bytes": 1 << 15, "program_depth": 32, "program_stream": True},
    ],
)
def test_other_cores_agree_as_well(tiny_network, tiny_config, tiny_images, changes):
    """Two runs each: of a streamed program the host writes the first blocks once."""
    result = simulate(tiny_network, tiny_config(**changes), tiny_images[:2])
    assert (result.mismatches, result.differences) == ([], [])
    assert result.values_compared == values_of(tiny_network, 2)
    assert result.program.streamed == changes.get("program_stream", False)


def test_a_fault_in_the_parameters_is_found(tiny_network, tiny_config, tiny_images, monkeypatch):
    """A core that computes with another weight than the golden model disagrees from that layer on."""
    write_job = simulate_module.write_job

    def corrupted(folder, program, inputs):
        write_job(folder, program, inputs)
        address, words = program.memory_plan["blocks.0.mlp.fc1.weight"]
        lines = (folder / "memory.hex").read_text().split("\n")
        for index in range(address, address + words):
            lines[index] = f"{int(lines[index], 16) ^ 0x40404040:08x}"
        (folder / "memory.hex").write_text("\n".join(lines))

    monkeypatch.setattr(simulate_module, "write_job", corrupted)
    result = simulate(tiny_network, tiny_config(4), tiny_images[:1])
    assert not result.bit_exact
    assert result.wrong > len(result.mismatches) == 20
    assert {entry.tensor for entry in result.mismatches} == {"blocks.0.mlp.fc1"}
    assert all(entry.got != entry.expected for entry in result.mismatches)
    assert result.differences == []


def test_a_run_that_stops_with_an_error_is_reported(tiny_network, tiny_config, tiny_images):
    result = simulate(tiny_network, tiny_config(4), tiny_images[:2], plusargs=["error=40"])
    assert not result.agreed
    assert any("error MEMORY_READ" in text for text in result.differences)
    assert result.content(preset="tiny")["layers"][0]["cycles_rtl"] is None


def test_digits_on_eight_lanes():
    """The trained network of the package classifies its samples on the RTL."""
    network = integer_network("digits_vit")
    images, labels = samples("digits_vit")
    result = simulate(network, preset("l8"), images[:3], labels[:3])
    assert (result.mismatches, result.differences) == ([], [])
    assert result.values_compared == values_of(network, 3)
    assert result.predictions == result.labels


@pytest.mark.parametrize(
    ("name", "layers", "lanes"),
    [
        ("tiny_network", ["blocks.0"], 4),
        ("tiny_network", ["blocks.0"], 8),
        ("tiny_network", ["patch_embed"], 4),
        ("tiny_network", ["norm", "head"], 4),
        ("tiny_swin_network", ["patch_embed"], 8),
        ("tiny_swin_network", ["layers.0"], 8),
        ("tiny_swin_network", ["layers.1", "norm", "pool"], 8),
    ],
)
def test_a_part_of_a_network_agrees_as_well(request, tiny_config, name, layers, lanes):
    network = request.getfixturevalue(name)
    form = network.image
    images = np.random.default_rng(7).integers(0, 256, (2, form.channels, form.size, form.size), dtype=np.uint8)
    swin = {"scratchpad_bytes": 1 << 17, "accumulator_rows": 64, "norm_channels": 128, "program_depth": 1024}
    result = simulate(network, tiny_config(lanes, **(swin if "swin" in name else {})), images, [1, 2], layers=layers)
    cut = part(network, layers)
    assert (result.mismatches, result.differences) == ([], [])
    assert result.values_compared == values_of(cut, 2)
    assert (result.predictions, result.labels) == ([], [])
    assert [layer.name for layer in result.program.layers] == [operator.name for operator in cut.operators]


def test_outputs_have_the_memorys_byte_order(tiny_network, tiny_config, tmp_path):
    program = compile_network(tiny_network, tiny_config(4))
    (tmp_path / "output_0.hex").write_text("\n".join(f"{value & 0xFFFFFFFF:08x}" for value in (1, -2, 3, 4, 5, 6, 7, 0)))
    np.testing.assert_array_equal(read_outputs(tmp_path, program, 0)["head"], [[1, -2, 3, 4, 5, 6, 7]])
