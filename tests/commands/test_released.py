"""evaluate.py on checkpoints that papers released, and what it writes of them and of our own."""

import json

import pytest
import torch

from engine.core.checkpoint import read_model
from tests.commands.scene import SMALL, refusal, run, succeed, tiny_voc
from tests.models.released import released_files
from tests.models.released.released_files import save

RAW = ("--checkpoint_weights", "raw")
TEST = range(7)
SEEN = ("--img_size", "64", "--normalize", "unit", "--batch_size", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny VOC, a run of ours on it, and a released file."""
    folder = tmp_path_factory.mktemp("released")
    tiny_voc(folder)
    torch.manual_seed(0)
    save(released_files.fc_all().content, folder / "epoch_30.pth")
    save(released_files.csra(heads=1, lam=0.1).content, folder / "resnet101_voc07_head1_lam0.1_94.7.pth")
    succeed(
        folder, "main_BCE.py", "--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0", "--output", "run"
    )
    return folder


def figures(folder, *words):
    """The table as JSON, and what was printed."""
    (folder / "scores.json").unlink(missing_ok=True)
    said = succeed(folder, "evaluate.py", *words, "--json", "scores.json")
    return json.loads((folder / "scores.json").read_text()), said


@torch.no_grad()
def logits(path, size=64):
    torch.manual_seed(2)
    return read_model(path).build().eval()(torch.rand(3, 3, size, size)).logits


@torch.no_grad()
def logits_of(path, *flags, size=64):
    torch.manual_seed(2)
    saved = read_model(path, checkpoint_weights=flags[1] if flags else None)
    return saved.build().eval()(torch.rand(3, 3, size, size)).logits


def test_a_released_file_is_scored_on_the_dataset_that_is_named(folder):
    found, said = figures(folder, "--load_from", "epoch_30.pth", "--dataset", "voc07", *SEEN)
    assert "released, BCE baseline of CoNeS" in said
    assert "as the published code numbers them" in said
    assert 0 <= found["test"]["mAP"] <= 1
    assert len(found["average_precision"]) == 20
    assert "published" not in found


def test_without_a_dataset_it_asks_for_one(folder):
    line = refusal(folder, "evaluate.py", "--load_from", "epoch_30.pth", *SEEN)
    assert "epoch_30.pth: does not name its dataset (released, BCE baseline of CoNeS); give --dataset" in line


def test_a_dataset_of_another_number_of_classes_is_refused(folder):
    torch.save(released_files.fc_all(classes=19).content, folder / "nineteen.pth")
    line = refusal(folder, "evaluate.py", "--load_from", "nineteen.pth", "--dataset", "voc07", "--img_size", "64")
    assert "trained on 19 classes, but voc07 has 20 (aeroplane, " in line


def test_preprocessing_is_the_published_one_unless_it_is_given_and_then_warned_about(folder):
    words = ("--load_from", "epoch_30.pth", "--dataset", "voc07", "--batch_size", "4")
    done = run(folder, "evaluate.py", *words, "--img_size", "64", "--normalize", "imagenet")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert (
        "--img_size 64, --normalize imagenet: epoch_30.pth was trained with img_size 224, normalize unit" in done.stderr
    )
    plain, given = run(folder, "evaluate.py", *words), run(folder, "evaluate.py", *words, "--img_size", "224")
    assert (plain.stderr, given.stderr) == ("", "")
    assert plain.stdout == given.stdout != done.stdout


def test_the_published_figure_stands_beside_the_measured_one_by_file_name(folder):
    name = "resnet101_voc07_head1_lam0.1_94.7.pth"
    found, said = figures(folder, "--load_from", name, "--img_size", "64", "--batch_size", "4")
    assert found["dataset"] == "voc07"
    assert found["published"]["name"] == "csra-voc07"
    assert found["published"]["test"] == {"mAP": pytest.approx(0.947)}
    assert (found["published"]["compared"], found["published"]["images"]) == (False, len(TEST))
    assert f"not compared with the published mAP 94.70: it is of 4,952 test images, these are {len(TEST)} (" in said
    assert "lam is not in the file" not in said


def test_the_published_figure_by_its_name_also_for_a_run_of_ours(folder):
    found, _ = figures(folder, "--load_from", "run/best.pth", "--paper", "cones-voc07-0.4")
    assert found["published"]["test"] == {"mAP": pytest.approx(0.8843)}
    assert "reports coco, not voc07" in refusal(
        folder, "evaluate.py", "--load_from", "run/best.pth", "--paper", "cones-coco-0.1"
    )
    line = refusal(
        folder, "evaluate.py", "--load_from", "epoch_30.pth", "--dataset", "voc07", "--paper", "cones-voc07-0.1"
    )
    assert "--paper cones-voc07-0.1: is of cones, but epoch_30.pth is a file of bce" in line
    assert "did you mean" in refusal(folder, "evaluate.py", "--load_from", "run/best.pth", "--paper", "cones-voc7-0.1")


def test_settings_of_the_network_that_the_file_does_not_say(folder):
    name = "renamed.pth"
    (folder / name).write_bytes((folder / "resnet101_voc07_head1_lam0.1_94.7.pth").read_bytes())
    words = ("--load_from", name, "--dataset", "voc07", *SEEN)
    plain, said = figures(folder, *words)
    assert "lam is not in the file: 0.1" in said
    other, said = figures(folder, *words, "--lam", "3.0", "--num_heads", "1")
    assert "lam is not in the file" not in said
    assert other["average_precision"] != plain["average_precision"]
    assert "has 1" in refusal(folder, "evaluate.py", *words, "--num_heads", "4")
    assert "leave it out" in refusal(folder, "evaluate.py", "--load_from", "run/best.pth", "--lam", "0.2")


def test_our_own_checkpoint_as_safetensors_gives_the_same_figures_and_logits(folder):
    before, _ = figures(folder, "--load_from", "run/best.pth", "--save_as", "own.safetensors")
    after, _ = figures(folder, "--load_from", "own.safetensors")
    assert before | {"load_from": 0} == after | {"load_from": 0}
    assert torch.equal(logits(folder / "run" / "best.pth", 32), logits(folder / "own.safetensors", 32))
    ours, theirs = read_model(folder / "run" / "best.pth"), read_model(folder / "own.safetensors")
    assert (ours.classes, ours.settings, ours.epoch, ours.peers) == (
        theirs.classes,
        theirs.settings,
        theirs.epoch,
        theirs.peers,
    )


@pytest.mark.slow
def test_a_released_file_is_converted_with_the_classes_of_its_dataset_or_without(folder):
    said = succeed(folder, "evaluate.py", "--load_from", "epoch_30.pth", "--save_as", "nameless.safetensors")
    assert "20 classes, names not known" in said
    nameless = read_model(folder / "nameless.safetensors")
    assert (nameless.classes, nameless.num_classes, nameless.settings["img_size"]) == ((), 20, 224)
    first, _ = figures(
        folder, "--load_from", "epoch_30.pth", "--dataset", "voc07", "--save_as", "named.safetensors", *SEEN
    )
    named = read_model(folder / "named.safetensors")
    assert named.classes[:2] == ("aeroplane", "bicycle")
    expected = logits(folder / "epoch_30.pth")
    for name in ("named", "nameless"):
        assert torch.equal(logits(folder / f"{name}.safetensors"), expected)
    again, _ = figures(folder, "--load_from", "named.safetensors", *SEEN)
    assert again["test"] == first["test"]
    assert "give --dataset" in refusal(folder, "evaluate.py", "--load_from", "nameless.safetensors", *SEEN)
    other, said = figures(folder, "--load_from", "nameless.safetensors", "--dataset", "voc07", *SEEN)
    assert other["test"] == first["test"]
    assert "does not give their order" in said


def test_a_copy_has_to_be_called_safetensors_and_has_to_have_a_folder(folder):
    words = ("--load_from", "run/best.pth", "--save_as")
    assert "name it .safetensors" in refusal(folder, "evaluate.py", *words, "copy.pth")
    assert "cannot be written" in refusal(folder, "evaluate.py", *words, "nowhere/copy.safetensors", code=1)


def test_classes_in_another_order_are_matched_by_name(folder):
    names = read_model(folder / "run" / "best.pth").classes
    made = released_files.distribution_balanced()
    made.content["meta"]["CLASSES"] = tuple(name.upper() for name in names)
    torch.save(made.content, folder / "epoch_9.pth")
    words = ("--load_from", "epoch_9.pth", "--dataset", "voc07", *SEEN)
    plain, said = figures(folder, *words)
    assert "order" not in said
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    made.content["meta"]["CLASSES"] = tuple(names[k] for k in order)
    for part in ("head.fc_cls.weight", "head.fc_cls.bias"):
        made.content["state_dict"][part] = made.content["state_dict"][part][order]
    torch.save(made.content, folder / "epoch_9.pth")
    other, said = figures(folder, *words)
    assert "classes: matched by name; the checkpoint has them in another order" in said
    assert other["average_precision"] == pytest.approx(plain["average_precision"])
    made.content["meta"]["CLASSES"] = (*names[:-1], "unicorn")
    torch.save(made.content, folder / "epoch_9.pth")
    line = refusal(folder, "evaluate.py", *words)
    assert f"; only the checkpoint has unicorn; only voc07 has {names[-1]}; " in line


@pytest.mark.slow
def test_averaged_weights_are_scored_and_said_unless_the_raw_ones_are_asked_for(folder):
    made = released_files.fc_all()
    average = {name: value.flip(0) if "fc_all" in name else value for name, value in made.state.items()}
    counters = {
        "total_ops": torch.zeros(1),
        "layer1.total_ops": torch.zeros(1),
        "layer1.0.total_params": torch.zeros(1),
    }
    torch.save({"state_dict": {**made.state, **counters}, "state_dict_ema": average}, folder / "both.pth")
    torch.save(average, folder / "average.pth")
    torch.save(made.state, folder / "raw.pth")
    words = ("--dataset", "voc07", *SEEN, "--load_from")
    alone = {name: figures(folder, *words, f"{name}.pth")[0]["average_precision"] for name in ("average", "raw")}
    assert alone["average"] != alone["raw"]
    for flags, name in (((), "average"), (("--checkpoint_weights", "ema"), "average"), (RAW, "raw")):
        found, said = figures(folder, *words, "both.pth", *flags)
        assert found["average_precision"] == alone[name]
        assert said.count(f"{'averaged' if name == 'average' else 'raw'} weights (") == 1
        assert ("3 counters of a profiler (total_ops, total_params) are ignored" in said) == (name == "raw")
    assert "holds no averaged weights" in refusal(
        folder, "evaluate.py", *words, "raw.pth", "--checkpoint_weights", "ema"
    )
    line = refusal(folder, "evaluate.py", "--load_from", "run/best.pth", *RAW)
    assert "--checkpoint_weights raw: run/best.pth is a checkpoint of this project" in line


@pytest.mark.slow
def test_averaged_weights_are_exported_and_converted_alike(folder):
    made = released_files.fc_all()
    torch.save(
        {"model": made.state, "model_ema": {n: v.float() * 1.5 for n, v in made.state.items()}}, folder / "e.pth"
    )
    expected = {flags: logits_of(folder / "e.pth", *flags) for flags in ((), RAW)}
    assert not torch.allclose(expected[()], expected[RAW])
    for flags, wanted in expected.items():
        succeed(folder, "evaluate.py", "--load_from", "e.pth", "--save_as", "e.safetensors", *flags)
        assert torch.equal(logits(folder / "e.safetensors"), wanted)


def test_a_released_network_beside_one_of_ours(folder):
    words = ("--load_from", "epoch_30.pth", "--ensemble", "run/best.pth", "--dataset", "voc07", *SEEN)
    found, _ = figures(folder, *words)
    assert {"g", "ensemble"} <= found["extra"].keys()
