"""Sweeps over a script that only pretends to train, in forked processes."""

from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from engine.analysis.command import analyse_command
from engine.reproduction import planned
from engine.reproduction import sweep as room
from engine.reproduction.sweep import SweepConfig, SweepPoint, _best, sweep_plan, without_seed
from tests.engine.reproduction.fake_runs import FakeScript, RunError, fails_with, parsed_once, write_run
from tests.engine.run_folders import table
from utils.checks import UserError

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
LR = ("--setting", "lr", "--values")


@pytest.fixture
def script(tmp_path):
    return FakeScript(tmp_path / "trained.txt")


def sweep(script, *flags, words=("main_BCE.py", "--dataset", "digits")):
    """The command in this process, its runs in forked ones."""
    with (
        mock.patch.object(planned, "parse_settings", parsed_once),
        mock.patch.object(planned, "Request", return_value=None),
    ):
        given = ["sweep", *map(str, flags), "--", *map(str, words)]
        return analyse_command(given, scripts={"main_BCE.py": script}, start="fork")


def refusal(script, *flags, words=("main_BCE.py", "--dataset", "digits")):
    with pytest.raises(UserError) as caught:
        sweep(script, *flags, words=words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def drawn(monkeypatch):
    seen = []
    monkeypatch.setattr(room, "plot_lines", lambda lines, *_, **named: seen.append((lines, named)))
    return seen


def test_a_run_for_each_value_then_a_table_and_a_figure(tmp_path, script, capsys):
    words = ("main_BCE.py", "--dataset", "digits", "--seed", "3")
    assert sweep(script, *LR, "0.3, .1,0.2", "--output", tmp_path / "s", words=words) == 0
    assert script.lines == ["bce 0.1 3 0.3", "bce 0.1 3 0.1", "bce 0.1 3 0.2"]
    assert all((tmp_path / "s" / f"lr-{value}" / "result.json").exists() for value in ("0.3", ".1", "0.2"))
    rows = table(tmp_path / "s" / "sweep.csv")
    assert [(row["lr"], row["selected_epoch"]) for row in rows] == [("0.3", "2"), (".1", "2"), ("0.2", "2")]
    assert [float(row["test_mAP"]) for row in rows] == pytest.approx([0.55, 0.53, 0.54])
    assert [float(row["validation_mAP"]) for row in rows] == pytest.approx([0.5, 0.48, 0.49])
    printed = capsys.readouterr().out
    assert "[2/3] lr-.1, seed 3: mAP 53.00, " in printed
    assert "best validation mAP 50.00 at lr 0.3, test mAP 55.00 there" in printed
    assert printed.splitlines()[-2:] == [f"written: {tmp_path}/s/sweep.png", f"written: {tmp_path}/s/sweep.csv"]
    assert min(Image.open(tmp_path / "s" / "sweep.png").size) > 300


def test_the_same_command_goes_on_and_trains_nothing_again(script, capsys):
    words = (*LR, "0.1,0.2")
    bad = FakeScript(script.trained, fails_with(RunError("the loss is nan"), lr=0.2))
    assert sweep(bad, *words) == 1
    said = capsys.readouterr()
    assert "[2/2] lr-0.2, seed 0: failed: the loss is nan (runs/sweep-lr/lr-0.2.txt)" in said.err
    assert [row["test_mAP"] for row in table(Path("runs/sweep-lr/sweep.csv"))] == ["0.5", ""]
    assert sweep(script, *words) == 0
    assert sweep(script, *words) == 0
    assert script.lines == ["bce 0.1 0 0.1", "bce 0.1 0 0.2", "bce 0.1 0 0.2"]


def test_two_at_once_are_the_same(script):
    assert sweep(script, *LR, "0.1,0.2,0.3", "--jobs", "2") == 0
    assert [row["test_mAP"] for row in table(Path("runs/sweep-lr/sweep.csv"))] == ["0.5", "0.51", "0.52"]


def test_a_run_that_was_made_before_is_read(script):
    write_run(Path("runs/sweep-lr/lr-0.5"), "bce", 0.75)
    sweep(script, *LR, "0.5,0.1")
    assert script.lines == ["bce 0.1 0 0.1"]
    assert [row["test_mAP"] for row in table(Path("runs/sweep-lr/sweep.csv"))] == ["0.75", "0.5"]


def test_seeds_may_be_what_varies(script):
    assert sweep(script, "--setting", "seed", "--values", "4,5") == 0
    assert script.lines == ["bce 0.1 4 0.01", "bce 0.1 5 0.01"]
    assert "'x' is no whole number" in refusal(script, "--setting", "seed", "--values", "x")


def test_the_figure_shows_test_and_validation_against_the_values_in_their_order(script, monkeypatch):
    seen = drawn(monkeypatch)
    sweep(script, *LR, "0.2,0.1", "--metric", "CF1")
    ((test,), named) = seen[0]  # these runs have no CF1 of validation
    assert test.points == [(0, pytest.approx(25.5)), (1, pytest.approx(25))]
    assert (named["ticks"], named["xlabel"], named["ylabel"]) == (["0.2", "0.1"], "lr", "CF1 (%)")
    assert named["title"] == "main_BCE.py --dataset digits"
    sweep(script, *LR, "0.2,0.1")
    assert [(line.label, line.points[1][1]) for line in seen[1][0]] == [
        ("test", pytest.approx(50)),
        ("validation, selected epoch", pytest.approx(45)),
    ]


def test_all_values_are_read_before_any_is_trained(tmp_path, script):
    message = refusal(script, *LR[:-1], "--values=0.1,-2", "--output", tmp_path / "s")
    assert message.startswith("analyse.py sweep: row lr--2: --lr -2")
    assert script.lines == []
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, script):
    (tmp_path / "s").touch()
    assert refusal(script, *LR, "0.1", "--output", tmp_path / "s").startswith(f"--output {tmp_path}/s: cannot be made")


def test_data_that_is_not_there_is_said_before_anything_is_made(script):
    words = ("main_BCE.py", "--dataset", "voc07", "--path_images", "nowhere")
    assert "analyse.py sweep: needs voc07" in refusal(script, *LR, "0.1", words=words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "flags, words, expected",
    [
        ([], ["main_BCE.py"], "--setting"),
        (["--setting", "lr"], ["main_BCE.py"], "--values"),
        ([*LR, "1"], [], "main_BCE.py"),
        ([*LR, "1"], ["other.py"], "other.py"),
        ([*LR, "1"], ["/somewhere/main_BCE.py"], "/somewhere/main_BCE.py"),
        ([*LR, "1"], ["../main_BCE.py"], "not a training script"),
        ([*LR, "1"], ["os"], "not a training script"),
        ([*LR, "1,1.0"], ["main_BCE.py"], "1.0 comes twice"),
        ([*LR, "a,b,a"], ["main_BCE.py"], "a comes twice"),
        ([*LR, "1,,2"], ["main_BCE.py"], "''"),
        ([*LR, "../../x"], ["main_BCE.py"], "../../x"),
        ([*LR, ".."], ["main_BCE.py"], "'..'"),
        ([*LR, "a/b"], ["main_BCE.py"], "a/b"),
        ([*LR, "a\0"], ["main_BCE.py"], "\\x00"),
        ([*LR, "1", "--jobs", "0"], ["main_BCE.py"], "--jobs 0: must be at least 1"),
        (["--setting", "--lr", "--values", "1"], ["main_BCE.py"], "--setting"),
        (["--setting", "output", "--values", "1"], ["main_BCE.py"], "--setting output"),
        (["--setting", "../lr", "--values", "1"], ["main_BCE.py"], "../lr"),
        ([*LR, "1", "--metric", "map"], ["main_BCE.py"], "mAP"),
        ([*LR, "1"], ["main_BCE.py", "--output", "x"], "--output"),
        ([*LR, "1"], ["main_BCE.py", "--lr=2"], "--lr"),
        ([*LR, "1"], ["main_BCE.py", "--resume"], "--resume"),
    ],
)
def test_what_cannot_be_swept_is_refused(script, flags, words, expected):
    assert expected in refusal(script, *flags, words=words)
    assert script.lines == []


def test_values_are_listed_as_they_were_given():
    assert SweepConfig(setting="lr", values="1e-4, .5,LL-R").listed == ["1e-4", ".5", "LL-R"]


def test_the_seed_is_taken_out_wherever_it_stands():
    assert without_seed(["--seed", "3", "--lr", "1", "--seed=4", "--seeds", "x"]) == ("--lr", "1", "--seeds", "x")
    plan = sweep_plan(SweepConfig(setting="lr", values="1,2"), "main_BCE.py", ("--seed", "3", "--w_d", "0"), 3)
    assert (plan.flags, plan.regimes[""].seeds) == (("--w_d", "0"), (3,))
    assert [row.flags for row in plan.rows] == [("--lr=1",), ("--lr=2",)]


@pytest.mark.parametrize("value", [None, 0.125])
def test_a_value_without_a_score_is_not_the_best(value):
    config = SweepConfig(setting="lr", values="1,2,3")
    points = [SweepPoint("1", 3, 0.25, 0.25), SweepPoint("2", 3, 0.75, value), SweepPoint("3", 3, 0.5, 0.5)]
    if value is None:
        assert _best(config, points) == "best test mAP 75.00 at lr 2"
    else:
        assert _best(config, points) == "best validation mAP 50.00 at lr 3, test mAP 50.00 there"
    nought = [SweepPoint("1", 3, 0.0, 0.0), SweepPoint("2", 3, 0.25, None if value is None else 0.25)]
    assert "mAP 25.00 at lr 2" in _best(config, nought)
    failed = SweepPoint("4", None, None, None)
    assert _best(config, [failed, *points]) == _best(config, points)
    assert _best(config, [failed]) == "no value has a result"


@pytest.mark.parametrize("word", ["--resume", "--no-resume", "--print_config", "--lr", "--output=x", "--resume=True"])
def test_what_the_sweep_sets_itself_is_refused_behind_the_script(script, word):
    name = word.removeprefix("--").split("=")[0]
    message = f"analyse.py sweep: --{name} stands behind the script, but the sweep sets it; leave it out"
    assert refusal(script, *LR, "1", words=["main_BCE.py", word]) == message


def test_the_first_of_several_words_that_the_sweep_sets_is_named(script):
    words = ["main_BCE.py", "--seed", "3", "--resume", "--output=x", "--lr", "1"]
    message = refusal(script, *LR, "1", words=words)
    assert message == "analyse.py sweep: --resume stands behind the script, but the sweep sets it; leave it out"
