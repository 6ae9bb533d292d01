"""Exported models: the same logits, any batch, and everything in the file that a reader needs."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.core.checkpoint import read_model
from engine.core.decisions import Decisions, Thresholds
from engine.prediction import export
from engine.prediction.export import FORMATS, TOLERANCE, ExportFormat, FromPixels, export_model, texts
from engine.prediction.predictor import Predictor, view_of
from tests.engine.checkpoints import CLASSES, SIZE, checkpoint, pixels
from utils.calibration import Calibration
from utils.checks import RunError, UserError

SEEN = {"augment": "resize-crop", "normalize": "imagenet"}
HEADS = ("linear", "csra", "pfc", "q2l", "gcn", "ctran")


def needs(kind):
    """Skip where nothing is installed that writes and reads the form."""
    for package in (*FORMATS[kind].packages, FORMATS[kind].reader):
        pytest.importorskip(package)


def written(tmp_path, kind, **how):
    """A checkpoint exported: the checkpoint's path, the file, and the difference that was found."""
    needs(kind)
    path = checkpoint(tmp_path / "best.pth", **how)
    saved = read_model(path)
    file = tmp_path / f"model.{kind}"
    return path, file, export_model(saved, saved.classes, kind, file)


def read(kind, file):
    """From pixels to logits, by the library a user would take, and the texts in the file."""
    if kind == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        embedded = session.get_modelmeta().custom_metadata_map
        return lambda x: torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0]), embedded
    extra = dict.fromkeys(("classes", "img_size", "resize", "normalize", "epoch"), "")
    loaded = (
        torch.jit.load(file, _extra_files=extra)
        if kind == "torchscript"
        else torch.export.load(file, extra_files=extra).module()
    )
    return loaded, {name: text.decode() if isinstance(text, bytes) else text for name, text in extra.items()}


def hold_same_logits(path, kind, file, size=SIZE, batches=(1, 2, 5)):
    """The file gives a predictor's logits of images prepared by hand, as its texts say, in batches of any size."""
    model, embedded = read(kind, file)
    assert json.loads(embedded["classes"]) == list(CLASSES)
    img_size, resize = int(embedded["img_size"]), int(embedded["resize"])
    assert img_size == size
    left = (resize - img_size) // 2
    box = (left, left, left + img_size, left + img_size)
    images = [pixels(seed) for seed in range(max(batches))]
    prepared = [one.resize((resize, resize), Image.Resampling.BILINEAR).crop(box) for one in images]
    ready = torch.from_numpy(np.stack([np.asarray(one) for one in prepared]).transpose(0, 3, 1, 2) / np.float32(255))
    wanted = np.stack([one.logits for one in Predictor.load(path, device="cpu").predict(images)])
    assert np.ptp(wanted, axis=0).min() > 10 * TOLERANCE
    for batch in batches:
        with torch.no_grad():
            found = model(ready[:batch].contiguous()).numpy()
        assert found.shape == (batch, len(CLASSES))
        np.testing.assert_allclose(found, wanted[:batch], rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    """A checkpoint and its ONNX file; exporting takes seconds."""
    path, file, difference = written(tmp_path_factory.mktemp("onnx"), "onnx", **SEEN)
    assert difference < TOLERANCE
    return path, file


@pytest.mark.slow
def test_onnx_gives_the_logits_of_predictions(onnx):
    path, file = onnx
    hold_same_logits(path, "onnx", file)


@pytest.mark.parametrize("kind", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_an_exported_model_gives_the_logits_of_predictions(tmp_path, kind):
    path, file, difference = written(tmp_path, kind, **SEEN)
    assert difference < TOLERANCE
    hold_same_logits(path, kind, file)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_every_head_is_exported(tmp_path, kind, head):
    path, file, difference = written(tmp_path, kind, head=head, **SEEN)
    assert difference < TOLERANCE
    hold_same_logits(path, kind, file)


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_traced(tmp_path, head):
    path, file, difference = written(tmp_path, "torchscript", head=head, **SEEN)
    assert difference < TOLERANCE
    hold_same_logits(path, "torchscript", file)


@pytest.mark.parametrize("head", ["linear", "csra"])
@pytest.mark.parametrize("k", [5, 99])
def test_heads_with_saliency_are_traced(tmp_path, head, k):
    path, file, difference = written(tmp_path, "torchscript", head=head, saliency=0.5, saliency_k=k, **SEEN)
    assert difference < TOLERANCE
    hold_same_logits(path, "torchscript", file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_head_with_saliency_is_exported(tmp_path, kind):
    path, file, _ = written(tmp_path, kind, saliency=0.5, **SEEN)
    hold_same_logits(path, kind, file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_larger_backbone_is_exported(tmp_path, kind):
    path, file, difference = written(tmp_path, kind, model="resnet18", size=96, **SEEN)
    assert difference < TOLERANCE
    hold_same_logits(path, kind, file, size=96)


def test_of_two_networks_the_first_is_exported(tmp_path):
    path, file, _ = written(tmp_path, "torchscript", peers=True, **SEEN)
    hold_same_logits(path, "torchscript", file)


def test_pixels_that_are_not_normalised_pass_as_they_are(tmp_path):
    path, file, _ = written(tmp_path, "torchscript", normalize="unit")
    hold_same_logits(path, "torchscript", file)


def test_onnx_names_its_input_and_output_and_leaves_the_batch_open(onnx):
    _, file = onnx
    session = pytest.importorskip("onnxruntime").InferenceSession(file)
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, found.name) == ("pixels", "tensor(float)", "logits")
    assert isinstance(given.shape[0], str)
    assert given.shape[1:] == [3, SIZE, SIZE]
    assert found.shape == [given.shape[0], len(CLASSES)]
    assert sorted(one.name for one in file.parent.iterdir()) == ["best.pth", file.name]


def test_texts_say_how_to_make_pixels(tmp_path):
    saved = read_model(checkpoint(tmp_path / "best.pth", **SEEN))
    embedded = texts(saved, ["a", 'b"ü', "c", "d", "e"], view_of(saved))
    assert json.loads(embedded["classes"])[1] == 'b"ü'
    assert (embedded["img_size"], embedded["resize"], embedded["normalize"]) == ("40", "46", "imagenet")
    assert (embedded["load_from"], embedded["epoch"]) == ("best.pth", "7")
    assert texts(saved, "abcde", view_of(read_model(checkpoint(tmp_path / "b.pth"))))["resize"] == "40"


def test_texts_hold_thresholds_and_calibration_where_there_are_any(tmp_path):
    saved = read_model(checkpoint(tmp_path / "best.pth", **SEEN))
    view, own = view_of(saved), np.ones(5, dtype=bool)
    assert {"thresholds", "calibration"}.isdisjoint(texts(saved, "abcde", view))
    limits = Thresholds("f1", "these", np.array([0.5, np.inf, 1, 2, 3]), own)
    warm = Calibration("temperature", own, np.arange(1.0, 6.0))
    embedded = texts(replace(saved, decisions=Decisions(limits, warm, "these")), "abcde", view)
    assert json.loads(embedded["thresholds"]) == {"logits": [0.5, None, 1, 2, 3], "rule": "f1"}
    assert json.loads(embedded["calibration"]) == {"method": "temperature", "temperature": [1, 2, 3, 4, 5], "knots": []}
    assert "calibration" not in texts(replace(saved, decisions=Decisions(limits)), "abcde", view)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxscript not installed; pip install onnx onnxscript onnxruntime"):
        export_model(saved, saved.classes, "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_without_a_reader_the_file_is_written_and_said_to_be_unchecked(tmp_path, monkeypatch):
    saved, exported = read_model(checkpoint(tmp_path / "best.pth")), []
    monkeypatch.setitem(FORMATS, "onnx", unchecked(lambda model, *_: exported.append(model) or b"content"))
    assert export_model(saved, saved.classes, "onnx", tmp_path / "m.onnx") is None
    assert (tmp_path / "m.onnx").read_bytes() == b"content"
    (model,) = exported
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def unchecked(write):
    """A form that is written so, and that nothing reads."""
    return ExportFormat((), "nowhere_to_be_found", write, lambda content: 1 / 0)


class Reads(FromPixels):
    """A model that goes by values, which no exporter can follow."""

    def forward(self, given):
        return super().forward(given * (1 if given.sum().item() > 1e9 else 2))


def test_what_torch_cannot_export_ends_in_one_line(tmp_path, monkeypatch):
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    monkeypatch.setattr(export, "FromPixels", Reads)
    with pytest.raises(RunError, match="--export pt2: torch cannot export this network") as caught:
        export_model(saved, saved.classes, "pt2", tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.pt2").exists()


@pytest.mark.parametrize("wrong", [lambda x: x + 2e-4, lambda x: x * float("nan"), lambda x: x.flip(0)])
def test_a_file_with_other_logits_is_not_written(tmp_path, monkeypatch, wrong):
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    kind = FORMATS["torchscript"]
    monkeypatch.setitem(
        FORMATS, "torchscript", kind._replace(read=lambda content: lambda pixels: wrong(kind.read(content)(pixels)))
    )
    with pytest.raises(RunError, match="differ from torch's by"):
        export_model(saved, saved.classes, "torchscript", tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


def test_logits_are_compared_without_a_graph(tmp_path, monkeypatch):
    saved, seen = read_model(checkpoint(tmp_path / "best.pth")), []
    kind = FORMATS["torchscript"]

    def read(content):
        seen.append(torch.is_grad_enabled())
        return kind.read(content)

    monkeypatch.setitem(FORMATS, "torchscript", kind._replace(read=read))
    maximum = torch.Tensor.max
    monkeypatch.setattr(torch.Tensor, "max", lambda values, *how: seen.append(values.requires_grad) or maximum(values))
    export_model(saved, saved.classes, "torchscript", tmp_path / "m.pt")
    assert len(seen) >= 3
    assert not any(seen)


def test_exporting_leaves_torch_as_it_was(tmp_path):
    torch.backends.mha.set_fastpath_enabled(True)
    written(tmp_path, "torchscript")
    assert torch.backends.mha.get_fastpath_enabled()


def test_networks_larger_than_a_file_may_be_are_refused(tmp_path, monkeypatch):
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    model = FromPixels(saved.build(), "unit")
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    for kind in ("onnx", "pt2"):
        monkeypatch.setitem(FORMATS, kind, unchecked(lambda *_: b"content"))
    monkeypatch.setattr(export, "_ONNX_BYTES", size)
    with pytest.raises(UserError) as error:
        export_model(saved, saved.classes, "onnx", tmp_path / "m.onnx")
    assert str(error.value) == f"--export onnx: {size:,} bytes are more than one file holds; take pt2"
    export_model(saved, saved.classes, "pt2", tmp_path / "m.pt2")
    monkeypatch.setattr(export, "_ONNX_BYTES", size + 1)
    export_model(saved, saved.classes, "onnx", tmp_path / "m.onnx")
