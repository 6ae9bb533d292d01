"""The pointing game of runs that were never trained, against the game played by hand."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.analysis import pointing_game as room
from engine.analysis.finished_runs import ReportFiles
from engine.analysis.pointing_game import rows_with_cases
from tests.engine.run_folders import SMALL, analyse, model_folder, refused, seen_by_hand, table
from tests.oracles import localisation as oracle
from utils.checks import RunError
from utils.localisation import PointingResult
from utils.types import PRESENT, Annotations, Boxes, LabelTable

pytestmark = pytest.mark.usefixtures("own_folder")


def played(folder, tolerance):
    """Class -> whether each of its cases is hit, image by image and pixel by pixel."""
    test = folder.data.test
    hits = {name: [] for name in test.classes}
    for row, truth in enumerate(test.truth.dense()):
        maps = seen_by_hand(folder, test, row).cam[0].numpy().astype(np.float64)
        width, height = test.images.open(row).size
        for k in np.flatnonzero(truth == PRESENT):
            boxes = test.boxes.corners[(test.boxes.row == row) & (test.boxes.label == k)].tolist()
            point = oracle.peak(maps[k].tolist(), height, width)
            hits[test.classes[k]].append(oracle.is_hit(point, boxes, tolerance))
    return hits


@pytest.mark.parametrize("tolerance", [0, 3])
def test_pointing_equals_the_game_played_by_hand(tmp_path, voc_words, capsys, tolerance):
    folders = [model_folder(tmp_path / name, "bce", voc_words, seed=seed) for seed, name in enumerate("ab")]
    out = tmp_path / "f"
    assert analyse("pointing", *(each.path for each in folders), "--tolerance", tolerance, "--output", out) == 0
    rows, printed = table(out / "pointing.csv"), capsys.readouterr().out
    for label, folder in zip(("bce (a)", "bce (b)"), folders, strict=True):
        hits = played(folder, tolerance)
        own = {row["class"]: row for row in rows if row["run"] == label}
        shares = {name: np.mean(found) for name, found in hits.items() if found}
        assert {name: int(own[name]["cases"]) for name in hits} == {name: len(found) for name, found in hits.items()}
        found = {name: float(own[name]["pointing"]) for name in hits if own[name]["pointing"]}
        assert found == pytest.approx(shares)
        mean = np.mean(list(shares.values()))
        assert float(own["mean"]["pointing"]) == pytest.approx(mean)
        assert f"{label}: pointing game {100 * mean:.1f} %, the mean over {len(shares)} classes" in printed
    assert min(Image.open(out / "pointing.png").size) > 150


def test_sizes_of_batches_change_nothing(tmp_path, voc_words):
    tables = []
    for size in ("1", "5", "100"):
        folder = model_folder(tmp_path / size, "bce", [*voc_words, "--batch_size", size])
        analyse("pointing", folder.path)
        tables.append(table(folder.path / "pointing.csv"))
    assert tables[0] == tables[1] == tables[2]


def test_images_that_are_not_there_are_left_out_where_the_run_did_so(tmp_path, voc_words):
    folder = model_folder(tmp_path / "run", "bce", [*voc_words, "--missing_images", "skip"])
    analyse("pointing", folder.path)
    before = table(folder.path / "pointing.csv")[-1]["cases"]
    (tmp_path / "Dataset" / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000002.jpg").unlink()
    analyse("pointing", folder.path)
    assert int(table(folder.path / "pointing.csv")[-1]["cases"]) < int(before)


def test_models_without_maps_are_named(tmp_path, voc_words, monkeypatch):
    folder = model_folder(tmp_path / "run", "bce", voc_words)
    monkeypatch.setattr("models.heads.linear.LinearHead.cam", lambda *_: None)
    assert "no activation maps" in refused("pointing", folder.path)


def test_only_images_with_a_class_that_is_present_and_boxed_are_played():
    truth = np.array([[1, 0], [1, -1], [0, 1], [1, 1], [0, 0]], dtype=np.int8)
    boxes = Boxes(np.array([3, 1, 0, 4, 3]), np.array([0, 1, 0, 0, 1]), np.zeros((5, 4), dtype=np.float32))
    annotations = Annotations(list(range(5)), tuple("abcde"), ("x", "y"), LabelTable(truth), boxes)
    assert rows_with_cases(annotations).tolist() == [0, 3]


def test_pointing_needs_boxes(tmp_path, voc_words, monkeypatch):
    folder = model_folder(tmp_path / "run", "bce", voc_words)
    monkeypatch.setattr(
        "engine.analysis.pointing_game.load_splits", lambda *_, **__: folder.data._replace(test=without_boxes(folder))
    )
    assert "has no boxes" in refused("pointing", folder.path)


def without_boxes(folder):
    test = folder.data.test
    return Annotations(test.images, test.ids, test.classes, test.truth)


@pytest.mark.slow
def test_runs_of_different_classes_do_not_share_a_figure(tmp_path, voc_words):
    folder = model_folder(tmp_path / "run", "bce", voc_words)
    digits = model_folder(tmp_path / "digits", "bce", ["--dataset", "digits", *SMALL])
    assert "different classes" in refused("pointing", folder.path, digits.path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_single_activation_that_is_not_finite_ends_the_game(monkeypatch, bad):
    maps = torch.zeros(2, 3, 4, 5)
    monkeypatch.setattr(room, "infer", lambda *_, **__: SimpleNamespace(cam=maps))
    assert room._maps(None, [], None, None).shape == (2, 3, 4, 5)
    maps[1, 0, 2, 4] = bad
    with pytest.raises(RunError, match="pointing game: the model gives scores that are not finite"):
        room._maps(None, [], None, None)


def test_classes_that_any_run_has_a_case_of_are_drawn_best_first(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(room, "plot_shares", lambda *args, **named: drawn.append((args, named)))
    shares = np.array([[0.5, np.nan, 1.0, np.nan, 0.375], [0.25, np.nan, np.nan, 0.125, 0.375]])
    results = [PointingResult(mean, row, np.ones(5, int)) for mean, row in zip((0.625, 0.25), shares, strict=True)]
    room._draw(["a", "b"], ("v", "w", "x", "y", "z"), results, 2.5, tmp_path / "p.png")
    (((names, series, path), named),) = drawn
    assert (names, path) == (["x", "v", "z", "y"], tmp_path / "p.png")
    assert list(series) == ["a, mean 62.5", "b, mean 25.0"]
    np.testing.assert_array_equal(series["a, mean 62.5"], shares[0, [2, 0, 4, 3]])
    np.testing.assert_array_equal(series["b, mean 25.0"], shares[1, [2, 0, 4, 3]])
    assert named == {"xlabel": "pointing game: hits (%), tolerance 2.5 px"}


def test_a_row_for_every_class_and_one_for_the_mean_of_each_run():
    results = [PointingResult(0.5, np.array([1.0, 0.0]), np.array([2, 5])), PointingResult(1.0, np.ones(2), np.ones(2))]
    rows = room._table(["a", "b"], ("x", "y"), results)
    assert rows[:3] == [
        {"run": "a", "class": "x", "cases": 2, "pointing": 1.0},
        {"run": "a", "class": "y", "cases": 5, "pointing": 0.0},
        {"run": "a", "class": "mean", "cases": 7, "pointing": 0.5},
    ]
    assert [row["run"] for row in rows[3:]] == ["b"] * 3


@pytest.mark.parametrize(("tolerance", "text"), [(0.0, "0"), (2.5, "2.5")])
def test_classes_without_a_case_are_not_counted_in_words(tolerance, text):
    result = PointingResult(0.625, np.array([0.25, np.nan, 1.0]), np.array([1200, 0, 1]))
    words = "a: pointing game 62.5 %, the mean over 2 classes with 1,201 cases, tolerance"
    assert room._text("a", result, tolerance) == f"{words} {text} px"


def test_the_images_must_be_there(tmp_path, voc_words, monkeypatch):
    folder, asked = model_folder(tmp_path / "run", "bce", voc_words), []

    def splits(config, seed, *, need_images):
        asked.append(need_images)
        return folder.data._replace(test=without_boxes(folder))

    monkeypatch.setattr("engine.analysis.pointing_game.load_splits", splits)
    refused("pointing", folder.path)
    assert asked == [True]


@pytest.mark.parametrize("fails", [False, True])
def test_the_group_is_left_after_the_game_whatever_its_end(monkeypatch, fails):
    told = []

    def play(run, test, runtime, tolerance):
        told.append((run, test, tolerance))
        if fails:
            raise RunError("an image is gone")
        return PointingResult(0.5, np.array([0.5]), np.array([2]))

    class Runtime:
        def __init__(self, device, precision):
            told.append((device, precision))

        def close(self):
            told.append("closed")

    test = SimpleNamespace(classes=("cat",))
    monkeypatch.setattr(room, "Runtime", Runtime)
    monkeypatch.setattr(room, "play", play)
    monkeypatch.setattr(room, "_boxed_test", lambda run, path: test)
    monkeypatch.setattr(room, "run_labels", list)
    monkeypatch.setattr(room, "write_table", lambda path, rows: told.append((path, len(rows))))
    monkeypatch.setattr(room, "_draw", lambda *args: told.append(args[3:]))
    config = room.PointingConfig(tolerance=2.0, device="cpu")
    with pytest.raises(RunError) if fails else contextlib.nullcontext():
        text = room.pointing(["a"], config, ReportFiles("figure", "table"))
        assert text.startswith("a: pointing game 50.0 %")
    assert told[:3] == [("cpu", "fp32"), ("a", test, 2.0), "closed"]
    assert told[3:] == ([] if fails else [("table", 2), (2.0, "figure")])
