"""What thresholds and calibrations are chosen on, and what is said of them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.build import DatasetConfig
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from engine.core.decisions import Decisions, Thresholds
from engine.evaluation import choosing
from engine.evaluation.choosing import ChoiceConfig, Decided, HeldOut, decide, held_out, in_order_of_checkpoint, notes
from utils.calibration import fit_calibration
from utils.checks import UserError
from utils.thresholds import ClassThresholds, Rule, choose_thresholds
from utils.types import LabelTable

RNG = np.random.default_rng(0)
CODES = RNG.integers(-1, 2, (60, 3)).astype(np.int8)
LOGITS = RNG.normal(size=(60, 3)) + CODES


def images(codes=CODES):
    return SimpleNamespace(truth=LabelTable(codes))


class Part(list):
    ids = property(list)


def settings(choice, split=None, regime=None):
    of = {ChoiceConfig: choice, DatasetConfig: SimpleNamespace(dataset="voc07")}
    of |= {TrainingSplitConfig: split or TrainingSplitConfig(val_frac=0.25), Regime: regime or Regime()}
    return SimpleNamespace(of=of.__getitem__)


def checkpoint(seen=0, **held):
    return SimpleNamespace(path=Path("best.pth"), settings={"seed": 7, **held}, seen=lambda ids: seen)


def test_the_validation_split_of_training_is_found_by_its_settings(monkeypatch):
    asked = []
    monkeypatch.setattr(choosing, "held_out_images", lambda *args: asked.append(args) or Part("abc"))
    split = TrainingSplitConfig(val_frac=0.25, split_seed=3)
    found = held_out(checkpoint(), settings(ChoiceConfig(calibrate="isotonic"), split), "splits")
    assert found == (["a", "b", "c"], "the validation split of voc07, 3 images")
    ((splits, data, regime, taken, seed),) = asked
    assert (splits, data.dataset, regime, taken, seed) == ("splits", "voc07", Regime(), split, 7)
    monkeypatch.setattr(choosing, "held_out_images", lambda *args: Part("a"))
    assert held_out(checkpoint(), settings(ChoiceConfig()), None).words == "the validation split of voc07, 1 image"


@pytest.mark.parametrize(
    ("variant", "given", "kept", "read"),
    [
        ("observed", None, "labels.npy", Path("labels.npy")),
        ("observed", Path("mine.npy"), "labels.npy", Path("mine.npy")),
        ("observed", None, None, None),
        ("clean", None, "labels.npy", None),
    ],
)
def test_observed_labels_are_those_of_the_file_of_training(monkeypatch, variant, given, kept, read):
    asked = []
    monkeypatch.setattr(choosing, "held_out_images", lambda *args: asked.append(args[2].label_file) or Part("abc"))
    split = TrainingSplitConfig(val_frac=0.25, val_set_variant=variant)
    regime = replace(Regime(), label_file=given)
    words = held_out(checkpoint(label_file=kept), settings(ChoiceConfig(), split, regime), None).words
    assert asked == [read]
    assert words.endswith("3 images, with observed labels" if variant == "observed" else "3 images")


def test_the_test_set_is_taken_where_it_is_named(monkeypatch):
    monkeypatch.setattr(choosing, "held_out_images", None)
    splits = SimpleNamespace(test=Part(map(str, range(1200))))
    found = held_out(checkpoint(seen=9), settings(ChoiceConfig(calibrate="isotonic", choose_on="test")), splits)
    assert (len(found.images), found.words) == (1200, "the test set of voc07, 1,200 images")


def test_images_of_training_and_none_at_all_are_refused(monkeypatch):
    monkeypatch.setattr(choosing, "held_out_images", lambda *args: Part(map(str, range(2000))))
    with pytest.raises(UserError, match=r"best\.pth was trained on 1,500 of these 2,000 images, where scores are too"):
        held_out(checkpoint(seen=1500), settings(ChoiceConfig()), None)
    monkeypatch.setattr(choosing, "held_out_images", lambda *args: None)
    with pytest.raises(UserError, match=r"best\.pth was trained without a validation split, so there are no images"):
        held_out(checkpoint(), settings(ChoiceConfig()), None)


def test_what_is_asked_for_is_chosen():
    measured, on = SimpleNamespace(scores=LOGITS), HeldOut(images(), "some images")
    both = decide(measured, on, ChoiceConfig(choose_thresholds="youden", calibrate="temperature"))
    expected = choose_thresholds(LOGITS, CODES, Rule("youden"))
    assert both.decisions.thresholds.logits.tolist() == expected.values.tolist() == both.found.values.tolist()
    assert both.decisions.thresholds.own.tolist() == expected.own.tolist()
    assert (both.decisions.thresholds.rule, both.decisions.thresholds.chosen_on) == ("youden", "some images")
    fitted = fit_calibration(LOGITS, CODES, "temperature")
    assert both.decisions.calibration.temperature.tolist() == fitted.temperature.tolist()
    assert both.decisions.calibrated_on == "some images"
    one = decide(measured, on, ChoiceConfig(choose_thresholds="recall=0.9"))
    assert (one.decisions.calibration, one.decisions.calibrated_on) == (None, "")
    other = decide(measured, on, ChoiceConfig(calibrate="isotonic"))
    assert (other.decisions.thresholds, other.found) == (None, None)


@pytest.mark.parametrize(
    ("scores", "codes", "config", "said"),
    [
        (None, CODES, {"calibrate": "isotonic"}, "only few labels of some images are known, too few to choose by"),
        (LOGITS, np.minimum(CODES, 0), {"choose_thresholds": "f1"}, "no label is known to be present in some images"),
        (
            LOGITS,
            np.minimum(CODES, 0),
            {"calibrate": "isotonic"},
            "--calibrate isotonic: 0 positives and [0-9]+ negatives are known in some images, and 10 of each are",
        ),
    ],
)
def test_images_that_tell_too_little_are_refused(scores, codes, config, said):
    with pytest.raises(UserError, match=said):
        decide(SimpleNamespace(scores=scores), HeldOut(images(codes), "some images"), ChoiceConfig(**config))


def found(own, reached, positives):
    count = len(own)
    limits = Thresholds("precision=0.9", "", np.zeros(count), np.array(own))
    values = ClassThresholds(np.zeros(count), np.array(own), np.array(reached), np.array(positives))
    return Decided(Decisions(limits), values)


def test_classes_without_a_threshold_of_their_own_or_as_wanted_are_named():
    classes = tuple("hgfedcba")
    assert list(notes(found([True] * 8, [True] * 8, range(8)), classes)) == []
    assert list(notes(Decided(Decisions(), None), classes)) == []
    lines = list(notes(found([False, True, False] + [True] * 5, [False] * 2 + [True] * 6, range(8)), classes))
    assert lines == [
        "fewer than 10 positives to choose by, so the threshold of all classes together: h (0), f (2)",
        "no threshold has precision=0.9; the most precise one is taken: g",
    ]
    (line,) = notes(found([False] * 8, [True] * 8, range(8)), classes)
    assert line.endswith(": h (0), g (1), f (2), e (3), d (4), c (5), b (6), a (7)")
    (line,) = notes(found([False] * 9, [True] * 9, range(9)), "hgfedcbax")
    assert line.endswith(": h (0), g (1), f (2), e (3), d (4), c (5), b (6), a (7), ... (9 in all)")


def test_decisions_go_back_to_the_order_of_the_checkpoint():
    limits = Decisions(Thresholds("f1", "", np.array([10.0, 20.0, 30.0]), np.array([True, False, True])))
    assert in_order_of_checkpoint(limits, None) is limits
    kept = in_order_of_checkpoint(limits, [2, 0, 1])  # the dataset's first class is the checkpoint's third
    assert kept.thresholds.logits.tolist() == [20, 30, 10]
    assert kept.take([2, 0, 1]).thresholds.logits.tolist() == [10, 20, 30]


@pytest.mark.parametrize("words", [{"in_place": True}, {"choose_on": "test"}])
def test_nothing_chosen_is_nothing_kept(words):
    with pytest.raises(UserError, match="nothing is chosen; give --choose_thresholds or --calibrate, or leave it out"):
        ChoiceConfig(**words)
    assert ChoiceConfig(**words, calibrate="isotonic").wanted
    assert ChoiceConfig(**words, choose_thresholds="f1").wanted
    assert not ChoiceConfig().wanted
