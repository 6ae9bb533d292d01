import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data.datasets.voc import VOC_CLASSES
from tests.commands.scene import refusal, run, succeed, tiny_voc
from tests.data.trees import real_data
from tests.oracles import inspection as oracle

SCRIPT = "inspect_data.py"
VOC = ("--dataset", "voc07")
DRAWN = {"frequency.png", "cooccurrence.png", "cardinality.png", "contact_sheet.png"}


def read(folder):
    """The report, refusing NaN and infinities."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def ids(devkit, *lists):
    texts = [(devkit / "VOC2007" / "ImageSets" / "Main" / f"{name}.txt").read_text() for name in lists]
    return sorted(" ".join(texts).split())


def truth(devkit, names):
    rows = []
    for name in names:
        row = [0] * 20
        objects = ElementTree.parse(devkit / "VOC2007" / "Annotations" / f"{name}.xml").findall("object")
        for one in sorted(objects, key=lambda one: one.findtext("difficult") == "0"):
            row[VOC_CLASSES.index(one.findtext("name"))] = 1 if one.findtext("difficult") == "0" else -1
        rows.append(row)
    return rows


def jpeg(devkit, name):
    return devkit / "VOC2007" / "JPEGImages" / f"{name}.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    tiny_voc(folder, rows=40)
    return folder


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A tree with every fault, its report, and what the command printed."""
    folder = tmp_path_factory.mktemp("spoilt")
    devkit = tiny_voc(folder, rows=40)
    train, test = ids(devkit, "train", "val"), ids(devkit, "test")
    jpeg(devkit, train[0]).unlink()
    jpeg(devkit, train[1]).write_bytes(jpeg(devkit, train[1]).read_bytes()[:-150])
    jpeg(devkit, test[0]).write_bytes(b"")
    shutil.copy(jpeg(devkit, train[2]), jpeg(devkit, test[1]))
    shutil.copy(jpeg(devkit, train[3]), jpeg(devkit, train[4]))
    shutil.copy(jpeg(devkit, train[3]), jpeg(devkit, train[5]))
    Image.new("L", (50, 60)).save(jpeg(devkit, train[6]))
    Image.new("CMYK", (70, 20)).save(jpeg(devkit, train[7]))
    Image.new("P", (9, 8)).save(jpeg(devkit, test[2]), "PNG")
    done = run(folder, SCRIPT, *VOC, "--output", "out", "--top", "2")
    return folder, devkit, done, read(folder / "out")


def test_a_sound_dataset_is_usable_and_all_is_written(folder):
    printed = succeed(folder, SCRIPT, *VOC, "--samples", "5", draw=True)
    out = folder / "runs" / "inspect-voc07"
    assert {path.name for path in out.iterdir()} == DRAWN | {"report.json", "report.txt"}
    assert printed.strip().splitlines()[-1].startswith("verdict: usable")
    assert (out / "report.txt").read_text().strip() in printed
    assert read(out)["usable"] is True
    assert not (folder / "pre-processed-data").exists()
    for name in DRAWN:
        assert Image.open(out / name).width > 300


@pytest.mark.parametrize("labels", ["candidate", "dropped", "single", "observed", "full", "given"])
def test_figures_agree_with_counting_one_by_one_under_every_regime(folder, labels):
    devkit = folder / "Dataset" / "VOCdevkit"
    regime = ("--labels", labels, "--partial_rate", "0.2", "--num_neg", "3", "--seed", "4")
    succeed(folder, SCRIPT, *VOC, *regime, "--output", f"by-{labels}", "--samples", "0", "--no-check_images")
    succeed(folder, "generate_labels.py", *VOC, *regime, "--out", f"{labels}.npy")
    report = read(folder / f"by-{labels}")
    true, seen = truth(devkit, ids(devkit, "train", "val")), np.load(folder / f"{labels}.npy").tolist()
    tested = truth(devkit, ids(devkit, "test"))
    for part, rows in (
        (report["splits"]["train"], true),
        (report["splits"]["test"], tested),
        (report["observed"], seen),
    ):
        for name, value in oracle.label_figures(rows, 20).items():
            assert part[name] == pytest.approx(value), name
    own = dict.fromkeys(("wrong_share", "lost_share", "present_among_unknown")) | {"compared": False}
    for name, value in (oracle.noise_figures(true, seen) | (own if labels == "given" else {})).items():
        assert report["observed"][name] == pytest.approx(value), name
    for k, one in enumerate(report["classes"]):
        assert one["name"] == VOC_CLASSES[k]
        column = oracle.noise_figures([row[k : k + 1] for row in true], [row[k : k + 1] for row in seen])
        assert one["observed"] == {name: column[name] for name in one["observed"]}
        for split, rows in (("train", true), ("test", tested)):
            values = [row[k] for row in rows]
            assert one[split] == {"unknown": values.count(-1), "absent": values.count(0), "present": values.count(1)}
    chosen = [VOC_CLASSES.index(name) for name in report["co_occurrence"]["classes"]]
    together = np.array(oracle.together(true, 20))
    assert report["co_occurrence"]["together"] == together[np.ix_(chosen, chosen)].tolist()
    assert not (folder / f"by-{labels}" / "contact_sheet.png").exists()


def test_a_label_file_that_training_would_find_is_what_is_looked_at(tmp_path):
    tiny_voc(tmp_path)
    regime = (*VOC, "--partial_rate", "0.5", "--seed", "1")
    succeed(tmp_path, "generate_labels.py", *regime)
    (file,) = (tmp_path / "pre-processed-data").glob("*.npy")
    printed = succeed(tmp_path, SCRIPT, *regime, "--output", "out", "--no-check_images")
    assert f"from {file.relative_to(tmp_path)}" in printed
    assert read(tmp_path / "out")["observed"]["labelled"] == int((np.load(file) == 1).sum())
    file.write_bytes(file.read_bytes()[:-7])
    assert file.name in refusal(tmp_path, SCRIPT, *regime, "--output", "out2")
    assert not (tmp_path / "out2").exists()


def test_a_validation_split_has_a_column_of_its_own(folder):
    succeed(folder, SCRIPT, *VOC, "--val_frac", "0.25", "--output", "val", "--no-check_images")
    splits = read(folder / "val")["splits"]
    assert list(splits) == ["train", "validation", "test"]
    assert (splits["train"]["images"], splits["validation"]["images"]) == (20, 7)
    assert read(folder / "val")["observed"]["images"] == 20


def test_planted_faults_are_all_found_and_named(spoilt):
    _, devkit, done, report = spoilt
    train, test = ids(devkit, "train", "val"), ids(devkit, "test")
    images = {name: split["pictures"] for name, split in report["splits"].items()}

    def name(one):
        return f"Dataset/VOCdevkit/VOC2007/JPEGImages/{one}.jpg"

    assert images["train"]["missing_files"] == [name(train[0])]
    assert [entry["file"] for entry in images["train"]["broken_files"]] == [name(train[1])]
    assert "damaged" in images["train"]["broken_files"][0]["fault"]
    assert images["test"]["broken_files"] == [{"file": name(test[0]), "fault": "is empty"}]
    assert images["train"]["modes"] == {"RGB": len(train) - 4, "L": 1, "CMYK": 1}
    assert images["test"]["files"] == {".jpg JPEG": len(test) - 2, ".jpg PNG": 1}
    assert images["test"]["modes"]["P"] == 1
    assert images["train"]["width"] == {"min": 44, "median": 44.0, "max": 70}
    assert images["train"]["height"] == {"min": 20, "median": 36.0, "max": 60}
    assert report["duplicates"]["across_splits"] == {"train and test": 1}
    assert report["duplicates"]["within_split"] == {"train": 1}
    found = sorted(sorted(one["file"] for one in group) for group in report["duplicates"]["pictures"])
    assert found == [[name(train[2]), name(test[1])], [name(train[n]) for n in (3, 4, 5)]]
    assert done.returncode == 1
    assert done.stderr == ""
    for one in (train[0], train[1], train[2], test[0], test[1], train[5]):
        assert name(one) in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("verdict: not usable as it is, 4 errors")


def test_a_report_with_faults_is_whole(spoilt):
    folder, devkit, _, report = spoilt
    assert {path.name for path in (folder / "out").iterdir()} == DRAWN | {"report.json", "report.txt"}
    assert report["usable"] is False
    levels = [problem["level"] for problem in report["problems"]]
    assert levels == sorted(levels)  # errors before notes
    train = truth(devkit, ids(devkit, "train", "val"))
    assert report["splits"]["train"]["present"] == oracle.label_figures(train, 20)["present"]


def test_rows_that_will_be_left_out_are_no_error(tmp_path):
    devkit = tiny_voc(tmp_path)
    for one in ids(devkit, "train"):
        jpeg(devkit, one).unlink()
    arguments = (*VOC, "--missing_images", "skip", "--output", "out")
    printed = succeed(tmp_path, SCRIPT, *arguments)
    assert f"{len(ids(devkit, 'train'))} of 15 training rows will be left out" in printed
    for one in ids(devkit, "val", "test"):
        jpeg(devkit, one).unlink()
    done = run(tmp_path, SCRIPT, *arguments)
    assert done.returncode == 1
    assert "15 of 15 training images are missing" in done.stdout


def test_all_images_missing_is_reported_and_stale_plots_go(tmp_path):
    devkit = tiny_voc(tmp_path)
    succeed(tmp_path, SCRIPT, *VOC, "--output", "out")
    shutil.rmtree(devkit / "VOC2007" / "JPEGImages")
    for extra in ((), ("--no-check_images",)):
        done = run(tmp_path, SCRIPT, *VOC, "--output", "out", *extra)
        assert (done.returncode, done.stderr) == (1, "")
        assert read(tmp_path / "out")["splits"]["test"]["pictures"]["missing"] == 7
        assert not (tmp_path / "out" / "contact_sheet.png").exists()


def test_without_a_check_broken_images_are_not_looked_for_and_the_verdict_says_so(tmp_path):
    devkit = tiny_voc(tmp_path)
    jpeg(devkit, ids(devkit, "train")[0]).write_bytes(b"")
    printed = succeed(tmp_path, SCRIPT, *VOC, "--output", "out", "--no-check_images", "--samples", "1000")
    assert printed.strip().splitlines()[-1].endswith("images were not decoded")
    assert read(tmp_path / "out")["duplicates"] == {
        "checked": False,
        "across_splits": {},
        "within_split": {},
        "pictures": [],
    }


@pytest.mark.slow
def test_the_contact_sheet_follows_the_seed(folder):
    for seed, out in (("1", "a"), ("1", "b"), ("2", "c")):
        arguments = ("--seed", seed, "--label_seed", "0", "--output", out, "--no-check_images")
        succeed(folder, SCRIPT, *VOC, *arguments, "--samples", "4", draw=True)
    a, b, c = (np.asarray(Image.open(folder / out / "contact_sheet.png")) for out in "abc")
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or (a != c).any()


def test_odd_names_of_classes_are_only_names(tmp_path):
    names = ["$\\frac{1$", "two  words", "a" * 300, "\u72d7"]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(4)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": 4 * n + k, "image_id": n, "category_id": k, "bbox": [0, 0, max(2 - k, 0), 2]}
            for n in range(4)
            for k in range(n + 1)
        ],
    }
    (tmp_path / "annotations").mkdir()
    for split, shift in (("train", 0), ("val", 100)):
        images = [{**one, "id": one["id"] + shift} for one in content["images"]]
        annotations = [{**one, "image_id": one["image_id"] + shift} for one in content["annotations"]]
        text = json.dumps({**content, "images": images, "annotations": annotations})
        (tmp_path / "annotations" / f"instances_{split}2014.json").write_text(text)
        (tmp_path / f"{split}2014").mkdir()
        for n in range(4):
            Image.new("RGB", (2, 2), (n + 1, shift, 0)).save(tmp_path / f"{split}2014" / f"{n}.png")
    done = run(tmp_path, SCRIPT, "--dataset", "coco", "--path_images", ".", "--output", "out", draw=True)
    assert (done.returncode, done.stderr) == (0, "")
    report = read(tmp_path / "out")
    assert [one["name"] for one in report["classes"]] == names
    assert report["splits"]["train"]["boxes"] == {"boxes": 10, "without_area": 3, "outside": 0}
    assert "3 training boxes without area" in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith("figures: no font")]
    assert max(map(len, lines)) < 150


@pytest.mark.slow
def test_digits_in_memory_can_be_inspected(tmp_path):
    printed = succeed(tmp_path, SCRIPT, "--dataset", "digits", "--labels", "dropped")
    report = read(tmp_path / "runs" / "inspect-digits")
    assert report["usable"]
    assert report["splits"]["train"]["pictures"]["files"] == {"in memory": report["splits"]["train"]["images"]}
    assert 0.7 < report["observed"]["lost_share"] < 0.8
    assert "lost" in printed


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--samples", "-1"), ("--samples -1",)),
        (("--top", "0"), ("--top 0",)),
        (("--seed", "-3"), ("--seed -3",)),
        (("--output", "taken"), ("--output taken",)),
        (("--labels", "candidate", "--partial_rate", "2"), ("rate 2",)),
        (("--sample", "3"), ("--sample", "--samples")),
    ],
)
def test_mistakes_end_in_one_line(folder, arguments, words):
    (folder / "taken").write_text("")
    line = refusal(folder, SCRIPT, *VOC, *arguments)
    for word in words:
        assert word in line


def test_annotations_that_cannot_be_read_leave_nothing_behind(tmp_path):
    devkit = tiny_voc(tmp_path)
    (devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    assert "test.txt" in refusal(tmp_path, SCRIPT, *VOC)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset, folder", [("voc07", "voc_mini/VOCdevkit"), pytest.param("coco", "coco_mini", marks=pytest.mark.slow)]
)
def test_real_photographs_are_sound(tmp_path, dataset, folder):
    printed = succeed(tmp_path, SCRIPT, "--dataset", dataset, "--path_images", real_data(folder), "--output", "out")
    report = read(tmp_path / "out")
    assert printed.strip().splitlines()[-1].startswith("verdict: usable")
    for split in report["splits"].values():
        assert sum(split["pictures"]["modes"].values()) == split["images"]
        assert split["boxes"]["boxes"] > split["images"] / 2
