"""Layers cut out of a network: as a network of their own they compute the same values."""

import numpy as np
import pytest

from vitloom.model import golden
from vitloom.model.networks import network_structure
from vitloom.model.part import part, part_input


@pytest.mark.parametrize(
    ("name", "layers", "source", "outputs"),
    [
        ("tiny_network", ["blocks.0"], "patch_embed", ["blocks.0.mlp.fc2"]),
        ("tiny_network", ["patch_embed"], "patches", ["patch_embed"]),
        ("tiny_network", ["norm", "head"], "blocks.0.mlp.fc2", ["head"]),
        ("tiny_network", ["blocks.0.norm2", "blocks.0.mlp.fc1"], "blocks.0.attn.proj", ["blocks.0.mlp.fc1"]),
        ("tiny_swin_network", ["layers.0"], "patch_embed.norm", ["layers.0.blocks.1.mlp.fc2"]),
        ("tiny_swin_network", ["layers.1"], "layers.0.blocks.1.mlp.fc2", ["layers.1.blocks.0.mlp.fc2"]),
        ("tiny_swin_network", ["layers.1.downsample"], "layers.0.blocks.1.mlp.fc2", ["layers.1.downsample.reduction"]),
        ("tiny_swin_network", ["pool", "norm"], "layers.1.blocks.0.mlp.fc2", ["pool"]),
    ],
)
def test_a_part_computes_what_the_whole_does(request, name, layers, source, outputs):
    network = request.getfixturevalue(name)
    form = network.image
    images = np.random.default_rng(5).integers(0, 256, (2, form.channels, form.size, form.size), dtype=np.uint8)
    cut = part(network, layers)
    assert (cut.input, cut.outputs) == (source, outputs)
    whole, mine = golden.run(network, images), golden.run_from(cut, part_input(network, cut, images))
    assert set(mine) == {source, *(operator.output for operator in cut.operators)}
    for tensor, values in mine.items():
        np.testing.assert_array_equal(values, whole[tensor])


def test_only_what_comes_before_is_computed(tiny_network, tiny_images, monkeypatch):
    monkeypatch.setattr(golden, "_layer_norm", lambda *_: pytest.fail("not needed"))
    cut = part(tiny_network, ["blocks.0"])
    assert part_input(tiny_network, cut, tiny_images).shape == (3, 5, 12)
    assert part_input(tiny_network, part(tiny_network, ["patch_embed"]), tiny_images).shape == (3, 4, 48)


def test_a_part_has_the_arrays_of_its_operators_only(tiny_network):
    cut = part(tiny_network, ["blocks.0.norm1"])
    assert set(cut.arrays) == {f"blocks.0.norm1.{name}" for name in ("alpha", "gain", "offset")}
    assert (cut.name, cut.constants) == ("tiny (blocks.0.norm1)", [])
    assert part(tiny_network, ["patch_embed"]).constants == tiny_network.constants


def test_a_name_means_whole_components():
    network = network_structure("deit_tiny")
    assert {operator.name.split(".")[1] for operator in part(network, ["blocks.1"]).operators} == {"1"}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["blocks.12"], "deit_tiny has no layer 'blocks.12'; there are patch_embed, blocks.0, blocks.1, blocks.2, …, blocks.10, "),
        (["blocks.0", ""], "no layer ''"),
        (["block"], "no layer 'block'"),
        (["blocks.0", "blocks.2"], "blocks.0,blocks.2 must be layers that follow each other; blocks.1.norm1 lies between them"),
        (["blocks.0.attn"], "must read one tensor of the layers before, not 2: blocks.0.norm1, patch_embed"),
    ],
)
def test_what_cannot_be_cut_out_is_refused(layers, said):
    with pytest.raises(ValueError) as error:
        part(network_structure("deit_tiny"), layers)
    assert said in str(error.value)
