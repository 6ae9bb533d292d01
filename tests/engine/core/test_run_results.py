"""What of a result is checked when it is read."""

import json

import pytest

from engine.core.run_results import few, read_result, require_parts
from utils.checks import UserError

METRICS = {"mAP": 0.5, "CF1": None}
SOUND = {
    **{"method": "bce", "dataset": "voc07", "labels": "single", "selection": "last", "label_hash": "a"},
    **{"seed": 0, "selected_epoch": 2, "epochs": 2, "epochs_trained": 2, "rate": 0.5, "test": METRICS},
    **{"last": METRICS, "validation": None},
    "extra": {"classes_without_positives": ["a"], "groups": {"head": METRICS}, "g": METRICS, "head": 0.5},
}


def read(folder, content):
    (folder / "result.json").write_text(json.dumps(content))
    return read_result(folder)


def test_a_result_is_read_as_it_is_and_may_lack_what_earlier_versions_did_not_write(tmp_path):
    assert read(tmp_path, SOUND) == SOUND
    assert read(tmp_path, {"test": {}}) == {"test": {}}
    assert read(tmp_path, {"test": {}, "rate": None, "more": [1]})["more"] == [1]


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in ("method", "dataset", "labels", "selection") for value in (None, 1, ["a"])),
        *(
            {name: value}
            for name in ("seed", "selected_epoch", "epochs", "epochs_trained")
            for value in (1.0, "1", True)
        ),
        *({"rate": value} for value in ("x", True, 10**400)),
        *({name: value} for name in ("last", "validation") for value in ([], {"mAP": "x"}, 3)),
        *({"test": {"mAP": value}} for value in ("\x1b[31m", [], 10**30, True)),
        *({"extra": {name: value}} for name in ("groups", "g") for value in ([], None, {"a": "x"})),
        *({"extra": {"classes_without_negatives": value}} for value in ("ab", [1], None)),
        {"extra": "nan"},
        {"extra": {"groups": {"head": [1]}}},
    ],
)
def test_what_is_no_part_of_a_result_is_named(tmp_path, change):
    (name,) = change
    with pytest.raises(UserError, match=rf"result\.json: damaged: '{name}' is not what a run writes there"):
        read(tmp_path, {**SOUND, **change})


def test_a_deep_one_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"result\.json: not readable"):
        read_result(tmp_path)


def test_a_part_that_is_needed_and_missing_is_named(tmp_path):
    require_parts(SOUND, tmp_path, "rate", "test")
    with pytest.raises(UserError, match=r"result\.json: damaged: 'more' is missing"):
        require_parts(SOUND, tmp_path, "rate", "more", "another")


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, ""), (1, "0"), (20, ", ".join(map(str, range(20)))), (21, ", ".join(map(str, range(20))) + " and 1 more")],
)
def test_a_line_names_a_few_of_many_classes(count, told):
    assert few([str(number) for number in range(count)]) == told
    assert few(["a"] * 5000) == ", ".join(["a"] * 20) + " and 4,980 more"
