"""Analyses of runs that were never trained: their logs are known beforehand."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.analysis.command import ANALYSES, COMMANDS, _base_rates, found, modification
from engine.analysis.finished_runs import FinishedRun, ReportFiles, read_run, run_labels
from losses import CRITERIA
from tests.engine.run_folders import analyse, log_folder, refused, table
from utils.plots import COLOURS

MEMORISED = [
    {
        "epoch": epoch,
        "loss": 1.0,
        **{f"an_loss_{name}": value / epoch for name, value in {"TP": 2.0, "TN": 0.25, "FN": 0.5}.items()},
        "warmup_TP": 1 / epoch,
        "warmup_TN": 1.0,
        "warmup_FN": 0.25,
    }
    for epoch in (1, 2, 4)
]
MODIFIED = [
    {"epoch": 1, "loss": 1.0, "unknown_true": 0.04},
    {"epoch": 2, "loss": 1.0, "unknown_true": 0.04, "modified_true": 0.5, "modified_ever_true": 0.5},
    {"epoch": 3, "loss": 1.0, "unknown_true": 0.04, "modified_true": 0.75, "modified_ever_true": 0.625},
]


def lines_of(monkeypatch, name="plot_lines"):
    """What is handed to a plotting function of `engine.analysis.command`, which draws nothing then."""
    seen = []
    monkeypatch.setattr(
        f"engine.analysis.command.{name}", lambda lines, *rest, **named: seen.append((lines, rest, named))
    )
    return seen


def test_memorisation_says_and_writes_what_the_log_holds(tmp_path, capsys):
    run = log_folder(tmp_path / "run", "bce", MEMORISED)
    assert analyse("memorisation", run) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "TP 25.0 %, TN 100.0 %, FN 25.0 %" in printed[0]
    assert printed[1:] == [f"written: {run / 'memorisation.png'}", f"written: {run / 'memorisation.csv'}"]
    rows = table(run / "memorisation.csv")
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [
        {name: value for name, value in row.items() if name != "loss"} for row in MEMORISED
    ]
    assert min(Image.open(run / "memorisation.png").size) > 300


def test_memorisation_draws_each_group_that_has_labels(tmp_path, monkeypatch):
    seen = lines_of(monkeypatch, "plot_memorisation")
    analyse("memorisation", log_folder(tmp_path / "run", "bce", MEMORISED))
    full = [{name: value for name, value in row.items() if not name.endswith(("TN", "FN"))} for row in MEMORISED]
    analyse("memorisation", log_folder(tmp_path / "full", "bce", full))
    (lines, (first, _), _), (alone, (only, _), _) = seen
    assert [line.points for line in lines] == [[(1, v), (2, v / 2), (4, v / 4)] for v in (2.0, 0.25, 0.5)]
    assert first == {"TP": 0.25, "TN": 1.0, "FN": 0.25}
    assert ([line.points for line in alone], only) == ([lines[0].points], {"TP": 0.25})
    assert table(tmp_path / "full" / "memorisation.csv")[0]["warmup_FN"] == ""


@pytest.mark.parametrize("scheme, expected", [("LL-R", [50, 75]), ("LL-Ct", [50, 75]), ("LL-Cp", [50, 62.5])])
def test_precision_is_that_of_the_epoch_or_for_lasting_corrections_that_so_far(
    tmp_path, monkeypatch, capsys, scheme, expected
):
    seen = lines_of(monkeypatch)
    analyse("modification", log_folder(tmp_path / "run", "large_loss", MODIFIED, ["--mod_scheme", scheme]))
    ((line, base),) = (lines for lines, _, _ in seen)
    assert line.points == [(2, expected[0]), (3, expected[1])]
    assert line.label.startswith(scheme)
    assert ("so far" in line.label) == (scheme == "LL-Cp")
    assert base.points == ((1, 4.0), (2, 4.0), (3, 4.0))
    assert base.dashed
    printed = capsys.readouterr().out
    assert f"{scheme}: {expected[1]:.1f} % of" in printed
    assert "4.0 %" in printed


def test_precision_of_several_runs_stands_in_one_figure_and_table(tmp_path, capsys):
    runs = [log_folder(tmp_path / name, "large_loss", MODIFIED, ["--mod_scheme", name]) for name in ("LL-R", "LL-Cp")]
    assert analyse("modification", *runs, "--output", tmp_path / "new" / "figures") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    rows = table(tmp_path / "new" / "figures" / "modification.csv")
    assert [(row["run"], row["epoch"], row["modified_true"]) for row in rows] == [
        (name, str(epoch), value) for name in ("LL-R", "LL-Cp") for epoch, value in ((1, ""), (2, "0.5"), (3, "0.75"))
    ]
    assert min(Image.open(tmp_path / "new" / "figures" / "modification.png").size) > 300


@pytest.mark.parametrize("scheme, name", [("LL-R", "found"), ("LL-Cp", "found_ever")])
def test_false_negatives_found_are_drawn_and_told(tmp_path, monkeypatch, capsys, scheme, name):
    seen = lines_of(monkeypatch)
    rows = [
        {**row, "found": share, "found_ever": 2 * share} for row, share in zip(MODIFIED, (0.0, 0.2, 0.3), strict=True)
    ]
    run = log_folder(tmp_path / "run", "large_loss", rows, ["--mod_scheme", scheme])
    assert analyse("found", run) == 0
    (line,) = seen[0][0]
    assert line.points == [(epoch + 1, pytest.approx(100 * row[name])) for epoch, row in enumerate(rows)]
    assert f"{scheme}: {100 * rows[-1][name]:.1f} % found in epoch 3" in capsys.readouterr().out
    assert [row["found"] for row in table(run / "found.csv")] == ["0.0", "0.2", "0.3"]


def test_base_rates_that_differ_are_drawn_for_each_run(tmp_path, monkeypatch):
    seen = lines_of(monkeypatch)
    other = [{**row, "unknown_true": 0.1} for row in MODIFIED]
    analyse(
        "modification",
        *(log_folder(tmp_path / name, "large_loss", rows) for name, rows in (("a", MODIFIED), ("b", other))),
    )
    lines = seen[0][0]
    assert [line.dashed for line in lines] == [False, False, True, True]
    assert [line.points[0][1] for line in lines[2:]] == [4.0, pytest.approx(10.0)]
    assert [line.colour for line in lines[2:]] == [line.colour for line in lines[:2]]
    assert [line.label for line in lines] == [
        f"LL-Ct ({n}), {what}" for what in ("modified in the epoch", "base rate: all unknown labels") for n in "ab"
    ]


def held(number, rows):
    """A run that is known by the rows of its log."""
    return FinishedRun(Path(f"{number}"), "large_loss", {}, rows, asdict(CRITERIA["large_loss"].config()))


def test_base_rates_that_are_the_same_are_one_line_as_long_as_the_longest_run():
    runs = [held(number, rows) for number, rows in enumerate((MODIFIED[:2], MODIFIED, MODIFIED[:2]))]
    (line,) = _base_rates(runs, ["a", "b", "c"])
    assert tuple(line) == ("base rate: all unknown labels", ((1, 4.0), (2, 4.0), (3, 4.0)), "#606060", True)


@pytest.mark.parametrize(("more", "lines"), [(4e-9, 1), (2e-8, 2)])
def test_base_rates_that_differ_by_rounding_are_the_same(more, lines):
    other = [{**row, "unknown_true": 0.04 + more} for row in MODIFIED]
    assert len(_base_rates([held(0, MODIFIED), held(1, other)], ["a", "b"])) == lines


def test_colours_begin_anew_where_there_are_more_runs_than_colours(tmp_path, monkeypatch):
    seen = lines_of(monkeypatch)
    rows = [{**row, "found": 0.5} for row in MODIFIED]
    rates = [[{**row, "unknown_true": 0.01 * (1 + number)} for row in rows] for number in range(len(COLOURS) + 1)]
    runs = [held(number, each) for number, each in enumerate(rates)]
    for analysis in (modification, found):
        text = analysis(runs, None, ReportFiles(tmp_path / "figure.png", tmp_path / "table.csv"))
        assert len(text.splitlines()) == len(runs)
    expected = [*COLOURS, COLOURS[0]]
    (modified, _, _), (false_negatives, _, _) = seen
    assert [line.colour for line in modified] == [*expected, *expected]
    assert [line.colour for line in false_negatives] == expected


def test_runs_are_told_apart_by_method_then_folder_then_path(tmp_path):
    def run(path, method, **values):
        return FinishedRun(tmp_path / path, method, {}, [], asdict(CRITERIA[method].config(**values)))

    alone = [run("a", "bce"), run("b", "large_loss", mod_scheme="LL-R")]
    assert run_labels(alone) == ["bce", "LL-R"]
    assert run_labels([run("a", "bce"), run("b", "bce"), run("c", "wan")]) == ["bce (a)", "bce (b)", "wan"]
    assert run_labels([run("x/a", "bce"), run("y/a", "bce")]) == [f"bce ({tmp_path / each}/a)" for each in "xy"]


def test_what_to_do_must_be_known(tmp_path):
    for words in ([], ["memorization"], [tmp_path]):
        message = refused(*words)
        assert all(what in message for what in ("memorisation", "modification", "pointing", "modified", "sweep"))
    with pytest.raises(SystemExit) as stopped:
        analyse("--help")
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    "words, expected",
    [
        (["memorisation"], "name the folder of a finished run"),
        (["memorisation", "a", "b"], "one run, not 2"),
        (["memorisation", "a", "--tolerance", "3"], "unknown flag --tolerance"),
        (["pointing", "a", "--tolerance=-1"], "--tolerance -1.0"),
        (["modified", "a", "--pictures", "0"], "--images 0"),
        (["memorisation", "gone"], "gone: not a finished run"),
    ],
)
def test_wrong_words_are_refused(words, expected):
    assert expected in refused(*words)


SEVERAL = {"memorisation": False, "modification": True, "found": True, "pointing": True, "modified": False}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_says_how_many_runs_it_takes(name):
    many = SEVERAL[name]
    words = {command.program: command.words for command in COMMANDS}[f"analyse.py {name}"]
    assert words == ("RUN [RUN ...]" if many else "RUN")
    assert refused(name) == f"analyse.py {name}: name the folder of a finished run{', or several' if many else ''}"
    message = "gone: not a finished run (no result.json)" if many else f"analyse.py {name}: takes one run, not 2"
    assert refused(name, "gone", "away") == message


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in refused("memorisation", "a")


@pytest.mark.parametrize(
    "what, flag", [("memorisation", "memorisation"), ("modification", "modification"), ("modified", "modification")]
)
def test_a_run_without_the_recording_is_told_the_flag(tmp_path, what, flag):
    run = log_folder(tmp_path / "run", "large_loss", [{"epoch": 1, "loss": 1.0}])
    assert f"--record {flag} (or all)" in refused(what, run)


def test_columns_that_an_analysis_does_not_draw_may_be_missing(tmp_path, capsys):
    rows = [{name: value for name, value in row.items() if name != "modified_ever_true"} for row in MODIFIED]
    assert analyse("modification", log_folder(tmp_path / "run", "large_loss", rows, ["--mod_scheme", "LL-R"])) == 0
    assert "LL-R: 75.0 % of the labels modified in epoch 3 are truly present" in capsys.readouterr().out
    rows = [{name: value for name, value in row.items() if name != "unknown_true"} for row in MODIFIED]
    path = tmp_path / "without"
    advice = "its log has no columns of modification; train it with --record modification (or all)"
    assert refused("modification", log_folder(path, "large_loss", rows)) == f"{path}: {advice}"


def test_a_recording_of_something_else_is_told_the_flag(tmp_path):
    run = log_folder(tmp_path / "run", "bce", MEMORISED, arrays={"highest_loss": np.zeros((2, 2), np.float32)})
    message = refused("modified", run)
    assert "no first_modified" in message
    assert "--record modification (or all)" in message


@pytest.mark.parametrize("what, column", [("modification", "modified_ever_true"), ("found", "found_ever")])
def test_a_log_without_the_column_that_is_drawn_is_told_the_flag(tmp_path, what, column):
    rows = [{**row, "found": 0.1, "found_ever": 0.2} for row in MODIFIED]
    left = [{name: value for name, value in row.items() if name != column} for row in rows]
    run = log_folder(tmp_path / "run", "large_loss", left, ["--mod_scheme", "LL-Cp"])
    assert refused(what, run).endswith("no columns of modification; train it with --record modification (or all)")


def test_a_method_that_modifies_nothing_is_named(tmp_path):
    history = [{"epoch": 1, "loss": 1.0, "unknown_true": 0.1}]
    assert "bce modified no label" in refused("modification", log_folder(tmp_path / "log", "bce", history))


def test_an_output_that_is_a_file_is_refused(tmp_path):
    run = log_folder(tmp_path / "run", "bce", MEMORISED)
    assert "--output" in refused("memorisation", run, "--output", run / "metrics.csv")


DAMAGE = {
    "result.json": [b"", b"{", b"[]", b'{"method": 3}', b'{"method": "none"}', b"\xff\xfe"],
    "settings.yaml": [None, b"\xff\xfe", b"- a", b"nonsense: 3", b"lr: {a: 1}"],
    "metrics.csv": [
        None,
        b"",
        b"epoch,loss\n1,x\n",
        b"epoch,loss\n1,2,3\n",
        b"loss\n1\n",
        b"epoch\nnan\n",
        b"epoch\n1\nnan\n",
        b"\xff\xfe\x00",
    ],
}


@pytest.mark.parametrize("name, content", [(name, each) for name, contents in DAMAGE.items() for each in contents])
def test_damaged_folders_end_in_a_line_that_names_the_file(tmp_path, name, content):
    run = log_folder(tmp_path / "run", "bce", MEMORISED)
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    assert name in refused("memorisation", run)


def test_settings_that_an_older_run_did_not_have_are_their_defaults(tmp_path):
    run = log_folder(tmp_path / "run", "bce", MEMORISED)
    lines = (run / "settings.yaml").read_text().splitlines()
    (run / "settings.yaml").write_text("\n".join(line for line in lines if not line.startswith("img_size")))
    assert read_run(run).settings["img_size"] == 448
    assert not math.isnan(read_run(run).column("warmup_TP")[0][1])
