"""Every mistake of a user's ends in one line that says what, where and what to do, and in exit code 2."""

import json
import resource
import shutil
import subprocess

import numpy as np
import pytest
import torch

from tests.commands.scene import ROOT, SMALL, command, environment, refusal, run, succeed, tiny_voc

RUN = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0")


@pytest.fixture
def folder(tmp_path):
    tiny_voc(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run in it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_voc(folder)
    succeed(folder, "main_BCE.py", *RUN, "--output", "run")
    return folder


def voc(folder):
    return folder / "Dataset" / "VOCdevkit" / "VOC2007"


def left(folder):
    """Runs that were begun."""
    return list((folder / "runs").glob("*/last")) if (folder / "runs").exists() else []


def test_wrong_folder_shows_the_expected_tree(tmp_path):
    done = run(tmp_path, "main_BCE.py", "--dataset", "voc07", "--path_images", "nowhere")
    assert done.returncode == 2
    for words in ("nowhere", "JPEGImages", "ImageSets", "--dataset digits"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_split_file(folder):
    (voc(folder) / "ImageSets" / "Main" / "test.txt").unlink()
    assert "test.txt" in refusal(folder, "main_BCE.py", *RUN)
    assert not left(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone"])
def test_broken_picture_is_found_before_training(folder, damage):
    picture = voc(folder) / "JPEGImages" / "000003.jpg"
    if damage == "cut":
        picture.write_bytes(picture.read_bytes()[:-200])
    elif damage == "empty":
        picture.write_bytes(b"")
    elif damage == "text":
        picture.write_text("not a picture")
    else:
        picture.unlink()
    assert "000003.jpg" in refusal(folder, "main_CoNeS.py", *RUN)
    assert not left(folder)


def test_unknown_class_in_an_annotation(folder):
    xml = voc(folder) / "Annotations" / "000004.xml"
    xml.write_text(xml.read_text().replace("<name>", "<name>uni", 1).replace("uni", "unicorn-", 1))
    line = refusal(folder, "main_BCE.py", *RUN)
    assert "000004.xml" in line
    assert "unicorn-" in line


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--num_cls", "21"], ["--num_cls 21", "20 classes"]),
        (["--partial_rate", "1.5"], ["1.5"]),
        (["--labels", "dropped", "--drop_rate", "-0.1"], ["-0.1"]),
        (["--partial_rat", "0.1"], ["--partial_rat", "--partial_rate"]),
        (["--dataset", "voc70"], ["voc70", "voc07"]),
        (["--weights", "nowhere.pth"], ["nowhere.pth"]),
        (["--device", "cuda"], ["cuda"] if not torch.cuda.is_available() else ["--epochs 0"]),
        (["--precision", "fp16", "--device", "cpu"], ["fp16"]),
        (["--selection", "validation"], ["--val_frac"]),
        (["--val_frac", "1"], ["--val_frac"]),
        (["--epochs", "0"], ["--epochs 0"]),
        (["--batch_size", "0"], ["--batch_size 0"]),
        (["--r_ws", "1"], ["r_ws"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--label_file", "nowhere.npy"], ["nowhere.npy"]),
        (["--resume"], ["--output"]),
        (["--img_size", "8"], ["--img_size 8", "scenenet", "at least 9"]),
    ],
)
def test_settings_that_cannot_be(trained, arguments, words):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device, so this is no mistake")
    line = refusal(trained, "main_CoNeS.py", *RUN, *arguments)
    for word in words:
        assert word in line
    assert not list(trained.glob("runs/*")), "a folder is left behind"


def test_pretrained_weights_that_cannot_be_fetched_are_named(trained, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # no network, wherever this runs
    line = refusal(trained, "main_BCE.py", *RUN, "--model", "resnet18", "--img_size", "64", "--weights", "default")
    assert "IMAGENET1K_V1" in line
    assert "--weights" in line


def test_label_file_of_other_data_is_refused_with_both_hashes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    tiny_voc(other, rows=25)
    succeed(other, "generate_labels.py", "--dataset", "voc07", "--out", "labels.npy")
    line = refusal(folder, "main_CoNeS.py", *RUN, "--label_file", other / "labels.npy")
    theirs = json.loads((other / "labels.json").read_text())["row_hash"]
    succeed(folder, "generate_labels.py", "--dataset", "voc07", "--out", "own.npy")
    ours = json.loads((folder / "own.json").read_text())["row_hash"]
    assert theirs[:8] in line
    assert ours[:8] in line


def test_published_label_file_that_does_not_fit_is_refused(folder):
    (folder / "pre-processed-data").mkdir()
    rows = np.zeros((15, 20), dtype=np.int32)  # no true label is a candidate
    np.save(folder / "pre-processed-data" / "voc07_0.1.npy", np.array({"partial_labels": rows}, dtype=object))
    assert "voc07_0.1.npy" in refusal(folder, "main_CoNeS.py", *RUN)


def test_hostile_label_file_runs_nothing(folder):
    class Hostile:
        def __reduce__(self):
            return (open, (str(folder / "owned"), "w"))

    np.save(folder / "hostile.npy", np.array({"partial_labels": Hostile()}, dtype=object))
    assert "hostile.npy" in refusal(folder, "main_CoNeS.py", *RUN, "--label_file", "hostile.npy")
    assert not (folder / "owned").exists()


def test_checkpoint_of_another_architecture(trained):
    held = torch.load(trained / "run" / "best.pth", weights_only=True)
    held["settings"]["model"] = "resnet18"
    torch.save(held, trained / "other.pth")
    line = refusal(trained, "evaluate.py", "--load_from", "other.pth")
    assert "other.pth" in line
    assert "another architecture" in line


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_checkpoint_that_is_none(trained, content):
    (trained / "junk.pth").write_bytes(content)
    assert "junk.pth" in refusal(trained, "evaluate.py", "--load_from", "junk.pth")


def test_checkpoint_of_other_classes(trained):
    line = refusal(trained, "evaluate.py", "--load_from", "run/best.pth", "--dataset", "digits")
    assert "20 classes" in line
    assert "0 warm" in line


@pytest.mark.slow
def test_full_disk_on_save_is_one_line_and_leaves_earlier_results(trained):
    """A limit on file size stands for the full disk: the system refuses the write in the same way."""
    shutil.rmtree(trained / "full", ignore_errors=True)
    succeed(trained, "main_BCE.py", *RUN, "--epochs", "1", "--output", "full")
    before = (trained / "full" / "best.pth").read_bytes()
    (trained / "full" / "result.json").unlink()
    (trained / "full" / "last" / "state.pth").unlink()  # so that it trains, and saves, again

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    done = subprocess.run(
        command(trained, "main_BCE.py", *RUN, "--epochs", "1", "--output", "full", "--resume"),
        cwd=trained,
        env=environment(trained),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "best.pth" in done.stderr
    assert (trained / "full" / "best.pth").read_bytes() == before
    assert not list((trained / "full").rglob("*.tmp*"))


def test_output_that_cannot_be_written(trained):
    assert "--output" in refusal(trained, "main_BCE.py", *RUN, "--output", ROOT / "README.md")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_damaged_after_the_check_ends_the_run_with_code_1(folder, workers):
    image = voc(folder) / "JPEGImages" / "000003.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    line = refusal(folder, "main_BCE.py", *RUN, "--no-check_images", "--num_workers", workers, code=1)
    assert "000003.jpg" in line
    assert line.startswith("error: image")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), ["runs"]),
        (("nowhere",), ["nowhere", "no result.json"]),
        (("run", "--pictures", "many"), ["--images", "many"]),
        (("run", "--nonsense"), ["--nonsense"]),
    ],
)
def test_mistakes_in_a_comparison(trained, arguments, words):
    line = refusal(trained, "compare.py", *arguments)
    for word in words:
        assert word in line
