"""BatchNorm over the images of all processes: which layers, what stays, and where it is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.training import setup
from engine.training.sync_norms import synchronise_norms
from losses import CRITERIA
from losses.assume_negative import BCE
from losses.ndlp import NDLP
from models.build import Architecture, build_model
from models.peers import Peers
from tests.engine.run_folders import SMALL, settings_of
from tests.engine.training.test_features import array_data
from tests.engine.training.test_setup import ONE
from utils.checks import UserError

SEVERAL = SimpleNamespace(world_size=2, device=torch.device("cuda"))
ON_CPUS = SimpleNamespace(world_size=2, device=torch.device("cpu"))


def new_network():
    return build_model(Architecture.of(model="scenenet", weights="none", head="pfc", norm_eval=True), 4, seed=0)


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_every_norm_is_synchronised_and_weights_statistics_and_names_stay():
    network, plain = new_network(), new_network()
    before, kept = norms(network), dict(network.named_parameters())
    synchronise_norms(network, SEVERAL, "bce", BCE)
    assert all(one is other for one, other in zip(norms(network), before, strict=True))
    assert {type(norm) for norm in norms(network)} == {nn.SyncBatchNorm}
    assert [norm.process_group for norm in norms(network)] == [None] * len(before)
    assert all(parameter is kept[name] for name, parameter in network.named_parameters())
    state, expected = network.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(network.eval()(images).logits, plain.eval()(images).logits)
    network.train()
    assert [norm.training for norm in norms(network)] == [norm.training for norm in norms(plain.train())]
    with pytest.raises(ValueError, match="GPU"):  # torch's own refusal, in training
        with_group(network.head.bn, torch.rand(2, network.head.bn.num_features))


def with_group(norm, values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        norm(values)


def test_both_networks_of_a_pair_are_synchronised():
    pair = Peers(new_network(), new_network())
    synchronise_norms(pair, SEVERAL, "cls", CRITERIA["cls"].criterion)
    assert {type(norm) for norm in [*norms(pair.f), *norms(pair.g)]} == {nn.SyncBatchNorm}


def test_a_norm_of_timm_keeps_its_activation():
    timm = pytest.importorskip("timm")
    layer = timm.layers.BatchNormAct2d(3).eval()
    images = torch.randn(2, 3, 4, 4)
    expected = layer(images)
    synchronise_norms(nn.Sequential(layer), SEVERAL, "bce", BCE)
    assert type(layer) is timm.layers.norm_act.SyncBatchNormAct
    assert torch.equal(layer(images), expected)
    assert (expected >= 0).all()


class OtherNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("network", "runtime", "criterion", "line"),
    [
        (nn.BatchNorm2d(2), ON_CPUS, BCE, "--sync_bn: BatchNorm is synchronised between GPUs only, and this run is on"),
        (nn.BatchNorm2d(2), SEVERAL, NDLP, "--sync_bn: not with some, in which a process may be without images in a p"),
        (OtherNorm(2), SEVERAL, BCE, "--sync_bn: OtherNorm, which this network has, is not synchronised; leave it out"),
    ],
)
def test_what_cannot_be_synchronised_is_refused_in_one_line(network, runtime, criterion, line):
    kind = type(network)
    with pytest.raises(UserError, match=f"^{line}"):
        synchronise_norms(network, runtime, "some", criterion)
    assert type(network) is kind


def test_one_process_and_other_networks_have_nothing_to_synchronise():
    network = nn.Sequential(OtherNorm(2), nn.BatchNorm1d(2))
    synchronise_norms(network, ONE, "ndlp", NDLP)
    assert [type(part) for part in network] == [OtherNorm, nn.BatchNorm1d]
    synchronise_norms(nn.Linear(2, 2), SEVERAL, "bce", BCE)


def test_methods_whose_processes_may_leave_out_a_pass_are_known():
    assert {name for name, method in CRITERIA.items() if not method.criterion.passes_alike} == {"ndlp"}


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_synchronises_where_it_is_asked_to(asked):
    settings = settings_of("bce", [*SMALL, "--sync_bn" if asked else "--no-sync_bn"])
    network = setup.build_network(settings, array_data(), SEVERAL)
    assert {type(norm) for norm in norms(network)} == {nn.SyncBatchNorm if asked else nn.BatchNorm2d}
