"""The service of docs/serving.md, as it stands: the labels of `predict.py` by the thresholds in the ONNX file."""

import asyncio
import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.core.checkpoint import read_model
from engine.core.decisions import Decisions, Thresholds
from engine.prediction.export import FromPixels, export_model, texts
from engine.prediction.predictor import Predictor, reported_network, view_of
from tests.engine.checkpoints import CLASSES, checkpoint, pixels
from utils.calibration import Calibration, Knots

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
(SNIPPET,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
OWN = np.ones(len(CLASSES), dtype=bool)


def png(seed):
    file = io.BytesIO()
    pixels(seed).save(file, "PNG")
    return file.getvalue()


def decided(path, calibration):
    """A checkpoint with thresholds at medians, one class that is never predicted, and a calibration."""
    saved = read_model(path)
    logits = np.stack([one.logits for one in Predictor.load(path, device="cpu").predict([pixels(k) for k in range(6)])])
    limits = np.sort(logits, axis=0)[2:4].mean(axis=0).astype(float)
    limits[0] = np.inf
    isotonic = tuple(
        Knots(np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.3 + k / 100, 0.9])) for k in range(len(CLASSES))
    )
    fitted = {
        "none": None,
        "temperature": Calibration("temperature", OWN, np.linspace(0.5, 2, len(CLASSES))),
        "isotonic": Calibration("isotonic", OWN, knots=isotonic),
    }[calibration]
    return replace(saved, decisions=Decisions(Thresholds("f1", "some", limits, OWN), fitted, "some"))


def hold_same_labels(saved, predict):
    """What the service gives for images is what a predictor gives."""
    count = 0
    for seed in range(6):
        (wanted,) = Predictor.of(saved, device="cpu").predict([pixels(seed)])
        labels = wanted.labels()
        found = predict(png(seed))
        assert {name for name, _ in found} == {one.name for one in labels}
        np.testing.assert_allclose([score for _, score in found], [one.score for one in labels], rtol=0, atol=1e-5)
        count += len(found)
    assert 0 < count < 6 * len(CLASSES)


def run_snippet(monkeypatch, saved):
    """The names of the snippet, run with stand-ins: torch computes what onnxruntime would, FastAPI only registers."""
    view = view_of(saved)
    model = FromPixels(reported_network(saved), view.normalize).eval()
    embedded = SimpleNamespace(custom_metadata_map=texts(saved, saved.classes, view))

    def forward(_names, given):
        with torch.no_grad():
            return [model(torch.from_numpy(given["pixels"])).numpy()]

    session = SimpleNamespace(get_modelmeta=lambda: embedded, run=forward)
    app = SimpleNamespace(post=lambda _path: lambda function: function)
    fake = {name: ModuleType(name) for name in ("onnxruntime", "fastapi", "fastapi.concurrency")}
    fake["onnxruntime"].InferenceSession = {"model.onnx": session}.__getitem__
    fake["fastapi"].FastAPI, fake["fastapi"].Request = lambda: app, object
    fake["fastapi"].HTTPException = type("HTTPException", (Exception,), {})
    fake["fastapi.concurrency"].run_in_threadpool = asyncio.to_thread
    for name, module in fake.items():
        monkeypatch.setitem(sys.modules, name, module)
    names = {}
    exec(compile(SNIPPET, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("calibration", ["none", "temperature", "isotonic"])
def test_the_service_gives_the_labels_of_predictions(tmp_path, monkeypatch, calibration):
    saved = decided(checkpoint(tmp_path / "best.pth", augment="resize-crop", normalize="imagenet"), calibration)
    hold_same_labels(saved, run_snippet(monkeypatch, saved)["predict"])


def test_without_thresholds_a_logit_of_zero_is_one(tmp_path, monkeypatch):
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    names = run_snippet(monkeypatch, saved)
    assert names["limits"].tolist() == [0.0] * len(CLASSES)
    names["limits"] = np.full(len(CLASSES), -np.inf)
    (wanted,) = Predictor.of(saved, device="cpu").predict([pixels(1)])
    found = names["predict"](png(1))
    assert [name for name, _ in found] == [one.name for one in wanted.labels()]


@pytest.mark.parametrize("how", ["apply", "ignore", None])
def test_photographs_are_turned_as_in_training(tmp_path, monkeypatch, how):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels(1).save(tmp_path / "turned.png", exif=exif)
    saved = read_model(checkpoint(tmp_path / "best.pth", **({} if how is None else {"exif": how})))
    names = run_snippet(monkeypatch, saved)
    names["limits"] = np.full(len(CLASSES), -np.inf)
    (wanted,) = Predictor.of(saved, device="cpu").predict([tmp_path / "turned.png"])
    found = dict(names["predict"]((tmp_path / "turned.png").read_bytes()))
    np.testing.assert_allclose([found[name] for name in CLASSES], wanted.scores, rtol=0, atol=1e-5)
    other = dict(names["predict"](png(1)))
    same = np.allclose([other[name] for name in CLASSES], wanted.scores, rtol=0, atol=1e-5)
    assert same == (how != "apply")


def deep():
    file = io.BytesIO()
    Image.fromarray(np.full((9, 9), 4000, dtype=np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("content", [b"no image", b"", deep()], ids=["text", "nothing", "16 bits"])
def test_what_is_no_image_is_refused(tmp_path, monkeypatch, content):
    names = run_snippet(monkeypatch, read_model(checkpoint(tmp_path / "best.pth")))

    async def body():
        return content

    with pytest.raises(names["HTTPException"]) as refused:
        asyncio.run(names["labels"](SimpleNamespace(body=body)))
    assert refused.value.args == (400, "the body is no 8-bit image that can be read")


def test_the_example_is_about_thirty_lines():
    assert sum(bool(line) for line in SNIPPET.splitlines()) <= 40


def post(app, content):
    """Status and JSON of a POST to an ASGI application, without a server."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/labels"}
    scope |= {"raw_path": b"/labels", "query_string": b"", "headers": [], "scheme": "http", "root_path": ""}
    scope |= {"server": ("localhost", 80), "client": ("localhost", 1)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


@pytest.mark.slow
def test_the_service_runs_with_fastapi_on_the_exported_file(tmp_path):
    for package in ("fastapi", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    saved = decided(checkpoint(tmp_path / "best.pth", augment="resize-crop", normalize="imagenet"), "isotonic")
    export_model(saved, saved.classes, "onnx", tmp_path / "model.onnx")
    names = {}
    with contextlib.chdir(tmp_path):
        exec(compile(SNIPPET, str(PAGE), "exec"), names)

    def predict(content):
        status, answer = post(names["app"], content)
        assert status == 200
        return answer["labels"]

    hold_same_labels(saved, predict)
    assert post(names["app"], b"no image") == (400, {"detail": "the body is no 8-bit image that can be read"})
