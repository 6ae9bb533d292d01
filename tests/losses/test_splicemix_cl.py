"""SpliceMix-CL against golden values of the published code and plain loops; processes, limits, what it asks for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data.loading.splicemix import MixConfig, Splicer
from losses import build_criterion
from losses.assume_negative import BCE, BCEConfig
from losses.splicemix_cl import SpliceMixCL, SpliceMixCLConfig, tile_losses
from models.backbones.build import SceneNet
from models.classifier import Classifier
from models.heads.linear import LinearHead, MaxLinearHead
from tests.golden_files import each_case
from tests.losses.fake_model import batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder
from tests.oracles import splicemix as oracle
from utils.checks import UserError
from utils.grids import NO_ROW
from utils.types import ABSENT, UNKNOWN, ModelOutput

CLASSES = 4
CODES = random_labels(9, CLASSES)
INDEX = [4, 0, 8, 2, 3, 1]
GRIDS = {"1x2": (1.0, 0.0, 0.0), "2x2": (0.0, 1.0, 0.0), "2x3": (0.0, 0.0, 1.0)}


def of_the_loss(case, arrays):
    """True of a case of the loss; those of the mixer are compared in tests/data/loading/test_splicemix.py."""
    return case is None or case["kind"] == "consistency"


@pytest.mark.parametrize(("case", "arrays"), [each for each in each_case("splicemix.npz") if of_the_loss(*each.values)])
def test_golden_consistency(case, arrays):
    tiles, images = (
        torch.tensor(arrays[f"{name}_logits"]).unsqueeze(1).requires_grad_() for name in ("tile", "picture")
    )
    shown = torch.ones(tiles.shape[:2], dtype=torch.bool)
    targets = images if case["target_has_gradient"] else images.detach()
    loss = tile_losses(tiles, targets, shown).mean()
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-9)
    np.testing.assert_allclose(tiles.grad.squeeze(1), arrays["grad_tile"], rtol=1e-9, atol=1e-12)
    found = torch.zeros_like(images) if images.grad is None else images.grad
    np.testing.assert_allclose(found.squeeze(1), arrays["grad_picture"], rtol=1e-9, atol=1e-12)


def build(**settings):
    return SpliceMixCL(SpliceMixCLConfig(**settings), info_for(CODES))


def network(head=MaxLinearHead):
    torch.manual_seed(0)
    return Classifier(SceneNet(), head(SceneNet().width, CLASSES)).double().eval()


def spliced(grid="2x2", index=INDEX, size=40, drop=0.0, share=0.5, seed=0):
    torch.manual_seed(seed)
    batch = batch_of(CODES, index, size)
    batch = batch._replace(images=batch.images.double(), observed=batch.observed.double())
    config = MixConfig(mix="splice", splice_grids=GRIDS[grid], splice_drop=drop, splice_share=share)
    return Splicer(config)(batch, len(index))


@pytest.mark.parametrize("drop", [0.0, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("head", [MaxLinearHead, LinearHead])
def test_a_step_is_its_formula_in_loops(head, grid, drop):
    model, batch = network(head), spliced(grid, drop=drop)
    out = build(tile_weight=0.7)(model, batch)
    maps = model.backbone(batch.images).detach().numpy()
    weight, bias = model.head.fc.weight.detach().numpy(), model.head.fc.bias.detach().numpy()

    def score(each):
        return weight @ (each.max(axis=(1, 2)) if head is MaxLinearHead else each.mean(axis=(1, 2))) + bias

    logits = np.stack([score(each) for each in maps])
    targets = (batch.observed.numpy() == 1).astype(float)
    bce = sum(oracle.bce(logits[at], targets[at]) for at in np.ndindex(*logits.shape)) / logits.size
    tiles = oracle.tile_loss(
        maps[len(INDEX) :], logits, (*batch.layout[:2], *(each.numpy() for each in batch.layout[2:])), score
    )
    assert len(maps) == len(INDEX) + 3
    assert tiles > 0
    assert out.parts == {"bce": pytest.approx(bce, rel=1e-9), "tiles": pytest.approx(tiles, rel=1e-9)}
    assert float(out.total.detach()) == pytest.approx(bce + 0.7 * tiles, rel=1e-9)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-9)


def test_an_empty_tile_costs_as_much_as_the_published_scores_of_minus_a_thousand():
    generator = torch.Generator().manual_seed(1)
    tiles, images = (torch.randn(2, 3, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    shown = torch.tensor([[True, False, True], [False, False, True]])
    filled = [each.masked_fill(~shown[:, :, None], -1e3) for each in (tiles, images)]
    torch.testing.assert_close(tile_losses(tiles, images, shown), tile_losses(*filled, torch.ones_like(shown)))
    tiles.requires_grad_()
    tile_losses(tiles, images, shown).sum().backward()
    assert (tiles.grad[~shown] == 0).all()
    torch.testing.assert_close(tiles.grad[shown], (torch.sigmoid(tiles) - torch.sigmoid(images))[shown].detach())


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(2)
    pair = [torch.randn(2, 2, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    shown = torch.tensor([[True, True], [False, True]])
    assert torch.autograd.gradcheck(lambda tiles, images: tile_losses(tiles, images, shown), pair)


def test_tiles_that_say_what_their_images_say_cost_least():
    images = torch.tensor([[[-2.0, 0.5]]]).double()
    shown = torch.ones(1, 1, dtype=torch.bool)
    p = torch.sigmoid(images)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(tile_losses(images, images, shown), entropy)
    for step in (-0.1, 0.1):
        assert (tile_losses(images + step, images, shown) > entropy).all()


class Given(nn.Module):
    """A model whose logits are known; it notes which layouts it is given."""

    def __init__(self, logits, tiles):
        super().__init__()
        self.logits, self.tiles, self.layouts = logits, tiles, []

    def forward(self, images, want=frozenset(), layout=None):
        self.layouts.append(layout)
        return ModelOutput(self.logits[: len(images)], tile_logits=None if layout is None else self.tiles)


def given(seed=3, tiles=4, scale=1.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    shapes = (len(INDEX) + 3, CLASSES), (3, tiles, CLASSES)
    return Given(*(torch.tensor(scale * rng.normal(size=shape), dtype=dtype, requires_grad=True) for shape in shapes))


@pytest.mark.parametrize("gradient", [False, True])
def test_images_learn_from_their_tiles_only_if_so_set(gradient):
    model, batch = given(), spliced()
    build(tile_gradient=gradient)(model, batch).total.backward()
    total, model.logits.grad = model.logits.grad, None
    BCE(BCEConfig(), info_for(CODES))(model, batch).total.backward()
    added, expected = total - model.logits.grad, torch.zeros_like(total)
    p = torch.sigmoid(model.logits.detach())
    for each, images in enumerate(batch.layout.tiles.tolist()):
        for tile, image in enumerate(images):
            slope = -p[image] * (1 - p[image]) * model.tiles[each, tile].detach()
            expected[image] += gradient * slope / (12 * CLASSES)
    torch.testing.assert_close(added, expected)
    assert SpliceMixCLConfig() == SpliceMixCLConfig(tile_weight=1.0, tile_gradient=False)


def test_without_grids_or_without_weight_it_is_bce_and_nothing_is_cut():
    batch = spliced()
    alone = batch._replace(**{name: getattr(batch, name)[:6] for name in ("images", "observed", "index")}, layout=None)
    for settings, each in (({}, alone), ({"tile_weight": 0.0}, batch)):
        model = given()
        found, expected = build(**settings)(model, each), BCE(BCEConfig(), info_for(CODES))(model, each)
        assert torch.equal(found.total, expected.total)
        assert found.parts == {"bce": expected.parts["bce"], "tiles": torch.zeros(()).double()}
        assert model.layouts == [None, None]


def test_unknown_labels_are_read_as_absent_and_tiles_need_none():
    batch, model = spliced(), given()
    unknown = batch._replace(observed=torch.full_like(batch.observed, UNKNOWN))
    absent = batch._replace(observed=torch.full_like(batch.observed, ABSENT))
    found, other, own = (build()(model, each) for each in (unknown, absent, batch))
    assert torch.equal(found.total, other.total)
    assert found.parts["tiles"] == own.parts["tiles"] > 0
    soft = batch._replace(soft=torch.full_like(batch.observed, 0.5))
    logits = model.logits.detach()
    expected = (torch.nn.functional.softplus(logits) - 0.5 * logits).mean()
    torch.testing.assert_close(build()(model, soft).parts["bce"], expected)


def test_the_order_of_grids_and_of_their_images_does_not_matter():
    model, batch = given(), spliced(drop=1.0)
    order = [2, 0, 1]
    layout = batch.layout._replace(tiles=batch.layout.tiles[order], shown=batch.layout.shown[order])
    turned = Given(model.logits, model.tiles[order])
    torch.testing.assert_close(
        build()(turned, batch._replace(layout=layout)).parts["tiles"], build()(model, batch).parts["tiles"]
    )


@pytest.mark.parametrize("everywhere", [1, 3, 5])
def test_of_several_processes_each_grid_counts_alike(monkeypatch, everywhere):
    model = network()
    rows, means, total = 7, [], 0.0
    for rank in range(2):
        monkeypatch.setattr("losses.common.global_batch.world_size", lambda: 2)
        monkeypatch.setattr("losses.common.global_batch.rank", lambda rank=rank: rank)
        index = torch.arange(rows)
        config = MixConfig(mix="splice", splice_share=everywhere / rows)
        own = batch_of(CODES, index[rank::2].tolist(), 40)
        own = own._replace(images=own.images.double(), observed=own.observed.double(), global_index=index)
        batch = Splicer(config, rank, 2)(own, rows)
        out = build()(model, batch)
        total += len(batch.index) / (rows + everywhere) * float(out.parts["tiles"])
        if count := len(batch.layout.tiles):
            tiles = model(batch.images, layout=batch.layout)
            losses = tile_losses(tiles.tile_logits, tiles.logits[batch.layout.tiles], batch.layout.shown)
            means += losses.mean(dim=(1, 2)).tolist()
        assert (batch.global_index == NO_ROW).sum() == everywhere
        assert count == (batch.index == NO_ROW).sum()
    assert len(means) == everywhere
    assert total == pytest.approx(sum(means) / everywhere, rel=1e-9)


@pytest.mark.parametrize("size", [200.0, -200.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saturated_scores_give_finite_losses_and_gradients(size, dtype):
    model = given(dtype=dtype)
    model.logits, model.tiles = (
        torch.full_like(each, sign * size).requires_grad_() for each, sign in ((model.logits, 1), (model.tiles, -1))
    )
    out = build(tile_gradient=True)(model, spliced())
    out.total.backward()
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert float(out.parts["tiles"]) == pytest.approx(200, rel=1e-6)
    assert model.tiles.grad.isfinite().all()
    assert model.logits.grad.isfinite().all()


def test_nothing_in_a_step_waits_for_a_gpu():
    model, batch = network(), spliced(drop=1.0)
    with Recorder() as seen:
        build(tile_gradient=True)(model, batch).total.backward()
    assert not seen.names & WAITING


def test_what_it_needs_is_named():
    criterion = build_criterion("splicemix_cl", observed=CODES)
    with pytest.raises(ValueError, match=r"^SpliceMixCL needs more than logits \(grids\): call criterion"):
        criterion.from_logits(torch.zeros(2, CLASSES), torch.tensor(CODES[:2]), torch.arange(2))
    assert criterion.refuses_spliced() == ""
    assert list(criterion.state_dict()) == []


@pytest.mark.parametrize("weight", [-1e-9, math.inf, math.nan])
def test_weights_that_cannot_work_are_refused(weight):
    with pytest.raises(UserError, match=rf"^--tile_weight {weight}: must be 0 or more$"):
        replace(SpliceMixCLConfig(), tile_weight=weight)
