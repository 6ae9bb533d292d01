"""Two networks: how they start, what they are scored as, and that they are one model to who knows nothing of peers."""

import numpy as np
import pytest
import torch

from models.build import Architecture, build_model
from models.classifier import OnFeatures
from models.peers import Peers, build_peers, ensemble_logits
from utils.checks import UserError
from utils.seeding import derive_seed

SMALL = Architecture.of(model="scenenet", weights="none")


@pytest.fixture
def peers():
    return build_peers(SMALL, 5, seed=3).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def probabilities(logits):
    return 1 / (1 + np.exp(-logits.detach().double().numpy()))


def test_the_first_is_the_network_that_would_train_alone_and_the_second_another(peers):
    alone = build_model(SMALL, 5, seed=3).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in peers.f.state_dict().items())
    f, g = (network.head_parameters()[0] for network in (peers.f, peers.g))
    assert not torch.equal(f, g)
    again = build_peers(SMALL, 5, seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in peers.state_dict().items())


def test_both_start_from_the_same_pretrained_backbone(tmp_path):
    file = tmp_path / "backbone.pth"
    torch.save(build_model(SMALL, 5, seed=9).backbone.state_dict(), file)
    peers = build_peers(Architecture.of(model="scenenet", weights=str(file)), 5, seed=0)
    g = peers.g.backbone.state_dict()
    assert all(torch.equal(value, g[name]) for name, value in peers.f.backbone.state_dict().items())
    assert not torch.equal(peers.f.head_parameters()[0], peers.g.head_parameters()[0])
    alone = build_model(Architecture.of(model="scenenet", weights=str(file)), 5, derive_seed(0, "peer")).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in peers.g.state_dict().items())


def test_what_is_said_of_the_weights_is_said_once(tmp_path, capsys):
    file, held = tmp_path / "backbone.pth", build_model(SMALL, 5, seed=9).backbone.state_dict()
    torch.save({"model": held, "model_ema": {name: 2 * value for name, value in held.items()}}, file)
    for wanted, factor in ((None, 2), ("ema", 2), ("raw", 1)):
        peers = build_peers(Architecture.of(model="scenenet", weights=str(file), checkpoint_weights=wanted), 5, seed=0)
        for network in (peers.f, peers.g):
            first = next(iter(held))
            assert torch.equal(network.backbone.state_dict()[first], factor * held[first])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert f"{file}: " in lines[0]


def test_without_pretraining_each_starts_by_itself(tmp_path):
    architecture = Architecture.of(model="scenenet", weights=str(tmp_path / "gone.pth"))
    peers = build_peers(architecture, 5, seed=0, pretrained=False)
    f, g = (network.backbone_parameters()[0] for network in (peers.f, peers.g))
    assert not torch.equal(f, g)


def test_as_a_model_they_are_the_first(peers, images):
    one, other = peers(images, frozenset({"cam"})), peers.f(images, frozenset({"cam"}))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.cam, other.cam)
    assert (peers.feature_width, peers.stride) == (peers.f.feature_width, peers.f.stride)


def test_the_views_are_each_network_and_the_mean_of_their_probabilities(peers, images):
    views = peers.views(images)
    assert list(views) == ["f", "g", "ensemble"]
    assert torch.equal(views["f"], peers.f(images).logits)
    assert torch.equal(views["g"], peers.g(images).logits)
    mean = (probabilities(views["f"]) + probabilities(views["g"])) / 2
    np.testing.assert_allclose(probabilities(views["ensemble"]), mean, rtol=1e-6)


def test_an_ensemble_keeps_its_order_where_probabilities_round_to_one():
    f = torch.tensor([[30.0, 40.0, -90.0, 200.0, 0.0]])
    g = torch.tensor([[31.0, 30.0, -95.0, 100.0, 0.0]])
    expected = np.log(np.array([np.exp(-30.0) + np.exp(-31.0), np.exp(-40.0) + np.exp(-30.0)]) / 2)
    found = ensemble_logits(f, g)[0]
    np.testing.assert_allclose(found[:2].numpy(), -expected, rtol=1e-5)
    np.testing.assert_allclose(found[2].item(), np.log((np.exp(-90.0) + np.exp(-95.0)) / 2), rtol=1e-5)
    np.testing.assert_allclose(found[3].item(), 100 + np.log(2), rtol=1e-5)
    assert found[4] == 0


def test_an_ensemble_is_symmetric_and_of_equals_each_of_them():
    f, g = torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(1)) * 10
    assert torch.equal(ensemble_logits(f, g), ensemble_logits(g, f))
    torch.testing.assert_close(ensemble_logits(f, f), f)
    torch.testing.assert_close(ensemble_logits(-f, -g), -ensemble_logits(f, g))


def test_freezing_and_the_parts_reach_both(peers):
    peers.freeze_backbone(True)
    assert not any(parameter.requires_grad for parameter in peers.backbone_parameters())
    assert all(parameter.requires_grad for parameter in peers.head_parameters())
    peers.train()
    assert not peers.f.backbone.training
    assert not peers.g.backbone.training
    own = {id(parameter) for parameter in peers.parameters()}
    assert own == {id(each) for each in (*peers.backbone_parameters(), *peers.head_parameters())}


def test_thawed_again_both_learn(peers):
    peers.freeze_backbone(True)
    peers.freeze_backbone(False)
    assert all(parameter.requires_grad for parameter in peers.parameters())


def test_sizes_that_the_networks_cannot_take_are_refused(peers):
    peers.check_size("scenenet", 9)
    with pytest.raises(UserError, match=r"^--img_size 8: too small for scenenet, give at least 9$"):
        peers.check_size("scenenet", 8)


def test_views_are_of_single_precision_whatever_is_computed_in(peers, images):
    halved, images = peers.bfloat16(), images.bfloat16()
    assert halved(images).logits.dtype == torch.bfloat16
    assert {value.dtype for value in halved.views(images).values()} == {torch.float32}


def test_each_changes_both_in_order(peers):
    changed = peers.each(OnFeatures)
    assert isinstance(changed, Peers)
    assert changed.f.classifier is peers.f
    assert changed.g.classifier is peers.g
