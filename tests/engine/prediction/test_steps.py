"""The steps of a prediction one by one: what is printed, what is written, and with which exit code."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.prediction import command
from engine.prediction.command import PredictConfig, PredictionResults
from engine.prediction.predictor import Prediction, Unreadable
from engine.prediction.sources import FoundImages, ImageFile
from utils.checks import RunError, UserError

SOURCES = [ImageFile(Path(f"in/{name}.png"), Path(name)) for name in "ab"]
SAVED = SimpleNamespace(notes=("lam is 0.1", "4 heads"), path=Path("best.pth"))


def config(**values):
    return PredictConfig(load_from=Path("best.pth"), **values)


@pytest.mark.parametrize("difference", [None, 1.5e-6])
def test_an_export_says_how_close_it_is(monkeypatch, capsys, difference):
    asked = []
    monkeypatch.setattr(command, "read_model", lambda path, checkpoint_weights: SAVED)
    monkeypatch.setattr(command, "class_names", lambda saved, given: (saved, given))
    monkeypatch.setattr(command, "export_model", lambda *args: asked.append(args) or difference)
    asked_for = config(export="onnx", output=Path("a.onnx"))
    assert command._export(asked_for) == 0
    assert asked == [(SAVED, (SAVED, []), "onnx", Path("a.onnx"), asked_for)]
    assert capsys.readouterr().out.splitlines() == [
        "best.pth: lam is 0.1",
        "best.pth: 4 heads",
        "logits differ from torch's by 1.5e-06 at most (allowed: 1e-04)"
        if difference
        else "not compared with torch: onnxruntime is not installed",
        "written: a.onnx",
    ]


@pytest.mark.parametrize("unreadable", [0, 1])
@pytest.mark.parametrize("skipped", [0, 3])
def test_files_are_written_and_images_that_cannot_be_read_are_no_success(
    monkeypatch, capsys, tmp_path, unreadable, skipped
):
    results = PredictionResults([(SOURCES[0], [])], [], [Unreadable("in/b.png", "is empty")] * unreadable)
    asked, written = [], {}
    monkeypatch.setattr(
        command, "read_model", lambda path, checkpoint_weights: SimpleNamespace(notes=(), decisions=None)
    )
    predictor = SimpleNamespace(classes=("cat",))
    monkeypatch.setattr(command.Predictor, "of", lambda saved, **named: asked.append(named) or predictor)
    monkeypatch.setattr(command, "_predict_all", lambda *args: results)
    monkeypatch.setattr(command, "write_text", lambda path, text, errors: written.update({path: (text, errors)}))
    files = {"json": Path("a.json"), "csv": Path("a.csv"), "html": Path("a.html")}
    settings = config(**files, heatmaps=tmp_path / "maps", device="cpu", decoder="pillow")
    assert command._predict(settings, FoundImages(SOURCES, skipped)) == unreadable
    assert asked == [{"device": "cpu", "classes": [], "decoder": "pillow", "reading": settings}]
    assert (tmp_path / "maps").is_dir()
    assert {path: errors for path, (_, errors) in written.items()} == {
        **{Path("a.json"): "backslashreplace", Path("a.csv"): "surrogateescape", Path("a.html"): "backslashreplace"}
    }
    assert written[Path("a.json")][0].startswith('{\n "load_from": "best.pth"')
    assert written[Path("a.csv")][0].startswith("path,rank,label,score")
    assert "<html" in written[Path("a.html")][0]
    out, err = capsys.readouterr()
    skipping = [f"skipped {skipped} files that are no images"] if skipped else []
    made = ["a.json", "a.csv", "a.html", tmp_path / "maps"]
    assert out.splitlines() == [*skipping, *(f"written: {path}" for path in made)]
    assert err == ("1 of 2 images could not be read\n" if unreadable else "")


@pytest.mark.parametrize("drawn", [True, False])
def test_each_image_is_told_as_soon_as_it_is_predicted(monkeypatch, capsys, recwarn, drawn):
    maps, tiles, asked = [], [], []
    monkeypatch.setattr(command, "write_maps", lambda *args: maps.append(args))
    monkeypatch.setattr(command, "_tile", lambda source, labels, view: tiles.append(source) or "tile")
    logits = np.array([0.0, 3.0, -3.0, 1.0], dtype=np.float32)

    def predict(images, *, unreadable, **named):
        asked.append((images, named))
        warnings.warn("odd metadata", stacklevel=1)
        yield Prediction("in/a.png", ("cat", "dog", "owl", "emu"), logits)
        unreadable(Unreadable("in/b\n.png", "is\tempty"))

    predictor = SimpleNamespace(predict=predict, view=SimpleNamespace(visible="visible"))
    files = {"heatmaps": Path("maps"), "html": Path("a.html")} if drawn else {}
    settings = config(top=3, threshold=0.5, heatmap_top=2, batch_size=7, **files)
    results = command._predict_all(predictor, settings, FoundImages(SOURCES, 0))
    assert asked == [(["in/a.png", "in/b.png"], {"batch_size": 7, "maps": drawn})]
    ((source, labels),) = results.labels
    assert (source, [label.name for label in labels]) == (SOURCES[0], ["dog", "emu", "cat"])
    assert (tiles, results.tiles) == (([SOURCES[0]], ["tile"]) if drawn else ([], []))
    assert [[each.name for each in args[1]] for args in maps] == ([["dog", "emu"]] if drawn else [])
    assert all(args[2:] == (SOURCES[0], Path("maps"), predictor.view) for args in maps)
    assert results.unreadable == [Unreadable("in/b\n.png", "is\tempty")]
    out, err = capsys.readouterr()
    assert out == "in/a.png: dog 0.953, emu 0.731, cat 0.500\n"
    assert err == "in/b\\n.png: is\\tempty\n"
    assert not recwarn.list


def predicted(monkeypatch, *words):
    """What a command line leads to."""
    told = []
    monkeypatch.setattr(command, "find_images", lambda paths: told.append(paths) or FoundImages(SOURCES, 0))
    monkeypatch.setattr(command, "_check_files", lambda config, images: told.append(images))
    monkeypatch.setattr(command, "_check_heatmaps", lambda folder, paths: told.append(folder))
    monkeypatch.setattr(command, "_predict", lambda config, images: 5)
    monkeypatch.setattr(command, "_export", lambda config: 6)
    return command.predict_command(["--load_from", "best.pth", *words]), told


def test_images_are_predicted_or_a_checkpoint_is_exported(monkeypatch):
    files = [source.path for source in SOURCES]
    assert predicted(monkeypatch, "in", "in", "~") == (5, [[Path("in"), Path.home()], files])
    found = predicted(monkeypatch, "in", "--heatmaps", "maps")
    assert found == (5, [[Path("in")], files, Path("maps")])
    assert predicted(monkeypatch, "--export", "onnx", "--output", "a.onnx") == (6, [[]])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "predict.py: name an image, or a folder of images"),
        (("--export", "onnx", "--output", "a.onnx", "in"), "--export onnx: predicts nothing; leave in out"),
        (("--export", "onnx"), "--export onnx: say where to with --output"),
        (("--output", "a.onnx", "in"), "--output a.onnx: is for --export; predictions go to"),
    ],
)
def test_what_does_not_go_together_is_refused(monkeypatch, words, expected):
    with pytest.raises(UserError, match=expected):
        predicted(monkeypatch, *words)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_one_process_predicts(monkeypatch, processes):
    monkeypatch.setenv("WORLD_SIZE", processes)
    if processes == "1":
        assert predicted(monkeypatch, "in")[0] == 5
    else:
        with pytest.raises(UserError, match=r"predict\.py: works in one process; start it without a launcher"):
            predicted(monkeypatch, "in")


def test_a_gpu_without_memory_is_told_with_the_flag_that_helps():
    def predict(*args, **named):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        yield

    with pytest.raises(RunError, match=r"no memory left for predicting; give a smaller --batch_size$"):
        command._predict_all(SimpleNamespace(predict=predict), config(), FoundImages(SOURCES, 0))
