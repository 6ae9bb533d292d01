import json

import numpy as np
import pytest
from PIL import Image

from data.datasets.wider import WIDER_CLASSES, _corners, load_wider
from tests.data.trees import source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

ATTRIBUTES = {str(number): f"attribute {number}" for number in range(14)}
MEANING = {1: PRESENT, -1: ABSENT, 0: UNKNOWN}
PREPARED = {"trainval": 0, "test": 99}  # what CSRA's preparation writes for what was left open


def values(seed):
    return np.random.default_rng(seed).integers(-1, 2, 14).tolist()


def wider_json(pictures, names=ATTRIBUTES):
    """An annotation file; images are (file name, [(box, 14 values), ...])."""
    images = [
        {"file_name": name, "scene_id": 0, "targets": [{"attribute": v, "bbox": box} for box, v in people]}
        for name, people in pictures
    ]
    return {"images": images, "attribute_id_map": names, "scene_id_map": {"0": "Parade"}}


TRAINVAL = [
    ("val/1--Riot/1_b.jpg", [([3, 4, 10, 20], values(0)), ([0.4, 0.5, 6.2, 7], values(1))]),
    ("train/0--Parade/0_a.jpg", [([-5, -6, 20, 30], values(2))]),
    ("train/0--Parade/0_nobody.jpg", []),
]
TEST = [("test/0--Parade/0_c.jpg", [([1, 2, 30, 90], values(3)), ([5, 5, 5, 5], values(4))])]


def wider_tree(folder, trainval=None, test=None, place="Annotations"):
    """The owners' files in `folder/place`."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    for split, document in (("trainval", trainval or wider_json(TRAINVAL)), ("test", test or wider_json(TEST))):
        (folder / place / f"wider_attribute_{split}.json").write_text(json.dumps(document))
    return folder


def prepared(pictures, split, prefix="Dataset/WIDER_ATTRIBUTE/Image/"):
    """A list as CSRA prepares it."""
    left_open = PREPARED[split]
    return [
        {"img_path": prefix + name, "bbox": box, "target": [{1: 1, -1: 0, 0: left_open}[value] for value in v]}
        for name, people in pictures
        for box, v in people
    ]


def prepared_tree(folder, trainval=None, test=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    lists = {
        "trainval": trainval or prepared(TRAINVAL, "trainval", **more),
        "test": test or prepared(TEST, "test", **more),
    }
    for split, document in lists.items():
        (folder / f"{split}_wider.json").write_text(json.dumps(document))
    return folder


def pictures(folder):
    """Pictures of random pixels for all rows, by file name."""
    document = {}
    for seed, (name, _) in enumerate([*TRAINVAL, *TEST]):
        document[name] = np.random.default_rng(seed).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        path = folder / "Image" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(document[name]).save(path, format="png")
    return document


def load(path, cache, **more):
    return load_wider(source(path, cache / "cache", **more))


@pytest.mark.parametrize("place", ["Annotations", "Anno", "."])
def test_rows_are_people_with_their_codes_and_crops(tmp_path, place):
    pixels = pictures(wider_tree(tmp_path, place=place))
    train, test, *_ = load(tmp_path, tmp_path, need_images=True)[:2]
    assert train.ids == ("train/0--Parade/0_a.jpg#000", "val/1--Riot/1_b.jpg#000", "val/1--Riot/1_b.jpg#001")
    assert test.ids == ("test/0--Parade/0_c.jpg#000", "test/0--Parade/0_c.jpg#001")
    assert train.classes == test.classes == tuple(ATTRIBUTES.values())
    np.testing.assert_array_equal(train.truth.dense(), [[MEANING[v] for v in values(seed)] for seed in (2, 0, 1)])
    np.testing.assert_array_equal(test.truth.dense(), [[MEANING[v] for v in values(seed)] for seed in (3, 4)])
    assert train.images.name(0) == f"{tmp_path}/Image/train/0--Parade/0_a.jpg"
    crops = [np.asarray(train.images.open(row)) for row in range(3)]
    np.testing.assert_array_equal(crops[0], pixels["train/0--Parade/0_a.jpg"][:24, :15])
    np.testing.assert_array_equal(crops[1], pixels["val/1--Riot/1_b.jpg"][4:24, 3:13])
    np.testing.assert_array_equal(crops[2], pixels["val/1--Riot/1_b.jpg"][0:8, 0:7])
    for part in (train, test):
        part.images.check()


@pytest.mark.parametrize(
    "prefix", ["Dataset/WIDER_ATTRIBUTE/Image/", "/data/Image sets/WIDER/Image/", "D:\\w\\Image\\", ""]
)
@pytest.mark.parametrize("place", [".", "data/wider", "lists"])
def test_prepared_lists_give_the_same_rows_and_crops(tmp_path, prefix, place):
    wider_tree(tmp_path / "original")
    prepared_tree(tmp_path / "prepared" / place, prefix=prefix)
    pictures(tmp_path / "original")
    pictures(tmp_path / "prepared")
    one, two = (load(tmp_path / name, tmp_path, need_images=True) for name in ("original", "prepared"))
    for a, b in zip(one[:2], two[:2], strict=True):
        assert a.ids == b.ids
        for row in range(len(a)):
            np.testing.assert_array_equal(np.asarray(a.images.open(row)), np.asarray(b.images.open(row)))
    np.testing.assert_array_equal(one.test.truth.dense(), two.test.truth.dense())
    np.testing.assert_array_equal(one.train.truth.dense() == PRESENT, two.train.truth.dense() == PRESENT)
    assert two.train.truth.counts(UNKNOWN).sum() == 0 < one.train.truth.counts(UNKNOWN).sum()
    assert two.train.classes == WIDER_CLASSES


def test_the_owners_files_come_before_prepared_lists(tmp_path):
    wider_tree(tmp_path)
    prepared_tree(tmp_path, test=prepared(TRAINVAL, "test"))
    assert load(tmp_path, tmp_path).test.ids[0].startswith("test/")


def test_rows_stay_in_order_where_an_image_has_many_people(tmp_path):
    crowd = [("train/crowd.jpg", [([k, 1, 5, 5], values(k)) for k in range(120)])]
    train = load(wider_tree(tmp_path, trainval=wider_json(crowd)), tmp_path).train
    assert train.ids == tuple(f"train/crowd.jpg#{k:03d}" for k in range(120))
    np.testing.assert_array_equal(train.truth.dense(), [[MEANING[v] for v in values(k)] for k in range(120)])


def test_missing_folders_are_explained(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nowhere", tmp_path)
    for word in ("wider_attribute_trainval.json", "Anno/", "test_wider.json", "--dataset digits"):
        assert word in str(caught.value)
    wider_tree(tmp_path)
    load(tmp_path, tmp_path)
    with pytest.raises(UserError, match="Image: no such folder"):
        load(tmp_path, tmp_path, need_images=True)


def test_a_box_outside_its_image_is_found_before_training(tmp_path):
    wider_tree(
        tmp_path,
        test=wider_json([("test/0--Parade/0_c.jpg", [([1, 2, 3, 4], values(0)), ([900, 2, 9, 9], values(1))])]),
    )
    pictures(tmp_path)
    with pytest.raises(UserError, match=r"0_c\.jpg \(row 1\): box \(900, 2, 909, 11\) lies outside its 40 x 50 pixels"):
        load(tmp_path, tmp_path, need_images=True).test.images.check()


@pytest.mark.parametrize(
    "box, corners",
    [
        ([0, 0, 999_999, 1], (0, 0, 999_999, 1)),
        ([-999_999, -3, 1, 4], None),
        ([2, -999_999, 1, 999_999.75], (2, -999_999, 3, 0.75)),
        ([0, 0, 1_000_000, 1], None),
        ([0, 0, 1, 1_000_000], None),
        ([0.4, 0.4, 0.2, 0.2], (0.4, 0.4, 0.6, 0.6)),  # rounded, a pixel
        ([0.1, 0, 0.4, 9], None),  # half to even, none
        ([0, 0.1, 9, 0.4], None),
        ([-5, 0, 5, 3], None),
        ([0, -5, 3, 5], None),
        ([-5, 0, 6, 3], (-5, 0, 1, 3)),
        ([True, 0, 6, 3], None),
        ([1, 2, 3, 4, 5], None),
    ],
)
def test_a_box_has_a_whole_pixel_in_the_image_and_is_not_beyond_reason(box, corners):
    if corners is None:
        with pytest.raises(UserError, match=r"^here: bbox \[.*(four numbers of pixels|no area inside the image)"):
            _corners(box, "here")
    else:
        assert _corners(box, "here") == pytest.approx(corners)
