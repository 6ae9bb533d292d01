"""The ONNX example of docs/predicting.md, as it stands: the scores of `predict.py` for images of every mode."""

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, TiffImagePlugin

from engine.core.checkpoint import read_model
from engine.prediction.export import FromPixels, export_model, texts
from engine.prediction.predictor import Predictor, reported_network, view_of
from tests.engine.checkpoints import checkpoint, every_kind, pixels

PAGE = Path(__file__).parents[3] / "docs" / "predicting.md"
(SNIPPET,) = [
    block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if "InferenceSession" in block and "PIL" in block
]
SLOPE = np.linspace(0, 1, 53 * 37).reshape(37, 53)


def grey(values, **save):
    """A writer of a grey image of these values."""
    return lambda file: Image.fromarray(values).save(file, **save)


def tagged(values, **tags):
    """A writer of a TIFF of these values with a tag."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    return lambda file: Image.fromarray(values).save(file, "TIFF", tiffinfo=info)


def mode(name, form, **save):
    """A writer of a coloured image of a mode."""
    return lambda file: pixels(3).convert(name).save(file, form, **save)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda file: pixels(4).save(file, "JPEG", exif=exif)


def holes(values):
    values = values.astype(np.float32)
    values[3:9], values[20:22], values[30] = np.nan, np.inf, -np.inf
    return values


def wide(largest, kind=np.uint16):
    return (SLOPE * largest).astype(kind)


MODES = {
    "RGB": mode("RGB", "PNG"),
    "L": mode("L", "PNG"),
    "L jpeg": mode("L", "JPEG"),
    "LA": mode("LA", "PNG"),
    "P": mode("P", "PNG"),
    "P and a transparent colour": mode("P", "PNG", transparency=3),
    "P and transparencies": mode("P", "PNG", transparency=bytes(range(200))),
    "gif": mode("P", "GIF", transparency=0),
    "RGBA": lambda file: with_alpha().save(file, "PNG"),
    "RGBA webp": lambda file: with_alpha().save(file, "WEBP", lossless=True),
    "CMYK jpeg": mode("CMYK", "JPEG"),
    "CMYK tiff": mode("CMYK", "TIFF"),
    "YCbCr tiff": mode("YCbCr", "TIFF"),
    "1": mode("1", "PNG"),
    "1 tiff": mode("1", "TIFF"),
    "16 bits": grey(wide(65535), format="PNG"),
    "16 bits, 12 used": grey(wide(4095), format="PNG"),
    "16 bits, 10 used": grey(wide(1023), format="TIFF"),
    "16 bits, 8 used": grey(wide(255), format="PNG"),
    "16 bits, dark": grey(wide(0), format="PNG"),
    "16 bits tiff": grey(wide(65535), format="TIFF"),
    "16 bits ppm": grey(wide(65535), format="PPM"),
    "16 bits, big-endian": lambda file: Image.fromarray(wide(65535).astype(">u2")).save(file, "TIFF"),
    "16 bits, white is zero": tagged(wide(65535), _262=0),
    "I": grey(wide(2e9, np.int32), format="TIFF"),
    "I, negative": grey(wide(4e6, np.int32) - 1_000_000, format="TIFF"),
    "I, unsigned": tagged(wide(4.2e9, np.uint32).view(np.int32), _339=1),
    "F": grey(wide(1, np.float32), format="TIFF"),
    "F, large": grey((SLOPE * 9e8 - 3e8).astype(np.float32), format="TIFF"),
    "F, holes": grey(holes(SLOPE), format="TIFF"),
    "F, not measured": tagged(np.where(SLOPE < 0.3, -9999, SLOPE).astype(np.float32), _42113="-9999"),
    "F, white is zero": tagged(wide(1, np.float32), _262=0),
    "F, all alike": grey(np.full((9, 9), 0.5, dtype=np.float32), format="TIFF"),
    "F, black": grey(np.zeros((9, 9), dtype=np.float32), format="TIFF"),
    "F, nothing measured": grey(np.full((9, 9), np.nan, dtype=np.float32), format="TIFF"),
    **{f"turned {orientation}": turned(orientation) for orientation in (1, 3, 6, 8)},
    "one pixel": lambda file: pixels(5, 1, 1).save(file, "BMP"),
}


def with_alpha():
    image = pixels(6).convert("RGBA")
    image.putalpha(pixels(7).convert("L"))
    return image


@pytest.fixture(scope="module", params=["resize-crop", "flip"])
def folder(request, tmp_path_factory):
    """A checkpoint whose scores tell images apart, trained on centre crops or on whole images."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "photos").mkdir()
    checkpoint(folder / "best.pth", augment=request.param, normalize="imagenet")
    return folder


@pytest.fixture
def runtime(folder, monkeypatch):
    """Torch in the place of onnxruntime, for the exported network and its texts."""
    in_place_of_onnxruntime(folder, monkeypatch)


def in_place_of_onnxruntime(folder, monkeypatch):
    saved = read_model(folder / "best.pth")
    view = view_of(saved)
    network = FromPixels(reported_network(saved), view.normalize).eval()
    metadata = SimpleNamespace(custom_metadata_map=texts(saved, saved.classes, view))

    class Session:
        def __init__(self, file):
            assert file == "model.onnx"

        def get_modelmeta(self):
            return metadata

        def run(self, names, inputs):
            assert names == ["logits"]
            assert inputs["pixels"].dtype == np.float32
            with torch.no_grad():
                return [network(torch.from_numpy(inputs["pixels"])).numpy()]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))


def of_the_page(folder):
    """Scores by name that the example prints, run from `folder`."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(SNIPPET, str(PAGE), "exec"), {})
    pairs = re.findall(r"'(\w+)': [^0-9]*([\d.e-]+)", printed.getvalue().replace("float32", ""))
    return {name: float(score) for name, score in pairs}


def of_predict(folder):
    (prediction,) = Predictor.load(folder / "best.pth", device="cpu").predict([folder / "photos" / "a.jpg"])
    return {label.name: label.score for label in prediction.labels()}


@pytest.mark.parametrize("kind", MODES)
def test_an_image_of_any_mode_gets_the_scores_of_predict(folder, runtime, kind):
    file = folder / "photos" / "a.jpg"
    try:
        MODES[kind](file)
        Image.open(file).load()
    except OSError as error:
        pytest.skip(f"Pillow {PIL.__version__} cannot write and read this kind: {error}")
    found = of_the_page(folder)
    assert len(found) == 5
    assert found == pytest.approx(of_predict(folder), abs=1e-5)


def test_every_kind_of_image_file_gets_the_scores_of_predict(folder, runtime, tmp_path):
    for file in every_kind(tmp_path / "kinds"):
        shutil.copy(file, folder / "photos" / "a.jpg")
        assert of_the_page(folder) == pytest.approx(of_predict(folder), abs=1e-5), file.name


READ = {"exif": "apply", "value_range": (500.0, 3000.0)}


def test_images_read_by_other_rules_get_the_scores_of_predict(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    checkpoint(tmp_path / "best.pth", augment="flip", normalize="imagenet", **READ)
    in_place_of_onnxruntime(tmp_path, monkeypatch)
    deep = [MODES[kind] for kind in ("16 bits", "16 bits, 12 used", "F", "RGBA")]
    for write in (*map(turned, range(1, 9)), *deep):
        write(tmp_path / "photos" / "a.jpg")
        assert of_the_page(tmp_path) == pytest.approx(of_predict(tmp_path), abs=1e-5)


def test_the_modes_differ_in_their_scores(folder):
    """Else nothing is shown: 16 bits clipped instead of divided score otherwise."""
    MODES["16 bits"](folder / "photos" / "a.jpg")
    right = of_predict(folder)
    Image.fromarray(wide(65535).clip(0, 255).astype(np.uint8)).save(folder / "photos" / "a.jpg", "PNG")
    assert of_predict(folder) != pytest.approx(right, abs=1e-3)


@pytest.mark.slow
def test_onnxruntime_gives_the_same(folder):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    saved = read_model(folder / "best.pth")
    export_model(saved, saved.classes, "onnx", folder / "model.onnx")
    for kind in ("16 bits", "F", "RGBA", "CMYK jpeg", "turned 6"):
        MODES[kind](folder / "photos" / "a.jpg")
        assert of_the_page(folder) == pytest.approx(of_predict(folder), abs=1e-4), kind
