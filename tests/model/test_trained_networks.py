"""The trained networks that ship with the package, and the page that says how good they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitloom.model.architectures import DATA, DIGITS, LOW_BIT_NETWORKS
from vitloom.model.checkpoint import check_state
from vitloom.model.golden import predict
from vitloom.model.networks import SHIPPED, integer_network
from vitloom.model.schemes.scheme import LOW_BIT
from vitloom.model.schemes.weights import low_bit_weight
from vitloom.model.synthetic import synthetic_state
from vitloom.model.training.export import TITLES, as_deployed, digit_images, predictions, render

SHIPPED_METHODS = ("bivit", "tervit", "qvit")
TRAINED = [name for name in SHIPPED if name in LOW_BIT_NETWORKS]
PAGE = Path(__file__).parents[2] / "docs" / "training.md"
RESULTS = json.loads((DATA / "digits_training.json").read_text())


def state_of(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def test_networks_that_ship_are_of_the_methods_of_the_page_and_of_their_schemes():
    assert {name: LOW_BIT_NETWORKS[name][1] for name in TRAINED} == {f"{method}_digits": TITLES[method][0] for method in SHIPPED_METHODS}


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_parameters_are_those_of_the_architecture_and_deployed(name):
    state = state_of(name)
    check_state(DIGITS, state, source=name)
    again = as_deployed(LOW_BIT[LOW_BIT_NETWORKS[name][1]], state)
    assert again.keys() == state.keys()
    for parameter, value in state.items():
        np.testing.assert_array_equal(again[parameter], value, err_msg=parameter)


@pytest.mark.parametrize("method", SHIPPED_METHODS)
def test_the_page_has_the_accuracies_of_the_shipped_network(method):
    name, (images, labels) = f"{method}_digits", digit_images()
    found = predictions(LOW_BIT[LOW_BIT_NETWORKS[name][1]], state_of(name), images[-360:])
    right = {kind: np.sum(given == labels[-360:]) for kind, given in found.items()}
    assert right["integer"] == RESULTS[f"{method} integer"][0]
    # In floating point a value on the edge of two codes may fall to either side on another machine.
    assert right["reference"] == pytest.approx(RESULTS[f"{method} reference"][0], abs=2)
    np.testing.assert_array_equal(found["integer"], predict(integer_network(name), images[-360:]))


@pytest.mark.parametrize("method", SHIPPED_METHODS)
def test_integers_are_within_half_a_point_of_the_float_quantised_networks_in_the_mean_of_the_seeds(method):
    reference, integer = (RESULTS[f"{method} {kind}, all images"] for kind in ("reference", "integer"))
    assert len(reference) == len(integer) == len(RESULTS[method]) == len(RESULTS[f"{method} baseline"]) == 3
    assert np.mean(integer) == pytest.approx(np.mean(reference), abs=0.005 * len(digit_images()[1]))


def test_ternary_networks_are_within_a_point_and_a_half_of_float_in_the_mean_of_the_seeds():
    assert np.mean(RESULTS["tervit integer"]) >= RESULTS["float"][0] - 0.015 * 360


def test_the_table_of_the_page_is_that_of_the_results():
    assert render(RESULTS, PAGE.read_text()) == PAGE.read_text()


def test_a_page_without_the_mark_is_refused():
    with pytest.raises(ValueError, match="the mark '<!-- training -->' once, not 0 times"):
        render(RESULTS, "nothing")


@pytest.mark.parametrize(("name", "least"), [("bivit", -0.2), ("bi_vit", -0.2), ("tervit", -0.2), ("qvit_w2a2", 0.01)])
def test_deployed_weights_are_rounded_to_what_they_were_rounded_to(name, least):
    layer, scheme = "blocks.0.mlp.fc1", LOW_BIT[name]
    state = dict(synthetic_state(DIGITS)) | {f"{layer}.weight_scale": np.linspace(least, 0.2, 256, dtype=np.float32)}
    deployed = as_deployed(scheme, state)
    first, again = (low_bit_weight(scheme, each[f"{layer}.weight"], each[f"{layer}.weight_scale"]) for each in (state, deployed))
    np.testing.assert_array_equal(again.weight, first.weight)
    np.testing.assert_allclose(again.scale, first.scale, rtol=1e-6)
    np.testing.assert_array_equal(deployed["head.weight"], state["head.weight"])
