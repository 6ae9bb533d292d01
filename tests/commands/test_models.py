"""Heads and backbones from the command line: training, scoring from the checkpoint alone, and refusals by name."""

import json

import pytest

from data.datasets.voc import VOC_CLASSES
from models.word_vectors import words_of
from tests.commands.scene import SMALL, refusal, result, succeed, tiny_voc

TINY = ("--hidden_dim", "8", "--nheads", "2", "--enc_layers", "1", "--dim_feedforward", "8")
RUN = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0", "--partial_rate", "0.3")
MODELS = {
    "q2l": ("main_BCE.py", "--head", "q2l", *TINY, "--loss", "asl"),
    "gcn": ("main_BCE.py", "--head", "gcn", "--gcn_width", "8", "--word_vectors", "glove.txt", "--word_width", "2"),
    "ctran": ("main_BCE.py", "--head", "ctran", *TINY, "--loss", "label_mask"),
    "peers": ("main_cls.py", "--head", "gcn", "--gcn_width", "8", "--word_vectors", "one-hot", "--labels_left", "50"),
    "cones": ("main_CoNeS.py", "--head", "q2l", *TINY, "--clusters", "2"),
    "squeezenet": ("main_BCE.py", "--model", "squeezenet1_1", "--head", "csra", "--img_size", "48"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_voc(folder)
    words = sorted({word for name in VOC_CLASSES for word in words_of(name)})
    (folder / "glove.txt").write_text("".join(f"{word} {at} 0.5\n" for at, word in enumerate(words)))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_and_is_scored_from_its_checkpoint(folder, name):
    script, *words = MODELS[name]
    run = [word for word in RUN if script != "main_cls.py" or word not in ("--partial_rate", "0.3")]
    words = words if name != "gcn" else [word.replace("glove.txt", str(folder / "words.txt")) for word in words]
    if name == "gcn":
        (folder / "words.txt").write_text((folder / "glove.txt").read_text())
    succeed(folder, script, *run, *words, "--output", name)
    if name == "gcn":
        (folder / "words.txt").unlink()
    found = folder / f"{name}.json"
    succeed(folder, "evaluate.py", "--load_from", folder / name / "best.pth", "--json", found)
    assert json.loads(found.read_text())["test"]["mAP"] == pytest.approx(result(folder / name)["test"]["mAP"], abs=1e-6)
    assert (folder / name / "examples.png").exists()


@pytest.mark.parametrize(
    "words, parts",
    [
        (("--loss", "label_mask"), ("--head linear", "ctran")),
        (("--model", "convnext_tinny"), ("convnext_tiny",)),
        (("--model", "timm/resnet50"), ("timm", "pip install")),
        (("--model", "squeezenet1_1", "--img_size", "8"), ("--img_size 8", "squeezenet1_1")),
        (("--img_size", "8"), ("--img_size 8", "scenenet")),
        (("--head", "q2l", "--nheads", "5"), ("--nheads 5",)),
        (("--head", "gcn", "--word_vectors", "absent.txt"), ("absent.txt", "--word_vectors")),
        (("--head", "gcn", "--word_vectors", "glove.txt"), ("--word_width 2",)),
        (("--head", "q2l", "--boostlu", "5"), ("--boostlu", "--head linear or csra")),
        (("--head", "q2l", "--train_mode", "linear_fixed_features"), ("Query2LabelHead",)),
        (("--ema", "1"), ("--ema 1.0",)),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folder, words, parts):
    said = refusal(folder, "main_BCE.py", *RUN, *words, "--output", "refused")
    for part in parts:
        assert part in said
