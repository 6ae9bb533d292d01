import numpy as np
import pytest

from data.images.files import ArrayImages
from engine.audit import source
from engine.audit.config import AuditConfig
from engine.audit.source import AuditedImages, learned_codes
from utils.checks import UserError
from utils.types import Annotations, LabelTable


def part(name, codes, groups=None):
    codes = np.array(codes, dtype=np.int8)
    pixels = np.full((len(codes), 2, 3, 3), ord(name), dtype=np.uint8)
    ids = tuple(f"{name}{row}" for row in range(len(codes)))
    known = None if groups is None else np.array(groups)
    return Annotations(ArrayImages(pixels, ids), ids, ("x", "y"), LabelTable(codes), groups=known)


def images(*parts):
    named = dict(zip(("train", "validation", "test"), parts, strict=False))
    return AuditedImages(named, {name: one.truth for name, one in named.items()})


def test_splits_are_one_list_in_order():
    found = images(part("a", [[1, 0], [0, -1]]), part("b", [[1, 1]]), part("c", [[0, 0]]))
    assert found.ids == ("a0", "a1", "b0", "c0")
    assert found.codes.tolist() == [[1, 0], [0, -1], [1, 1], [0, 0]]
    assert [found.place(row) for row in range(4)] == [("train", 0), ("train", 1), ("validation", 0), ("test", 0)]
    assert [found.open(row).getpixel((0, 0))[0] for row in range(4)] == [97, 97, 98, 99]
    assert (len(found), found.groups) == (4, None)


def test_images_without_a_group_are_alone_beside_those_with_one():
    groups = images(part("a", [[1, 0]] * 3, [5, 5, 0]), part("b", [[1, 1]] * 2), part("c", [[0, 0]], [0])).groups
    assert np.equal.outer(groups, groups).sum() == 1 + 1 + 4 + 4
    assert groups[[0, 1, 2, 5]].tolist() == [5, 5, 0, 0]


def test_too_many_labels_are_refused(monkeypatch):
    monkeypatch.setattr(source, "_MOST_LABELS", 3)
    with pytest.raises(UserError, match="4 labels are too many for an audit at once"):
        images(part("a", [[1, 0]] * 2))


def test_unknown_labels_teach_nothing_or_that_a_class_is_absent():
    codes = np.array([[1, -1, 0]], dtype=np.int8)
    assert learned_codes(codes, AuditConfig()).tolist() == [[1, -1, 0]]
    assert learned_codes(codes, AuditConfig(unknown="absent")).tolist() == [[1, 0, 0]]
