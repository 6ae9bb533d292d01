"""Comparisons of runs that were never trained: their results and networks are known beforehand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from engine.analysis import compare as room
from engine.analysis.compare import compare_command, differences, table
from tests.engine.run_folders import log_folder, model_folder
from utils.checks import UserError

pytestmark = pytest.mark.usefixtures("own_folder")
HISTORY = [{"epoch": 1, "loss": 1.0, "test_mAP": 0.25}, {"epoch": 2, "loss": 0.5, "test_mAP": 0.5}]


def figures(mean=0.5, rate=0.1):
    """What a result says."""
    test = {"mAP": mean, "CF1": mean / 2, "OF1": mean / 4}
    return {"dataset": "voc07", "labels": "single", "rate": rate, "test": test}


def compare(*words):
    """Run `compare.py` without its script."""
    return compare_command([str(word) for word in words])


def refused(*words):
    """The one line with which it refuses."""
    with pytest.raises(UserError) as caught:
        compare(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_result(folder, **result):
    """A run folder whose result is this one."""
    content = json.loads((folder.path / "result.json").read_text())
    (folder.path / "result.json").write_text(json.dumps(content | result))
    return folder.path


def test_a_row_a_run_in_the_order_given_each_run_once(tmp_path, capsys):
    first = log_folder(tmp_path / "b", "bce", HISTORY, **figures(0.5))
    second = log_folder(tmp_path / "a", "cones", HISTORY, **figures(0.25, rate=None))
    assert compare(first, second, first) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "dataset", "labels", "mAP", "CF1", "OF1"]
    assert rows[0].split() == ["bce", "voc07", "single", "0.1", "50.00", "25.00", "12.50"]
    assert rows[1].split() == ["cones", "voc07", "single", "25.00", "12.50", "6.25"]
    assert len(rows) == 2


def test_two_networks_have_a_row_for_each_and_one_for_both(tmp_path, capsys):
    second = {name: {"mAP": value, "CF1": value, "OF1": value} for name, value in (("ensemble", 0.75), ("g", 0.375))}
    peers = log_folder(tmp_path / "p", "cls", HISTORY, **figures(0.5), extra={"mean": {"mAP": 0.4375}, **second})
    compare(peers, log_folder(tmp_path / "b", "bce", HISTORY, **figures(0.25), extra={}))
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [
        ["cls", "voc07", "single", "0.1", "50.00", "25.00", "12.50"],
        ["g", "37.50", "37.50", "37.50"],
        ["ensemble", "75.00", "75.00", "75.00"],
        ["bce", "voc07", "single", "0.1", "25.00", "12.50", "6.25"],
    ]
    assert {len(line) for line in (head, *rows)} == {len(head)}
    assert [row.startswith("  ") for row in rows] == [False, True, True, False]


def test_runs_are_called_by_their_scheme_and_by_their_folder_where_that_is_the_same(tmp_path, capsys):
    schemes = {"a": "LL-R", "b": "LL-Cp", "c": "LL-Cp"}
    runs = [
        log_folder(tmp_path / name, "large_loss", HISTORY, ["--mod_scheme", scheme], **figures())
        for name, scheme in schemes.items()
    ]
    compare(*runs)
    printed = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert printed == ["LL-R", "LL-Cp (b)", "LL-Cp (c)"]


def test_curves_and_images_of_the_runs(tmp_path, voc_words, capsys, monkeypatch):
    curves = []
    monkeypatch.setattr("engine.analysis.compare.plot_curves", lambda histories, path: curves.append((histories, path)))
    runs = [
        with_result(model_folder(tmp_path / f"run{seed}", "bce", voc_words, seed=seed), **figures()) for seed in (1, 2)
    ]
    assert compare(*runs, "--output", tmp_path / "new" / "both", "--pictures", 3) == 0
    ((histories, path),) = curves
    assert histories == {f"bce (run{seed})": [{"epoch": 1.0, "loss": 1.0}] for seed in (1, 2)}
    assert path == tmp_path / "new" / "both" / "curves.png"
    assert min(Image.open(tmp_path / "new" / "both" / "examples.png").size) > 300
    assert f"written: {tmp_path / 'new' / 'both' / 'examples.png'}" in capsys.readouterr().out


def test_networks_of_other_classes_are_not_drawn(tmp_path, voc_words):
    voc = with_result(model_folder(tmp_path / "voc", "bce", voc_words), **figures())
    saved = model_folder(tmp_path / "digits", "bce", ["--dataset", "digits", *voc_words[6:]])
    digits = with_result(saved, **figures())
    assert compare(voc, digits) == 0
    assert "different classes; compare them without --output" in refused(voc, digits, "--output", tmp_path / "both")


def test_a_dataset_that_has_other_classes_now_is_told(tmp_path, voc_words):
    saved = model_folder(tmp_path / "run", "bce", ["--dataset", "digits", *voc_words[6:]])
    run = with_result(saved, **figures())
    settings = (run / "settings.yaml").read_text().splitlines()
    changed = {"dataset": "dataset: voc07", "path_images": f"path_images: {voc_words[3]}"}
    lines = [changed.get(line.split(":")[0], line) for line in settings]
    (run / "settings.yaml").write_text("\n".join(lines))
    assert "its dataset now has 20 or others" in refused(run, "--output", tmp_path / "out")


def test_an_output_that_is_a_file_is_refused(tmp_path):
    run = log_folder(tmp_path / "run", "bce", HISTORY, **figures())
    assert f"--output {run / 'result.json'}" in refused(run, "--output", run / "result.json")


@pytest.mark.parametrize("name", ["result.json", "settings.yaml", "metrics.csv"])
def test_a_damaged_run_is_named(tmp_path, name):
    run = log_folder(tmp_path / "run", "bce", HISTORY, **figures())
    (run / name).write_bytes(b"\xff\xfe\x00")
    assert str(run / name) in refused(run)


DATA = [
    ([{"test": "a" * 64}, {"test": "a" * 64}], []),
    ([{"test": "a" * 64}, {"test": "b" * 64}], ["test set of voc07, images or true labels differ (0: aaaaaaaa; 1: bb"]),
    (
        [{"test": "a"}, None, {"test": "b"}, {"test": "a"}],
        ["test set of voc07, images or true labels differ (0, 3: a;"],
    ),
    ([{"train": "a"}, {"train": "b"}], ["training set of voc07"]),
    ([{"train": "a", "seed": 1}, {"train": "b", "seed": 2}], []),
    ([{"test": "a", "dataset": "coco"}, {"test": "b"}], []),
    ([{"test": 7}, ["a"], "text", {"test": None}], []),
]


@pytest.mark.parametrize(("recorded", "notes"), DATA)
def test_runs_on_other_images_or_labels_are_told(tmp_path, capsys, recorded, notes):
    runs = []
    for number, data in enumerate(recorded):
        run = log_folder(tmp_path / str(number), "large_loss", HISTORY, ["--mod_scheme", "LL-R"], **figures())
        content = json.loads((run / "result.json").read_text()) | {"data": data}
        content |= {name: data[name] for name in ("seed", "dataset") if isinstance(data, dict) and name in data}
        (run / "result.json").write_text(json.dumps(content))
        runs.append(run)
    assert compare(*runs) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(told) == len(notes)
    for line, words in zip(told, notes, strict=True):
        assert f"not the same {words}" in line.replace("LL-R (", "").replace("),", ",").replace("):", ":")


def test_a_table_is_as_wide_as_its_longest_name_and_no_narrower_than_its_heading():
    def run(**result):
        return SimpleNamespace(result={**figures(), **result}, path=Path("run"))

    assert table(["bce"], [run(rate=None)]).splitlines() == [
        "method  dataset  labels             mAP     CF1     OF1",
        "bce     voc07    single           50.00   25.00   12.50",
    ]
    assert table(["an", "a longer name"], [run(), run(rate=None)]).splitlines() == [
        "method         dataset  labels             mAP     CF1     OF1",
        "an             voc07    single 0.1       50.00   25.00   12.50",
        "a longer name  voc07    single           50.00   25.00   12.50",
    ]


@pytest.mark.parametrize(
    ("recorded", "notes"),
    [
        ([{"test": "a"}, {"test": "a"}], 0),
        ([{"test": "a"}, {"test": "b"}], 1),
        ([{"test": "a", "train": "x"}, {"test": "b", "train": "y"}], 2),
        ([{"test": "a"}, None], 0),
    ],
)
def test_a_note_is_told_of_each_split_that_is_not_shared(recorded, notes):
    runs = [SimpleNamespace(result={"dataset": "voc07", "seed": 1, "data": data}) for data in recorded]
    assert len(differences(["a", "b"], runs)) == notes


def test_images_of_the_first_run_are_drawn_for_all(monkeypatch, tmp_path):
    asked = []
    data = SimpleNamespace(usable_rows=lambda test, name: [0])
    loader = SimpleNamespace(eval_view=lambda: "view")
    configs = {"DatasetConfig": data, "RunConfig": SimpleNamespace(seed=4), "LoaderConfig": loader}
    first = SimpleNamespace(path="a", saved=lambda: SimpleNamespace(classes=("x",)))
    first.config = lambda kind: configs[kind.__name__]
    other = SimpleNamespace(path="b", saved=lambda: SimpleNamespace(classes=("x",)))
    splits = SimpleNamespace(test=SimpleNamespace(take=lambda rows: f"test set of {rows}"))
    monkeypatch.setattr(room, "load_splits", lambda *args, **named: asked.append((args, named)) or splits)
    monkeypatch.setattr(room, "choose_rows", lambda test, count: [3] * count)
    monkeypatch.setattr(room, "built_for", lambda saved, test: (saved.classes, test))
    monkeypatch.setattr(room, "examples", lambda *args: args)
    monkeypatch.setattr(room, "plot_examples", lambda *args: asked.append(args))
    room.draw_examples(["one", "two"], [first, other], 2, tmp_path)
    loaded, drawn = asked
    assert loaded == ((data, 4), {"need_images": True})
    built = (("x",), "test set of [0]")
    assert drawn == (([built, built], "test set of [0]", [3, 3], "view"), ["one", "two"], tmp_path)
    with pytest.raises(UserError, match="a: its test set has no labelled image to show"):
        room.draw_examples(["one", "two"], [first, other], 0, tmp_path)
