"""Heads and backbones from the command line: training, scoring from the checkpoint alone, and refusals by name."""

import json
import sys

import numpy as np
import pytest

from data.datasets.voc import VOC_CLASSES
from models.heads.word_vectors import words_of
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
    (folder / "few.txt").write_text("aeroplane 1 2\nbicycle 3 4\n")
    np.save(folder / "few.npy", np.zeros((3, 300)))
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


def test_saliency_is_scored_as_in_training_or_the_other_way(folder):
    protocol = ("--labels", "known", "--known_rate", "0.5", "--loss", "consistency", "--second_view", "randaugment")
    fixed = ("--train_mode", "linear_fixed_features", "--feature_views", "2", "--saliency", "0.5")
    run = (*RUN, *protocol, *fixed, "--no-saliency_test", "--output", "salient")
    succeed(folder, "main_BCE.py", *run)
    found = {}
    for words in ((), ("--saliency_test", "no"), ("--saliency_test", "yes")):
        file = folder / f"salient{len(found)}.json"
        succeed(folder, "evaluate.py", "--load_from", folder / "salient" / "best.pth", *words, "--json", file)
        found[words] = json.loads(file.read_text())["test"]
    as_trained, without, with_it = found.values()
    assert as_trained == without != with_it
    assert as_trained["mAP"] == pytest.approx(result(folder / "salient")["test"]["mAP"], abs=1e-6)


def test_two_networks_are_refused_what_one_is(folder):
    run = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--labels_left", "50", "--output", "refused")
    assert "--nheads 5" in refusal(folder, "main_cls.py", *run, "--head", "ctran", "--nheads", "5")


def test_without_timm_one_line_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    said = refusal(folder, "main_BCE.py", *RUN, "--model", "timm/resnet50", "--output", "refused")
    assert "pip install" in said


@pytest.mark.parametrize(
    "model, parts",
    [
        ("timm/convnext_ato", ("did you mean timm/convnext_atto",)),
        ("timm/pit_ti_224", ("--img_size", "pit_ti_224")),
        ("timm/crossvit_tiny_240", ("timm could not build it",)),
        ("timm/volo_d1_224", ("no grid",)),
    ],
)
def test_networks_of_timm_that_will_not_do_are_refused_in_one_line(folder, model, parts):
    pytest.importorskip("timm")
    said = refusal(folder, "main_BCE.py", *RUN, "--model", model, "--output", "refused")
    if model == "timm/pit_ti_224" and "could not build it" in said:
        pytest.skip("this timm builds the network with its own pooling only, so its image size is never asked for")
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    "words, parts",
    [
        (("--loss", "label_mask"), ("--head linear", "ctran")),
        (("--model", "convnext_tinny"), ("convnext_tiny",)),
        (("--model", "squeezenet1_1", "--img_size", "8"), ("--img_size 8", "squeezenet1_1")),
        (("--img_size", "8"), ("--img_size 8", "scenenet")),
        (("--model", "maxvit_t", "--img_size", "448"), ("--img_size 448", "maxvit_t", "give 224")),
        (("--model", "zzzz"), ("--model zzzz", "torchvision")),
        (("--model", "resnet18", "--weights", "default"), ("resnet18", "--weights none")),
        (("--frozen_stages", "4"), ("--frozen_stages 4", "scenenet has 3")),
        (("--head", "mlp"), ("--head", "q2l")),
        (("--head", "q2l", "--nheads", "5"), ("--nheads 5",)),
        (("--head", "gcn", "--word_vectors", "absent.txt"), ("absent.txt", "--word_vectors")),
        (("--head", "gcn", "--word_vectors", "glove.txt"), ("--word_width 2",)),
        (("--head", "gcn", "--word_vectors", "few.txt", "--word_width", "2"), ("few.txt", "bird", "18 of 20")),
        (("--head", "gcn", "--word_vectors", "few.npy"), ("few.npy", "(20, numbers)")),
        (("--head", "gcn", "--word_vectors", "Dataset"), ("Dataset", "is no file")),
        (("--head", "gcn", "--word_vectors", ""), ("--word_vectors", "empty")),
        (("--head", "q2l", "--hidden_dim", "10"), ("--hidden_dim 10", "multiple of 4")),
        (("--head", "ctran", "--hidden_dim", "8", "--nheads", "3"), ("--nheads 3",)),
        (("--loss", "label_mask", "--head", "ctran", "--mask_known", "1"), ("--mask_known 1.0",)),
        (("--head", "q2l", "--boostlu", "5"), ("--boostlu", "--head linear and csra")),
        (("--head", "pfc", "--saliency", "0.5"), ("--saliency", "--head linear and csra")),
        (("--saliency", "0.5", "--boostlu", "5"), ("--saliency 0.5, --boostlu 5.0", "give one")),
        (("--loss", "consistency"), ("consistency", "no label is unknown", "--loss partial_bce")),
        (("--loss", "partial_bce", "--labels", "single"), ("partial_bce", "no label is known to be absent")),
        (("--ema", "1"), ("--ema 1.0",)),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folder, words, parts):
    said = refusal(folder, "main_BCE.py", *RUN, *words, "--output", "refused")
    for part in parts:
        assert part in said
