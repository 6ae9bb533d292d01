import json

import numpy as np
import pytest

from tests.commands.scene import SMALL, refusal, result, run_process, succeed, tiny_voc

RUN = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    tiny_voc(folder)
    return folder


def test_the_default_place_is_where_training_looks(folder):
    said = succeed(folder, "generate_labels.py", "--dataset", "voc07", "--partial_rate", "0.25", "--seed", "3")
    (file,) = (folder / "pre-processed-data").glob("voc07_candidate_0.25_s3_*.npy")
    assert file.name in said
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert manifest["shape"] == [15, 20]
    trained = succeed(folder, "main_BCE.py", *RUN, "--partial_rate", "0.25", "--seed", "3", "--output", "as-generated")
    assert f"{file.name} (read)" in trained
    assert result(folder / "as-generated")["label_hash"] == manifest["label_hash"]


def test_training_makes_the_same_file_when_it_is_missing_and_says_so(folder):
    said = succeed(folder, "main_CoNeS.py", *RUN, "--partial_rate", "0.35", "--seed", "4", "--output", "made")
    (file,) = (folder / "pre-processed-data").glob("voc07_candidate_0.35_s4_*.npy")
    assert f"{file.name} (made now), seed 4, hash {result(folder / 'made')['label_hash'][:12]}" in said
    generated = succeed(
        folder, "generate_labels.py", "--dataset", "voc07", "--partial_rate", "0.35", "--seed", "4", "--out", "x.npy"
    )
    assert "x.npy" in generated
    assert (folder / "x.npy").read_bytes() == file.read_bytes()


def test_every_script_sees_the_same_labels_under_the_same_settings(folder):
    regime = ("--labels", "dropped", "--drop_rate", "0.5", "--seed", "2")
    for script in ("main_BCE.py", "main_CoNeS.py", "main_real.py"):
        succeed(folder, script, *RUN, *regime, "--output", script[:-3])
    hashes = {result(folder / script)["label_hash"] for script in ("main_BCE", "main_CoNeS", "main_real")}
    assert len(hashes) == 1


def test_label_seed_is_apart_from_seed(folder):
    for seed, out in (("1", "a.npy"), ("2", "b.npy")):
        arguments = ("--dataset", "voc07", "--seed", seed, "--label_seed", "9", "--out", out)
        succeed(folder, "generate_labels.py", *arguments)
    np.testing.assert_array_equal(np.load(folder / "a.npy"), np.load(folder / "b.npy"))


@pytest.mark.parametrize("labels", ["candidate", "dropped", "single", "observed", "full", "given"])
def test_every_regime_is_written(folder, labels):
    out = f"{labels}.npy"
    succeed(folder, "generate_labels.py", "--dataset", "voc07", "--labels", labels, "--num_neg", "2", "--out", out)
    codes = np.load(folder / out)
    assert codes.dtype == np.int8
    assert codes.shape == (15, 20)
    assert set(np.unique(codes)) <= {-1, 0, 1}


def test_published_form_is_written_and_then_used(tmp_path):
    tiny_voc(tmp_path)
    done = run_process(tmp_path, "generate_labels.py", "--dataset", "voc07", "--partial_rate", "0.1", "--published")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "pre-processed-data" / "voc07_0.1.npy"
    held = np.load(file, allow_pickle=True).item()
    assert set(held) == {"partial_labels"}
    said = succeed(tmp_path, "main_CoNeS.py", *RUN, "--output", "run")
    assert "voc07_0.1.npy (read)" in said


def test_pictures_are_not_needed(tmp_path):
    devkit = tiny_voc(tmp_path)
    for picture in (devkit / "VOC2007" / "JPEGImages").iterdir():
        picture.unlink()
    (devkit / "VOC2007" / "JPEGImages").rmdir()
    succeed(tmp_path, "generate_labels.py", "--dataset", "voc07", "--out", "x.npy")


def test_an_existing_file_is_kept_unless_told(folder):
    arguments = ("--dataset", "voc07", "--out", "kept.npy")
    succeed(folder, "generate_labels.py", *arguments)
    before = (folder / "kept.npy").read_bytes()
    assert "--overwrite" in refusal(folder, "generate_labels.py", *arguments, "--seed", "5")
    assert (folder / "kept.npy").read_bytes() == before
    succeed(folder, "generate_labels.py", *arguments, "--seed", "5", "--overwrite")
    assert (folder / "kept.npy").read_bytes() != before


def test_published_form_is_for_candidates_only(folder):
    arguments = ("--dataset", "voc07", "--labels", "single", "--published", "--out", "p.npy")
    assert "candidate" in refusal(folder, "generate_labels.py", *arguments)
