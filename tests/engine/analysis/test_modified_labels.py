"""The analysis of modified labels, on runs that were never trained."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.analysis import modified_labels as room
from engine.analysis.modified_labels import Counts, count, draw_rows, epoch_text, truly_present
from engine.training.recorder import LABELS_FILE
from tests.engine.run_folders import (
    SMALL,
    analyse,
    log_folder,
    model_folder,
    modified_arrays,
    refused,
    seen_by_hand,
    table,
)
from utils.checks import RunError, UserError
from utils.types import PRESENT, LabelTable

pytestmark = pytest.mark.usefixtures("own_folder")

ROUNDING = 5e-3 if torch.cuda.is_available() else 1e-5
"""Of a score: a GPU multiplies with 10 bits of mantissa."""


def test_modified_labels_are_counted_drawn_and_scored(tmp_path, voc_words, capsys):
    folder = model_folder(tmp_path / "run", "large_loss", voc_words, modified_arrays)
    assert analyse("modified", folder.path, "--pictures", 5) == 0
    train, first = folder.data.train, modified_arrays(folder.data)["first_modified"]
    truth = train.truth.dense()
    present, absent = (int(((first > 0) & (truth == code)).sum()) for code in (1, 0))
    printed = capsys.readouterr().out.splitlines()[0]
    assert f"{(first > 0).sum()} labels of {(first > 0).any(axis=1).sum()} of {len(train)} training" in printed
    assert f"{100 * present / (present + absent):.1f} % of them" in printed
    rows = table(folder.path / "modified.csv")
    drawn = list(dict.fromkeys(row["image"] for row in rows))
    assert len(drawn) == 5
    for image in drawn:
        row_number = train.ids.index(image)
        scores = seen_by_hand(folder, train, row_number).logits[0].sigmoid()
        own = [row for row in rows if row["image"] == image]
        assert {row["class"] for row in own} == {train.classes[k] for k in np.flatnonzero(first[row_number])}
        for row in own:
            k = train.classes.index(row["class"])
            assert (int(row["first_modified"]), int(row["truth"])) == (first[row_number, k], truth[row_number, k])
            assert float(row["score"]) == pytest.approx(scores[k].item(), abs=ROUNDING)
    assert min(Image.open(folder.path / "modified.png").size) > 300


def test_cards_show_given_labels_and_what_became_of_the_others(tmp_path, voc_words, monkeypatch):
    seen, how = [], []
    monkeypatch.setattr(
        room, "plot_contact_sheet", lambda cards, *args, **named: (seen.extend(cards), how.append(named))
    )
    folder = model_folder(tmp_path / "run", "large_loss", voc_words, modified_arrays)
    analyse("modified", folder.path, "--pictures", 100)
    train, observed = folder.data.train, folder.data.observed.dense()
    first = modified_arrays(folder.data)["first_modified"]
    rows = np.flatnonzero(first.any(axis=1))
    assert len(seen) == len(rows)
    assert how == [{"marks": room.MARKS, "columns": 1}]
    for row, card in zip(rows, seen, strict=True):
        given = [text for text, kind in card.labels if kind == "given"]
        assert given == [train.classes[k] for k in np.flatnonzero(observed[row] == PRESENT)]
        changed = [(text, kind) for text, kind in card.labels if kind != "given"]
        kinds = {1: "right", 0: "wrong", -1: "open"}
        expected = {
            (train.classes[k], kinds[train.truth.rows(np.array([row]))[0, k]], first[row, k])
            for k in np.flatnonzero(first[row])
        }
        shown = {(text.split(": ")[1], kind, int(text.split()[1].rstrip(","))) for text, kind in changed}
        assert shown == expected
        epochs = [int(text.split()[1].rstrip(",")) for text, _ in changed]
        assert epochs == sorted(epochs)


@pytest.mark.parametrize("last", [1.0, np.nan, -np.inf])
def test_scores_of_the_images_drawn_are_finite_and_the_group_is_left(monkeypatch, last):
    logits, told = np.array([[0.0, -2.0], [900.0, last]], np.float32), []

    class Runtime:
        def __init__(self, device, precision):
            told.append((device, precision))

        def to_device(self, network):
            return f"{network} on its device"

        def close(self):
            told.append("closed")

    run = SimpleNamespace(config=lambda kind: kind.__name__, model=lambda train: f"network of {train}")
    data = SimpleNamespace(train=type("Train", (str,), {"take": lambda self, rows: f"{self} {rows}"})("images"))
    monkeypatch.setattr(room, "Runtime", Runtime)
    monkeypatch.setattr(room, "evaluation_loader", lambda *args, **named: told.append((args[:2], named)) or "loader")
    monkeypatch.setattr(room, "score", lambda *args: told.append(args[:3]) or logits)
    if np.isfinite(last):
        expected = [[0.5, 1 / (1 + math.exp(2))], [1, 1 / (1 + math.exp(-1))]]
        assert room.final_scores(run, data, [4, 2], "cpu") == pytest.approx(np.array(expected))
    else:
        with pytest.raises(RunError, match="scoring: the model gives scores that are not finite"):
            room.final_scores(run, data, [4, 2], "cpu")
    loaded = (("images [4, 2]", "LoaderConfig"), {"num_workers": 0})
    assert told == [("cpu", "fp32"), loaded, ("network of images on its device", "loader", 2), "closed"]


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_those_by_hand_whatever_the_blocks(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    first = (rng.random((23, 4)) < 0.2).astype(np.uint8) * 3
    truth = rng.integers(-1, 2, (23, 4)).astype(np.int8)
    expected = (
        sum(bool(each) for each in first.ravel()),
        sum(any(row) for row in first),
        sum(bool(a) and b == 1 for a, b in zip(first.ravel(), truth.ravel(), strict=True)),
        sum(bool(a) and b == 0 for a, b in zip(first.ravel(), truth.ravel(), strict=True)),
    )
    assert count(first, LabelTable(truth.copy())) == expected
    monkeypatch.setattr("engine.analysis.modified_labels._BLOCK", 5)
    assert count(first, LabelTable(truth)) == expected


def test_rows_are_drawn_by_seed_among_those_with_a_modified_label():
    first = np.zeros((50, 3), dtype=np.uint8)
    first[::2, 1] = 4
    drawn = [draw_rows(first, 10, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert drawn[0].tolist() != drawn[2].tolist()
    for rows in drawn:
        assert len(set(rows.tolist())) == 10
        assert (rows % 2 == 0).all()
        assert (np.diff(rows) > 0).all()
    assert draw_rows(first, 100, 0).tolist() == list(range(0, 50, 2))


def test_an_epoch_beyond_the_last_that_fits_is_marked():
    assert [epoch_text(epoch) for epoch in (1, 254, 255)] == ["1", "254", "255+"]


def test_a_run_that_modified_nothing_is_named(tmp_path, voc_words):
    nothing = model_folder(
        tmp_path / "run", "bce", voc_words, lambda data: {"first_modified": 0 * modified_arrays(data)["first_modified"]}
    )
    assert "bce modified no label" in refused("modified", nothing.path)


def test_recorded_labels_of_other_data_are_refused(tmp_path, voc_words):
    folder = model_folder(
        tmp_path / "run", "large_loss", voc_words, lambda data: {"first_modified": np.ones((3, 4), np.uint8)}
    )
    assert "(3, 4)" in refused("modified", folder.path)
    wide = model_folder(
        tmp_path / "wide",
        "large_loss",
        voc_words,
        lambda data: {"first_modified": modified_arrays(data)["first_modified"].astype(float)},
    )
    assert "float64" in refused("modified", wide.path)


def test_labels_that_are_others_now_are_refused(tmp_path, voc_words):
    folder = model_folder(tmp_path / "run", "large_loss", voc_words, modified_arrays)
    result = folder.path / "result.json"
    result.write_text(result.read_text().replace('"label_hash": "', '"label_hash": "f'))
    assert "trained on other labels" in refused("modified", folder.path)


@pytest.mark.parametrize("what", ["modified", "pointing"])
def test_a_dataset_that_is_gone_is_named_and_one_that_was_moved_found(tmp_path, voc_words, what):
    folder = model_folder(tmp_path / "run", "large_loss", voc_words, modified_arrays)
    (tmp_path / "Dataset").rename(tmp_path / "Moved")
    with pytest.raises(UserError, match="VOCdevkit"):
        analyse(what, folder.path)
    assert analyse(what, folder.path, "--path_images", tmp_path / "Moved" / "VOCdevkit") == 0


@pytest.mark.parametrize("what", ["modified", "pointing"])
def test_a_checkpoint_that_is_gone_or_of_other_classes_is_named(tmp_path, voc_words, what):
    folder = model_folder(tmp_path / "run", "large_loss", voc_words, modified_arrays)
    digits = model_folder(tmp_path / "digits", "bce", ["--dataset", "digits", *SMALL, "--img_size", "40"])
    shutil.copy(digits.path / "best.pth", folder.path / "best.pth")
    if digits.data.train.classes != folder.data.train.classes:
        assert "classes" in refused(what, folder.path)
    (folder.path / "best.pth").unlink()
    assert "best.pth" in refused(what, folder.path)


def damaged_arrays(path):
    """Ways in which the file of recorded labels can be broken."""
    good = path.read_bytes()
    yield b""
    yield b"text"
    yield good[: len(good) // 2]
    yield good[:60] + bytes(20) + good[80:]
    with path.open("wb") as file:
        np.savez(file, first_modified=np.array([{"a": 1}], dtype=object))
    yield path.read_bytes()


def test_damaged_arrays_end_in_a_line_that_names_the_file(tmp_path):
    run = log_folder(tmp_path / "run", "bce", [{"epoch": 1}], arrays={"first_modified": np.ones((40, 40), np.uint8)})
    file = run / LABELS_FILE
    for content in list(damaged_arrays(file)):
        file.write_bytes(content)
        assert LABELS_FILE in refused("modified", run)


@pytest.mark.parametrize(
    ("present", "absent", "labels", "text"),
    [
        (1, 3, 4, "25.0 % of them are truly present"),
        (1, 3, 9, "25.0 % of the 4 whose truth is known are truly present"),
        (0, 3, 9, "0.0 % of the 3 whose truth is known are truly present"),
        (0, 0, 9, "the truth of none of them is known"),
        (1200, 0, 1300, "100.0 % of the 1,200 whose truth is known are truly present"),
    ],
)
def test_what_is_unknown_is_never_a_share(present, absent, labels, text):
    assert truly_present(Counts(labels, 5, present, absent)) == text
