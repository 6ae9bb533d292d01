"""Label files: what is said of them, where they go, and what does not go together."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import generate_labels as room
from engine.generate_labels import OutputConfig, generate_command
from utils.checks import UserError
from utils.types import LabelTable

CODES = np.array([[1, 0, -1], [1, 1, -1], [1, -1, -1], [1, -1, -1]], dtype=np.int8)


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What is read, drawn and written, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    held = []
    train = type("Train", (list,), {"truth": SimpleNamespace(num_classes=3, soft=None)})(range(4))
    splits = SimpleNamespace(train=train, test=[0] * 2)
    monkeypatch.setattr(room, "load_splits", lambda *args, **named: held.append((args[1:], named)) or splits)
    monkeypatch.setattr(
        room, "observe", lambda part, regime: held.append((len(part), regime.seed)) or LabelTable(CODES[: len(part)])
    )
    for name in ("own_path", "published_path"):
        monkeypatch.setattr(room, name, lambda folder, dataset, *_, name=name: Path(f"{name}-{dataset}.npy"))
    for name in ("write_native", "write_published"):
        monkeypatch.setattr(room, name, lambda path, table, *rest, name=name: held.append((name, path, rest[1])))
    monkeypatch.setattr(room, "names_below", lambda folder: f"names below {folder}")
    monkeypatch.setattr(room, "write_formatted", lambda *args, **named: held.append((args, named)))
    return held


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ("write_native", Path("own_path-voc07.npy"), "voc07")),
        (("--published",), ("write_published", Path("published_path-voc07.npy"), "voc07")),
        (("--out", "x.npy", "--dataset", "coco"), ("write_native", Path("x.npy"), "coco")),
        (("--out", "x.npz", "--published"), ("write_published", Path("x.npz"), "voc07")),
    ],
)
def test_labels_go_where_training_looks_or_where_they_are_sent(told, capsys, words, expected):
    assert generate_command(["--labels", "dropped", "--seed", "3", *words]) == 0
    assert told == [((3,), {"need_images": False}), (4, 3), expected]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{expected[1]}: 4 x 3, ")
    assert first.endswith(", seed 3")
    known = "an image has on average 1.250 present, 0.250 absent, 1.500 unknown; hash "
    assert second == f"{known}{LabelTable(CODES).hash()[:12]}"


def test_a_file_that_is_there_is_replaced_on_request_alone(told):
    Path("x.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.npy: exists already; name another --out, or add --overwrite"):
        generate_command(["--out", "x.npy"])
    assert [each[0] for each in told] == [(0,)]
    assert generate_command(["--out", "x.npy", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "images"),
    [((), "Dataset/VOCdevkit"), (("--overwrite", "--path_images", "a"), "a"), (("--dataset", "digits"), ".")],
)
def test_arrays_are_of_both_splits_drawn_by_the_same_seed(told, capsys, words, images):
    Path("arrays").mkdir()
    assert generate_command(["--labels", "single", "--seed", "5", "--formatted", "arrays", *words]) == 0
    read, train, test, (args, named) = told
    assert (read, train, test) == (((5,), {"need_images": False}), (4, 5), (2, 5))
    assert (args[0], named) == (Path("arrays"), {"overwrite": "--overwrite" in words})
    assert [len(table) for table in args[2:4]] == [4, 2]
    assert args[4] == f"names below {images}"
    said = capsys.readouterr().out
    assert said.startswith("arrays/formatted_*.npy: 4 + 2 x 3, ")
    assert said.endswith(", seed 5\n")


def test_labels_to_read_are_not_to_be_written(told):
    with pytest.raises(UserError, match="--label_file: names labels to read; here --out names the file to write"):
        generate_command(["--labels", "given", "--label_file", "a.npy"])
    assert told == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"out": Path("a.txt")}, "--out a.txt: must end in .npy"),
        ({"formatted": Path("a"), "out": Path("a.npy")}, "--formatted: writes a folder of arrays; leave --out and"),
        ({"formatted": Path("a"), "published": True}, "--formatted: writes a folder of arrays; leave --out and"),
    ],
)
def test_outputs_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        OutputConfig(**settings)
    OutputConfig(formatted=Path("a"))
