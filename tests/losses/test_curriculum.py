import io

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import IU, CurriculumConfig, CurriculumLabelling, IUConfig
from losses.curriculum import partial_bce, score_labels, share_weights
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import single_positive as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
INDEX = [4, 0, 3, 7]
PAPER = {"slope": -4.45, "bias": 5.45, "power": 1.0}
SCORES = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (ROWS, CLASSES))).float()


def build(**settings):
    return CurriculumLabelling(CurriculumConfig(**settings), info_for(CODES))


def with_known(share):
    return torch.where(torch.arange(10) < round(share * 10), ABSENT, UNKNOWN)[None]


def test_an_image_weighs_5_with_a_tenth_of_its_labels_and_1_with_all():
    for share, weight in ((0.1, 5.005), (1.0, 1.0), (0.5, 3.225)):
        assert float(share_weights(with_known(share), *PAPER.values())) == pytest.approx(weight)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_partial_bce_matches_loops(seed, power):
    logits, codes = np.random.default_rng(seed).normal(0, 8, (5, 7)), random_labels(5, 7, seed)
    found = float(partial_bce(torch.tensor(logits), torch.tensor(codes), **PAPER | {"power": power}))
    assert found == pytest.approx(oracle.partial_bce(logits, codes, -4.45, 5.45, power), rel=1e-6)


def test_with_all_labels_it_is_bce_and_without_any_nothing():
    logits, codes = torch.randn(3, 4, requires_grad=True), torch.tensor(random_labels(3, 4)).clamp(min=0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, codes.float())
    torch.testing.assert_close(partial_bce(logits, codes, **PAPER), expected)
    nothing = partial_bce(logits, torch.full((3, 4), UNKNOWN), **PAPER)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_partial_bce_passes_gradcheck():
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    codes = torch.tensor(random_labels(5, 7))
    assert torch.autograd.gradcheck(lambda x: partial_bce(x, codes, **PAPER), (logits,))


def test_scores_beyond_the_threshold_become_labels():
    found = score_labels(torch.tensor([[-2.1, -2.0, 0.0, 2.0, 2.1]]), 2.0)
    assert found.tolist() == [[ABSENT, UNKNOWN, UNKNOWN, UNKNOWN, PRESENT]]
    assert found.dtype == torch.int8
    assert (score_labels(SCORES, 0.0) != UNKNOWN).all()
    assert (score_labels(SCORES, 1e9) == UNKNOWN).all()


def labels_in_use(epochs, **settings):
    """What training uses after these epochs have begun, from the loops' side: (loss, pseudo labels)."""
    criterion = build(**settings)
    for epoch in epochs:
        criterion.on_epoch_start(epoch, SCORES + epoch)
    return criterion


@pytest.mark.parametrize("epochs, last", [([1], None), ([1, 2, 3], None), ([1, 2, 3, 4], 4), (range(1, 10), 7)])
def test_rounds_come_every_so_many_epochs_and_each_starts_anew(epochs, last):
    criterion = labels_in_use(epochs, relabel_every=3)
    expected = torch.full((ROWS, CLASSES), UNKNOWN) if last is None else score_labels(SCORES + last, 2.0)
    assert torch.equal(criterion.pseudo, expected.to(torch.int8))


@pytest.mark.parametrize("every", [1, 3, 5])
def test_the_epochs_that_want_scores_are_those_that_relabel(every):
    def relabelled(criterion, epochs):
        """The epochs before which the labels were made anew; scores are there only when they are wanted."""
        found = []
        for epoch in epochs:
            criterion.pseudo.fill_(2)
            wanted = criterion.wants_train_scores(epoch)
            criterion.on_epoch_start(epoch, SCORES if wanted else None)
            found += [epoch] if (criterion.pseudo != 2).all() else []
            assert wanted == (epoch in found)
        return found

    criterion = build(relabel_every=every)
    first = relabelled(criterion, range(1, 6))
    resumed = build(relabel_every=every)
    resumed.load_state_dict(criterion.state_dict())
    assert first + relabelled(resumed, range(6, 13)) == list(range(1 + every, 13, every))


def test_one_step_after_a_round_keeps_what_is_known():
    criterion, model = build(relabel_every=1), FakeModel(CLASSES)
    criterion.on_epoch_start(2, SCORES)
    out = criterion(model, batch_of(CODES, INDEX))
    scores, codes = SCORES.numpy()[INDEX], CODES[INDEX]
    added = np.select([scores > 2, scores < -2], [1, 0], -1)
    labels = np.where(codes == UNKNOWN, added, codes)
    expected = oracle.partial_bce(out.logits.double().numpy(), labels, *PAPER.values())
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-5)
    unknown = codes == UNKNOWN
    assert float(out.parts["pseudo_present"]) == pytest.approx((unknown & (added == 1)).sum() / len(INDEX))
    assert float(out.parts["pseudo_absent"]) == pytest.approx((unknown & (added == 0)).sum() / len(INDEX))
    np.testing.assert_array_equal(out.modified, unknown & (added == 1))
    assert out.modified.any()
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    assert CurriculumLabelling.needs == {"train_scores"}


def test_before_the_first_round_even_weights_give_the_loss_of_ignoring_the_unknown():
    totals = []
    for criterion in (build(share_slope=0.0, share_bias=1.0), IU(IUConfig(), info_for(CODES))):
        totals.append(criterion(FakeModel(CLASSES), batch_of(CODES, INDEX)).total)
    torch.testing.assert_close(*totals)


def test_the_labels_of_the_last_round_are_saved():
    criterion = labels_in_use([1, 6])
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    resumed = build()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    batch = batch_of(CODES, INDEX)
    assert torch.equal(criterion(FakeModel(CLASSES), batch).total, resumed(FakeModel(CLASSES), batch).total)
    assert not torch.equal(criterion(FakeModel(CLASSES), batch).total, build()(FakeModel(CLASSES), batch).total)


def test_training_lowers_the_loss():
    criterion, model = build(relabel_every=2), FakeModel(CLASSES)
    optimizer, totals = torch.optim.SGD(model.parameters(), lr=0.05), []
    for epoch in range(1, 9):
        with torch.no_grad():
            scores = model(batch_of(CODES, list(range(ROWS))).images).logits
        criterion.on_epoch_start(epoch, scores)
        optimizer.zero_grad()
        out = criterion(model, batch_of(CODES, list(range(ROWS))))
        out.total.backward()
        optimizer.step()
        totals.append(float(out.total.detach()))
    assert totals[-1] < totals[0]


def test_half_precision_saturated_logits_stay_finite():
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4, 0, 1, 2, 3]))
    out = build()(model.half(), batch._replace(images=batch.images.half()))
    assert torch.isfinite(out.total)


@pytest.mark.parametrize("scores", [None, SCORES[1:]])
def test_a_round_without_fitting_scores_is_an_error(scores):
    with pytest.raises(ValueError, match=r"epoch 6 needs the scores .*\(10, 6\)"):
        build().on_epoch_start(6, scores)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share_power": 0.0},
        {"share_slope": -6.0},
        {"share_bias": 0.0},
        {"share_bias": float("nan")},
        {"relabel_every": 0},
        {"score_threshold": -1.0},
        {"score_threshold": float("inf")},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} "):
        CurriculumConfig(**wrong)


def test_labels_that_it_cannot_use_are_refused_in_one_line():
    def refused(codes):
        info = info_for(CODES)
        table = codes if isinstance(codes, LabelTable) else LabelTable(codes)
        return CurriculumLabelling(CurriculumConfig(), type(info)(**{**vars(info), "observed": table}))

    with pytest.raises(UserError, match="curriculum: no label is known to be absent"):
        refused(np.where(CODES == PRESENT, PRESENT, UNKNOWN).astype(np.int8))
    with pytest.raises(UserError, match="curriculum: no label is unknown"):
        refused(np.maximum(CODES, 0))
    with pytest.raises(UserError, match=r"curriculum: .*10 x 6 labels, too many"):
        refused(LabelTable(csr_array(CODES), default=UNKNOWN))
