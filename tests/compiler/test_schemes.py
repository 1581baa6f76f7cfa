"""Programs of quantised low-bit networks, of each scheme."""

import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import preset
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_vit import ViTConfig
from vitloom.model.quantize import quantize
from vitloom.model.schemes.scheme import LOW_BIT
from vitloom.model.synthetic import shaped_images, synthetic_state

CONFIGS = {
    "vit": ViTConfig(img_size=16, patch_size=4, num_classes=5, embed_dim=48, depth=1, num_heads=3, distilled=True),
    "swin": SwinConfig(img_size=16, patch_size=2, num_classes=5, embed_dim=16, depths=(2, 1), num_heads=(1, 2), window_size=4),
}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("scheme", LOW_BIT)
def test_a_quantised_network_of_every_scheme_runs_as_its_golden_model(family, scheme, assert_runs_as_golden):
    config = CONFIGS[family]
    network = quantize(config, synthetic_state(config), shaped_images(config, 2), scheme=scheme, name=scheme, origin="synthetic")
    assert_runs_as_golden(network, compile_network(network, preset("l8-all")), [None, 0])
