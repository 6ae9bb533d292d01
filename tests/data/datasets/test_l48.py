"""L48: its label regimes by golden values of invented recordings, what trains, and what is wrong with files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data.build import DatasetConfig
from data.datasets.l48 import given_codes, kept_rows, load_l48, read_clips, read_recordings, read_taxa
from tests import golden_files
from tests.data.trees import source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

SPECIES = ("wren", "robin", "owl", "crane")
# Of each recording: use, target, possible, observed; its clips: present, unknown.
RECORDINGS = {
    3: ("train", "wren", "wren robin owl", "wren robin", [("wren", ""), ("wren robin", ""), ("", "wren robin owl")]),
    1: ("train", "owl", "owl crane", "owl", [("owl", ""), ("", "owl crane")]),
    5: ("train", "robin", "robin wren", "robin wren", [("robin", "wren"), ("", "")]),
    8: ("test", "crane", "crane owl", "crane", [("crane", ""), ("", "owl crane")]),
}
FILES = ("taxa.csv", "assets.json", "clips.json")


def lists(present, unknown):
    """The three lists of species of an entry."""
    rest = [name for name in SPECIES if name not in (present.split() + unknown.split())]
    names = ("present_species_codes", "unknown_species_codes", "absent_species_codes")
    return dict(zip(names, (present.split(), unknown.split(), rest), strict=True))


def records():
    """Recordings and clips, ids of clips not in the order of their entries."""
    assets, clips = [], []
    for one, (split, target, possible, observed, windows) in RECORDINGS.items():
        present = " ".join(name for name in SPECIES if any(name in window[0].split() for window in windows))
        unknown = " ".join(
            name
            for name in SPECIES
            if name not in present.split() and any(name in window[1].split() for window in windows)
        )
        asset = {"id": one, "split": split, "target_species_code": target, **lists(present, unknown)}
        asset |= {"possible_species_codes": possible.split(), "observed_species_codes": observed.split()}
        assets.append(asset)
        for order, window in enumerate(windows):
            clip = {"id": 10 * one + order, "asset_id": one, "clip_order": order, **lists(*window), "boxes": []}
            clips.append({**clip, "file_path": f"images/{one}/{order}.jpg", "width": 750, "height": 236})
    return assets, clips


def l48_tree(folder, assets=None, clips=None, held_out=(5, 5)):
    own = records()
    (folder / "taxa.csv").write_text("\n".join(["species_code,common_name", *(f"{name},A bird" for name in SPECIES)]))
    (folder / "assets.json").write_text(json.dumps(own[0] if assets is None else assets))
    (folder / "clips.json").write_text(json.dumps(own[1] if clips is None else clips, indent=1))
    if held_out is not None:
        np.save(folder / "val_split.npy", np.array(held_out, dtype=np.int64))
    return folder


def load(folder, labels="target", rows="labelled"):
    return load_l48(replace(source(folder, folder / "cache"), l48_labels=labels, l48_rows=rows))


@pytest.mark.parametrize("case, arrays", golden_files.each_case("l48.npz"))
def test_golden_labels_of_invented_recordings(case, arrays, tmp_path):
    if case["kind"] != "regimes":
        return
    paths = {name: tmp_path / name for name in FILES}
    for name, path in paths.items():
        path.write_bytes(arrays[name.replace(".", "_")].tobytes())
    classes = read_taxa(paths["taxa.csv"])
    recordings = read_recordings(paths["assets.json"], classes)
    clips = read_clips(paths["clips.json"], classes, recordings)
    assert len(classes) == case["classes"]
    np.testing.assert_array_equal(clips.codes, arrays["observed_full"])
    np.testing.assert_array_equal(recordings.ids[clips.recording], arrays["group"])
    for which in ("target", "geo", "checklist"):
        np.testing.assert_array_equal(given_codes(recordings, clips, which), arrays[f"observed_{which}"])
    np.save(tmp_path / "val_split.npy", np.array(case["val_split"]))
    splits = load(tmp_path, rows="all")
    found = {"train": splits.train, "val": splits.validation, "test": splits.test}
    for name, part in found.items():
        assert part.ids == tuple(str(one) for one in np.flatnonzero(arrays["split"] == name))


def test_what_trains_what_validates_and_what_is_known(tmp_path):
    splits = load(l48_tree(tmp_path))
    assert splits.train.ids == ("10", "30", "31")  # the target is heard in them
    assert splits.validation.ids == ("50", "51")
    assert splits.test.ids == ("80", "81")
    assert splits.train.classes == SPECIES
    assert splits.train.groups.tolist() == [1, 3, 3]
    assert splits.train.given.dense().tolist() == [[-1, -1, 1, -1], [1, -1, -1, -1], [1, -1, -1, -1]]
    assert splits.train.truth.dense().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert splits.test.truth.dense().tolist() == [[0, 0, 0, 1], [0, 0, -1, -1]]
    assert splits.train.images.name(2) == f"{tmp_path}/images/3/1.jpg"


@pytest.mark.parametrize(
    "labels, rows, ids, last",
    [
        ("geo", "labelled", ("10", "11", "30", "31", "32"), [UNKNOWN, UNKNOWN, UNKNOWN, ABSENT]),
        ("checklist", "labelled", ("10", "11", "30", "31", "32"), [UNKNOWN, UNKNOWN, ABSENT, ABSENT]),
        ("geo", "with_positive", ("10", "30", "31"), [PRESENT, UNKNOWN, UNKNOWN, ABSENT]),
        ("target", "all", ("10", "11", "30", "31", "32"), [UNKNOWN] * 4),
    ],
)
def test_regimes_differ_in_labels_and_rows(tmp_path, labels, rows, ids, last):
    train = load(l48_tree(tmp_path), labels, rows).train
    assert train.ids == ids
    assert train.given.dense()[-1].tolist() == last


def test_full_labels_are_the_true_ones(tmp_path):
    train = load(l48_tree(tmp_path), "full").train
    assert train.given is None
    assert train.ids == ("10", "11", "30", "31", "32")
    assert kept_rows(np.array([[-1, -1], [0, -1], [1, -1]], np.int8), "labelled").tolist() == [False, True, True]


def test_what_is_read_is_kept(tmp_path, monkeypatch):
    first = load(l48_tree(tmp_path), "checklist")
    monkeypatch.setattr("data.datasets.l48.read_clips", None)
    again = load(tmp_path, "checklist")
    for one, other in zip(
        (first.train, first.test, first.validation), (again.train, again.test, again.validation), strict=True
    ):
        assert one.content_hash() == other.content_hash()
        np.testing.assert_array_equal(one.groups, other.groups)
        np.testing.assert_array_equal(one.given.dense(), other.given.dense())
    assert again.train.images.name(0) == first.train.images.name(0)


def test_without_validation_recordings_there_is_no_such_split_and_that_is_said(tmp_path, capsys):
    (tmp_path / "ml48s").mkdir()
    splits = load_l48(source(l48_tree(tmp_path / "ml48s", held_out=None).parent, tmp_path / "cache"))
    assert splits.validation is None
    assert "50" in splits.train.ids
    said = capsys.readouterr().out
    assert "val_split.npy is not there, so there is no validation split" in said
    assert "used under the terms at https://github.com/visipedia/ml48s" in said
    assert "l48: 4 recordings, the dataset as released has 10,000" in said
    assert "--l48_labels target --l48_rows labelled: 4 clips of 3 recordings train, 3 are left out" in said


def test_what_contradicts_itself_is_counted(tmp_path, capsys):
    assets, clips = records()
    assets[0]["observed_species_codes"] = ["crane"]  # which does not live there; the target is not in it
    clips[0]["width"] = 700
    assets[1] |= lists("owl wren", "crane")
    load(l48_tree(tmp_path, assets, clips), "checklist")
    said = capsys.readouterr().out
    for line in (
        "1 clips are not of 750 x 236 pixels",
        "1 recordings have a checklist with species that do not live there",
        "1 recordings have lists without their target",
        "3 labels are present although their recording's lists leave them out",
        "1 recordings have labels that are not those of their clips together",
    ):
        assert f"l48: {line}" in said
    train = load(tmp_path, "checklist").train
    assert train.given.dense()[train.ids.index("31")].tolist() == [PRESENT, UNKNOWN, ABSENT, UNKNOWN]


def spoilt(change):
    """The records with one change."""
    assets, clips = records()
    change(assets, clips)
    return {"assets": assets, "clips": clips}


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda a, c: a[1].update(id=3), r"assets\.json, entry 1: id 3 is listed twice"),
        (lambda a, c: a[0].update(split="val"), r"entry 0: split 'val', must be train or test"),
        (lambda a, c: a[0].update(target_species_code="dodo"), "target_species_code 'dodo' is not in taxa.csv"),
        (lambda a, c: a[0].pop("possible_species_codes"), "possible_species_codes is None, must be a list"),
        (lambda a, c: a.insert(0, 7), "entry 0: is a int, not an object"),
        (lambda a, c: a.clear(), "lists no recording"),
        (lambda a, c: c[1].update(id=30), r"clips\.json, entry 1: id 30 is listed twice"),
        (lambda a, c: c[0].update(id=-1), "entry 0: id is -1, must be a whole number"),
        (lambda a, c: c[0].update(asset_id=2), "entry 0: asset_id 2 is not in assets.json"),
        (lambda a, c: c[0].update(file_path="../x.jpg"), "is no file name inside the dataset"),
        (lambda a, c: c[0].update(height="236"), "entry 0: height is '236', must be a whole number"),
        (lambda a, c: c[0]["present_species_codes"].append("owl"), "owl is in absent_species_codes and in another"),
        (lambda a, c: c[0]["absent_species_codes"].clear(), r"robin is neither present, unknown nor absent \(3 such"),
        (lambda a, c: c[0]["absent_species_codes"].append("dodo"), "absent_species_codes has 'dodo', which is not in"),
        (lambda a, c: c[0]["absent_species_codes"].append("owl"), "absent_species_codes has a species twice"),
        (lambda a, c: c.clear(), "lists no clip"),
    ],
)
def test_a_record_that_is_wrong_is_named_in_a_line(tmp_path, change, line):
    l48_tree(tmp_path, **spoilt(change))
    with pytest.raises(UserError, match=line) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_wrong_are_named_in_a_line(tmp_path):
    l48_tree(tmp_path, held_out=(8,))
    with pytest.raises(UserError, match=r"val_split\.npy: 8 is no training recording \(1 such\)"):
        load(tmp_path)
    for wrong in (np.zeros(0, int), np.ones(2), np.ones((1, 1), int)):
        np.save(tmp_path / "val_split.npy", wrong)
        with pytest.raises(UserError, match=r"val_split\.npy: must be a list of ids of recordings"):
            load(tmp_path)
    (tmp_path / "val_split.npy").write_text("[5]")
    with pytest.raises(UserError, match=r"val_split\.npy: not a NumPy array"):
        load(tmp_path)
    for text, line in (("species_code\nwren\nwren\n", "line 3: wren is listed twice"), ("name\nx\n", "no column")):
        (tmp_path / "taxa.csv").write_text(text)
        with pytest.raises(UserError, match=line):
            load(tmp_path)
    with pytest.raises(UserError, match="no L48 here; give --path_images the folder that looks like this"):
        load(tmp_path / "images")


def test_settings_of_l48_are_for_l48():
    DatasetConfig(dataset="l48", l48_labels="geo", l48_rows="all")
    for name, value in (("l48_labels", "geo"), ("l48_rows", "all")):
        with pytest.raises(UserError, match=rf"^--{name} {value}: is for l48, not for digits; leave the flag out$"):
            DatasetConfig(**{name: value})
