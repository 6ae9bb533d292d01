import json

import numpy as np
import pytest

from data.datasets.voc import VOC_CLASSES
from tests.commands.scene import SMALL, refusal, result, succeed, tiny_voc
from tests.data.trees import coco_json, coco_tree

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


def test_formatted_arrays_hold_the_truth_and_one_label_per_image(folder):
    arguments = ("--dataset", "voc07", "--labels", "single", "--seed", "5")
    said = succeed(folder, "generate_labels.py", *arguments, "--formatted", "arrays")
    assert said.splitlines()[-1].startswith("arrays/formatted_*.npy: 15 + 7 x 20, ")
    assert said.splitlines()[-1].endswith("seed 5")
    for split, rows in (("train", 15), ("val", 7)):
        truth, seen = (
            np.load(folder / "arrays" / f"formatted_{split}_{kind}.npy") for kind in ("labels", "labels_obs")
        )
        assert truth.shape == seen.shape == (rows, 20)
        np.testing.assert_array_equal(seen.sum(axis=1), (truth == 1).any(axis=1))
        assert (truth[seen == 1] == 1).all()
        assert (truth == 1).sum() > seen.sum()
        names = np.load(folder / "arrays" / f"formatted_{split}_images.npy")
        assert all(str(name).endswith(".jpg") for name in names)
        assert len(names) == rows
    line = refusal(folder, "generate_labels.py", *arguments, "--formatted", "arrays")
    assert "formatted_train" in line
    assert "--overwrite" in line
    line = refusal(folder, "generate_labels.py", *arguments, "--formatted", "others", "--out", "x.npy")
    assert "--formatted: writes a folder of arrays" in line


REGIMES = {
    "candidate": (),
    "class_rates": ("--labels", "candidate", "--class_rates", "rates.csv"),
    "confusion": ("--labels", "candidate", "--confusion", "confusion.csv"),
    "dropped": ("--labels", "dropped", "--drop_rate", "0.5"),
    "keep_one": ("--labels", "dropped", "--drop_rate", "0.9", "--keep_one", "True"),
    "single": ("--labels", "single"),
    "observed": ("--labels", "observed", "--num_pos", "2", "--num_neg", "3"),
    "known": ("--labels", "known", "--known_rate", "0.6"),
    "flip": ("--labels", "flip", "--rho_pos", "0.2", "--rho_neg", "0.05"),
    "semi": ("--labels", "semi", "--labelled_share", "0.4"),
    "fpc": ("--labels", "fpc", "--fpc_known", "3"),
    "rps": ("--labels", "rps", "--rps_unknown", "0.3"),
    "full": ("--labels", "full"),
    "given": ("--labels", "given"),
}
"""Flags by what they ask for; the files of rates are those of `write_rates`."""


def write_rates(folder, classes):
    """`rates.csv` and `confusion.csv` for these classes."""
    (folder / "rates.csv").write_text("class,rate\n" + "".join(f"{one},{k % 5 / 5}\n" for k, one in enumerate(classes)))
    lines = [",".join(["true", *classes])]
    lines += [",".join([one, *(f"{(j + k) % 7 / 20}" for k in range(len(classes)))]) for j, one in enumerate(classes)]
    (folder / "confusion.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("labels", REGIMES)
def test_every_regime_is_written_and_trains(folder, labels):
    write_rates(folder, VOC_CLASSES)
    out = f"{labels}.npy"
    succeed(folder, "generate_labels.py", "--dataset", "voc07", *REGIMES[labels], "--seed", "6", "--out", out)
    codes = np.load(folder / out)
    assert codes.dtype == np.int8
    assert codes.shape == (15, 20)
    assert set(np.unique(codes)) <= {-1, 0, 1}
    assert {
        "known": -1 in codes,
        "semi": -1 in codes,
        "fpc": -1 in codes,
        "rps": -1 in codes,
        "flip": -1 not in codes,
    }.get(labels, True)
    output = f"trained-{labels}"
    succeed(folder, "main_BCE.py", *RUN, *REGIMES[labels], "--seed", "6", "--output", output)
    assert result(folder / output)["label_hash"] == json.loads((folder / f"{labels}.json").read_text())["label_hash"]


def test_regimes_of_one_name_are_told_apart_by_their_files_and_by_what_is_said(folder):
    write_rates(folder, VOC_CLASSES)
    for labels in ("candidate", "class_rates", "confusion", "dropped", "keep_one"):
        said = succeed(folder, "generate_labels.py", "--dataset", "voc07", *REGIMES[labels], "--seed", "7")
        assert "_s7_" in said
    names = [path.name for path in (folder / "pre-processed-data").glob("voc07_*_s7_*.npy")]
    assert len(names) == 5
    assert sum("class_rates-" in name for name in names) == sum("confusion-" in name for name in names) == 1


@pytest.mark.slow
def test_coco_and_digits_take_every_regime(tmp_path):
    entries = [(image, 1 + (image * k) % 3, 0) for image in range(1, 9) for k in (1, 2)]
    split = coco_json([(image, f"{image}.jpg") for image in range(1, 9)], entries, range(1, 81))
    other = coco_json([(image, f"{image}.jpg") for image in range(11, 15)], [(11, 1, 0), (14, 2, 0)], range(1, 81))
    coco_tree(tmp_path / "Dataset" / "COCO2014", 2014, split, other)
    write_rates(tmp_path, [f"category {k}" for k in range(1, 81)])
    for labels, flags in REGIMES.items():
        out = f"{labels}.npy"
        succeed(tmp_path, "generate_labels.py", "--dataset", "coco", *flags, "--out", out)
        assert np.load(tmp_path / out).shape == (8, 80)
    for labels in ("known", "flip", "semi", "fpc"):
        out = f"digits-{labels}.npy"
        succeed(tmp_path, "generate_labels.py", "--dataset", "digits", *REGIMES[labels], "--out", out)
        assert np.load(tmp_path / out).shape == (3000, 20)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--labels", "single", "--class_rates", "rates.csv"), ("class_rates", "single")),
        (("--class_rates", "rates.csv", "--confusion", "confusion.csv"), ("class_rates and confusion",)),
        (("--class_rates", "gone.csv"), ("gone.csv", "no such file")),
        (("--confusion", "rates.csv"), ("rates.csv", "'rate'")),
        (("--labels", "known", "--known_rate", "1.5"), ("known_rate 1.5",)),
        (("--labels", "flip", "--rho_neg", "-1"), ("rho_neg -1.0",)),
        (("--labels", "semi", "--labelled_share", "2"), ("labelled_share 2.0",)),
        (("--labels", "fpc", "--fpc_known", "0"), ("fpc_known 0", "at least 1")),
        (("--labels", "rps", "--rps_unknown", "2"), ("rps_unknown 2.0",)),
    ],
)
def test_a_regime_that_cannot_be_is_refused_in_one_line(folder, flags, words):
    write_rates(folder, VOC_CLASSES)
    line = refusal(folder, "generate_labels.py", "--dataset", "voc07", *flags, "--out", "refused.npy")
    assert all(word in line for word in words), line
    assert not (folder / "refused.npy").exists()


def test_published_form_is_written_and_then_used(tmp_path):
    tiny_voc(tmp_path)
    succeed(tmp_path, "generate_labels.py", "--dataset", "voc07", "--partial_rate", "0.1", "--published")
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
