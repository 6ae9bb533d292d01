"""Models pushed to a hub on this machine, and fetched into an empty cache."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.datasets.voc import VOC_CLASSES as VOC
from engine.core.checkpoint import image_marks, read_model
from engine.core.hub import local_file
from engine.evaluation.hub import _cell, require_pushable, shareable
from engine.prediction.predictor import Predictor
from tests.commands.scene import run, succeed, tiny_voc
from tests.engine.checkpoints import checkpoint, pixels
from tests.engine.hub_server import TOKEN, commit_id, on_this_machine
from utils.checks import UserError

EVALUATE = ("--bootstrap", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and a checkpoint with thresholds and a calibration whose settings have paths of this machine."""
    folder = tmp_path_factory.mktemp("pushed")
    tiny_voc(folder, rows=30)
    settings = {"dataset": "voc07", "labels": "candidate", "partial_rate": 0.2, "cache_dir": str(folder / "secret")}
    checkpoint(folder / "best.pth", classes=VOC, size=32, output="/home/me/runs/mine", **settings)
    chosen = ("--choose_thresholds", "f1", "--calibrate", "isotonic", "--choose_on", "test", "--in_place")
    succeed(folder, "evaluate.py", "--load_from", "best.pth", *chosen, *EVALUATE)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    with on_this_machine(tmp_path, monkeypatch) as found:
        yield found


def push(folder, *words, name="me/model"):
    return run(folder, "evaluate.py", "--load_from", "best.pth", "--push_to", name, *EVALUATE, *words)


@pytest.mark.parametrize("large", [False, True], ids=["with the commit", "large files"])
def test_a_pushed_model_fetched_into_an_empty_cache_gives_the_same_scores(folder, tmp_path, server, large):
    server.large = large
    done = push(folder, "--json", tmp_path / "own.json")
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    assert done.stdout.endswith(f"pushed: hf://me/model@{commit_id(0)}\n")
    assert any(method == "PUT" for method, _, _ in server.asked) == large
    assert not (tmp_path / "hub").exists()
    succeed(folder, "evaluate.py", "--load_from", "hf://me/model", *EVALUATE, "--json", tmp_path / "fetched.json")
    own, fetched = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "fetched"))
    assert own.pop("load_from") == "best.pth"
    assert Path(fetched.pop("load_from")).is_relative_to(tmp_path / "hub")
    assert own == fetched
    images = [pixels(seed) for seed in range(4)]
    one, other = (
        list(Predictor.load(path, device="cpu").predict(images))
        for path in (folder / "best.pth", local_file(Path("hf://me/model")))
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)
        np.testing.assert_array_equal(a.scores, b.scores)
        assert a.labels() == b.labels()


def test_predictions_and_ensembles_take_models_of_the_hub(folder, tmp_path, server):
    assert push(folder).returncode == 0
    image = folder / "Dataset" / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000001.jpg"
    said = [
        succeed(folder, "predict.py", image, "--load_from", name).splitlines()[-1]
        for name in ("best.pth", "hf://me/model")
    ]
    assert said[0] == said[1]
    words = ("--load_from", "best.pth", "--ensemble", "hf://me/model", *EVALUATE)
    assert "hf://me/model: commit" in succeed(folder, "evaluate.py", *words)


def test_the_card_says_data_regime_thresholds_and_figures(folder, tmp_path, server):
    assert push(folder, "--json", tmp_path / "own.json").returncode == 0
    text = server.repositories["me/model"][0]["README.md"].decode()
    _, header, body = text.split("---\n", 2)
    told, figures = yaml.safe_load(header), json.loads((tmp_path / "own.json").read_text())["test"]
    assert told["library_name"] == "partial-truth"
    assert told["pipeline_tag"] == "image-classification"
    (result,) = told["model-index"][0]["results"]
    assert result["dataset"] == {"type": "voc07", "name": "voc07"}
    found = {each["type"]: each["value"] for each in result["metrics"]}
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in figures.items()}
    lines = body.splitlines()
    assert "# model" in lines
    assert "- Labels of training: candidate labels at rate 0.2" in lines
    assert "- Weights of epoch 7" in lines
    assert f"| mAP | {100 * figures['mAP']:.2f} |" in lines
    assert "Thresholds by f1, chosen on the test set of voc07, 10 images." in lines
    assert "Calibration by isotonic, fitted on the test set of voc07, 10 images." in lines
    decisions = read_model(folder / "best.pth").decisions
    limit = decisions.threshold_probabilities()[VOC.index("dog")]
    (dog,) = [line for line in lines if line.startswith("| dog |")]
    assert dog.endswith(f"| {limit:.4f} |")
    assert sum(line.startswith("| ") for line in lines) == 2 * 2 + len(figures) + 20
    assert "    python predict.py photos/ --load_from hf://me/model" in lines


def test_neither_token_nor_folders_of_the_machine_are_in_anything(folder, tmp_path, server):
    done = push(folder)
    succeed(
        folder, "predict.py", "--load_from", "hf://me/model", folder / "Dataset", "--json", tmp_path / "labels.json"
    )
    content = server.repositories["me/model"][0]
    assert set(content) == {"model.safetensors", "README.md"}
    for text in (done.stdout, done.stderr, *map(str, content.values())):
        assert TOKEN not in text
        assert str(folder / "secret") not in text
        assert "/home/me" not in text
    kept = [path for base in (folder, tmp_path) for path in base.rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]
    fetched = read_model(local_file(Path("hf://me/model")))
    assert (fetched.settings["output"], fetched.settings["cache_dir"]) == ("mine", "secret")
    assert len(fetched.trained_on) == len(image_marks(()))


def test_a_new_repository_is_private_and_a_second_push_is_a_second_commit(folder, server):
    server.private["me/public"], server.repositories["me/public"] = False, []
    for name in ("me/model", "me/public", "me/public"):
        assert push(folder, name=name).returncode == 0
    assert server.private == {"me/model": True, "me/public": False}
    assert [len(server.repositories[name]) for name in ("me/model", "me/public")] == [1, 2]


@pytest.mark.parametrize(
    ("refused", "code", "said"),
    [
        ("whoami", 2, "error: --push_to me/model: no access with this token"),
        ("/commit/", 1, "error: --push_to me/model: not pushed: no access with this token"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(folder, server, refused, code, said):
    server.refused = {refused: 403}
    done = push(folder)
    assert done.returncode == code
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [said]
    assert TOKEN not in done.stdout + done.stderr
    assert server.repositories in ({}, {"me/model": []})
    assert ("test set" in done.stdout) == (code == 1)  # figures are not lost by it; what is known before costs nothing


def test_without_a_token_nothing_is_scored(folder, tmp_path, monkeypatch):
    with on_this_machine(tmp_path, monkeypatch, token=None) as server:
        done = push(folder)
    assert done.returncode == 2
    assert "error: --push_to me/model: " in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "test set" not in done.stdout
    assert server.repositories == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--push_to", "model"), "--push_to model: name it OWNER/NAME"),
        (("--push_to", "hf://me/model"), "--push_to hf://me/model: name it OWNER/NAME"),
        (("--push_to", "me/model", "--ensemble", "best.pth"), "leave --ensemble best.pth out"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(folder, server, words, said):
    done = run(folder, "evaluate.py", "--load_from", "best.pth", *EVALUATE, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert server.asked == []


def test_a_released_checkpoint_is_not_passed_on(folder):
    saved = read_model(folder / "best.pth")
    released = type("Released", (), {"released": object(), "classes": saved.classes, "path": saved.path})
    for other in (released, type("Nameless", (), {"released": None, "classes": (), "path": saved.path})):
        with pytest.raises(UserError, match="not a checkpoint of this project that names its classes"):
            require_pushable("me/model", other, None)
    require_pushable(None, released, Path("x"))


def test_what_is_chosen_is_not_written_into_the_cache(folder, server):
    assert push(folder).returncode == 0
    words = ("--choose_thresholds", "f1", "--choose_on", "test", *EVALUATE)
    done = run(folder, "evaluate.py", "--load_from", "hf://me/model", *words, "--in_place")
    assert done.returncode == 2
    assert "is a file of the hub's cache; keep what is chosen with --save_as FILE.safetensors" in done.stderr


def test_of_paths_from_the_root_the_last_part_is_shared():
    told = {"a": "/home/me/data", "b": "C:\\Users\\me\\data", "c": "~/data", "d": "Dataset/x", "e": "/", "f": 0.5}
    told |= {"g": "/home/me/a.csv\0b.csv\0\\\\host\\share\\c.csv", "h": None, "i": "person, dog", "j": True}
    expected = {"a": "data", "b": "data", "c": "data", "d": "Dataset/x", "e": "/", "f": 0.5}
    expected |= {"g": "a.csv\0b.csv\0c.csv", "h": None, "i": "person, dog", "j": True}
    assert shareable(told) == expected


def test_texts_of_the_user_are_no_markup():
    assert _cell("<b>a|b</b>\nc_d `x`") == "\\<b\\>a\\|b\\</b\\> c\\_d \\`x\\`"
