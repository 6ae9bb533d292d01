"""Sweeps over a script that only pretends to train."""

import json
from pathlib import Path

import pytest
from PIL import Image

from engine.analysis.sweep import SweepConfig, _best, _each
from tests.engine.run_folders import analyse, refused, table
from utils.checks import RunError, UserError

pytestmark = pytest.mark.usefixtures("own_folder")


class Script:
    """Takes the flags --lr, --output, --resume and --print_config; `scores` gives the figures of a value."""

    def __init__(self, scores, validated=True, fails=()):
        self.scores, self.validated, self.fails = scores, validated, set(fails)
        self.tried, self.trained = [], []

    def __call__(self, words):
        given = dict(word.split("=", 1) for word in words if "=" in word)
        value = float(given["--lr"])
        if value < 0:
            raise UserError("--lr: must not be negative")
        if "--print_config" in words:
            self.tried.append(list(words))
            raise SystemExit(0)
        self.trained.append(list(words))
        if value in self.fails:
            raise RunError("the loss is nan")
        self.write(given["--output"], self.scores(value))
        return 0

    def write(self, folder, score):
        Path(folder).mkdir(parents=True, exist_ok=True)
        figures = {"mAP": score, "CF1": score / 2, "OF1": score / 4}
        result = {"method": "m", "dataset": "d", "labels": "single", "selected_epoch": 3, "test": figures}
        result["validation"] = {name: value + 0.01 for name, value in figures.items()} if self.validated else None
        (Path(folder) / "result.json").write_text(json.dumps(result))


def sweep(script, *flags, words=("main_x.py", "--dataset", "digits")):
    return analyse("sweep", *flags, "--", *words, scripts={"main_x.py": lambda: script})


def refusal(script, *flags, words=("main_x.py",)):
    return refused("sweep", *flags, "--", *words, scripts={"main_x.py": lambda: script})


def drawn(monkeypatch):
    seen = []
    monkeypatch.setattr("engine.analysis.sweep.plot_lines", lambda lines, *_, **named: seen.append((lines, named)))
    return seen


def test_a_run_for_each_value_then_a_table_and_a_figure(tmp_path, capsys):
    script = Script(lambda value: 0.9 - value)
    assert sweep(script, "--setting", "lr", "--values", "0.3, .1,0.2", "--output", tmp_path / "s") == 0
    folders = [tmp_path / "s" / f"lr-{value}" for value in ("0.3", ".1", "0.2")]
    expected = [
        ["--dataset", "digits", f"--lr={value}", f"--output={folder}", "--resume"]
        for value, folder in zip(("0.3", ".1", "0.2"), folders, strict=True)
    ]
    assert script.trained == expected
    assert script.tried == [[*words, "--print_config"] for words in expected]
    rows = table(tmp_path / "s" / "sweep.csv")
    assert [(row["lr"], row["selected_epoch"]) for row in rows] == [("0.3", "3"), (".1", "3"), ("0.2", "3")]
    assert [float(row["test_mAP"]) for row in rows] == pytest.approx([0.6, 0.8, 0.7])
    assert [float(row["validation_mAP"]) for row in rows] == pytest.approx([0.61, 0.81, 0.71])
    printed = capsys.readouterr().out
    assert "--lr .1 (2 of 3)" in printed
    assert "best validation mAP 81.00 at lr .1, test mAP 80.00 there" in printed
    assert min(Image.open(tmp_path / "s" / "sweep.png").size) > 300


def test_the_figure_shows_test_and_validation_against_the_values_in_their_order(monkeypatch):
    seen = drawn(monkeypatch)
    sweep(Script(lambda value: value), "--setting", "lr", "--values", "0.2,0.1", "--metric", "CF1")
    ((test, validation), named) = seen[0]
    assert test.points == [(0, pytest.approx(10)), (1, pytest.approx(5))]
    assert validation.points == [(0, pytest.approx(11)), (1, pytest.approx(6))]
    assert (named["ticks"], named["xlabel"], named["ylabel"]) == (["0.2", "0.1"], "lr", "CF1 (%)")


def test_without_a_validation_split_the_test_set_says_which_is_best(monkeypatch, capsys):
    seen = drawn(monkeypatch)
    sweep(Script(lambda value: value, validated=False), "--setting", "lr", "--values", "0.2,0.5,0.1")
    assert len(seen[0][0]) == 1
    assert "best test mAP 50.00 at lr 0.5\n" in capsys.readouterr().out
    assert {row["validation_mAP"] for row in table_of("lr")} == {""}


def table_of(setting):
    """The table of a sweep that was not told where to leave it."""
    return table(Path("runs") / f"sweep-{setting}" / "sweep.csv")


def test_a_sweep_that_was_stopped_asks_its_runs_to_go_on():
    words = ("--setting", "lr", "--values", "0.1,0.2")
    script = Script(lambda value: value, fails=[0.2])
    with pytest.raises(RunError):
        sweep(script, *words)
    first = list(script.trained)
    script.fails.clear()
    sweep(script, *words)
    assert script.trained == [*first, *first]
    assert all("--resume" in each for each in first)


def test_all_values_are_tried_before_any_is_trained(tmp_path):
    script = Script(lambda value: value)
    message = refusal(script, "--setting", "lr", "--values=0.1,-2", "--output", tmp_path / "s")
    assert message == "--lr: must not be negative"
    assert script.trained == []
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "flags, words, expected",
    [
        ([], ["main_x.py"], "--setting"),
        (["--setting", "lr"], ["main_x.py"], "--values"),
        (["--setting", "lr", "--values", "1"], [], "main_x.py"),
        (["--setting", "lr", "--values", "1"], ["other.py"], "other.py"),
        (["--setting", "lr", "--values", "1"], ["/somewhere/main_x.py"], "/somewhere/main_x.py"),
        (["--setting", "lr", "--values", "1"], ["../main_x.py"], "not a training script"),
        (["--setting", "lr", "--values", "1"], ["os"], "not a training script"),
        (["--setting", "lr", "--values", "1,1.0"], ["main_x.py"], "1.0 comes twice"),
        (["--setting", "lr", "--values", "a,b,a"], ["main_x.py"], "a comes twice"),
        (["--setting", "lr", "--values", "1,,2"], ["main_x.py"], "''"),
        (["--setting", "lr", "--values", "../../x"], ["main_x.py"], "../../x"),
        (["--setting", "lr", "--values", ".."], ["main_x.py"], "'..'"),
        (["--setting", "lr", "--values", "a/b"], ["main_x.py"], "a/b"),
        (["--setting", "lr", "--values", "a\0"], ["main_x.py"], "\\x00"),
        (["--setting", "--lr", "--values", "1"], ["main_x.py"], "--setting"),
        (["--setting", "output", "--values", "1"], ["main_x.py"], "--setting output"),
        (["--setting", "../lr", "--values", "1"], ["main_x.py"], "../lr"),
        (["--setting", "lr", "--values", "1", "--metric", "map"], ["main_x.py"], "mAP"),
        (["--setting", "lr", "--values", "1"], ["main_x.py", "--output", "x"], "--output"),
        (["--setting", "lr", "--values", "1"], ["main_x.py", "--lr=2"], "--lr"),
        (["--setting", "lr", "--values", "1"], ["main_x.py", "--resume"], "--resume"),
    ],
)
def test_what_cannot_be_swept_is_refused(flags, words, expected):
    script = Script(lambda value: value)
    assert expected in refusal(script, *flags, words=words)
    assert script.trained == script.tried == []


def test_a_sweep_without_a_script_says_which_there_are():
    assert "main_x.py" in refused("sweep", "--setting", "lr", "--values", "1", scripts={"main_x.py": None})


def test_values_are_listed_as_they_were_given():
    assert SweepConfig(setting="lr", values="1e-4, .5,LL-R").listed == ["1e-4", ".5", "LL-R"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_value_whose_score_is_not_known_is_not_the_best(value):
    config = SweepConfig(setting="lr", values="1,2,3")

    def row(setting, test, validation):
        return {"lr": setting, "test_mAP": test, "validation_mAP": validation}

    rows = [row("1", 0.25, 0.25), row("2", 0.75, value), row("3", 0.5, 0.5)]
    if value is None:
        assert _best(config, rows) == "best test mAP 75.00 at lr 2"
    else:
        assert _best(config, rows) == "best validation mAP 50.00 at lr 3, test mAP 50.00 there"
    assert _best(config, [row("1", 0.25, 0.0), row("2", 0.5, 0.0)]).startswith("best validation mAP 0.00 at lr 1,")


@pytest.mark.parametrize("word", ["--resume", "--no-resume", "--print_config", "--lr", "--output=x", "--resume=True"])
def test_what_the_sweep_sets_itself_is_refused_behind_the_script(word):
    name = word.removeprefix("--").split("=")[0]
    message = f"analyse.py sweep: --{name} stands behind the script, but the sweep sets it; leave it out"
    assert (
        refusal(Script(lambda value: value), "--setting", "lr", "--values", "1", words=["main_x.py", word]) == message
    )


def test_the_first_of_several_words_that_the_sweep_sets_is_named():
    words = ["main_x.py", "--seed", "3", "--resume", "--output=x", "--lr", "1"]
    message = refusal(Script(lambda value: value), "--setting", "lr", "--values", "1", words=words)
    assert message == "analyse.py sweep: --resume stands behind the script, but the sweep sets it; leave it out"


def test_a_settings_file_may_stand_behind_the_script():
    script = Script(lambda value: value)
    assert sweep(script, "--setting", "lr", "--values", "1", words=["./main_x.py", "--config", "lr"]) == 0
    assert script.trained[0][:2] == ["--config", "lr"]


def test_methods_and_datasets_of_the_runs_are_named_once_each():
    results = {"1": {"method": "a", "n": 3}, "2": {"method": "b", "n": 3}, "3": {"method": "a", "n": 3}}
    assert (_each(results, "method"), _each(results, "n")) == ("a, b", "3")
