"""How well whole networks use the array, by the timing model: the numbers that the project promises."""

import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import preset
from vitloom.model.networks import network_structure
from vitloom.sim.report import report


@pytest.mark.parametrize(
    ("network", "name", "settings", "least"),
    [
        ("deit_tiny", "l16", [], 0.987),
        ("deit_tiny", "l32", [], 0.968),
        ("deit_tiny", "l16", ["memory_bytes_per_cycle=4"], 0.98),
        ("deit_tiny", "l16", ["scratchpad_bytes=327680"], 0.95),
        ("deit_small", "l16", [], 0.99),
        ("deit_base", "l16", [], 0.99),
        ("swin_tiny", "l16", [], 0.95),
        ("swin_tiny", "l32", ["epilogue_lanes=32"], 0.92),
        ("swin_small", "l16", [], 0.97),
    ],
)
def test_utilization(network, name, settings, least):
    program = compile_network(network_structure(network), preset(name, settings))
    assert report(program, preset=name)["total"]["utilization"] >= least


def test_a_product_that_is_too_deep_for_few_lanes_is_refused():
    said = "blocks.0.mlp.fc2 takes 4096 channels; with 4 lanes a product takes at most 4092"
    with pytest.raises(ValueError, match=f"^{said}$"):
        compile_network(network_structure("vit_large"), preset("l4"))
