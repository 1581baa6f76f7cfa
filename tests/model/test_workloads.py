"""Matrix products of the known networks against lists that were made from timm's modules."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from vitloom.model.architectures import ARCHITECTURES, SWIN
from vitloom.model.float_ops import ImageConfig
from vitloom.model.network import AttentionScores, AttentionValues, Linear
from vitloom.model.networks import network_structure
from vitloom.model.workload import Gemm, workload

WORKLOADS = Path(__file__).parents[1] / "data" / "workloads"
NAMES = sorted(path.stem for path in WORKLOADS.glob("*.csv"))


def _published(name):
    with (WORKLOADS / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Gemm(layer=r["layer"], kind=r["kind"], **{key: int(r[key]) for key in ("M", "K", "N", "count")}) for r in rows]


def test_eight_networks_are_compared():
    assert NAMES == sorted(
        ["deit_base", "deit_small", "deit_tiny", "deit_tiny_distilled", "swin_base", "swin_small", "swin_tiny", "vit_large"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_products_are_the_published_ones(name):
    assert workload((ARCHITECTURES | SWIN)[name]) == _published(name)


@pytest.mark.parametrize(("name", "giga"), [("deit_tiny", 1.25), ("deit_small", 4.60), ("deit_base", 17.56), ("vit_large", 61.55)])
def test_total_work_is_the_published_one(name, giga):
    assert sum(gemm.macs for gemm in workload(ARCHITECTURES[name])) / 1e9 == pytest.approx(giga, abs=0.011)


@pytest.mark.parametrize("name", [name for name in NAMES if name in ARCHITECTURES])
def test_operators_of_the_integer_network_are_these_products(name):
    network = network_structure(name)
    columns = {tensor.name: tensor.channels for tensor in network.tensors}
    found = Counter()
    for operator in network.operators:
        match operator:
            case Linear():
                n, k = network.arrays[f"{operator.name}.weight"].shape
                found[operator.rows, k, n] += 1
            case AttentionScores() | AttentionValues():
                rows = network.tensor(operator.input).rows // operator.windows
                found[rows, columns[operator.input], columns[operator.output]] += operator.heads * operator.windows
    expected = Counter()
    for gemm in _published(name):
        expected[gemm.M, gemm.K, gemm.N] += gemm.count
    assert found == expected


def test_another_family_is_refused():
    with pytest.raises(ValueError, match="a configuration of a known family is wanted, not ImageConfig"):
        workload(ImageConfig(patch_size=4, embed_dim=8))
