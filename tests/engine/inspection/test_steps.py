"""The steps of an inspection: what is read, which files are written, and with which exit code."""

import json
import math
import warnings
from pathlib import Path

import pytest

from data.build import DatasetConfig
from data.labels.regime import Regime
from data.subsets.splits import SplitConfig
from engine.inspection import command
from tests.engine.inspection.test_command import data
from utils.checks import UserError
from utils.types import Splits


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What the command reads and draws; the folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    held = []
    monkeypatch.setattr(command, "read_dataset", lambda *args: held.append(args[3]) or "data")
    monkeypatch.setattr(command, "inspect_dataset", lambda *args: held.append(args) or "findings")
    monkeypatch.setattr(command, "report", lambda findings, **how: held.append(how) or {"usable": True, "classes": []})
    monkeypatch.setattr(command, "as_text", lambda content, top: f"the text\n{top} lines")
    monkeypatch.setattr(command, "draw", lambda findings, config, folder: held.append(folder))
    return held


@pytest.mark.parametrize(
    ("words", "folder", "checked", "skipping"),
    [
        ((), "runs/inspect-digits", (True, True), (False, False)),
        (("--output", "a", "--no-check_images", "--bad_images", "skip"), "a", (False, True), (False, True)),
        (("--output", "a", "--missing_images", "skip", "--no-near_duplicates"), "a", (True, False), (True, False)),
    ],
)
def test_a_report_is_written_as_text_and_json_and_drawn(told, capsys, words, folder, checked, skipping):
    assert command.inspect_command(["--dataset", "digits", "--seed", "3", "--top", "4", *words]) == 0
    how = dict(zip(("skip_missing", "skip_bad"), skipping, strict=True))
    assert told == [3, ("data", *checked), how, Path(folder)]
    assert (Path(folder) / "report.json").read_text() == '{\n "usable": true,\n "classes": []\n}\n'
    assert (Path(folder) / "report.txt").read_text() == "the text\n4 lines\n"
    assert capsys.readouterr().out == f"written: {folder}\n\nthe text\n4 lines\n"


def test_a_dataset_that_is_not_usable_is_no_success_and_what_is_no_number_no_report(told, monkeypatch):
    monkeypatch.setattr(command, "report", lambda *_, **__: {"usable": False})
    assert command.inspect_command(["--dataset", "digits", "--output", "a"]) == 1
    assert json.loads(Path("a/report.json").read_text()) == {"usable": False}
    monkeypatch.setattr(command, "report", lambda *_, **__: {"usable": True, "share": math.nan})
    with pytest.raises(ValueError, match="Out of range float"):
        command.inspect_command(["--dataset", "digits", "--output", "a"])


def test_a_folder_that_cannot_be_written_is_told_before_images_are_read(told, monkeypatch):
    def refuse(**where):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(command.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError) as error:
        command.inspect_command(["--dataset", "digits", "--output", "a"])
    assert str(error.value) == "--output a: cannot be written (Read-only file system); name another folder"
    assert told == [0]


def test_annotations_are_read_without_images(monkeypatch):
    asked, parts = [], data(columns=3).parts
    found = Splits(parts["train"], parts["test"]), "columns"
    monkeypatch.setattr(command, "load_splits_described", lambda config, seed: asked.append((config, seed)) or found)
    config = DatasetConfig(dataset="digits")
    read = command.read_dataset(config, Regime(labels="full"), SplitConfig(), 5)
    assert asked == [(config, 5)]
    assert (list(read.parts), len(read.parts["train"]), read.table) == (["train", "test"], 50, "columns")
    found = found[0]._replace(validation=parts["test"]), "columns"
    read = command.read_dataset(config, Regime(labels="full"), SplitConfig(), 5)
    assert list(read.parts) == ["train", "validation", "test"]
    assert read.parts["validation"] is parts["test"]
    with pytest.raises(UserError, match=r"--val_frac 0\.1: digits has a validation split of its own"):
        command.read_dataset(config, Regime(labels="full"), SplitConfig(val_frac=0.1), 5)


def test_complaints_of_decoders_are_not_heard(monkeypatch, recwarn):
    told = []
    for name, called in {"examine": command.examine, "digest": command.digest}.items():

        def complain(*args, called=called, name=name):
            told.append(name)
            warnings.warn("odd metadata", stacklevel=1)
            return called(*args)

        monkeypatch.setattr(command, name, complain)
    command.inspect_dataset(data(columns=3), True)
    assert {"examine", "digest"} == set(told)
    assert not recwarn.list
