"""Thresholds per class against a search over every possible cut."""

import math

import numpy as np
import pytest

from utils.checks import UserError
from utils.thresholds import Rule, choose_threshold, choose_thresholds

RULES = [Rule("f1"), Rule("youden"), *(Rule(aim, least) for aim in ("precision", "recall") for least in (0.3, 0.7, 1))]


def searched(scores, truth, rule):
    """The best score to cut at, and whether it is as wanted: every score is tried, the highest first."""
    known = truth != -1
    scores, present = scores[known], truth[known] == 1
    found = []
    for cut in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= cut
        true = int((chosen & present).sum())
        precision, recall = true / chosen.sum(), true / present.sum()
        false_rate = (chosen & ~present).sum() / max((~present).sum(), 1)
        found.append((cut, precision, recall, 2 * true / (chosen.sum() + present.sum()), recall - false_rate))
    if rule.aim == "f1":
        return max(found, key=lambda one: one[3])[0], True
    if rule.aim == "youden":
        return max(found, key=lambda one: one[4])[0], True
    if rule.aim == "recall":
        return next(one[0] for one in found if one[2] >= rule.least), True
    enough = [one for one in found if one[1] >= rule.least]
    top = max(one[1] for one in found)
    return max(enough or [one for one in found if one[1] == top], key=lambda one: one[2])[0], bool(enough)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("ties", [True, False])
def test_a_threshold_is_the_best_of_all_cuts_and_lies_halfway_to_the_next_score(rule, ties):
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = rng.normal(size=17) if not ties else rng.integers(0, 6, 17) / 2.0
        truth = rng.choice([1, 0, -1], 17, p=[0.3, 0.5, 0.2]).astype(np.int8)
        truth[:2] = 1, 0
        cut, reached = searched(scores, truth, rule)
        found = choose_threshold(scores, truth, rule)
        lower = [score for score in scores[truth != -1] if score < cut]
        assert found == ((cut + max(lower, default=cut)) / 2, reached)


def test_a_class_without_known_positives_is_never_predicted():
    for truth in ([0, 0], [0, -1]):
        assert choose_threshold(np.array([1.0, 2.0]), np.array(truth, dtype=np.int8), Rule("f1")) == (math.inf, True)


def test_a_class_without_known_negatives_is_always_predicted():
    scores, truth = np.array([1.0, 2.0, 3.0, 0.0]), np.array([1, 1, 1, -1], dtype=np.int8)
    assert choose_threshold(scores, truth, Rule("youden")) == (1.0, True)


def test_the_highest_of_equally_good_thresholds_is_taken():
    scores, truth = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 0, 1], dtype=np.int8)  # F1 2/3 twice
    assert choose_threshold(scores, truth, Rule("f1")).value == 3.5
    assert choose_threshold(scores, truth, Rule("recall", 0.5)).value == 3.5
    assert choose_threshold(scores, truth, Rule("recall", 0.51)).value == 1.0


def test_where_no_threshold_is_precise_enough_the_most_precise_is_taken():
    scores, truth = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 1, 1, 0], dtype=np.int8)  # 0, 1/2, 2/3, 1/2
    assert choose_threshold(scores, truth, Rule("precision", 0.7)) == (1.5, False)
    assert choose_threshold(scores, truth, Rule("precision", 2 / 3)) == (1.5, True)
    assert choose_threshold(scores, truth, Rule("precision", 0.5)) == (1.5, True)  # the higher of equal recall


def test_a_class_with_few_positives_has_the_threshold_of_all_together():
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 3), dtype=np.int8)
    truth[:10, 0], truth[:9, 1], truth[:12, 2] = 1, 1, 1
    truth[10:12, 2] = -1  # unknown ones count for nothing
    scores = rng.normal(size=(40, 3)) + truth
    found = choose_thresholds(scores, truth, Rule("f1"))
    common = choose_threshold(scores.ravel(), truth.ravel(), Rule("f1")).value
    assert found.own.tolist() == [True, False, True]
    assert found.positives.tolist() == [10, 9, 10]
    assert found.values.tolist() == [
        choose_threshold(scores[:, 0], truth[:, 0], Rule("f1")).value,
        common,
        choose_threshold(scores[:, 2], truth[:, 2], Rule("f1")).value,
    ]
    assert choose_thresholds(scores, truth, Rule("f1"), enough_positives=9).own.all()
    wanted = choose_thresholds(-scores, truth, Rule("precision", 0.95))
    assert wanted.reached.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("text", "rule"),
    [("f1", ("f1", 0)), ("youden", ("youden", 0)), ("precision=.9", ("precision", 0.9)), ("recall=1", ("recall", 1))],
)
def test_a_rule_is_read_and_written(text, rule):
    assert Rule.of(text) == rule
    assert Rule.of(str(Rule.of(text))) == rule


def test_rules_are_said_as_they_are_given():
    assert [str(Rule.of(text)) for text in ("f1", "precision=0.90")] == ["f1", "precision=0.9"]


@pytest.mark.parametrize(
    "text", ["", "F1", "f1=0.5", "f1=", "precision", "recall=", "recall=0", "recall=1.1", "precision=x", "recall=nan"]
)
def test_other_rules_are_refused(text):
    with pytest.raises(UserError, match=f"--choose_thresholds {text}: must be f1, youden, precision=P or recall=R"):
        Rule.of(text)
