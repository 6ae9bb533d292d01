import json
import os
from pathlib import Path

import numpy as np
import pytest

from data.datasets.source import DatasetSource
from data.datasets.table import formats as table_module
from data.datasets.table.annotations import read_coco_style
from data.datasets.table.reader import held_out_rows, load_table
from data.files.cache import Cache
from tests.data.datasets.table.sheets import table_config
from tests.data.trees import coco_json, picture
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

THREE = "image,labels\nc.jpg,dog\na.jpg,cat;dog\nb/a.jpg,\n"
COLUMNS = "image,dog,cat,split\nb.jpg,1,0,train\na.jpg,-1,,train\nc.jpg,0,1,test\n"


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def own(table, *, path_images=Path(), seed=0, need_images=False, cache=None, **more):
    cache = Cache(cache or table.parent / "cache")
    return DatasetSource(path_images, Path(), seed, cache, need_images, table_config(table, **more))


def test_columns_of_classes_keep_their_order_and_tell_absent_from_unknown(tmp_path):
    train, test, _, validation, *_ = load_table(own(written(tmp_path / "labels.csv", COLUMNS)))
    assert (train.ids, test.ids, validation) == (("a.jpg", "b.jpg"), ("c.jpg",), None)
    assert train.classes == test.classes == ("dog", "cat")
    np.testing.assert_array_equal(train.truth.dense(), [[UNKNOWN, UNKNOWN], [PRESENT, ABSENT]])
    np.testing.assert_array_equal(test.truth.dense(), [[ABSENT, PRESENT]])
    assert train.images.name(0) == str(tmp_path / "a.jpg")
    assert train.boxes is None


def test_columns_of_any_name_can_be_named(tmp_path):
    text = "image,key,labels,what,fold\nx,a.jpg,q,red,training\ny,b.jpg,q,blue,test\n"
    config = {"image_column": "key", "label_column": "what", "split_column": "fold"}
    train, test, *_ = load_table(own(written(tmp_path / "t.csv", text), **config))
    assert (train.ids, test.ids, train.classes) == (("a.jpg",), ("b.jpg",), ("blue", "red"))


def test_a_class_file_fixes_order_and_number_of_classes(tmp_path, capsys):
    path = written(tmp_path / "labels.csv", THREE.replace("labels", "labels,split").replace("\n", ",train\n"))
    path.write_text("image,labels,split\na.jpg,cat;dog,train\nb.jpg,cat,test\n")
    written(tmp_path / "classes.txt", "dog\n\nzebra\ncat\n")
    train, test, *_ = load_table(own(path))
    assert train.classes == test.classes == ("dog", "zebra", "cat")
    np.testing.assert_array_equal(test.truth.dense(), [[ABSENT, ABSENT, PRESENT]])
    assert "1 of 3 classes are in no training image: zebra" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values, sizes",
    [
        (("train", "train", "val", "test"), (2, 1, 1)),
        (("Training", "valid", "validation", "TEST"), (1, 1, 2)),
        (("train", "train", "val", "val"), (2, 2, None)),
        (("train", "test", "testing", "test"), (1, 3, None)),
    ],
)
def test_parts_that_a_column_names(tmp_path, values, sizes):
    rows = "".join(f"{n}.jpg,cat,{value}\n" for n, value in enumerate(values))
    splits = load_table(own(written(tmp_path / "t.csv", "image,labels,split\n" + rows)))
    validation = None if splits.validation is None else len(splits.validation)
    assert (len(splits.train), len(splits.test), validation) == sizes


def many(rows=300, classes=6, seed=3):
    rng = np.random.default_rng(seed)
    codes = (rng.random((rows, classes)) < rng.uniform(0.05, 0.5, classes)).astype(np.int8)
    lines = [f"{row:03d}.jpg," + ",".join(map(str, codes[row])) for row in range(rows)]
    return codes, "image," + ",".join(f"c{k}" for k in range(classes)), lines


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_without_splits_each_class_has_its_share_of_the_test(tmp_path, fraction):
    codes, header, lines = many()
    source = own(written(tmp_path / "t.csv", "\n".join([header, *lines])), test_frac=fraction)
    train, test, _, validation, *_ = load_table(source)
    assert validation is None
    assert sorted(train.ids + test.ids) == [f"{row:03d}.jpg" for row in range(len(codes))]
    assert abs(len(test) - fraction * len(codes)) <= 0.02 * len(codes)
    share = test.truth.counts() / codes.sum(axis=0)
    assert np.abs(share - fraction).max() <= 1.5 / codes.sum(axis=0).min()


def test_the_held_out_images_depend_on_seed_and_labels_alone(tmp_path):
    _, header, lines = many()
    held_out = {}
    for name, order, seed in (("a", lines, 0), ("b", lines[::-1], 0), ("c", lines, 1), ("d", lines, 2**40)):
        held_out[name] = load_table(own(written(tmp_path / f"{name}.csv", "\n".join([header, *order])), seed=seed)).test
    assert held_out["a"].ids == held_out["b"].ids
    assert held_out["a"].truth.hash() == held_out["b"].truth.hash()
    assert len({part.ids for part in held_out.values()}) == 3


def test_a_single_class_is_held_out_too():
    codes = np.array([[1], [0]] * 50, dtype=np.int8)
    rows = held_out_rows(codes, 0.2, 0)
    assert len(rows) == 20
    assert codes[rows].sum() == 10


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_images_to_hold_some_out(tmp_path, rows):
    text = "image,labels\n" + "".join(f"{n}.jpg,cat\n" for n in range(rows))
    source = own(written(tmp_path / "t.csv", text), test_frac=0.9)
    with pytest.raises(UserError, match=rf"t\.csv: {rows} images cannot be split by --test_frac 0\.9"):
        load_table(source)


def two(tmp_path, train, test, **more):
    first, second = written(tmp_path / "train.csv", train), written(tmp_path / "val.csv", test)
    return load_table(own(first, test_table=second, **more))


def test_only_what_is_drawn_is_held_out(tmp_path):
    path = written(tmp_path / "t.csv", COLUMNS)
    assert not load_table(own(path)).held_out
    assert not two(tmp_path, "image,cat\na.jpg,1\n", "image,cat\nb.jpg,1\n").held_out
    assert load_table(own(path, ignore_columns="split")).held_out


def test_the_images_that_are_drawn_stay_the_same_in_other_versions():
    codes = np.array([[n % 2, n % 3 == 0] for n in range(12)], dtype=np.int8)
    assert held_out_rows(codes, 0.25, 5).tolist() == [2, 3, 10]
    assert held_out_rows(codes[:, :1], 0.25, 5).tolist() == [4, 7, 10]


def test_two_tables_share_their_classes(tmp_path):
    train, test, _, validation, *_ = two(
        tmp_path, "image,labels\na.jpg,cat\nb.jpg,ant\n", "file,tags\nd.jpg,bee;cat\nc.jpg,\n"
    )
    assert validation is None
    assert train.classes == test.classes == ("ant", "bee", "cat")
    np.testing.assert_array_equal(train.truth.dense(), [[ABSENT, ABSENT, PRESENT], [PRESENT, ABSENT, ABSENT]])
    np.testing.assert_array_equal(test.truth.dense(), [[ABSENT, ABSENT, ABSENT], [ABSENT, PRESENT, PRESENT]])
    assert test.ids == ("c.jpg", "d.jpg")


def test_two_tables_of_columns_may_order_them_differently(tmp_path):
    train, test, *_ = two(tmp_path, "image,cat,dog\na.jpg,1,-1\n", "image,dog,cat\nb.jpg,0,1\n")
    assert train.classes == test.classes == ("cat", "dog")
    np.testing.assert_array_equal(test.truth.dense(), [[PRESENT, ABSENT]])


def test_columns_decide_for_a_table_of_names(tmp_path):
    train, test, *_ = two(tmp_path, "image,labels\na.jpg,dog\n", "image,dog,cat\nb.jpg,0,-1\n")
    assert train.classes == test.classes == ("dog", "cat")
    np.testing.assert_array_equal(train.truth.dense(), [[PRESENT, ABSENT]])


def test_the_training_table_may_mark_its_validation(tmp_path):
    splits = two(
        tmp_path, "image,cat,split\na.jpg,1,train\nb.jpg,1,val\n", "image,cat,split\nc.jpg,1,test\nd.jpg,0,val\n"
    )
    assert [part.ids for part in (splits.train, splits.validation, splits.test)] == [
        ("a.jpg",),
        ("b.jpg",),
        ("c.jpg", "d.jpg"),
    ]


@pytest.mark.parametrize(
    "train, test, words",
    [
        ("image,labels\na.jpg,cat\n", "image,labels\na.jpg,cat\n", ["val.csv", "'a.jpg'", "train.csv"]),
        ("image,cat\na.jpg,1\n", "image,dog\nb.jpg,1\n", ["val.csv", "'cat'", "only one"]),
        ("image,cat\na.jpg,1\n", "image,labels\nb.jpg,dog\n", ["val.csv", "'dog'"]),
        ("image,labels\na.jpg,cow\n", "image,dog\nb.jpg,1\n", ["train.csv", "'cow'"]),
        (
            "image,cat,split\na.jpg,1,test\n",
            "image,cat\nb.jpg,1\n",
            ["train.csv", "'a.jpg' is marked for the test; move it to --test_table"],
        ),
        (
            "image,cat\na.jpg,1\n",
            "image,cat,split\nb.jpg,1,train\n",
            ["val.csv", "'b.jpg' is marked for training; move it to --table"],
        ),
        ("image,cat,split\na.jpg,1,val\n", "image,cat\nb.jpg,1\n", ["train.csv", "no image for training"]),
    ],
)
def test_two_tables_that_do_not_fit_are_refused(tmp_path, train, test, words):
    with pytest.raises(UserError) as caught:
        two(tmp_path, train, test)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_images_lie_beside_the_table_or_in_the_folder_that_is_given(tmp_path):
    path = written(tmp_path / "lists" / "t.csv", "image,labels\nsub/a.jpg,cat\nb.jpg,cat\n")
    picture(tmp_path / "pictures" / "sub" / "a.jpg")
    given = load_table(own(path, path_images=tmp_path / "pictures", need_images=True, test_frac=0.5))
    names = {part.images.name(0) for part in given[:2]}
    assert names == {str(tmp_path / "pictures" / "sub" / "a.jpg"), str(tmp_path / "pictures" / "b.jpg")}
    part = next(part for part in given[:2] if part.ids == ("sub/a.jpg",))
    assert part.images.open(0).size == (40, 30)
    beside = load_table(own(path, need_images=True, test_frac=0.5))
    assert {Path(part.images.name(0)).relative_to(path.parent).as_posix() for part in beside[:2]} == {
        "sub/a.jpg",
        "b.jpg",
    }


def test_a_missing_image_folder_matters_only_if_images_are_needed(tmp_path):
    path = written(tmp_path / "t.csv", COLUMNS)
    assert len(load_table(own(path, path_images=tmp_path / "nowhere")).train) == 2
    with pytest.raises(UserError, match=r"nowhere: no such folder; give --path_images .*t\.csv start from"):
        load_table(own(path, path_images=tmp_path / "nowhere", need_images=True))


SIX = coco_json([(n, f"{n}.jpg") for n in range(6)], [(n, 1 + n % 2, 0, [1, 2, 3, 4 + n]) for n in range(6)], [1, 2])


def test_what_was_decided_is_said_in_a_line_each(tmp_path, capsys):
    path = written(tmp_path / "t.csv", "image,labels,split,by\na.jpg,cat,train,Ann\nb.jpg,cat,test,Bob\n")
    load_table(own(path))
    said = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{path}: ").split(";")[0] for line in said] == [
        "images of column 'image' (its title)",
        "1 classes named in column 'labels' (its title), one in a cell",
        "split by column 'split' (its title)",
        "not read: 'by' (holds other things)",
    ]


def test_a_table_without_any_positive_for_training_is_refused(tmp_path):
    path = written(tmp_path / "t.csv", "image,cat,split\na.jpg,0,train\nb.jpg,1,test\n")
    with pytest.raises(UserError, match=r"t\.csv: no training image is labelled with any class"):
        load_table(own(path))


def test_the_second_start_parses_no_json_until_something_changes(tmp_path, monkeypatch):
    path = written(tmp_path / "t.json", json.dumps(SIX))
    parsed = []
    monkeypatch.setattr(
        table_module,
        "read_coco_style",
        lambda path, separator: parsed.append(path.name) or read_coco_style(path, separator),
    )
    first, second = load_table(own(path)), load_table(own(path))
    assert parsed == ["t.json"]
    for one, two in zip((first.train, first.test), (second.train, second.test), strict=True):
        assert (one.ids, one.classes) == (two.ids, two.classes)
        assert one.truth.hash() == two.truth.hash()
        np.testing.assert_array_equal(one.boxes.corners, two.boxes.corners)
    load_table(own(path, label_separator="|"))
    SIX["annotations"][0]["category_id"] = 2
    written(path, json.dumps(SIX))
    assert load_table(own(path)).train.truth.hash() != first.train.truth.hash()
    assert parsed == ["t.json"] * 3
    for entry in (tmp_path / "cache").iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    assert sum(map(len, load_table(own(path))[:2])) == 6
    assert parsed == ["t.json"] * 4


def test_a_table_is_read_as_it_is_now_even_where_size_and_time_stay(tmp_path):
    path = written(tmp_path / "t.csv", "image,labels,split\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,dog,test\n")
    before, times = load_table(own(path)).train, path.stat()
    path.write_text("image,labels,split\na.jpg,dog,train\nb.jpg,cat,train\nc.jpg,dog,test\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = load_table(own(path)).train
    np.testing.assert_array_equal(after.truth.dense(), before.truth.dense()[::-1])


def test_what_the_reader_remarked_is_said_at_every_start(tmp_path, capsys):
    path = written(tmp_path / "t.csv", "image,labels,by,split\na.jpg,cat,Ann,train\nb.jpg,cat,Bob,test\n")
    load_table(own(path))
    said = capsys.readouterr().out
    load_table(own(path))
    assert "not read: 'by'" in said
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("count, more", [(1, ""), (5, ""), (6, ", ...")])
def test_at_most_five_classes_without_an_image_are_said(tmp_path, capsys, count, more):
    names = [f"c{k}" for k in range(count)]
    header = ",".join(["image,split,cat", *names])
    rows = [f"{name}.jpg,{name},1" + ",0" * count for name in ("train", "test")]
    path = written(tmp_path / "t.csv", "\n".join([header, *rows]))
    load_table(own(path))
    said = f"{path}: {count} of {count + 1} classes are in no training image: {', '.join(names[:5])}{more}"
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_the_table_must_be_named():
    with pytest.raises(UserError, match="--table"):
        load_table(DatasetSource(Path(), Path(), 0, Cache(), need_images=False))


def test_a_split_that_is_drawn_keeps_groups_together(tmp_path):
    rows = "".join(f"{n}.jpg,{'cat' if n % 3 else 'dog'},p{n // 4}\n" for n in range(40))
    path = written(tmp_path / "t.csv", "image,labels,patient\n" + rows)
    for seed in range(3):
        train, test, *_ = load_table(own(path, group_column="patient", seed=seed))
        patients = [{int(name.removesuffix(".jpg")) // 4 for name in part.ids} for part in (train, test)]
        assert not patients[0] & patients[1]
        assert len(patients[1]) == 2
        assert sorted([*train.ids, *test.ids]) == sorted(f"{n}.jpg" for n in range(40))


def test_several_images_of_a_line_share_its_labels_and_stay_together(tmp_path):
    rows = "".join(f"{n}_l.png,{n}_r.png,{n % 2}\n" for n in range(20))
    path = written(tmp_path / "t.csv", "left,right,ill\n" + rows + "20_l.png,,1\n")
    train, test, *_ = load_table(own(path, image_column="left,right"))
    for part in (train, test):
        held = dict(zip(part.ids, part.truth.dense()[:, 0].tolist(), strict=True))
        for name, code in held.items():
            assert code == (1 if name == "20_l.png" else int(name.split("_")[0]) % 2)
            other = name.replace("_l", "_r") if "_l" in name else name.replace("_r", "_l")
            assert other in held or name == "20_l.png"
    assert len(train) + len(test) == 41
    with pytest.raises(UserError, match=r"line 3: names no image in 'left', 'right'"):
        load_table(own(written(tmp_path / "u.csv", "left,right,ill\na,b,1\n,,0\n"), image_column="left,right"))


def test_annotators_are_taken_together_as_asked(tmp_path):
    path = written(
        tmp_path / "t.csv",
        "image,cat,dog,split\na.jpg,1,0,train\na.jpg,1,1,train\na.jpg,0,,train\nb.jpg,0,1,test\nc.jpg,1,1,train\n",
    )
    for how, codes in (
        ("union", [PRESENT, PRESENT]),
        ("majority", [PRESENT, UNKNOWN]),
        ("unknown", [UNKNOWN, UNKNOWN]),
        ("first", [PRESENT, ABSENT]),
    ):
        train, test, *_ = load_table(own(path, repeated=how))
        assert train.truth.dense().tolist() == [codes, [PRESENT, PRESENT]]
        assert test.truth.dense().tolist() == [[ABSENT, PRESENT]]
    with pytest.raises(UserError, match=r"line 3: image 'a\.jpg' is there already \(.*line 2\).*--repeated"):
        load_table(own(path))


def test_labels_that_are_there_twice_must_agree(tmp_path):
    text = "image,Genre,cat,dog,split\na.jpg,cat;dog,1,1,train\nb.jpg,dog,0,1,train\nc.jpg,cat,1,,test\n"
    train, *_ = load_table(own(written(tmp_path / "t.csv", text)))
    assert train.classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"line 3: column 'Genre' and column 'cat' disagree; name the one that holds"):
        load_table(own(written(tmp_path / "t.csv", text.replace("b.jpg,dog,0", "b.jpg,dog,1"))))
    assert load_table(own(tmp_path / "t.csv", label_column="Genre")).train.truth.dense().tolist() == [[1, 1], [0, 1]]
    assert load_table(own(tmp_path / "t.csv", class_columns="cat,dog")).train.truth.dense().tolist() == [[1, 1], [1, 1]]


def test_what_was_found_gives_the_same_reading_again(tmp_path):
    texts = {
        "names.csv": "Id,Finding Labels,is_valid\na,x y,0\nb,y,0\nc,x,1\nd,z x,0\ne,z,1\n",
        "columns.csv": 'image,"a, b",c,split\na.jpg,1,0,train\nb.jpg,,1,test\n',
    }
    for name, text in texts.items():
        path = written(tmp_path / name, text)
        first = load_table(own(path))
        again = load_table(own(path, **first.found))
        assert again.found == first.found
        for one, two in zip(first[:2], again[:2], strict=True):
            assert one.content_hash() == two.content_hash()
    assert load_table(own(tmp_path / "columns.csv")).found == {
        "image_column": "image",
        "class_columns": '"a, b",c',
        "split_column": "split",
    }
    found = load_table(own(tmp_path / "names.csv")).found
    assert found == {
        "image_column": "Id",
        "label_column": "Finding Labels",
        "label_separator": " ",
        "split_column": "is_valid",
    }


@pytest.mark.parametrize("seed", range(3))
def test_groups_that_are_held_out_have_their_share_of_each_class(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), 3)
    rare = np.isin(np.arange(60), rng.choice(60, 10, replace=False))[groups]
    codes = np.stack([rare, ~rare], axis=1).astype(np.int8)
    codes[::2] = ABSENT  # half of the images of a group show nothing
    chosen = held_out_rows(codes, 0.2, seed, groups)
    assert len(chosen) == 36
    assert len(set(groups[chosen])) == 12
    of_groups = np.array([codes[groups == one].any(axis=0) for one in sorted(set(groups[chosen]))])
    assert of_groups.sum(axis=0).tolist() == [2, 10]


def test_what_to_do_where_splits_are_named_and_none_is_for_the_test(tmp_path):
    path = written(tmp_path / "t.csv", "image,cat,part\na.jpg,1,train\nb.jpg,0,train\n")
    with pytest.raises(UserError, match=r"mark some as test, or hold some out: --ignore_columns part$"):
        load_table(own(path, split_column="part"))
    root = tmp_path / "voc"
    for name in "ab":
        written(root / "Annotations" / f"{name}.xml", "<annotation><object><name>x</name></object></annotation>")
    written(root / "ImageSets/Main/train.txt", "a\nb\n")
    written(root / "ImageSets/Main/test.txt", "\n")
    with pytest.raises(UserError, match=r"mark some as test, or hold some out: leave the splits out$"):
        load_table(own(root, cache=tmp_path / "cache"))
