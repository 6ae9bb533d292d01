"""MIME against plain loops: labels that are added for good, the divergence of the head, state, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses.assume_negative import assume_negative_losses
from losses.large_loss import packed, unpacked
from losses.mime import MIME, MIMEConfig, add_sure_labels
from models.heads.bottleneck import Gaussian
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume
from utils.checks import UserError
from utils.types import PRESENT, UNKNOWN, LabelTable, ModelOutput

ROWS, CLASSES = 10, 9
CODES = random_labels(ROWS, CLASSES, seed=2)
INDEX = [4, 2, 0, 3, 6]


def build(codes=CODES, **settings):
    return MIME(MIMEConfig(**settings), info_for(codes))


def scores(seed=0, scale=3.0):
    return torch.tensor(np.random.default_rng(seed).normal(0, scale, (ROWS, CLASSES)), dtype=torch.float32)


def added_by(criterion):
    """(N, C) the unknown labels that have been added."""
    return unpacked(criterion.found, CLASSES).numpy() & (CODES == UNKNOWN)


def test_labels_that_scores_are_sure_of_are_added_and_stay():
    criterion, expected = build(mime_warmup=1, pseudo_threshold=0.8), np.zeros(CODES.shape, dtype=bool)
    for epoch in (1, 2, 3, 4):
        given = scores(epoch)
        criterion.on_epoch_start(epoch, given if criterion.wants_train_scores(epoch) else None)
        if epoch > 1:
            expected |= (1 / (1 + np.exp(-given.numpy().astype(float))) > 0.8) & (CODES == UNKNOWN)
        np.testing.assert_array_equal(added_by(criterion), expected)
    assert 0 < expected.sum() < (CODES == UNKNOWN).sum()
    labels = criterion.corrected_labels().dense()
    np.testing.assert_array_equal(labels, np.where(expected, PRESENT, CODES))


def test_scores_are_wanted_after_the_warm_up():
    assert [epoch for epoch in range(1, 7) if build().wants_train_scores(epoch)] == [3, 4, 5, 6]
    assert [epoch for epoch in range(1, 4) if build(mime_warmup=1).wants_train_scores(epoch)] == [2, 3]
    with pytest.raises(ValueError, match="epoch 3 needs the scores of the training set"):
        build().on_epoch_start(3, scores()[:4])


def test_a_label_at_the_threshold_is_not_added_and_blocks_do_not_matter(monkeypatch):
    bound = math.log(0.9 / (1 - 0.9))
    at = torch.tensor([[bound, np.nextafter(bound, 9), -bound]], dtype=torch.float64)
    found = torch.zeros(1, 1, dtype=torch.uint8)
    add_sure_labels(found, at, 0.9)
    assert unpacked(found, 3).tolist() == [[False, True, False]]
    whole, parts = torch.zeros(ROWS, 2, dtype=torch.uint8), torch.zeros(ROWS, 2, dtype=torch.uint8)
    add_sure_labels(whole, scores(), 0.5)
    monkeypatch.setattr("losses.mime.BLOCK", 3 * CLASSES)
    add_sure_labels(parts, scores(), 0.5)
    assert torch.equal(whole, parts)
    assert torch.equal(whole, packed(scores() > 0))


class Drawing:
    """A model that is given its logits, and its divergence when that is wanted."""

    def __init__(self, logits, gaussian=None):
        self.logits, self.gaussian, self.wanted = logits, gaussian, []

    def __call__(self, images, want=frozenset()):
        self.wanted.append(want)
        divergence = self.gaussian.divergence() if self.gaussian and "divergence" in want else None
        return ModelOutput(self.logits, divergence=divergence)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_a_step_is_its_formula_in_loops(variant):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, CLASSES, dtype=torch.float64, generator=generator).requires_grad_()
    gaussian = Gaussian(*(torch.randn(5, CLASSES, 3, dtype=torch.float64, generator=generator) for _ in range(2)))
    criterion = build(variant=variant, divergence_weight=0.5, loss_temperature=2.0, mime_warmup=1, pseudo_threshold=0.7)
    criterion.on_epoch_start(2, scores())
    model = Drawing(logits, gaussian)
    out = criterion(model, batch_of(CODES, INDEX))
    added, guard = added_by(criterion)[INDEX], 1e-5 if variant == "reference" else 0
    assert added.any()
    costs = []
    for image, label in np.ndindex(5, CLASSES):
        p = 1 / (1 + math.exp(-logits[image, label].item() / 2))
        present = CODES[INDEX][image, label] == 1 or added[image, label]
        costs.append(-math.log((p if present else 1 - p) + guard))
    divergence = gaussian.divergence().mean().item()
    assert out.total.item() == pytest.approx(np.mean(costs) + 0.5 * divergence, rel=1e-12)
    parts = {name: value.item() for name, value in out.parts.items()}
    assert parts == pytest.approx({"bce": np.mean(costs), "divergence": divergence, "pseudo_present": added.sum() / 5})
    np.testing.assert_array_equal(out.modified, added)
    assert model.wanted == [frozenset({"divergence"})]
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_without_labels_or_a_divergence_it_is_assume_negative():
    logits, codes = torch.randn(5, CLASSES), torch.tensor(CODES[INDEX])
    out = build().from_logits(logits, codes, torch.tensor(INDEX))
    torch.testing.assert_close(out.total, assume_negative_losses(logits, codes).mean())
    assert list(out.parts) == ["bce", "pseudo_present"]
    model = Drawing(logits, Gaussian(torch.ones(5, CLASSES, 2), torch.zeros(5, CLASSES, 2)))
    assert "divergence" not in build(divergence_weight=0)(model, batch_of(CODES, INDEX)).parts
    assert model.wanted == [frozenset()]


@pytest.mark.parametrize("size", [200.0, -200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saturated_logits_give_finite_losses_and_gradients(size, dtype):
    logits = torch.full((5, CLASSES), size, dtype=dtype, requires_grad=True)
    out = build().from_logits(logits, torch.tensor(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()


def train(criterion, model, optimizer, epochs, start=0, stop=None):
    """Totals of the steps numbered from `start` to before `stop`; scores of each epoch are of the model as it is."""
    totals, number = [], 0
    for epoch in epochs:
        for at, index in enumerate([[4, 2, 0, 3], [6, 1, 5], [8, 7, 9]]):
            if number >= start and (stop is None or number < stop):
                if at == 0:
                    wanted = criterion.wants_train_scores(epoch)
                    criterion.on_epoch_start(epoch, scores(epoch) if wanted else None)
                optimizer.zero_grad()
                out = criterion(model, batch_of(CODES, index))
                out.total.backward()
                optimizer.step()
                totals.append(out.total.item())
            number += 1
    return totals


def parts():
    torch.manual_seed(0)
    model = FakeModel(CLASSES)
    return build(mime_warmup=1, pseudo_threshold=0.6), model, torch.optim.Adam(model.parameters(), lr=0.02)


@pytest.mark.parametrize("cut", [1, 5])
def test_a_run_that_is_cut_off_ends_the_same(cut):
    criterion, *_ = check_resume(parts, train, cut)
    assert criterion.found.any()


def test_nothing_in_a_step_waits_for_a_gpu():
    criterion, model, _ = parts()
    batch = batch_of(CODES, INDEX)
    with Recorder() as seen:
        criterion(model, batch).total.backward()
    assert not seen.names & WAITING


def test_labels_of_which_none_would_be_added_are_refused():
    with pytest.raises(
        UserError, match=r"^mime: no label is unknown, so none would be added; take --loss bce, or --lab"
    ):
        build(np.maximum(CODES, 0))
    info = info_for(CODES)
    sparse = LabelTable(csr_array(np.ones((3, 4), dtype=np.int8)), default=UNKNOWN)
    object.__setattr__(info, "observed", sparse)
    with pytest.raises(UserError, match=r"^mime: it scores each of the 3 x 4 labels, too many; take --loss iu$"):
        MIME(MIMEConfig(), info)


def test_its_defaults_are_the_published_values():
    config = MIMEConfig()
    assert (config.pseudo_threshold, config.mime_warmup, config.divergence_weight) == (0.95, 2, 1e-4)
    assert (config.loss_temperature, config.variant) == (1.0, "fixed")
