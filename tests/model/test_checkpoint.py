"""Reading float checkpoints, and what is said about files that are none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vitloom.model.checkpoint import infer_config, load_checkpoint, save_checkpoint
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_vit import ViTConfig, random_state
from vitloom.model.networks import DIGITS, architecture, integer_network, samples

DATA = Path(__file__).parents[1] / "data"
CONFIG = ViTConfig(
    img_size=12, patch_size=4, in_chans=2, num_classes=5, embed_dim=12, depth=2, num_heads=3, mlp_ratio=2.0, mean=(0.1, 0.2), std=(1, 2)
)


@pytest.fixture
def state():
    return random_state(CONFIG)


@pytest.mark.parametrize("changed", [{}, {"distilled": True}, {"qkv_bias": False}])
def test_a_saved_checkpoint_is_read_back(tmp_path, changed):
    config = replace(CONFIG, **changed)
    state = random_state(config)
    save_checkpoint(tmp_path / "c.safetensors", config, state)
    read_config, read_state = load_checkpoint(tmp_path / "c.safetensors")
    assert read_config == config
    assert list(read_state) == list(config.parameter_shapes())
    for name in state:
        np.testing.assert_array_equal(read_state[name], state[name])


@pytest.mark.parametrize("changed", [{}, {"distilled": True}, {"qkv_bias": False}])
def test_shapes_say_everything_but_heads_and_pixel_statistics(changed):
    config = replace(CONFIG, **changed)
    given = {"num_heads": 3, "mean": (0.1, 0.2), "std": (1, 2)}
    assert infer_config(random_state(config), given) == config


def test_shapes_of_a_swin_transformer_say_everything_but_the_size_of_its_images(tmp_path):
    config = SwinConfig(img_size=56, num_classes=5, embed_dim=16, depths=(2, 1), num_heads=(2, 4), mlp_ratio=2.0)
    state = random_state(config)
    assert infer_config(state, {"img_size": 56}) == config
    with pytest.raises(ValueError, match="does not say its img_size"):
        infer_config(state, {"num_heads": (2, 4)})
    save_checkpoint(tmp_path / "c.safetensors", config, state)
    assert load_checkpoint(tmp_path / "c.safetensors")[0] == config
    assert load_checkpoint(tmp_path / "c.safetensors", replace(config, num_classes=1000))[0] == config


def test_a_fine_tuned_head_may_have_other_classes(tmp_path, state):
    save_file(state, tmp_path / "c.safetensors")
    config, _ = load_checkpoint(tmp_path / "c.safetensors", replace(CONFIG, num_classes=1000))
    assert config == CONFIG


def test_half_precision_is_widened(tmp_path, state):
    save_file({name: value.astype(np.float16) for name, value in state.items()}, tmp_path / "c.safetensors")
    _, read = load_checkpoint(tmp_path / "c.safetensors", CONFIG)
    assert all(value.dtype == np.float32 for value in read.values())


def test_wrong_parameters_are_named_and_counted(tmp_path, state):
    for name in [name for name in state if name.startswith("blocks.1.")][:6]:
        del state[name]
    state["head_dist.weight"] = np.zeros((5, 12), np.float32)
    state["norm.weight"] = np.ones(13, np.float32)
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(ValueError) as error:
        load_checkpoint(tmp_path / "c.safetensors", CONFIG)
    message = str(error.value)
    assert "c.safetensors does not fit the architecture, first in blocks.1.norm1.weight: " in message
    assert "6 missing (blocks.1.norm1.weight, blocks.1.norm1.bias, blocks.1.attn.qkv.weight, blocks.1.attn.qkv.bias, and 2 more)" in message
    assert "1 unexpected (head_dist.weight)" in message
    assert "1 wrongly shaped (norm.weight (13,) instead of (12,))" in message


def test_parameters_that_are_no_numbers_are_refused(tmp_path, state):
    state["norm.bias"][3] = np.nan
    state["norm.weight"] = np.ones(12, np.int8)
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"1 not floating point \(norm.weight\); 1 not finite \(norm.bias\)"):
        load_checkpoint(tmp_path / "c.safetensors", CONFIG)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_refused_unread(tmp_path, content):
    (tmp_path / "c.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.bin is not a safetensors file"):
        load_checkpoint(tmp_path / "c.bin", CONFIG)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist or is not a file"):
        load_checkpoint(tmp_path / "nothing", CONFIG)


def test_an_integer_network_is_no_checkpoint(tmp_path):
    integer_network("digits_vit").save(tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match="is an integer network already"):
        load_checkpoint(tmp_path / "n.safetensors", DIGITS)


def test_without_heads_the_configuration_is_unknown(tmp_path, state):
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="does not say its num_heads"):
        load_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("config", "message"), [("{", "is not JSON"), ("[1]", "is a list"), ('{"heads": 3}', "unknown configuration fields heads")]
)
def test_metadata_that_is_no_configuration_is_refused(tmp_path, state, config, message):
    save_file(state, tmp_path / "c.safetensors", {"config": config})
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "c.safetensors")


def test_names_of_another_family_are_refused(tmp_path):
    save_file({"layers.0.weight": np.zeros((2, 2), np.float32)}, tmp_path / "c.safetensors", {"config": '{"num_heads": 3}'})
    with pytest.raises(ValueError, match="is not a vision transformer with timm's parameter names"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_an_unknown_architecture_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown architecture 'deit_tinny'; did you mean deit_tiny"):
        architecture("deit_tinny")


def test_networks_without_samples_say_so():
    with pytest.raises(ValueError, match="deit_tiny ships without samples"):
        samples("deit_tiny")
