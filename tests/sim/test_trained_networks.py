"""Trained low-bit networks on the RTL of a core with all modes: one model, compiled once for all of them."""

import numpy as np
import pytest

from vitloom.hw.config import preset
from vitloom.model.architectures import LOW_BIT_NETWORKS
from vitloom.model.golden import predict
from vitloom.model.networks import SHIPPED, integer_network, samples
from vitloom.sim.report import model_timings
from vitloom.sim.simulate import simulate

LOW_BIT_DIGITS = [name for name in SHIPPED if name in LOW_BIT_NETWORKS]


@pytest.mark.parametrize("name", LOW_BIT_DIGITS)
def test_a_trained_low_bit_network_classifies_digits_on_the_rtl(name):
    network, (images, labels) = integer_network(name), samples(name)
    result = simulate(network, preset("l8-all"), images[:2], labels[:2])
    assert (result.mismatches, result.differences) == ([], [])
    assert result.bit_exact
    np.testing.assert_array_equal(result.predictions, predict(network, images[:2]))
    assert result.cycles == [model_timings(result.program)[1]] * 2
