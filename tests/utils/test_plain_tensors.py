"""Tensors of a file that are what they claim to be: numbers, complete and finite."""

import os
import re
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import torch

from utils.checks import UserError
from utils.safe_files import is_state, load_metadata, load_npy, load_pickle, load_tensors, require_plain_tensors

FILE = Path("x.pth")


def refusal(value, name="w"):
    with pytest.raises(UserError) as error:
        require_plain_tensors({"good": torch.ones(2), name: value}, FILE)
    return str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.ones(2, 3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        *(torch.ones(2, dtype=kind) for kind in (torch.int8, torch.uint8, torch.int64, torch.bool)),
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[3:],
        torch.zeros(0, 5),
        torch.zeros(()),
    ],
    ids=str,
)
def test_tensors_of_numbers_are_taken(value):
    require_plain_tensors({"w": value}, FILE)


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, dtype=torch.complex64), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")],
    ids=["complex", "sparse", "without values"],
)
def test_others_are_refused_by_name(value):
    assert "x.pth: w is no plain tensor of numbers (" in refusal(value)


def test_a_shape_that_the_file_does_not_hold_is_refused():
    assert "w claims the shape (2, 1000000), of which" in refusal(torch.ones(1, 1).expand(2, 1_000_000))
    require_plain_tensors({"w": torch.ones(4).expand(1, 4)}, FILE)
    assert "claims the shape (2, 4)" in refusal(torch.ones(4).expand(2, 4))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(number):
    assert "w holds numbers that are not finite" in refusal(torch.tensor([1.0, number]))


def test_long_names_are_cut():
    message = refusal(torch.tensor([float("nan")]), "n" * 200)
    assert f"x.pth: {'n' * 80} holds" in message


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        ({"a": torch.ones(1)}, True),
        ({}, False),
        ({"a": torch.ones(1), "b": 1}, False),
        ({"a": torch.ones(1), 2: torch.ones(1)}, False),
        ([torch.ones(1)], False),
    ],
)
def test_a_state_is_names_and_tensors_at_least_one(content, is_one):
    assert is_state(content) is is_one


def test_metadata_of_safetensors(tmp_path):
    import safetensors.torch

    for name, metadata in (("a", {"format": "pt", "epoch": "3"}), ("b", None)):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(safetensors.torch.save({"w": torch.ones(1)}, metadata))
        assert load_metadata(file) == (metadata or {})
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"c\.safetensors"):
        load_metadata(tmp_path / "c.safetensors")


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("true",)


def test_what_a_file_asks_to_run_is_listed_in_its_order_with_torchs_own_last(tmp_path):
    torch.save([Calls(torch.load), Calls(os.system), Calls(torch.compile), Calls(eval)], tmp_path / "a.pth")
    names = ", ".join([f"{os.system.__module__}.system", "builtins.eval", "torch.serialization.load", "torch.compile"])
    with pytest.raises(UserError, match=re.escape(f"the file asks to run {names};")):
        load_tensors(tmp_path / "a.pth")


def refused(folder, records):
    """What is said of an archive of these records, each with its content and its compression."""
    with zipfile.ZipFile(folder / "a.pth", "w") as zipped:
        for name, (data, compression) in records.items():
            zipped.writestr(f"archive/{name}", data, compression)
    with pytest.raises(UserError) as error:
        load_tensors(folder / "a.pth")
    return str(error.value)


def test_names_are_told_of_pickles_that_are_not_compressed_alone(tmp_path):
    call, harmless = b"cos\nsystem\n.", b"cnumpy\nload\n."
    for call_at, compression in (("data/0", zipfile.ZIP_STORED), ("more.pkl", zipfile.ZIP_DEFLATED)):
        said = refused(tmp_path, {"data.pkl": (harmless, zipfile.ZIP_STORED), call_at: (call, compression)})
        assert "the file asks to run numpy.load; only tensors" in said
    said = refused(tmp_path, {"data.pkl": (harmless, zipfile.ZIP_STORED), "more.pkl": (call, zipfile.ZIP_STORED)})
    assert "the file asks to run numpy.load, os.system; only tensors" in said


def test_a_class_of_a_program_makes_it_a_program(tmp_path):
    content = b"c__torch__.net\nNet\n0cos\nsystem\n."
    said = refused(tmp_path, {"data.pkl": (content, zipfile.ZIP_STORED)})
    assert "refused: a TorchScript archive is a program" in said


def test_five_names_of_80_letters_are_told(tmp_path):
    names = ["a" * 100, "b", "c", "d", "e", "f"]
    content = b"".join(b"cx\n%s\n0" % name.encode() for name in names)
    said = refused(tmp_path, {"data.pkl": (b"\x80\x02" + content + b"N.", zipfile.ZIP_STORED)})
    assert f"asks to run x.{'a' * 78}, x.b, x.c, x.d, x.e; only" in said


def test_tensors_that_are_not_plain_are_told_from_calls(tmp_path):
    torch.save({"w": torch.eye(2).to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"it holds no plain tensors of numbers \(torch\._utils\._rebuild_sparse_tensor\)"
    ):
        load_tensors(tmp_path / "a.pth")


def test_the_keys_of_an_old_file_are_asked_for_names_too(tmp_path):
    file = tmp_path / "a.pth"
    torch.save(torch.ones(6), file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    (keys,) = re.findall(rb"\x80\x02\]q\x00X.{4}\d+q\x01a\.", data, re.DOTALL)
    file.write_bytes(data.replace(keys, b"\x80\x02cx\ny\n."))
    with pytest.raises(UserError, match=r"the file asks to run x\.y;"):
        load_tensors(file)


READERS = [
    (load_tensors, "utils.safe_files.read_torch", "a.pth"),
    (load_pickle, "utils.safe_files.PlainUnpickler.load", "a.pkl"),
    (load_npy, "numpy.lib.format.read_magic", "a.npy"),
]


@pytest.mark.parametrize(("load", "reads", "name"), READERS, ids=["tensors", "pickle", "npy"])
def test_faults_of_the_disk_are_told_from_damage_and_words_are_cut(load, reads, name, tmp_path, monkeypatch):
    (tmp_path / name).touch()
    said = []
    for error in (OSError(5, "Input/output error"), OSError("odd"), ValueError("x" * 200 + "\nmore"), ValueError()):
        monkeypatch.setattr(reads, mock.Mock(side_effect=error))
        with pytest.raises(UserError) as refusal:
            load(tmp_path / name)
        said.append(str(refusal.value).removeprefix(f"{tmp_path / name}: "))
    assert said[:2] == [f"cannot be read: {words}; check the path" for words in ("Input/output error", "odd")]
    assert f"({'x' * 160})" in said[2]
    assert "(ValueError)" in said[3]
