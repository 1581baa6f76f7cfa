"""Low-bit networks on a core: cycles of whole ones by the timing model, and small ones on the RTL, to the value and to the cycle."""

from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import MODES, CoreConfig, preset
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_vit import ViTConfig, random_state
from vitloom.model.network import Linear
from vitloom.model.networks import network_structure
from vitloom.model.quantize import quantize
from vitloom.model.schemes.scheme import LOW_BIT
from vitloom.sim.report import report
from vitloom.sim.simulate import simulate

VIT = ViTConfig(img_size=20, patch_size=4, in_chans=1, num_classes=5, embed_dim=32, depth=1, num_heads=2, mean=(0.5,), std=(0.5,))
SWIN = SwinConfig(img_size=56, num_classes=7, embed_dim=16, depths=(2, 1), num_heads=(1, 2))
CORE = CoreConfig(
    lanes=8, modes=MODES, scratchpad_bytes=64 << 10, accumulator_rows=64, constant_channels=1024, norm_channels=512, map_rows=0
)


def noise(config) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, config.in_chans, config.img_size, config.img_size), dtype=np.uint8)


def quantized(config, scheme: str):
    return quantize(config, random_state(config, 1), noise(config), scheme=scheme, name="small", origin="random")


@pytest.mark.parametrize("scheme", LOW_BIT)
def test_a_core_of_all_modes_runs_every_scheme_to_the_value_and_to_the_cycle(scheme):
    result = simulate(quantized(VIT, scheme), CORE, noise(VIT))
    assert result.values_compared > 10_000
    assert (result.wrong, result.differences) == (0, [])


@pytest.mark.parametrize(
    "settings",
    [{"lanes": 16}, {"scratchpad_bytes": 32 << 10}, {"accumulator_rows": 32, "memory_bytes_per_cycle": 2}],
    ids=str,
)
def test_small_memories_change_a_program_for_windows_but_not_its_results(settings, assert_runs_as_golden):
    network = quantized(SWIN, "bivit_w1a1")
    assert_runs_as_golden(network, compile_network(network, CoreConfig(**{"lanes": 8, "modes": MODES, **settings})), [None, 0])


@pytest.mark.parametrize(
    ("name", "tiles", "most"),
    [
        ("bivit_deit_tiny_w1a1", 898_020, 1_050_000),
        ("bi_vit_deit_tiny", 914_040, 1_050_000),
        ("bivit_deit_tiny", 3_224_196, 3_260_000),
        ("bivit_swin_tiny_w1a1", 3_236_064, 3_350_000),
        ("qvit_deit_small_w2a2", 4_964_400, 5_000_000),
    ],
)
def test_low_bit_networks_take_little_more_than_their_tiles(name, tiles, most):
    program = compile_network(network_structure(name), preset("l16-all"))
    total = report(program, preset="l16-all")["total"]
    assert total["lower_bound_cycles"] == tiles
    assert tiles < total["cycles"] <= most


def test_weights_of_1_bit_keep_the_array_busy_on_a_memory_of_1_byte_a_cycle():
    network = network_structure("deit_tiny")
    operators = [replace(o, weight_bits=1) if isinstance(o, Linear) and o.name.startswith("blocks") else o for o in network.operators]
    config = preset("l16", ["packed_weights=1", "memory_bytes_per_cycle=1"])
    plain, packed = (compile_network(each, config) for each in (network, replace(network, operators=operators)))
    sizes = [sum(words for name, (_, words) in each.memory_plan.items() if name.endswith(".weight")) for each in (plain, packed)]
    assert sizes[0] >= 5.5 * sizes[1]
    assert report(packed, preset="l16")["total"]["utilization"] >= 0.94
