"""The pointing game of runs that were never trained, against the game played by hand."""

import numpy as np
import pytest
from PIL import Image

from engine.analysis.pointing_game import rows_with_cases
from tests.engine.run_folders import SMALL, analyse, model_folder, refused, seen_by_hand, table
from tests.oracles import localisation as oracle
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


def test_runs_of_different_classes_do_not_share_a_figure(tmp_path, voc_words):
    folder = model_folder(tmp_path / "run", "bce", voc_words)
    digits = model_folder(tmp_path / "digits", "bce", ["--dataset", "digits", *SMALL])
    assert "different classes" in refused("pointing", folder.path, digits.path)
