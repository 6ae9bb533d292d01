"""The steps of an evaluation one by one, with what they call replaced: reading, converting, scoring, writing."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.build import DatasetConfig
from data.loading.loader import LoaderConfig
from engine.core.setting_table import training_names
from engine.core.settings import Request
from engine.core.settings_files import SettingsLayer
from engine.evaluation import command, scorer, text
from engine.evaluation.choosing import ChoiceConfig
from engine.evaluation.command import EVALUATE, ScoreConfig
from engine.evaluation.scored import Scored, write_result
from models.released.contents import HeadOverrides
from tests.engine.evaluation.test_text import PUBLISHED, SCORES, TEST, TRUTH
from utils.checks import UserError
from utils.metrics import evaluate_scores

FILE = Path("best.pth")


def request(*words):
    return Request(EVALUATE.table(), [str(word) for word in words], training_names())


def test_a_checkpoint_is_read_with_what_the_command_line_says_of_it(monkeypatch):
    asked = []
    monkeypatch.setattr(command, "read_model", lambda *args: asked.append(args) or "saved")
    assert command._read_checkpoint(request("--load_from", FILE)) == "saved"
    command._read_checkpoint(request("--load_from", FILE, "--dataset", "coco", "--lam", "0.25", "--paper", "p"))
    command._read_checkpoint(request("--load_from", FILE, "--checkpoint_weights", "raw"))
    assert asked == [
        (FILE, HeadOverrides(), None, None, None),
        (FILE, HeadOverrides(lam=0.25), "p", "coco", None),
        (FILE, HeadOverrides(), None, None, "raw"),
    ]
    with pytest.raises(UserError, match="--load_from: name the checkpoint to score"):
        command._read_checkpoint(request())


def test_settings_of_the_run_are_those_of_its_evaluation_where_they_are_of_the_data():
    held = {"img_size": 224, "dataset": "coco", "normalize": "imagenet", "epochs": 3, "path_images": None}
    held |= {"precision": "bf16", "device": "cuda", "cache": "ram", "tf32": False, "lam": 0.5, "label_file": "a.npy"}
    saved = SimpleNamespace(settings=held, path=FILE)
    layer = command._recorded(saved, request("--load_from", FILE).table)
    assert layer.origin == "best.pth"
    assert layer.values == {"img_size": 224, "dataset": "coco", "normalize": "imagenet"}


def test_settings_of_the_run_say_nothing_of_tables_without_such_columns(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("image,cat,labels\na,1,cat\n")
    held = SettingsLayer("best.pth", {"table": (Path("own.csv"),), "label_column": "labels", "group_column": "who"})
    first = request("--load_from", FILE, "--table", str(tmp_path / "t.csv")).first()
    found = command._of_tables(held, first)
    assert found == ("best.pth", {"table": (Path("own.csv"),), "label_column": "labels"})
    said = f"best.pth: --group_column who of the run is not used: {tmp_path / 't.csv'} has no such column\n"
    assert capsys.readouterr().out == said
    assert "label_column" not in command._of_tables(held, {**first, "class_columns": "cat"}).values
    assert command._of_tables(held, request("--load_from", FILE).first()) == held


def given(*names, **values):
    """Settings of which these were given."""
    data = SimpleNamespace(dataset="voc07", cache_dir=None, usable_rows=lambda part, name: np.array([0, 2]), table=None)
    loader = SimpleNamespace(check_images=values.pop("check_images", False), cache="ram", workers=lambda **named: named)
    loader.scored = lambda name, split: split if name == "test" else None
    config = SimpleNamespace(
        seed=4,
        features=None,
        ensemble=None,
        checkpoint_weights=None,
        top_k=False,
        save_as=None,
        json=None,
        metrics="ours",
    )
    for name, value in values.items():
        setattr(config, name, value)
    of = {DatasetConfig: data, LoaderConfig: loader, ScoreConfig: config, ChoiceConfig: ChoiceConfig()}
    return SimpleNamespace(of=lambda kind: of.get(kind, kind), is_given=lambda name: name in names)


@pytest.mark.parametrize(
    ("classes", "names", "written", "words"),
    [
        (("a",), (), (("a",), {}), "with 1 classes"),
        (("a",), ("dataset",), (("a",), {}), "with 1 classes"),
        ((), (), ((), {}), "with 1 classes, names not known"),
        ((), ("dataset",), (TEST.classes, {"dataset": "voc07"}), "with 1 classes"),
    ],
)
def test_a_checkpoint_is_converted_with_the_names_that_are_known(monkeypatch, capsys, classes, names, written, words):
    files, read = [], []
    monkeypatch.setattr(command, "save_safetensors", lambda *args: files.append(args))
    monkeypatch.setattr(
        command,
        "load_splits",
        lambda data, seed, need_images: read.append((seed, need_images)) or SimpleNamespace(test=TEST),
    )
    monkeypatch.setattr(command, "class_columns", lambda saved, test, dataset: read.append((test, dataset)))
    saved = SimpleNamespace(path=FILE, classes=classes, num_classes=1, notes=("a note",), released=None)
    command._convert(saved, given(*names, save_as=Path("x.safetensors")))
    assert files == [(Path("x.safetensors"), saved, *written)]
    assert read == ([(4, False), (TEST, "voc07")] if names and not classes else [])
    notes = [] if names else ["best.pth: a note"]
    assert capsys.readouterr().out.splitlines() == [*notes, f"x.safetensors: best.pth {words}"]


class Split(list):
    """A test set of a few images."""

    classes, truth = TEST.classes, TEST.truth

    def __init__(self, rows, told):
        super().__init__(rows)
        self.told = told
        self.images = SimpleNamespace(check=lambda: told.append(f"checked {len(self)}"))

    def take(self, rows):
        return Split([self[row] for row in rows], self.told)


class Parts(SimpleNamespace):
    def _replace(self, **changes):
        return Parts(**{**vars(self), **changes})


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("check_images", [True, False])
@pytest.mark.parametrize("top_k", [True, False])
def test_a_test_set_is_scored_without_images_that_are_left_out(monkeypatch, main, check_images, top_k):
    told = []

    @contextmanager
    def main_first():
        told.append("main first")
        yield

    runtime = SimpleNamespace(
        wrap=lambda model: ("wrapped", model), is_main=main, local_world_size=2, main_first=main_first
    )
    runtime.device = SimpleNamespace(type="cuda")

    def read(how, named):
        assert (how, named) == ((4,), {"need_images": True})
        return Parts(test=Split("abc", told))

    monkeypatch.setattr(command, "load_splits", lambda data, *how, **named: read(how, named))
    monkeypatch.setattr(command, "_networks", lambda *args: [("saved", "one"), ("other", "two")])
    monkeypatch.setattr(command, "given_features", lambda path, networks: None)
    monkeypatch.setattr(command, "_joined", lambda networks, test, dataset: (len(networks), len(test), dataset))
    monkeypatch.setattr(command, "print_remarks", lambda saved, settings: told.append(f"remarks on {saved}"))
    monkeypatch.setattr(command, "print_order", lambda saved, test, dataset: told.append(f"order of {saved}"))
    monkeypatch.setattr(command, "_require_rankable", lambda test, dataset: told.append("rankable"))
    monkeypatch.setattr(command, "free_now", lambda runtime: SimpleNamespace(host=7))
    monkeypatch.setattr(command, "require_room_to_score", lambda *given: room.append(given))
    room = []

    def keep(splits, how, cache, **named):
        told.append((how, named))
        return {"test": ["kept", *splits["test"]]}

    monkeypatch.setattr(scorer, "keep_images", keep)
    monkeypatch.setattr(scorer, "evaluate", lambda *args: args)
    settings = given(check_images=check_images, top_k=top_k)
    saved, splits, (model, test, _, _, workers), decided = command._evaluated("saved", settings, runtime)
    assert (saved, decided) == ("saved", None)
    assert (model, test) == (("wrapped", (2, 3, "voc07")), ["kept", "a", "c"])
    assert list(splits.test) == ["a", "c"]
    assert workers == {"beside_gpu": True, "processes": 2}
    assert told == [
        *(["checked 2"] if check_images else []),
        *(["rankable"] if top_k else []),
        *(["remarks on saved", "remarks on other", "order of other"] if main else []),
        "main first",
        ("ram", {"processes": 2, "shown": main}),
    ]


def test_the_order_of_classes_of_a_second_file_is_said_with_its_name(capsys):
    def second(*classes):
        return SimpleNamespace(path=Path("b.pth"), classes=classes, num_classes=3, released=None)

    text.print_order(second(*TEST.classes), TEST, "voc07")
    assert capsys.readouterr().out == ""
    text.print_order(second(*reversed(TEST.classes)), TEST, "voc07")
    assert capsys.readouterr().out.startswith("b.pth: classes: matched by name; the checkpoint has them in another")
    text.print_order(second(), TEST, "voc07")
    assert capsys.readouterr().out == ("b.pth: classes: the file does not give their order; that of voc07 is assumed\n")


def test_rankings_need_most_labels_of_an_image():
    known = SimpleNamespace(truth=SimpleNamespace(stores_known_only=True))
    with pytest.raises(UserError, match="--top_k: only few labels per test image of openimages are known"):
        command._require_rankable(known, "openimages")
    known.truth.stores_known_only = False
    command._require_rankable(known, "voc07")


@pytest.mark.parametrize(("images", "compared"), [(4, False), (4952, True)])
def test_all_figures_are_written_as_fractions_and_none_where_nothing_is_known(tmp_path, images, compared):
    metrics = evaluate_scores(SCORES, TRUTH)
    beside = {"g": metrics}
    scored = Scored(SimpleNamespace(metrics=metrics, beside=beside, scores=None), {"rec@1": 0.5}, {"head": 0.25})
    saved = SimpleNamespace(path=FILE)
    test = type("Test", (list,), {"classes": TEST.classes})(range(images))
    write_result(saved, test, scored, "voc07", tmp_path / "a.json", PUBLISHED)
    text = (tmp_path / "a.json").read_text()
    assert text.startswith('{\n  "load_from": "best.pth",\n')
    assert text.endswith("\n}\n")
    content = json.loads(text)
    precision = content.pop("average_precision")
    assert [precision[name] for name in ("cat", "dog")] == metrics.per_class[:2].tolist()
    assert precision["owl"] is None
    extra = content.pop("extra")
    assert (extra["head"], extra["g"], extra["mean"]) == (0.25, metrics.as_dict(), metrics.as_dict())
    published = {"name": "x-voc07", "paper": "A paper", "test": {"mAP": 0.9025, "head": 0.5}}
    assert content == {
        **{"load_from": "best.pth", "dataset": "voc07", "test": metrics.as_dict(), "top_k": {"rec@1": 0.5}},
        "published": {**published, "compared": compared, "images": images},
    }
    write_result(saved, test, scored, "voc07", tmp_path / "b.json", None)
    assert "published" not in json.loads((tmp_path / "b.json").read_text())


@pytest.mark.parametrize("seen", [0, 1200])
@pytest.mark.parametrize(("table", "held_out"), [(False, True), (True, False), (True, True)])
def test_images_of_training_and_parts_of_a_table_are_told(capsys, seen, table, held_out):
    settings = given(*(["table"] if table else []))
    settings.of(DatasetConfig).table = ("x.csv",)
    test = type("Test", (list,), {"ids": "ids"})(range(1500))
    splits = SimpleNamespace(train=range(500), test=test, held_out=held_out)
    text.print_caveats(SimpleNamespace(seen=lambda ids: seen if ids == "ids" else -1), splits, settings)
    first = "  1,200 of these 1,500 images have ids that the network was trained on: no figure of a test"
    rest = "  x.csv names no test set: 1,500 of its 2,000 images were held out by --test_frac and scored;"
    more = "  to score all of a table, name it by --test_table beside the --table of training"
    expected = [*([first] if seen else []), *([rest, more] if table and held_out else [])]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("scores", [None, SCORES])
@pytest.mark.parametrize(
    ("words", "is_converted", "is_scored"),
    [
        ((), False, True),
        (("--save_as", "x.safetensors"), True, False),
        (("--save_as", "x.safetensors", "--dataset", "coco"), True, True),
        (("--dataset", "coco", "--json", "x.json"), False, True),
    ],
)
def test_a_checkpoint_is_converted_scored_or_both(monkeypatch, main, scores, words, is_converted, is_scored):
    told = []
    runtime = SimpleNamespace(is_main=main, close=lambda: told.append("closed"))
    measured = SimpleNamespace(metrics=evaluate_scores(SCORES, TRUTH), beside={}, scores=scores)
    splits = SimpleNamespace(test=TEST, groups={"head": np.array([0])})
    saved = SimpleNamespace(path=FILE, settings={}, classes=TEST.classes, num_classes=3, released=None, decisions=None)
    monkeypatch.setattr(command, "Runtime", lambda *args: runtime)
    monkeypatch.setattr(command, "read_model", lambda *args: saved)
    monkeypatch.setattr(command, "_published", lambda saved, settings: "published")
    monkeypatch.setattr(command, "_convert", lambda saved, settings: told.append("converted"))
    evaluation = command.Evaluation(saved, splits, measured, None)
    monkeypatch.setattr(command, "_evaluated", lambda *args: told.append("scored") or evaluation)
    for name in ("print_table", "print_caveats", "write_result"):
        monkeypatch.setattr(command, name, lambda *args, name=name: told.append((name, args)))
    assert command.evaluate_command(["--load_from", "best.pth", *words]) == 0
    converted = ["converted"] if is_converted and main else []
    done = [*converted, *(["scored"] if is_scored else []), "closed"]
    assert told[: len(done)] == done
    printed = [name for name, _ in told[len(done) :]]
    assert printed == (
        ["print_table", "print_caveats", *(["write_result"] if "--json" in words else [])] if main and is_scored else []
    )
    for name, args in told[len(done) :]:
        if name != "print_caveats":
            scored = args[2]
            assert scored.groups == {"head": measured.metrics.per_class[0]}
            assert (scored.ranking is None) == (scores is None)


@pytest.mark.parametrize(
    "released, wanted, again", [("bce", "raw", True), ("bce", None, False), (None, "raw", False), (None, None, False)]
)
def test_a_second_released_file_is_read_with_the_weights_that_are_wanted(monkeypatch, released, wanted, again):
    asked = []

    def read(path, **how):
        asked.append(how)
        return SimpleNamespace(released=released, build=lambda: f"network {len(asked)}")

    monkeypatch.setattr(command, "read_model", read)
    monkeypatch.setattr(command, "require_same_classes", lambda *_: None)
    first = SimpleNamespace(build=lambda: "first")
    (_, one), (_, other) = command._networks(first, Path("b.pth"), wanted)
    assert asked == [{}, {"checkpoint_weights": wanted}] if again else asked == [{}]
    assert (one, other) == ("first", f"network {len(asked)}")
