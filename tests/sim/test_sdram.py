# amaranth: UnusedElaboratable=no
"""A network on the RTL with an SDRAM controller and its chip, and the timing model that knows them."""

from dataclasses import replace

import pytest

from vitloom.boards.sdram import Sdram, SdramChip
from vitloom.compiler.compile import compile_network
from vitloom.sim.report import model_timings
from vitloom.sim.sdram import board_controller
from vitloom.sim.simulate import simulate

CONTROLLER = Sdram(SdramChip(), 80e6)


def test_values_are_equal_and_cycles_close_to_the_model_with_an_sdram(tiny_network, tiny_config, tiny_images):
    result = simulate(tiny_network, tiny_config(4), tiny_images[:2], controller=CONTROLLER)
    assert result.agreed, result.differences
    least, most = result.bounds
    estimate = model_timings(result.program)[1]
    assert all(least < cycles <= most and abs(cycles - estimate) < 0.05 * estimate for cycles in result.cycles)
    assert result.content(preset="tiny")["sdram"] == {"least_cycles": least, "most_cycles": most, "bytes_per_cycle": 1.949}


def test_a_less_efficient_memory_takes_longer_in_the_model(tiny_network, tiny_config):
    config = tiny_config(8, memory_bytes_per_cycle=1)
    totals = [
        model_timings(compile_network(tiny_network, replace(config, memory_efficiency=efficiency)))[1] for efficiency in (1000, 900, 500)
    ]
    assert totals == sorted(totals) and totals[2] > 1.5 * totals[0]


def test_what_cannot_be_simulated_is_refused(tiny_network, tiny_config, tiny_images):
    with pytest.raises(ValueError, match="memory_efficiency=900 is for the timing model"):
        simulate(tiny_network, tiny_config(4, memory_efficiency=900), tiny_images[:1])
    with pytest.raises(ValueError, match="an SDRAM has no random stalls"):
        simulate(tiny_network, tiny_config(4), tiny_images[:1], stalls=1, controller=CONTROLLER)
    with pytest.raises(ValueError, match="icebreaker has no SDRAM chip"):
        board_controller("icebreaker")
    with pytest.raises(ValueError, match="must be 1 to 1000 thousandths, not 0"):
        tiny_config(4, memory_efficiency=0)


def test_the_controller_has_the_clock_of_the_preset_on_the_board_or_any_other():
    clocks = {("l16", None): (80e6, 2), ("ulx3s-85f", None): (100e6, 2), ("ulx3s-85f", 92.1): (92.1e6, 2), ("l16", 120): (120e6, 3)}
    for (preset, mhz), expected in clocks.items():
        controller = board_controller("ulx3s-85f", preset, mhz)
        assert (controller.clock_hz, controller.timing.cas) == expected
