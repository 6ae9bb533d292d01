"""Figures by thresholds and calibration: what they are, and their lines letter by letter."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from engine.core.decisions import Decisions, Thresholds
from engine.evaluation.decided import decision_figures
from engine.evaluation.scored import Scored, write_result
from engine.evaluation.text import print_classes, print_decisions
from utils.calibration import Calibration
from utils.metrics import calibration_error, evaluate_known, evaluate_scores, known_scores, precision_recall
from utils.types import LabelTable

CODES = np.array([[1, 0, -1], [0, 1, -1], [1, 1, 0], [0, 0, 0]], dtype=np.int8)
LOGITS = np.array([[2, -1, -2], [-1, 1, -2], [-0.5, -1, -2], [1, -2, -3]], dtype=np.float32)
CLASSES = ("cat", "a dog with a very long name indeed", "owl")
LIMITS = Thresholds("f1", "200 images", np.array([-0.75, 0.0, np.inf]), np.array([True, True, False]))
WARM = Calibration("temperature", np.array([True, True, True]), np.array([2.0, 1.0, 1.0]))
BOTH = Decisions(LIMITS, WARM, "300 images")


def result(scores=LOGITS):
    metrics = evaluate_scores(LOGITS, CODES) if scores is not None else evaluate_known(known_scores(LOGITS, CODES))
    return SimpleNamespace(metrics=metrics, scores=scores, beside={})


def test_figures_are_those_of_the_decisions():
    found = decision_figures(result(), LabelTable(CODES), BOTH)
    predicted = LIMITS.logits <= LOGITS
    assert found.at_thresholds == precision_recall(predicted, CODES == 1, CODES != -1)
    exact = LOGITS.astype(np.float64)
    assert found.uncalibrated == calibration_error(expit(exact), CODES)
    assert found.calibrated == calibration_error(expit(exact / [2, 1, 1]), CODES)
    assert found.classes.tally.chosen.tolist() == [3, 1, 0]
    plain = decision_figures(result(), LabelTable(CODES), Decisions())
    assert (plain.at_thresholds, plain.calibrated, plain.uncalibrated) == (None, None, found.uncalibrated)
    assert plain.classes.tally.chosen.tolist() == [2, 1, 0]
    sparse = decision_figures(result(None), LabelTable(CODES), BOTH)
    assert sparse[2:] == (None, None, None)
    assert sparse.decisions is BOTH


def test_decisions_are_said(capsys):
    print_decisions(decision_figures(result(), LabelTable(CODES), BOTH), ["a note"])
    found = decision_figures(result(), LabelTable(CODES), BOTH)
    at, before, after = found.at_thresholds._asdict(), found.uncalibrated, found.calibrated
    assert capsys.readouterr().out.splitlines() == [
        "  thresholds by f1, chosen on 200 images",
        "  at these: " + "  ".join(f"{name} {100 * value:.2f}" for name, value in at.items()),
        "  calibration by temperature, fitted on 300 images",
        f"  ECE {100 * before[0]:.2f} -> {100 * after[0]:.2f}, mean of the classes {100 * before[1]:.2f} -> "
        f"{100 * after[1]:.2f}",
        "  a note",
    ]
    print_decisions(decision_figures(result(), LabelTable(CODES), Decisions()), [])
    assert capsys.readouterr().out == ""
    print_decisions(decision_figures(result(None), LabelTable(CODES), BOTH), [])
    assert capsys.readouterr().out.splitlines() == [
        "  thresholds by f1, chosen on 200 images",
        "  calibration by temperature, fitted on 300 images",
    ]


def test_a_line_for_each_class(capsys):
    print_classes(CLASSES, decision_figures(result(), LabelTable(CODES), BOTH))
    assert capsys.readouterr().out.splitlines() == [
        "  class                         positives    known     AP   AUROC  precision  recall      F1  threshold",
        "  cat                                   2        4  83.33   75.00      66.67  100.00   80.00      0.407",
        "  a dog with a very long name           2        4  83.33   87.50     100.00   50.00   66.67      0.500",
        "  owl                                   0        2      -       -          -       -       -      1.000",
        "  mean AUROC 81.25",
    ]
    print_classes(CLASSES[:1] + CLASSES[2:] + ("x",), decision_figures(result(None), LabelTable(CODES), Decisions()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  class  positives ")
    assert lines[1] == "  cat            2        4  83.33       -      50.00   50.00   50.00      0.500"
    assert len(lines) == 4


@pytest.mark.parametrize("decisions", [BOTH, Decisions()])
def test_the_file_holds_them(tmp_path, decisions):
    figures = decision_figures(result(), LabelTable(CODES), decisions)
    test = type("Test", (list,), {"classes": CLASSES})(range(4))
    scored = Scored(result(), None, {}, None, figures)
    write_result(SimpleNamespace(path=Path("x.pth")), test, scored, "voc07", tmp_path / "x.json", None)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["AUROC"] == 0.8125
    assert [row["threshold"] for row in found["per_class"]] == (
        [pytest.approx(expit(-0.375)), 0.5, 1.0] if decisions is BOTH else [None] * 3
    )
    assert [row["AUROC"] for row in found["per_class"]] == [0.75, 0.875, None]
    before = dict(zip(("ECE", "ECE_class"), figures.uncalibrated, strict=True))
    if decisions is BOTH:
        after = dict(zip(("ECE", "ECE_class"), figures.calibrated, strict=True))
        assert found["calibration"] == {
            "method": "temperature",
            "fitted_on": "300 images",
            "before": before,
            "after": after,
        }
        assert found["thresholds"] == {
            **{"rule": "f1", "chosen_on": "200 images", "test": figures.at_thresholds._asdict()},
            "own": dict(zip(CLASSES, [True, True, False], strict=True)),
        }
    else:
        assert found["calibration"] == {"method": None, "fitted_on": None, "before": before, "after": None}
        assert "thresholds" not in found


def test_intervals_stand_behind_the_figures_of_a_class(capsys):
    print_classes(CLASSES, decision_figures(result(), LabelTable(CODES), BOTH), ["50.0-100.0", "-", "1.0-2.0"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[len(lines[0]) - 16 :] for line in lines[:4]] == [
        *("  interval of AP", "      50.0-100.0", "               -", "         1.0-2.0")
    ]
