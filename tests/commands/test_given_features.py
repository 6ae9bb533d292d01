"""Runs on features from another program, by a table whose images are not there: trained, resumed, scored, refused."""

import re
from unittest import mock

import numpy as np
import pytest
import torch

from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig
from engine.core.settings import parse_settings
from engine.training.config import training_command
from engine.training.given_features import with_given_features
from engine.training.run import Run, open_folder
from tests.commands.scene import ROOT, cut_off, environment, refusal, result, run, same, state, succeed
from tests.commands.test_processes import launch
from tests.commands.test_resume import without_speed
from tests.data.features.files import npy, npz, tensors
from tests.data.trees import picture

ROWS, CLASSES, WIDTH = 40, ("cat", "dog", "sofa"), 6
IDS = [f"images/{row:03d}.jpg" for row in range(ROWS)]
TABLE = ("--dataset", "table", "--table", "t.csv", "--batch_size", "8", "--threads", "1", "--warmup_epoch", "0")
RUN = (*TABLE, "--epochs", "2", "--optimizer", "adam", "--lr", "1e-2", "--w_d", "0")
SMALL_HEAD = ("--hidden_dim", "8", "--nheads", "2")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table without images, and features of them: means, maps in two forms; a run on each of two forms."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((ROWS, WIDTH, 3, 2)).astype(np.float32)
    truth = maps.mean(axis=(2, 3))[:, : len(CLASSES)] > 0
    lines = [
        ",".join((IDS[row], *map(str, truth[row].astype(int)), "test" if row % 4 else "train")) for row in range(ROWS)
    ]
    lines = [
        line.replace("test", "train") if row < 28 else line.replace("train", "test") for row, line in enumerate(lines)
    ]
    (folder / "t.csv").write_text("\n".join([f"image,{','.join(CLASSES)},split", *lines]))
    order = rng.permutation(ROWS)
    npz(folder / "means.npz", maps.mean(axis=(2, 3))[order], np.array(IDS)[order])
    tensors(folder / "maps.safetensors", torch.from_numpy(maps[order]), [IDS[row] for row in order])
    npy(folder / "half.npy", maps.astype(np.float16), [f"{row:03d}" for row in range(ROWS)])
    for name, file in (("on-means", "means.npz"), ("on-maps", "maps.safetensors")):
        succeed(folder, "main_BCE.py", *RUN, "--features", file, "--head", "csra", "--output", name)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "main_BCE.py --features means.npz",
        "main_CoNeS.py --features maps.safetensors --clusters 2 --memory_per_class 8 --beta 0.5",
        "main_cls.py --features means.npz --labels_left 50",
        "main_ignore.py --features half.npy --labels single",
        "main_BCE.py --features half.npy --head q2l --hidden_dim 8 --nheads 2",
        pytest.param("main_CoNeS.py --features means.npz --clusters 2 --memory_per_class 8", marks=SLOW),
        pytest.param("main_ndlp.py --features maps.safetensors", marks=SLOW),
        pytest.param("main_llm.py --features means.npz --labels single", marks=SLOW),
        pytest.param("main_BCE.py --features maps.safetensors --head ctran --hidden_dim 8 --nheads 2", marks=SLOW),
        pytest.param("main_BCE.py --features maps.safetensors --head pfc --ema 0.9", marks=SLOW),
    ],
)
def test_every_method_and_head_learns_without_images(folder, tmp_path, command):
    script, *words = command.split()
    said = succeed(folder, script, *RUN, *words, "--val_frac", "0.2", "--output", tmp_path / "run")
    held = result(tmp_path / "run")
    assert held["train_mode"] == "linear_fixed_features"
    assert held["data"].keys() == {"train", "validation", "test", "features"}
    assert f"on {words[1]}, {WIDTH}" in said
    assert "examples.png is not drawn" in said
    assert not (tmp_path / "run" / "examples.png").exists()
    heads = torch.load(tmp_path / "run" / "best.pth", weights_only=True)["model"]
    assert heads
    assert all("head." in name for name in heads)
    scored = tmp_path / "scored.json"
    succeed(folder, "evaluate.py", "--load_from", tmp_path / "run" / "best.pth", "--json", scored)
    assert f'"mAP": {held["test"]["mAP"]}' in scored.read_text()


def test_how_images_were_found_and_what_is_passed_over_is_said(folder, tmp_path):
    said = succeed(folder, "main_BCE.py", *RUN, "--features", "half.npy", "--output", tmp_path / "run")
    assert f"half.npy: {ROWS} of {ROWS} images found by the name of the file alone (images/000.jpg: 000)" in said
    few = "\n".join((folder / "t.csv").read_text().splitlines()[:1] + (folder / "t.csv").read_text().splitlines()[3:])
    (folder / "few.csv").write_text(few)
    words = [word.replace("t.csv", "few.csv") for word in RUN]
    said = succeed(folder, "main_BCE.py", *words, "--features", "means.npz", "--output", tmp_path / "few")
    assert f"means.npz: 2 of {ROWS} rows are of no image of a split, and passed over (images/00" in said


def test_settings_of_images_are_told_to_have_no_effect(folder, tmp_path):
    words = (*RUN, "--features", "means.npz", "--img_size", "32", "--augment", "none", "--output", tmp_path / "run")
    done = run(folder, "main_BCE.py", *words)
    assert done.returncode == 0
    assert done.stderr == ("note: --img_size, --augment: no image is opened beside --features, so this has no effect\n")
    plain = succeed(folder, "main_BCE.py", *RUN, "--features", "means.npz", "--output", tmp_path / "plain")
    assert plain
    same(state(tmp_path / "run")["loop"]["model"], state(tmp_path / "plain")["loop"]["model"])


def test_settings_say_what_follows_from_the_file(folder):
    done = run(folder, "main_BCE.py", *RUN, "--features", "maps.safetensors", "--print_config")
    assert "no image is opened" not in done.stderr
    network = "model: given/6x3x2", "weights: none", "frozen_stages: -1", "norm_eval: False", "norm_frozen: False"
    images = "check_images: False", "cache: none", "missing_images: error", "bad_images: error"
    shown = done.stdout
    for line in (*network, *images, "train_mode: linear_fixed_features"):
        assert re.search(rf"^{line} +# --features$", shown, re.MULTILINE), line


@pytest.mark.slow
def test_a_run_is_made_again_by_its_settings(folder):
    succeed(folder, "main_BCE.py", "on-maps/settings.yaml", "--output", "again")
    same(state(folder / "on-maps")["loop"]["model"], state(folder / "again")["loop"]["model"])


@pytest.mark.parametrize("stop", [2, pytest.param(6, marks=SLOW)])
def test_a_run_that_is_cut_off_ends_in_the_same_weights(folder, tmp_path, stop):
    words = (
        *RUN,
        "--features",
        "maps.safetensors",
        "--head",
        "csra",
        "--save_minutes",
        "0",
        "--output",
        tmp_path / "a",
    )
    cut_off(folder, "main_BCE.py", *words, saves=stop)
    (tmp_path / "moved.safetensors").write_bytes((folder / "maps.safetensors").read_bytes())
    words = [tmp_path / "moved.safetensors" if word == "maps.safetensors" else word for word in words]
    assert "resuming at epoch" in succeed(folder, "main_BCE.py", *words, "--resume")
    same(without_speed(tmp_path / "a"), without_speed(folder / "on-maps"))
    assert result(tmp_path / "a")["test"] == result(folder / "on-maps")["test"]


def test_resuming_on_other_features_is_refused(folder, tmp_path):
    features = np.load(folder / "means.npz")
    npz(tmp_path / "x.npz", features["features"], features["ids"])
    words = (*RUN, "--features", tmp_path / "x.npz", "--output", tmp_path / "run")
    succeed(folder, "main_BCE.py", *words)
    (tmp_path / "run" / "result.json").unlink()
    npz(tmp_path / "x.npz", features["features"] * 2, features["ids"])
    line = refusal(folder, "main_BCE.py", *words, "--resume")
    assert re.search(r"run was trained on other features \(hash [0-9a-f]{12}, now [0-9a-f]{12}\)", line)
    npz(tmp_path / "x.npz", features["features"][:, :2], features["ids"])
    line = refusal(folder, "main_BCE.py", *words, "--resume")
    assert "was started with --model given/6, now it is given/2" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--features", "none.npz"), "none.npz: cannot be read: No such file"),
        (("--features", "t.csv"), "t.csv: features are read from .npz"),
        (("--features", "means.npz", "--model", "resnet50"), "--model: the features of --features stand in for images"),
        (("--features", "means.npz", "--weights", "none", "--norm_eval"), "--weights, --norm_eval: the features of"),
        (("--features", "means.npz", "--train_mode", "linear"), "--train_mode linear: on --features only the head"),
        (("--features", "means.npz", "--feature_views", "2"), "--feature_views: is of features that are computed"),
        (("--features", "means.npz", "--half_features"), "--half_features: is of features that are computed"),
        (("--model", "given/6"), "--model given/6: stands for features from a file; give --features FILE"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, words, expected):
    assert expected in refusal(folder, "main_BCE.py", *RUN, *words, "--output", "refused")
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("mode", [("--use_feats",), ("--train_mode", "linear_fixed_features")])
def test_the_mode_itself_may_be_said(folder, mode):
    succeed(folder, "main_BCE.py", *RUN, "--features", "means.npz", *mode, "--print_config")


def test_images_without_features_are_counted(folder, tmp_path):
    features = np.load(folder / "means.npz")
    npz(tmp_path / "x.npz", features["features"][:30], features["ids"][:30])
    done = run(folder, "main_BCE.py", *RUN, "--features", tmp_path / "x.npz", "--output", tmp_path / "run")
    assert done.returncode == 2
    assert f"x.npz: has no features of 10 of {ROWS} images of the dataset (images/0" in done.stderr
    assert not (tmp_path / "run").exists()


# A checkpoint on features.


def test_a_checkpoint_is_scored_on_features_of_other_images(folder, tmp_path):
    (tmp_path / "new.csv").write_text("image,cat,dog,sofa\nn1,1,0,0\nn2,0,1,0\nn3,1,1,1\n")
    (tmp_path / "old.csv").write_text("image,cat,dog,sofa\no1,1,0,0\no2,0,1,1\n")
    features = np.load(folder / "means.npz")
    npz(tmp_path / "new.npz", features["features"][:3], ["n1", "n2", "n3"])
    tables = ("--table", tmp_path / "old.csv", "--test_table", tmp_path / "new.csv", "--img_size", "32")
    words = ("--load_from", "on-means/best.pth", *tables, "--features", tmp_path / "new.npz")
    done = run(folder, "evaluate.py", *words)
    assert done.returncode == 0, done.stderr
    assert "on the test set of table, 3 images" in done.stdout
    assert done.stderr == "note: --img_size: no image is opened beside --features, so this has no effect\n"


@pytest.mark.slow
def test_two_heads_on_features_are_scored_together(folder):
    succeed(folder, "main_BCE.py", *RUN, "--features", "means.npz", "--output", "linear")
    said = succeed(folder, "evaluate.py", "--load_from", "on-means/best.pth", "--ensemble", "linear/best.pth")
    assert "ensemble" in said


@pytest.mark.slow
def test_a_checkpoint_on_features_is_kept_as_safetensors(folder):
    succeed(folder, "evaluate.py", "--load_from", "on-means/best.pth", "--save_as", "kept.safetensors")
    words = ("--dataset", "table", "--table", "t.csv", "--features", "means.npz")
    said = [
        succeed(folder, "evaluate.py", "--load_from", one, *words) for one in ("on-means/best.pth", "kept.safetensors")
    ]
    assert said[0].splitlines()[-12:] == said[1].splitlines()[-12:]


NO_IMAGE = "is a head on features from a file (--features), without the backbone that made them"


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("predict.py", ("--load_from", "on-maps/best.pth", "."), NO_IMAGE),
        ("predict.py", ("--load_from", "on-maps/best.pth", ".", "--heatmaps", "../heat"), NO_IMAGE),
        ("predict.py", ("--load_from", "on-maps/best.pth", "--export", "pt2", "--output", "x.pt2"), NO_IMAGE),
        ("analyse.py", ("pointing", "on-maps", "--output", "x"), NO_IMAGE),
        ("evaluate.py", ("--load_from", "on-maps/best.pth", "--features", "means.npz"), "holds 6 of each image, "),
        (
            "evaluate.py",
            ("--load_from", "on-maps/best.pth", "--ensemble", "on-means/best.pth"),
            "takes features of 6, on-maps/best.pth takes features of 6 x 3 x 2",
        ),
    ],
)
def test_what_needs_images_refuses_in_one_line(folder, script, words, expected):
    picture(folder / "some.jpg")
    assert expected in refusal(folder, script, *words)


def test_runs_on_features_are_compared_without_a_grid_of_images(folder):
    said = succeed(folder, "compare.py", "on-means", "on-maps", "--output", "compared")
    assert "examples.png is not drawn: on-means was trained on features, without images" in said
    assert {path.name for path in (folder / "compared").iterdir()} == {"curves.png", "report.html"}


# Features that a frozen network of ours computed.


def built(folder, *words):
    """A run, built and not yet trained."""
    settings = parse_settings(training_command("main_BCE.py", {}), [*map(str, words)], completed=with_given_features)
    runtime = Runtime("cpu", "fp32", settings.of(KernelConfig))
    return Run(settings, open_folder(settings, runtime), runtime)


@pytest.mark.parametrize("head", [(), ("--head", "csra")])
def test_features_of_our_own_network_train_a_head_to_the_same_bits(tmp_path, monkeypatch, head):
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    lines = [f"{n}.png,{n % 2},{n // 2 % 2},{'train' if n < 9 else 'test'}" for n in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["image,cat,dog,split", *lines]))
    for n in range(12):
        picture(tmp_path / f"{n}.png", colour=("red", "green", "blue", "white", "grey")[n % 5])
    words = (*RUN, "--path_images", ".", "--seed", "3", *head)
    network = ("--model", "scenenet", "--weights", "none", "--img_size", "32", "--train_mode", "linear_fixed_features")
    images = built(tmp_path, *words, *network, "--output", "images")
    scored, data = images.loaders.features.scored, images.data
    assert scored["train"].ndim == (4 if head else 2)
    npz(tmp_path / "f.npz", np.concatenate([scored["test"], scored["train"]]), [*data.test.ids, *data.train.ids])
    given = built(tmp_path, *words, "--features", "f.npz", "--output", "given")
    given.network.head.load_state_dict(images.network.head.state_dict())
    before = {name: value.clone() for name, value in images.network.head.state_dict().items()}
    with mock.patch("engine.training.run.draw_pictures"):
        for each in (images, given):
            each.train()
            each.finish()
            each.folder.close()
            each.runtime.close()
    after = images.network.head.state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in after.items())
    same(dict(given.network.head.state_dict()), dict(after))
    assert result(tmp_path / "given")["test"] == result(tmp_path / "images")["test"]
    assert [row["loss"] for row in given.loop.state.history] == [row["loss"] for row in images.loop.state.history]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(folder):
    words = (*RUN, "--features", "maps.safetensors", "--head", "csra", "--device", "cpu", "--output", "two")
    launch(folder, "main_BCE.py", *words)
    one, two = (state(folder / name)["loop"]["model"] for name in ("on-maps", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


# The page.


def test_the_ten_lines_of_the_page_make_a_file_that_trains(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    page = (ROOT / "docs" / "features.md").read_text()
    code = re.search(r"^```python\n(import numpy.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, *, pretrained, num_classes: create("test_vit", num_classes=0)
    )
    rows = [(f"{n}.jpg", n % 2, n // 2 % 2) for n in range(8)]
    for name, *_ in rows:
        (tmp_path / "images").mkdir(exist_ok=True)
        picture(tmp_path / "images" / name)
    text = "\n".join(["image,cat,dog,split", *(f"{a},{b},{c},{'test' if c else 'train'}" for a, b, c in rows)])
    (tmp_path / "t.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/features.md", "exec"), {})
    assert len([line for line in code.splitlines() if line]) <= 10
    succeed(tmp_path, "main_BCE.py", *RUN, "--features", "features.npz", "--output", "run")
