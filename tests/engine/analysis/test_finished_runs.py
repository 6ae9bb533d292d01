"""Finished runs by themselves: the settings and columns of a run, its names, and the tables of an analysis."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.loading.loader import LoaderConfig
from engine.analysis import finished_runs as room
from engine.analysis.finished_runs import FinishedRun, built_for, make_report, run_paths, write_table
from utils.checks import UserError


def run(history=(), **settings):
    return FinishedRun(Path("r"), "bce", {}, list(history), {**asdict(LoaderConfig()), **settings})


def test_settings_of_a_run_may_be_changed_and_what_is_none_changes_nothing():
    held = run(img_size=99, unknown=3)
    assert held.config(LoaderConfig) == LoaderConfig(img_size=99)
    assert held.config(LoaderConfig, img_size=64, batch_size=None) == LoaderConfig(img_size=64)


def test_a_column_has_the_epochs_that_have_a_value():
    held = run([{"epoch": 1, "a": 0.0}, {"epoch": 2}, {"epoch": 4, "a": 3.0}])
    assert (held.column("a"), held.column("b")) == ([(1, 0.0), (4, 3.0)], [])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(), "r: nothing was recorded of its labels (no labels.npz)"),
        (ValueError("no zip file\nat all"), "r/labels.npz: not readable (no zip file)"),
        (MemoryError(), "r/labels.npz: not readable (MemoryError)"),
    ],
)
def test_what_was_not_recorded_or_is_damaged_is_told_with_the_flag(monkeypatch, error, words):
    def load(file, *, allow_pickle):
        raise error

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(UserError) as caught:
        run().recorded("first_modified", "modification")
    assert str(caught.value) == f"{words}; train it with --record modification (or all)"


def test_a_network_is_built_for_its_own_classes(monkeypatch):
    asked = []
    saved = SimpleNamespace(path=Path("best.pth"), classes=("a", "b"), build=lambda: "network")
    monkeypatch.setattr(room, "read_model", lambda path: asked.append(path) or saved)
    assert run().model(SimpleNamespace(classes=("a", "b"))) == "network"
    assert asked == [Path("r/best.pth")]
    for classes in (("b", "a"), ("a", "b", "c")):
        with pytest.raises(UserError, match=f"trained on 2 classes, but its dataset now has {len(classes)} or others"):
            built_for(saved, SimpleNamespace(classes=classes))


def test_folders_that_are_named_twice_count_once():
    assert run_paths(["b", "~/a", "b", "./b"]) == [Path("b"), Path.home() / "a"]


def test_a_report_is_a_figure_and_a_table_in_a_folder_that_is_made(tmp_path):
    report = make_report(tmp_path / "new" / "folder", "found")
    assert tuple(report) == (tmp_path / "new/folder/found.png", tmp_path / "new/folder/found.csv")
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_table_has_the_columns_of_its_first_row_and_empty_cells_for_what_is_not_known(tmp_path):
    rows = [{"a": 1, "b": None, "c": float("nan")}, {"b": "x, y", "d": 3}, {"a": 0.5, "b": 0, "c": "\udcff"}]
    write_table(tmp_path / "t.csv", rows)
    lines = (tmp_path / "t.csv").read_bytes().splitlines()
    assert lines == [b"a,b,c", b"1,,", b',"x, y",', b"0.5,0,\xff"]
