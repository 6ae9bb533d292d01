"""What another library says of a fault reaches the message: its first line, or the kind of error if it says nothing."""

import importlib
import json
import re

import numpy as np
import pytest
from PIL import Image
from torch import nn

from data.files.text_files import read_json
from data.images import decoders
from data.images.files import FileImages
from data.labels.arrays import _read_arrays
from data.loading.eval_view import EvalView
from engine.analysis.finished_runs import FinishedRun
from engine.prediction import export
from utils.checks import RunError, UserError
from utils.safe_files import load_npy, load_pickle

SAID = [(("first line\nsecond line",), "first line"), ((), "KIND"), (("",), "KIND")]


def saying(kind, words):
    """A function that raises an error with this text."""

    def fail(*args, **named):
        raise kind(*words)

    return fail


def message(error, kind, said):
    """The text of the refusal, checked to hold the reason and nothing else of the error."""
    text = str(error.value)
    assert "second" not in text
    assert (kind.__name__ if said == "KIND" else said) in text
    return text


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_json(tmp_path, monkeypatch, words, said):
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(json, "loads", saying(ValueError, words))
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "a.json", "it is read")
    assert "not a json file (" in message(error, ValueError, said)


@pytest.mark.parametrize(("words", "said"), SAID)
@pytest.mark.parametrize("load", [load_npy, load_pickle])
def test_of_numpy_and_pickles(tmp_path, monkeypatch, load, words, said):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    monkeypatch.setattr(np.lib.format, "read_magic", saying(ValueError, words))
    monkeypatch.setattr("utils.safe_files.PlainUnpickler.load", saying(ValueError, words))
    with pytest.raises(UserError) as error:
        load(tmp_path / "a.npy")
    message(error, ValueError, said)


def test_long_reasons_are_cut(tmp_path, monkeypatch):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    monkeypatch.setattr(np.lib.format, "read_magic", saying(ValueError, ["x" * 500]))
    with pytest.raises(UserError, match=rf"\({'x' * 160}\)"):
        load_npy(tmp_path / "a.npy")


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_sparse_labels(tmp_path, monkeypatch, words, said):
    monkeypatch.setattr("zipfile.ZipFile", saying(KeyError if words else EOFError, words))
    with pytest.raises(UserError) as error:
        _read_arrays(tmp_path / "labels.npz")
    kind = KeyError if words else EOFError
    text = str(error.value)
    expected = re.escape(repr(words[0])) if words else kind.__name__
    assert re.search(rf"not a readable file of sparse labels \({expected}\)", text)


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_a_table(tmp_path, monkeypatch, words, said):
    parquet = pytest.importorskip("pyarrow.parquet")
    from data.datasets.table.sheet import read_sheet

    monkeypatch.setattr(parquet, "ParquetFile", saying(ValueError, words))
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError) as error:
        read_sheet(tmp_path / "a.parquet")
    assert "not a readable parquet file (" in message(error, ValueError, said)


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_an_image(tmp_path, monkeypatch, words, said):
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    images = FileImages([tmp_path / "a.png"])
    monkeypatch.setattr(Image, "open", saying(ValueError, words))
    with pytest.raises(RunError) as error:
        images.open(0)
    assert "a.png (row 0) cannot be read: " in message(error, ValueError, said)


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_a_decoder_that_does_not_load(monkeypatch, words, said):
    decoders._jpeg_decoder.cache_clear()
    monkeypatch.setattr(importlib, "import_module", saying(ImportError, words))
    with pytest.raises(UserError) as error:
        decoders._jpeg_decoder()
    assert "not available here (" in message(error, ImportError, said)


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_a_recorded_array(tmp_path, monkeypatch, words, said):
    monkeypatch.setattr(np, "load", saying(ValueError, words))
    with pytest.raises(UserError) as error:
        FinishedRun(tmp_path, "bce", {}, [], {}).recorded("first", "modified")
    assert "not readable (" in message(error, ValueError, said)


@pytest.mark.parametrize(("words", "said"), SAID)
def test_of_an_export(monkeypatch, words, said):
    broken = export.FORMATS["torchscript"]._replace(write=saying(ValueError, words))
    monkeypatch.setitem(export.FORMATS, "torchscript", broken)
    with pytest.raises(RunError) as error:
        export._written(nn.Identity(), "torchscript", EvalView(8, "none", "unit", "pillow"), {})
    assert "torch cannot export this network (" in message(error, ValueError, said)
