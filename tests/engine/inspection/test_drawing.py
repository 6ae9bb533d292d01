"""Which plots an inspection draws and of what; which images it shows; which labels it looks at."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data.labels.regime import Regime
from engine.inspection import command
from engine.inspection.command import InspectionConfig, _labels, contact_sheet, draw, inspect_dataset
from tests.engine.inspection.test_command import data, part
from utils.types import LabelTable


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, by the name of the file: the arguments."""
    held = {}
    for name in ("plot_bars", "plot_counts", "plot_heat_map", "plot_contact_sheet"):

        def plot(*args, **named):
            (path,) = (each for each in args if isinstance(each, Path))
            held[path.name] = ([each for each in args if each is not path], named)

        monkeypatch.setattr(command, name, plot)
    return held


def test_every_plot_shows_what_its_name_says(drawn, tmp_path):
    findings = inspect_dataset(data(columns=4), False)
    draw(findings, InspectionConfig(samples=3), tmp_path)
    assert set(drawn) == {"frequency.png", "cardinality.png", "cooccurrence.png", "contact_sheet.png"}
    present = {name: stats.present for name, stats in findings.labels.items()}
    order = sorted(range(4), key=lambda k: -present["train"][k])
    (names, series), settings = drawn["frequency.png"]
    assert names == [f"class {k}" for k in order]
    assert {name: counts.tolist() for name, counts in series.items()} == {
        name: [int(counts[k]) for k in order] for name, counts in present.items()
    }
    assert settings == {"log": False}
    (counts,), settings = drawn["cardinality.png"]
    assert list(counts) == ["train, true", "test, true", "train, seen in training"]
    assert counts["test, true"].sum() == 20
    assert settings == {"xlabel": "labels per image"}
    (names, shares), settings = drawn["cooccurrence.png"]
    assert names == [f"class {k}" for k in findings.co_occurrence.classes]
    np.testing.assert_allclose(shares, findings.co_occurrence.conditional())
    assert settings["title"].startswith("share of the images with the class of the row")
    assert len(drawn["contact_sheet.png"][0][0]) == 3


@pytest.mark.parametrize(("rare", "log"), [(1, True), (2, False)])
def test_bars_of_classes_thirty_times_as_frequent_as_others_are_on_a_logarithmic_scale(drawn, tmp_path, rare, log):
    codes = np.zeros((60, 2), dtype=np.int8)
    codes[:, 0], codes[:rare, 1] = 1, 1
    train = part(codes, "train")
    read = data()._replace(parts={"train": train, "test": train}, observed=train.truth)
    draw(inspect_dataset(read, False), InspectionConfig(samples=0), tmp_path)
    assert drawn["frequency.png"][1] == {"log": log}


def test_plots_that_cannot_be_drawn_now_are_removed(drawn, tmp_path):
    for name in ("cooccurrence.png", "contact_sheet.png", "other.png"):
        (tmp_path / name).write_bytes(b"")
    train = part(np.zeros((3, 2), dtype=np.int8), "train")
    read = data()._replace(parts={"train": train, "test": train}, observed=train.truth)
    draw(inspect_dataset(read, False), InspectionConfig(samples=0), tmp_path)
    draw(inspect_dataset(read, False), InspectionConfig(samples=0), tmp_path)
    left = {path.name for path in tmp_path.iterdir()} | set(drawn)
    assert "contact_sheet.png" not in left
    assert "other.png" in left
    assert ("cooccurrence.png" in drawn) is not (not (tmp_path / "cooccurrence.png").exists())


def test_as_many_images_are_shown_as_asked_for_in_an_order_of_the_seed():
    findings = inspect_dataset(data(), False)
    first = [card.image.tobytes() for card in contact_sheet(findings, 5, 0)]
    assert len(first) == 5
    assert first == [card.image.tobytes() for card in contact_sheet(findings, 9, 0)][:5]
    assert first != [card.image.tobytes() for card in contact_sheet(findings, 5, 1)]
    assert contact_sheet(findings, 0, 0) == []
    everything = contact_sheet(findings, 1000, 0)
    assert len(everything) == len({card.image.tobytes() for card in everything}) == 50
    order = np.random.default_rng(0).permutation(50)
    train = findings.data.parts["train"]
    assert [train.images.open(int(row)).tobytes() for row in order[:5]] == first


def test_missing_and_broken_images_are_not_shown():
    findings = inspect_dataset(data(), True)
    faults = {**findings.images["train"].faults, 7: "is empty"}
    stats = findings.images["train"]
    spoilt = stats._replace(faults=faults) if hasattr(stats, "_replace") else dataclasses.replace(stats, faults=faults)
    changed = dataclasses.replace(
        findings, missing={**findings.missing, "train": np.array([3])}, images={**findings.images, "train": spoilt}
    )
    shown = {card.image.tobytes() for card in contact_sheet(changed, 1000, 0)}
    train = findings.data.parts["train"]
    gone = [row for row in range(50) if train.images.open(row).tobytes() not in shown]
    assert gone == [3, 7]


@pytest.mark.parametrize(("unknown", "named"), [(10, 10), (11, 0)])
def test_up_to_ten_unknown_classes_are_written_beside_an_image(unknown, named):
    codes = np.zeros((1, 20), dtype=np.int8)
    codes[0, :unknown] = -1
    train = part(codes, "train")
    read = data()._replace(parts={"train": train, "test": train}, observed=train.truth)
    (card,) = contact_sheet(inspect_dataset(read, False), 9, 0)
    assert [kind for _, kind in card.labels] == ["unknown"] * named


@pytest.mark.parametrize(
    ("regime", "there", "read"),
    [
        (Regime(labels="candidate", label_seed=1), (), False),
        (Regime(labels="candidate", label_seed=1), ("native",), True),
        (Regime(labels="candidate", label_seed=1), ("published",), True),
        (Regime(labels="candidate", label_seed=1, label_rng="native"), ("published",), False),
        (Regime(labels="dropped", label_seed=1), ("published",), False),
        (Regime(labels="full", label_seed=1), ("native",), False),
        (Regime(labels="given", label_seed=1, label_file=Path("mine.npy")), (), True),
    ],
)
def test_labels_are_read_where_training_would_read_them(monkeypatch, tmp_path, regime, there, read):
    monkeypatch.chdir(tmp_path)
    train = part(np.array([[1, 0], [0, 1]], dtype=np.int8), "train")
    for name, file in (("own_path", "native"), ("published_path", "published")):
        monkeypatch.setattr(command, name, lambda *args, file=file: Path(f"{file}.npy"))
    for name in there:
        Path(f"{name}.npy").write_bytes(b"")
    found = LabelTable(np.array([[1, 1], [1, 1]], dtype=np.int8))
    resolved = type("Resolved", (), {"table": found, "path": Path("found.npy")})
    monkeypatch.setattr(command, "resolve_labels", lambda *args: resolved)
    table, file = _labels(train, "voc07", regime)
    assert (file == Path("found.npy"), table is found) == (read, read)
    if not read:
        assert file is None
        assert table.dense().shape == (2, 2)
