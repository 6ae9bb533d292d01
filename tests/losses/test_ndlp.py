"""NDLP: its settings, and one training step against loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import CRITERIA, NDLP, NDLPConfig, build_criterion
from losses.build import typed_config
from losses.common.variants import variant_options
from losses.ndlp import VARIANTS, ramp
from losses.ndlp_confidence import class_thresholds
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import ndlp as oracle
from utils.checks import UserError
from utils.class_facts import ClassCounts
from utils.types import ModelOutput

ROWS, CLASSES = 14, 5
CODES = random_labels(ROWS, CLASSES, seed=5)
CODES[0] = [0, 0, 1, -1, 0]  # a sole candidate
CODES[1] = [0, -1, 0, 0, 0]  # none
CLEAN = np.array([9, 1, 4, 6, 3])
INDEX = [4, 0, 7, 9, 4, 11, 1, 5]  # image 4 twice
PLAIN = {"ramp_epochs": 2, "alpha_range": (0.3, 0.5)}


def info(codes=CODES):
    return replace(info_for(codes), clean_counts=ClassCounts(CLEAN, "clean"))


def build(codes=CODES, **settings):
    return NDLP(NDLPConfig(**PLAIN | settings), info(codes))


def views(codes, index, places=None):
    """The rows at `index`; an image that comes twice looks a little different each time, by its place in the batch."""
    batch = batch_of(codes, index)
    noise = [torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(at)) for at in places or range(len(index))]
    return batch._replace(images=batch.images + 0.5 * torch.stack(noise))


def loop_labels(config, epoch, rows, confidence, candidates):
    """Soft targets, pseudo labels and whether each label counts, by the oracle."""
    sharpen = {"softmax": oracle.sharpened, "sigmoid": oracle.sharpened_each}[config.confidence]
    soft = candidates.astype(float) if epoch <= config.candidate_epochs else sharpen(rows, config.gamma)
    labels = candidates.astype(int) if epoch <= config.candidate_epochs else oracle.pseudo(soft, confidence)
    ignored = candidates & (labels == 0) if config.rejected == "ignored" else np.zeros_like(candidates)
    return soft, labels, 1.0 - ignored


def loop_step(criterion, state, model, batch, mixture, share):
    """Total, pseudo and mix loss of a step by the oracle; `state` is the confidence and the distribution, changed."""
    config, counts = criterion.config, criterion.positives.numpy()
    settings = variant_options(config, VARIANTS)
    index, rows = batch.index.tolist(), state["confidence"][batch.index.numpy()]
    candidates = (batch.observed == 1).numpy()
    soft, labels, counted = loop_labels(config, criterion.epoch, rows, state["confidence"], candidates)
    logits = model(batch.images).logits.detach().double().numpy()
    losses = oracle.balanced(logits, labels, counts, ROWS, config) * counted
    alpha = 0.3 + 0.2 * share
    chosen = oracle.chosen(losses.mean(axis=1), labels, state["d"] * len(index) * alpha)
    portion, partners = float(mixture.portion), mixture.partners.tolist()
    mixed = lambda values: portion * values + (1 - portion) * values[partners]  # noqa: E731
    seen = model(mixed(batch.images[chosen])).logits.detach().double().numpy()
    mix = oracle.balanced(seen, mixed(soft[chosen]), counts, ROWS, config) * mixed(counted[chosen])
    eps = oracle.shares(rows)
    if settings.distribution == "reference":
        state["d"] = oracle.refined(state["d"], eps)
    else:
        state["d"] = oracle.bounded(state["d"], eps, config.distribution_mu, config.max_ratio)
    if settings.update_logits == "biased":
        logits = logits + oracle.bias(counts, ROWS, config)
    predict = {"softmax": oracle.predicted, "sigmoid": oracle.predicted_each}[config.confidence]
    said = predict(logits, candidates)
    state["confidence"] = oracle.update(state["confidence"], index, said, config.mu, settings.repeats)
    return losses.mean(), mix.mean(), len(chosen) / len(index), labels


WAYS = [
    {"variant": "fixed"},
    {"variant": "reference"},
    {"confidence": "sigmoid", "gamma": 1.5},
    {"rejected": "ignored"},
    {"candidate_epochs": 2},
    {"confidence": "sigmoid", "rejected": "ignored", "candidate_epochs": 2, "gamma": 1.0, "mu": 0.5},
]


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("epoch", [2, 3])
def test_steps_in_their_order(settings, epoch, monkeypatch):
    drawn = []
    draw = NDLP.__init__.__globals__["draw_mixture"]
    monkeypatch.setattr("losses.ndlp.draw_mixture", lambda *said: drawn.append(draw(*said)) or drawn[-1])
    criterion, model, share = build(**settings), FakeModel(CLASSES), (epoch - 1) / 2
    state = {"confidence": oracle.initial_confidence(CODES == 1), "d": np.full(CLASSES, 1 / CLASSES)}
    criterion.on_epoch_start(epoch)
    for number in range(3):
        torch.manual_seed(number)
        batch = views(CODES, np.roll(INDEX, number).tolist())
        out = criterion(model, batch)
        pseudo, mix, chosen, labels = loop_step(criterion, state, model, batch, drawn[-1], share)
        assert float(out.parts["pseudo"]) == pytest.approx(pseudo, rel=1e-4)
        assert float(out.parts["mix"]) == pytest.approx(mix, rel=1e-4)
        assert float(out.total.detach()) == pytest.approx(pseudo + 0.9 * share * mix, rel=1e-4)
        assert float(out.parts["chosen"]) == pytest.approx(chosen)
        assert float(out.parts["pseudo_positives"]) == pytest.approx(labels.sum(axis=1).mean())
        np.testing.assert_array_equal(out.modified, (batch.observed == 1).numpy() & (labels == 0))
        np.testing.assert_allclose(criterion.confidence.dense(), state["confidence"], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(criterion.log_distribution.exp(), state["d"], rtol=1e-4)


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_in_float64_steps_are_those_of_confidences_of_all_labels(settings, monkeypatch):
    drawn = []
    draw = NDLP.__init__.__globals__["draw_mixture"]
    monkeypatch.setattr("losses.ndlp.draw_mixture", lambda *said: drawn.append(draw(*said)) or drawn[-1])
    criterion, model = build(**settings).in_float64(), FakeModel(CLASSES).double()
    state = {"confidence": oracle.initial_confidence(CODES == 1), "d": np.full(CLASSES, 1 / CLASSES)}
    for epoch in (2, 3):
        criterion.on_epoch_start(epoch)
        state["d"][:] = 1 / CLASSES
        for number in range(3):
            batch = views(CODES, np.roll(INDEX, number).tolist())
            batch = batch._replace(images=batch.images.double())
            np.testing.assert_allclose(
                class_thresholds(criterion.totals), oracle.thresholds(state["confidence"]), rtol=1e-12
            )
            out = criterion(model, batch)
            pseudo, *_ = loop_step(criterion, state, model, batch, drawn[-1], (epoch - 1) / 2)
            assert float(out.parts["pseudo"]) == pytest.approx(pseudo, rel=1e-12)
            np.testing.assert_allclose(criterion.confidence.dense(), state["confidence"], rtol=1e-12, atol=1e-15)
    assert torch.equal(criterion.counts, (criterion.confidence.dense() != 0).sum(dim=0))


def test_a_rejected_candidate_that_is_ignored_has_no_gradient_and_others_have_theirs():
    found = []
    for rejected in ("ignored", "absent"):
        logits = torch.zeros(len(INDEX), CLASSES, requires_grad=True)
        criterion = build(rejected=rejected, eta=0.0)
        out = criterion(lambda images, seen=logits: ModelOutput(seen * 1.0), batch_of(CODES, INDEX))
        out.total.backward()
        found.append(logits.grad)
        gone = out.modified
    assert gone.any()
    assert (found[0][gone] == 0).all()
    assert (found[1][gone] != 0).all()
    torch.testing.assert_close(found[0][~gone], found[1][~gone], rtol=0, atol=0)


def test_the_model_is_called_once_in_the_first_epoch_and_then_twice_with_the_chosen_images():
    sizes = []

    def model(images):
        sizes.append(len(images))
        return ModelOutput(torch.zeros(len(images), CLASSES, requires_grad=True))

    criterion, batch = build(), batch_of(CODES, INDEX)
    criterion.on_epoch_start(1)
    out = criterion(model, batch)
    assert sizes == [len(INDEX)]
    assert float(out.parts["mix"]) == 0
    criterion.on_epoch_start(2)
    out = criterion(model, batch)
    assert sizes[2:] == [round(float(out.parts["chosen"]) * len(INDEX))]
    assert 2 <= sizes[2] < len(INDEX)
    assert NDLP.needs == frozenset()


def test_only_the_loss_has_a_gradient_and_it_goes_through_both_passes():
    criterion, model = build(), FakeModel(CLASSES)
    criterion.on_epoch_start(2)
    batch = batch_of(CODES, INDEX)
    images = batch.images.clone()
    out = criterion(model, batch)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert torch.equal(batch.images, images)
    gradients = []
    for eta in (0.9, 0.0):
        model, criterion = FakeModel(CLASSES), build(eta=eta)
        criterion.on_epoch_start(2)
        torch.manual_seed(0)
        criterion(model, batch).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients)


def test_without_pseudo_labels_nothing_is_mixed():
    codes = np.zeros((4, 3), dtype=np.int8)
    codes[:, 1:] = 1  # every confidence is 1/2 and so is the threshold
    criterion, model = build(codes, prior="candidate"), FakeModel(3)
    criterion.on_epoch_start(2)
    out = criterion(model, batch_of(codes, [0, 1, 2, 3]))
    assert float(out.parts["pseudo_positives"]) == float(out.parts["chosen"]) == float(out.parts["mix"]) == 0
    assert len(model.calls) == 1
    assert torch.isfinite(out.total)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_one_image_alone_is_not_mixed_and_trains(variant):
    criterion, model = build(variant=variant), FakeModel(CLASSES)
    criterion.on_epoch_start(3)
    for row in range(ROWS):
        out = criterion(model, batch_of(CODES, [row]))
        assert torch.isfinite(out.total)
        assert float(out.parts["mix"]) == 0
    assert len(model.calls) == ROWS
    assert all(torch.isfinite(value).all() for value in criterion.buffers())


def test_logits_without_bound_leave_a_finite_state():
    criterion = build()
    criterion.on_epoch_start(2)
    model = lambda images: ModelOutput(torch.full((len(images), CLASSES), 1e4) * torch.tensor([-1, 1, -1, 1, 1]))  # noqa: E731
    for _ in range(3):
        assert torch.isfinite(criterion(model, batch_of(CODES, INDEX)).total)
    assert all(torch.isfinite(value).all() for value in criterion.buffers())


def test_mixup_learns_no_statistics_unless_it_is_to():
    class Normalised(FakeModel):
        def __init__(self):
            super().__init__(CLASSES)
            self.norm = torch.nn.BatchNorm1d(CLASSES)

        def forward(self, images, want=frozenset()):
            out = super().forward(images, want)
            return out._replace(logits=self.norm(out.logits))

    for setting, passes in (("kept", 1), ("updated", 2)):
        criterion, model = build(mix_statistics=setting), Normalised()
        criterion.on_epoch_start(2)
        criterion(model, batch_of(CODES, INDEX))
        assert len(model.calls) == 2
        assert int(model.norm.num_batches_tracked) == passes


# --- class frequencies


def test_class_frequencies_are_where_the_prior_says_and_clean_ones_are_announced(capsys):
    assert build(prior="clean").positives.tolist() == CLEAN.tolist()
    assert "true" in capsys.readouterr().out.lower()
    assert build(prior="candidate").positives.tolist() == (CODES == 1).sum(axis=0).tolist()
    criterion, model = build(prior="confidence"), FakeModel(CLASSES)
    assert "confidence" in capsys.readouterr().out
    np.testing.assert_allclose(criterion.positives, oracle.initial_confidence(CODES == 1).sum(axis=0))
    start = criterion.positives.clone()
    criterion(model, batch_of(CODES, INDEX))
    assert torch.equal(criterion.positives, start)
    criterion.on_epoch_start(2)
    torch.testing.assert_close(criterion.positives, criterion.confidence.dense().sum(dim=0))
    assert not torch.equal(criterion.positives, start)
    assert criterion.frequencies.images == ROWS


def test_clean_frequencies_that_there_are_not_are_refused_in_one_line():
    with pytest.raises(UserError, match="prior") as caught:
        NDLP(NDLPConfig(prior="clean"), info_for(CODES))
    assert "\n" not in str(caught.value)


def test_images_of_one_candidate_each_are_refused():
    codes = np.eye(4, CLASSES, dtype=np.int8)
    with pytest.raises(UserError, match="several candidates"):
        build(codes)
    codes = codes.copy()
    codes[2, 4] = 1
    assert build(codes).confidence.dense()[2].tolist() == [0, 0, 0.5, 0, 0.5]


def test_a_table_that_no_memory_holds_is_refused(monkeypatch):
    size = (int((CODES == 1).sum()) + 1) * (8 + 1) + (ROWS + 1) * 8
    monkeypatch.setattr("losses.usable_memory", lambda: size)
    build_criterion("ndlp", observed=CODES, prior="candidate")
    monkeypatch.setattr("losses.usable_memory", lambda: size - 1)
    monkeypatch.setattr("losses.ndlp.NDLP.__init__", None)
    with pytest.raises(UserError, match="ndlp keeps confidences of"):
        build_criterion("ndlp", observed=CODES, prior="candidate")


# --- settings


def test_the_ramp_rises_by_epochs():
    assert [ramp(epoch, 10) for epoch in (1, 2, 10, 11, 99)] == [0, 0.1, 0.9, 1, 1]
    criterion = build(ramp_epochs=None, alpha_range=(0.4, 0.8))  # over the run's 4 epochs
    found = []
    for epoch in range(1, 5):
        criterion.on_epoch_start(epoch)
        found.append((round(criterion.alpha, 9), round(criterion.weight, 9)))
    assert found == [(0.4, 0.0), (0.5, 0.225), (0.6, 0.45), (0.7, 0.675)]


def test_the_distribution_begins_anew_every_epoch():
    criterion, model = build(), FakeModel(CLASSES)
    criterion(model, batch_of(CODES, INDEX))
    assert len(set(criterion.log_distribution.tolist())) > 1
    criterion.on_epoch_start(2)
    np.testing.assert_allclose(criterion.log_distribution.exp(), np.full(CLASSES, 1 / CLASSES))


def test_options_follow_the_variant_and_can_be_set_alone():
    for name, options in VARIANTS.items():
        assert variant_options(NDLPConfig(variant=name), VARIANTS) == options
        for option in options._fields:
            other = getattr(VARIANTS["reference" if name == "fixed" else "fixed"], option)
            config = NDLPConfig(variant=name, **{option: other})
            assert variant_options(config, VARIANTS) == options._replace(**{option: other})
            assert getattr(config, option) == other


@pytest.mark.parametrize("text, ends", [("0.4,0.8", (0.4, 0.8)), ("0, 1", (0, 1)), ("0.8,0.4", (0.8, 0.4))])
def test_a_range_is_two_shares(text, ends):
    assert typed_config("ndlp", NDLPConfig, {"alpha_range": text}).alpha_range == ends


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.0},
        {"gamma": math.inf},
        {"eta": -0.1},
        {"eta": math.nan},
        {"alpha_range": ()},
        {"alpha_range": (0.4,)},
        {"alpha_range": (0.4, 0.8, 0.9)},
        {"alpha_range": (0.4, math.nan)},
        {"alpha_range": (-0.1, 0.8)},
        {"alpha_range": (0.4, 40)},
        {"ramp_epochs": 0},
        {"mu": 1.1},
        {"distribution_mu": -0.1},
        {"mixup_beta": 0.0},
        {"max_ratio": 0.9},
        {"prior": "truth"},
        {"confidence": "tanh"},
        {"rejected": "lost"},
        {"candidate_epochs": -1},
        {"variant": "best"},
        {"distribution": "uniform"},
        {"repeats": "first"},
        {"weight_norm": "by_batch"},
        {"neg_scale": 0.0},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_in_one_line(settings):
    with pytest.raises(UserError) as caught:
        NDLPConfig(**settings)
    assert "\n" not in str(caught.value)
    assert next(iter(settings)) in str(caught.value)


def test_the_method_by_name_has_its_settings_beside_it():
    method = CRITERIA["ndlp"]
    assert isinstance(method.criterion(method.config(), info()), NDLP)
    assert method.config.__module__ == method.criterion.__module__
