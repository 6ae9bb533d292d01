import json
import random
import shutil

import numpy as np
import pytest

from data.datasets import visual_genome
from data.datasets.visual_genome import clean_name, load_visual_genome, read_objects, read_phrases
from data.subsets.splits import SplitConfig, split_rows
from tests import golden_files
from tests.data.trees import picture, real_data, source
from tests.oracles import visual_genome as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT

PHRASES = {
    "person": ["person", "man", "young girl", "tennis player"],
    "grass": ["grass", "grass field"],
    "field": ["field", "grass field"],
    "light": ["light", "red light"],
}


def entry(image, names):
    """An image of `objects.json`; each object's names are a list."""
    return {"image_id": image, "objects": [{"object_id": n, "names": one, "x": 0} for n, one in enumerate(names)]}


OBJECTS = [entry(number, [["man"], ["field"]] if number % 3 else [["light"]]) for number in (30, 4, 100, 9, 7)]


def vg_tree(folder, objects=OBJECTS, phrases=PHRASES):
    """`objects.json` and `vg256.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "objects.json").write_text(json.dumps(objects))
    (folder / "vg256.json").write_text(json.dumps(phrases))
    return folder


def formatted_tree(folder, splits):
    """The formatted arrays of both splits, as CoNeS's script writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for phase, part in zip(("train", "val"), splits[:2], strict=True):
        names = np.array([f"VG_100K/{one}.jpg" for one in part.ids])
        np.save(folder / f"formatted_{phase}_images.npy", names)
        np.save(folder / f"formatted_{phase}_labels.npy", part.truth.dense().astype(np.float64))
    return folder


def load(path, cache, **more):
    return load_visual_genome(source(path, cache / "cache", **more))


def positives(part):
    """[(image number, set of columns)] of the rows."""
    columns = [set(np.flatnonzero(row == PRESENT).tolist()) for row in part.truth.dense()]
    return list(zip(map(int, part.ids), columns, strict=True))


@pytest.mark.parametrize(
    "name, cleaned",
    [
        ("Man", "man"),
        (" woman. ", "woman"),
        ("T-Shirt.", "t-shirt"),
        ("small WHITE cat .", "cat"),
        ("grey  cat", "cat"),
        ("tennis player", "tennis player"),
        ("white tennis player", "white tennis player"),  # one word that is no adjective keeps them all
        ("tall", "tall"),
        ("white  t shirt", "white  t shirt"),
        ("end..", "end."),
        (".", ""),
        ("", ""),
    ],
)
def test_names_are_cleaned(name, cleaned):
    assert clean_name(name) == cleaned == oracle.cleaned(name)


def test_only_the_first_name_of_an_object_counts_and_the_later_category_wins(tmp_path):
    objects = [
        entry(12, [["grass field", "person"], ["Dark MAN."], ["sky"]]),
        entry(3, [["sky", "man"]]),
        entry(5, []),
        entry(7, [["red light"], ["light"]]),
    ]
    classes, column = read_phrases(vg_tree(tmp_path, objects) / "vg256.json")
    rows = read_objects(tmp_path / "objects.json", column, len(classes))
    assert classes == ("person", "grass", "field", "light")
    assert rows.ids == ("7", "12")  # by number; 3 and 5 show nothing of the list
    np.testing.assert_array_equal(rows.codes, [[0, 0, 0, 1], [1, 0, 1, 0]])


def test_a_phrase_that_begins_with_an_adjective_is_never_met(tmp_path):
    """As published: the adjective goes before the look-up, so "red light" counts as a light of any list."""
    phrases = {"signal": ["red light"], "lamp": ["light"]}
    vg_tree(tmp_path, [entry(1, [["red light"]])], phrases)
    rows = read_objects(tmp_path / "objects.json", read_phrases(tmp_path / "vg256.json")[1], 2)
    np.testing.assert_array_equal(rows.codes, [[0, 1]])


def test_golden_vg256(tmp_path):
    golden = golden_files.load_json("data_layer_cones.json", "vg256")
    objects = [entry(image, names) for image, names in golden["objects"]]
    vg_tree(tmp_path, objects)
    shutil.copy(real_data("vg256.json"), tmp_path / "vg256.json")
    splits = load(tmp_path, tmp_path)
    for name, column in golden["used_category_index"].items():
        assert splits.train.classes[column] == name
    for part, expected in ((splits.train, golden["expected"]["train"]), (splits.test, golden["expected"]["val"])):
        assert part.truth.num_classes == golden["dtypes"][2][1]
        names = [part.images.name(row) for row in range(len(part))]
        assert names == [str(tmp_path / name) for name, _ in expected]
        assert [columns for _, columns in positives(part)] == [set(columns) for _, columns in expected]
        assert set(np.unique(part.truth.dense())) <= {PRESENT, ABSENT}


@pytest.mark.parametrize("seed", range(6))
def test_matches_the_slow_way_on_made_up_images(tmp_path, seed):
    rng = random.Random(seed)
    words = ["white", "Tall", "red", "light", "man", "grass", "field", "tennis", "player.", " sky ", "Grass field"]
    images = rng.sample(range(1, 5000), rng.choice([7, 20, 51]))
    objects = [
        entry(one, [[" ".join(rng.choices(words, k=rng.choice([1, 1, 2, 3])))] for _ in range(rng.randrange(5))])
        for one in images
    ]
    train, test = oracle.split(oracle.images(objects, PHRASES))
    got = load(vg_tree(tmp_path, objects), tmp_path)
    assert (positives(got.train), positives(got.test)) == (train, test)


def test_recipes_draw_in_the_order_of_the_published_arrays(tmp_path):
    train = load(vg_tree(tmp_path), tmp_path).train
    assert list(train.ids) == sorted(train.ids, key=int) != sorted(train.ids)
    np.testing.assert_array_equal(train.recipe_order(), np.arange(len(train)))
    kept, held_out = split_rows(train, SplitConfig(val_frac=0.25), 3)
    assert sorted([*kept, *held_out]) == list(range(len(train)))


def test_images_are_found_in_whichever_folder_has_them(tmp_path):
    vg_tree(tmp_path)
    with pytest.raises(UserError, match="VG_100K: no such folder"):
        load(tmp_path, tmp_path, need_images=True)
    for number, folder in ((30, "VG_100K"), (4, "VG_100K_2"), (9, "VG_100K"), (9, "VG_100K_2"), (7, "VG_100K_2")):
        picture(tmp_path / folder / f"{number}.jpg")
    found = {
        one: part.images.name(row)
        for part in load(tmp_path, tmp_path, need_images=True)[:2]
        for row, one in enumerate(part.ids)
    }
    expected = {"30": "VG_100K", "4": "VG_100K_2", "9": "VG_100K", "7": "VG_100K_2", "100": "VG_100K"}
    assert found == {one: f"{tmp_path}/{folder}/{one}.jpg" for one, folder in expected.items()}
    splits = load(tmp_path, tmp_path)
    assert all(part.images.name(row).startswith(f"{tmp_path}/VG_100K/") for part in splits[:2] for row in range(2))


def test_images_may_all_be_in_the_second_folder(tmp_path):
    vg_tree(tmp_path)
    for entry_of in OBJECTS:
        picture(tmp_path / "VG_100K_2" / f"{entry_of['image_id']}.jpg")
    for part in load(tmp_path, tmp_path, need_images=True)[:2]:
        part.images.check()


def test_numbers_of_images_have_up_to_18_digits(tmp_path):
    ids = [0, 10**18 - 1]
    vg_tree(tmp_path, [entry(image, [["man"]]) for image in reversed(ids)])
    assert read_objects(tmp_path / "objects.json", {"man": 0}, 1).ids == tuple(map(str, ids))
    for image, shown in ((10**18, "10{18}"), (-1, "-1"), (True, "True")):
        vg_tree(tmp_path, [entry(4, [["man"]]), entry(image, [["man"]])])
        with pytest.raises(UserError, match=rf"objects\.json, entry 1: image_id is {shown}, must be the number"):
            read_objects(tmp_path / "objects.json", {"man": 0}, 1)


def test_vg256_may_lie_under_path_lists(tmp_path):
    vg_tree(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "vg256.json").rename(tmp_path / "lists" / "vg256.json")
    assert load(tmp_path, tmp_path).train.classes == tuple(PHRASES)


def test_formatted_arrays_give_the_same_rows_labels_and_images(tmp_path):
    phrases = {f"category {k}": [f"thing{k}"] for k in range(256)}
    objects = [entry(number, [[f"thing{number % 256}"], ["thing7"]]) for number in (1000, 9, 256, 55, 4, 100, 30)]
    written = load(vg_tree(tmp_path / "json", objects, phrases), tmp_path)
    folder = formatted_tree(tmp_path / "arrays", written)
    shutil.copy(tmp_path / "json" / "vg256.json", folder)
    for number in (9, 4, 30):
        picture(folder / "VG_100K" / f"{number}.jpg")
    for number in (1000, 256, 55, 100):
        picture(folder / "VG_100K_2" / f"{number}.jpg")
    read = load(folder, tmp_path, need_images=True)
    for one, two in zip(written[:2], read[:2], strict=True):
        assert one.row_hash() == two.row_hash()
        assert one.truth.hash() == two.truth.hash()
        np.testing.assert_array_equal(one.recipe_order(), two.recipe_order())
        two.images.check()


def test_the_second_start_parses_nothing_until_a_file_changes(tmp_path, monkeypatch):
    vg_tree(tmp_path)
    first = load(tmp_path, tmp_path)
    parsed = []
    monkeypatch.setattr(
        visual_genome, "read_objects", lambda path, *rest: parsed.append(path.name) or read_objects(path, *rest)
    )
    second = load(tmp_path, tmp_path)
    assert parsed == []
    for one, two in zip(first[:2], second[:2], strict=True):
        assert (one.ids, one.classes, one.truth.hash()) == (two.ids, two.classes, two.truth.hash())
    vg_tree(tmp_path, phrases={**PHRASES, "sky": ["sky", "man"]})
    third = load(tmp_path, tmp_path)
    assert parsed == ["objects.json"]
    assert third.train.truth.counts()[0] == 0


@pytest.mark.parametrize("text", ["[]", " [ ] \n", '[{"image_id": 1, "objects": []}]'])
def test_a_file_without_any_category_is_refused(tmp_path, text):
    vg_tree(tmp_path)
    (tmp_path / "objects.json").write_text(text)
    with pytest.raises(UserError, match=r"objects\.json: 0 images have a category"):
        load(tmp_path, tmp_path)


def test_two_images_are_the_fewest(tmp_path):
    splits = load(vg_tree(tmp_path / "two", [entry(4, [["man"]]), entry(9, [["field"]])]), tmp_path)
    assert (len(splits.train), len(splits.test)) == (1, 1)
    with pytest.raises(UserError, match=r"objects\.json: 1 images have a category"):
        load(vg_tree(tmp_path / "one", [entry(4, [["man"]]), entry(9, [["sky"]])]), tmp_path)


def test_white_space_between_entries_does_not_matter(tmp_path):
    vg_tree(tmp_path)
    first = load(tmp_path, tmp_path)
    (tmp_path / "objects.json").write_text("\n " + json.dumps(OBJECTS, indent=3) + "\r\n\t")
    second = load(tmp_path, tmp_path)
    assert [part.truth.hash() for part in first[:2]] == [part.truth.hash() for part in second[:2]]


def test_a_missing_folder_shows_the_expected_tree(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nowhere", tmp_path)
    for word in ("objects.json", "vg256.json", "VG_100K_2", "--dataset digits"):
        assert word in str(caught.value)


def test_the_real_list_of_phrases():
    classes, column = read_phrases(real_data("vg256.json"))
    assert len(classes) == 256
    assert len(column) == 764  # 766 phrases, two of them in two categories
    assert classes[column["grassy field"]] == classes[column["grass field"]] == "field"
