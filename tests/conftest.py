"""A network and cores that are small enough to be simulated in every test."""

import numpy as np
import pytest

from vitloom.hw.config import CoreConfig
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_vit import ViTConfig, random_state
from vitloom.model.quantize import quantize

TINY_VIT = ViTConfig(img_size=8, patch_size=4, in_chans=3, num_classes=7, embed_dim=12, depth=1, num_heads=3)
TINY_SWIN = SwinConfig(img_size=56, num_classes=7, embed_dim=16, depths=(2, 1), num_heads=(1, 2))
TINY_CORE = {"scratchpad_bytes": 1 << 14, "accumulator_rows": 16, "constant_channels": 256, "norm_channels": 64, "program_depth": 128}


@pytest.fixture(scope="session")
def tiny_vit():
    return TINY_VIT


@pytest.fixture(scope="session")
def tiny_images():
    return np.random.default_rng(3).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="session")
def tiny_network(tiny_images):
    return quantize(TINY_VIT, random_state(TINY_VIT, 0), tiny_images, name="tiny", origin="random")


@pytest.fixture(scope="session")
def tiny_swin_network():
    """Two stages of 14 x 14 and 7 x 7 tokens in windows of 7 x 7, with a shifted block and a patch merging."""
    images = np.random.default_rng(3).integers(0, 256, (2, 3, 56, 56), dtype=np.uint8)
    return quantize(TINY_SWIN, random_state(TINY_SWIN, 0), images, name="tiny_swin", origin="random")


@pytest.fixture(scope="session")
def tiny_config():
    """Configuration of a small core with that many lanes."""

    def tiny_config(lanes=4, **changes):
        return CoreConfig(lanes=lanes, **{**TINY_CORE, **changes})

    return tiny_config
