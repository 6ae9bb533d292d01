"""How much of what was found a report lists, and how its problems are told."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from data.labels.regime import Regime
from engine.inspection import report as room
from engine.inspection.command import inspect_dataset
from engine.inspection.report import report
from engine.inspection.text import as_text
from tests.engine.inspection.test_command import data, part
from tests.engine.inspection.test_kept_reports import spoilt
from utils.types import LabelTable


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """What was found in a dataset with every fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("spoilt"))
        return inspect_dataset(spoilt(), True)


def lists(found):
    """Every list of a report that may be long, but for classes without a positive, of which all are named."""
    images = {name: split["pictures"] for name, split in found["splits"].items()}
    named = {f"{name}, {key}": part[f"{key}_files"] for name, part in images.items() for key in ("missing", "broken")}
    told = {each["text"]: each["which"] for each in found["problems"] if "no positive in" not in each["text"]}
    together = {"pairs": found["co_occurrence"]["pairs"], "duplicates": found["duplicates"]["pictures"]}
    return {**named, **told, **together}


@pytest.mark.parametrize("skip", [False, True])
def test_lists_end_at_a_number_and_what_is_beyond_is_counted(monkeypatch, faulty, skip):
    every = lists(report(faulty, skip_missing=skip, skip_bad=skip))
    monkeypatch.setattr(room, "LISTED", 1)
    found = report(faulty, skip_missing=skip, skip_bad=skip)
    assert lists(found) == {name: values[:1] for name, values in every.items()}
    assert sum(len(values) > 1 for values in every.values()) >= 5
    assert found["splits"]["train"]["pictures"]["missing"] == 2
    assert found["splits"]["train"]["pictures"]["broken"] == 2


MISSING = "{} of 4 training images are missing"
BROKEN = "{} of 4 training images are broken"
WITHOUT = "{} of 4 training rows will be left out: no image"
UNREAD = "{} of 4 training rows will be left out: image cannot be read"


@pytest.mark.parametrize(
    ("missing", "broken", "skip_missing", "skip_bad", "errors", "notes"),
    [
        (0, 0, True, True, [], []),
        (1, 1, False, False, [MISSING, BROKEN], []),
        (1, 1, True, False, [BROKEN], [WITHOUT]),
        (1, 1, False, True, [MISSING], [UNREAD]),
        (1, 2, True, True, [], [WITHOUT, UNREAD]),
        (1, 3, True, True, [BROKEN], [WITHOUT]),
        (3, 1, True, True, [BROKEN], [WITHOUT]),
        (3, 0, True, True, [], [WITHOUT]),
        (4, 0, True, True, [MISSING], []),
        (0, 3, True, True, [], [UNREAD]),
        (0, 4, True, True, [BROKEN], []),
    ],
)
def test_images_may_be_left_out_as_long_as_some_are_left(missing, broken, skip_missing, skip_bad, errors, notes):
    train = part(np.ones((4, 2), dtype=np.int8), "train")
    found = inspect_dataset(data(parts={"train": train}, observed=train.truth), True)
    faults = dict.fromkeys(range(4 - broken, 4), "is empty")
    images = {"train": dataclasses.replace(found.images["train"], faults=faults)}
    found = dataclasses.replace(found, missing={"train": np.arange(missing)}, images=images)
    content = report(found, skip_missing=skip_missing, skip_bad=skip_bad)
    counts = {MISSING: missing, WITHOUT: missing, BROKEN: broken, UNREAD: broken}
    expected = [("error", text.format(counts[text])) for text in errors]
    expected += [("note", text.format(counts[text])) for text in notes]
    assert [(each["level"], each["text"]) for each in content["problems"]] == expected
    assert content["usable"] is (not errors)


def test_pairs_of_classes_share_a_thousandth_of_the_images_or_two():
    codes = np.ones((4000, 2), dtype=np.int8)
    for rows, least in ((4000, 4), (40, 2)):
        train = part(codes[:rows], "train")
        found = inspect_dataset(data(parts={"train": train}, observed=train.truth), False)
        assert report(found, skip_missing=False)["co_occurrence"]["pairs_share_at_least"] == least


def test_entries_of_several_tables_are_added_up_and_the_last_agreement_counts():
    def held(classes, uncertain, blank, soft, agreement):
        return SimpleNamespace(classes=classes, uncertain=uncertain, blank=blank, soft=soft, agreement=agreement)

    tables = (
        held("ab", [1, 0], [5, 6], [0, 8], [0.5, np.nan]),
        held("bc", [2, 3], [7, 0], [1, 0], None),
        held("a", [4], [1], [0], [0.25]),
    )
    assert room._entries(room.TableReport(entries=tables)) == [
        {"class": "a", "uncertain": 5, "blank": 6, "soft": 0, "agreement": 0.25},
        {"class": "b", "uncertain": 2, "blank": 13, "soft": 9, "agreement": None},
        {"class": "c", "uncertain": 3, "blank": 0, "soft": 0, "agreement": None},
    ]
    assert json.dumps(room._entries(room.TableReport(entries=tables[:1])), allow_nan=False)


def test_labels_that_are_denied_are_lost_as_those_that_are_not_told():
    train = part(np.array([[1, 1, 0, 1], [0, 1, 1, 1]], dtype=np.int8), "train")
    seen = LabelTable(np.array([[0, -1, 0, 1], [1, 1, -1, 1]], dtype=np.int8))
    read = data(parts={"train": train}, observed=seen, regime=Regime(labels="dropped"))
    content = report(inspect_dataset(read, False), skip_missing=False)
    shares = {name: content["observed"][name] for name in ("wrong_share", "lost_share", "present_among_unknown")}
    assert shares == {"wrong_share": 1 / 4, "lost_share": 3 / 6, "present_among_unknown": 1.0}
    assert "  lost      50.0 %  3 of 6 true labels are not labelled present" in as_text(content, 3)
