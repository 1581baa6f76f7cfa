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
    ],
)
def test_utilization(network, name, settings, least):
    program = compile_network(network_structure(network), preset(name, settings))
    assert report(program, preset=name)["total"]["utilization"] >= least
