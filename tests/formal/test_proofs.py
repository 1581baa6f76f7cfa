"""The quick proofs, and a mistake in each unit that its rules must notice; ``python -m vitloom.sim.bench formal`` makes all of them."""

import pytest

from vitloom.hw.bus.axi import PageSplit
from vitloom.sim.formal.proofs import PROOFS
from vitloom.sim.formal.run import changed

QUICK = {name: proof for name, proof in PROOFS.items() if proof.quick}


@pytest.mark.parametrize("name", QUICK)
def test_rules_hold(name):
    result = QUICK[name].prove(f"test-{name}")
    assert result.status == "PASS", result


@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_is_found(name):
    mistake = QUICK[name].mistakes[0]
    result = QUICK[name].find(mistake, f"test-{name}")
    assert result.status == "FAIL" and mistake.rule in result.rules, result
    assert result.trace is not None and result.trace.exists()


@pytest.mark.parametrize("name", PROOFS)
def test_mistakes_are_in_the_source(name):
    """A unit that was rewritten needs new mistakes; the bench, where most are made, is run seldom."""
    for mistake in PROOFS[name].mistakes:
        assert changed(PROOFS[name].unit, mistake.old, mistake.new).__name__ == PROOFS[name].unit.__name__


def test_what_is_changed_must_be_there_once():
    with pytest.raises(ValueError, match="must have the text 'no such text' once, not 0 times"):
        changed(PageSplit, "no such text", "")


@pytest.mark.parametrize("name", QUICK)
def test_everything_that_the_rules_expect_can_be_seen(name):
    assert QUICK[name].reach(f"test-{name}").rules == ("unseen",)
