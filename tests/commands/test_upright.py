"""Photographs of a phone in a table: turned upright by new runs, and by all that is made of their checkpoints."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data.build import DatasetConfig, build_data, load_splits, load_splits_described, read_as
from data.images.reading import AS_STORED, Reading
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from engine.analysis.finished_runs import read_run
from engine.prediction.predictor import Predictor
from tests.commands.scene import SMALL, cut_off, refusal, run, succeed
from tests.data.images.test_orientation import photo
from tests.data.trees import coco_json

TABLE = ("--dataset", "table", "--table", "t.csv", "--path_images", "im")
TRAIN = (
    "main_BCE.py",
    *TABLE,
    *SMALL,
    "--epochs",
    "2",
    "--warmup_epoch",
    "0",
    "--num_workers",
    "0",
    "--augment",
    "flip",
)
TRAIN = (*TRAIN, "--no-figures", "--output", "run")
APPLY = Reading("apply")


@pytest.fixture
def folder(tmp_path):
    """Twelve photographs of other colours above than below, by a camera held in all ways."""
    (tmp_path / "im").mkdir()
    lines = []
    for n in range(12):
        scene = np.full((16, 24, 3), 255 * (n % 2), dtype=np.uint8)
        scene[:8, :, n % 3] = 120
        photo(tmp_path / "im" / f"{n}.png", 1 + n % 8, scene)
        lines.append(f"{n}.png,{'sky' if n % 2 else 'sea'}\n")
    (tmp_path / "t.csv").write_text("image,labels\n" + "".join(lines))
    return tmp_path


def dataset(folder, **settings):
    given = {"table": (folder / "t.csv",), "path_images": folder / "im", "cache_dir": folder / "cache", **settings}
    return DatasetConfig(dataset="table", **given)


def kept(folder):
    return yaml.load((folder / "run" / "settings.yaml").read_text(), Loader=yaml.BaseLoader)


def forget(folder, to=""):
    """Make the run one of an earlier version, which knew no such setting; `to`: let it say something else."""
    file = folder / "run" / "settings.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("exif:", "value_range:"))]
    file.write_text("\n".join([*lines, *([f"exif: {to}"] if to else [])]) + "\n")


def test_new_tables_are_read_upright_unless_they_have_boxes_or_a_flag_says_otherwise(folder, capsys):
    data = build_data(dataset(folder), Regime(labels="given"), TrainingSplitConfig(), 0, new=True)
    assert data.train.images.reading == data.test.images.reading == APPLY
    assert data.found["exif"] == "apply"
    before = build_data(dataset(folder), Regime(labels="given"), TrainingSplitConfig(), 0)
    assert before.train.images.reading == AS_STORED
    assert "exif" not in before.found
    told = dataset(folder, exif="ignore")
    assert load_splits(told, 0, need_images=True, new=True).train.images.reading == AS_STORED
    assert load_splits_described(dataset(folder), 0)[0].train.images.reading == APPLY
    deep = dataset(folder, value_range=(0.0, 4095.0))
    assert load_splits(deep, 0, need_images=True, new=True).train.images.reading == Reading("apply", (0.0, 4095.0))
    assert load_splits(deep, 0, need_images=True).test.images.reading == Reading("ignore", (0.0, 4095.0))


def test_boxes_are_of_the_pixels_as_stored(folder, capsys):
    images = [(n, f"{n}.png") for n in range(12)]
    objects = [(n, n % 2, 0, [1, 1, 5, 5]) for n in range(12)]
    (folder / "t.json").write_text(json.dumps(coco_json(images, objects, (0, 1))))
    boxed = dataset(folder, table=(folder / "t.json",))
    splits = load_splits(boxed, 0, need_images=True, new=True)
    assert splits.train.images.reading == AS_STORED
    assert len(splits.train.boxes.row)
    assert "exif" not in splits.found
    assert "--exif ignore: the boxes are of the pixels as they are stored" in capsys.readouterr().out
    turned = load_splits(dataset(folder, table=(folder / "t.json",), exif="apply"), 0, need_images=True, new=True)
    assert turned.train.boxes is turned.test.boxes is None
    assert turned.train.images.reading == APPLY
    assert "--exif apply: the boxes are of the pixels as they are stored, and are left out" in capsys.readouterr().out
    load_splits(boxed, 0, need_images=True)
    assert "--exif" not in capsys.readouterr().out


def test_other_datasets_are_as_stored_and_are_turned_on_request(folder):
    stored = load_splits(dataset(folder), 0, need_images=True)
    assert read_as(stored, DatasetConfig(dataset="cub"), new=True) is stored
    turned = read_as(stored, DatasetConfig(dataset="cub", exif="apply"), new=True)
    assert turned.train.images.reading == turned.test.images.reading == APPLY
    assert "exif" not in turned.found


def test_a_run_and_all_that_is_made_of_it_read_alike(folder):
    cut_off(folder, *TRAIN, saves=1)
    assert kept(folder)["exif"] == "apply"
    assert "resuming at epoch 2" in succeed(folder, *TRAIN, "--resume")
    assert kept(folder)["exif"] == "apply"
    checkpoint = folder / "run" / "best.pth"
    assert torch.load(checkpoint, weights_only=True)["settings"]["exif"] == "apply"
    assert read_run(folder / "run").config(DatasetConfig).reading == APPLY

    figures = {}
    for exif in ("", "apply", "ignore"):
        words = ("--load_from", checkpoint, "--json", "f.json", *(["--exif", exif] if exif else []))
        succeed(folder, "evaluate.py", *words)
        test = json.loads((folder / "f.json").read_text())["test"]
        succeed(folder, "predict.py", "im/5.png", *words)
        figures[exif] = test, json.loads((folder / "f.json").read_text())["pictures"]
    assert figures[""] == figures["apply"] != figures["ignore"]

    predictor = Predictor.load(checkpoint, device="cpu")
    with Image.open(folder / "im" / "5.png") as image:
        (by_image,) = predictor.predict([image])
    (by_path,) = predictor.predict([folder / "im" / "5.png"])
    np.testing.assert_array_equal(by_image.logits, by_path.logits)
    line = refusal(folder, *TRAIN, "--resume", "--exif", "ignore")
    assert "was started with --exif apply, now it is ignore" in line


def test_an_earlier_run_goes_on_as_it_was(folder):
    cut_off(folder, *TRAIN, "--exif", "ignore", saves=1)
    forget(folder)
    line = refusal(folder, *TRAIN, "--resume", "--exif", "apply")
    assert "was started with --exif ignore, now it is apply" in line
    assert "resuming at epoch 2" in succeed(folder, *TRAIN, "--resume")
    assert kept(folder)["exif"] == ""
    assert torch.load(folder / "run" / "best.pth", weights_only=True)["settings"]["exif"] in (None, "ignore")
    assert read_run(folder / "run").config(DatasetConfig).reading == AS_STORED
    assert run(folder, *TRAIN, "--resume", "--exif", "ignore").returncode == 0, "the same in words"
