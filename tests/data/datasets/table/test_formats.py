"""Several tables, each in its own form, read as one."""

import json
import random
from pathlib import Path

import pytest

from data.datasets.source import DatasetSource
from data.datasets.table.formats import READER, image_folder, read_tables
from data.datasets.table.reader import load_described, load_table
from data.files.cache import Cache
from tests.data.datasets.table.forms import codes_of, written_form
from tests.data.datasets.table.sheets import table_config
from tests.data.datasets.table.test_annotations import instances
from tests.data.datasets.table.test_reader import written
from tests.data.trees import picture
from utils.checks import UserError
from utils.types import UNKNOWN

NAMES = "Id,tags\n1,cat dog\n2,dog\n3,cat bird\n4,bird dog\n5,\n"
COLUMNS = "file;boat;fish\n1;1;0\n6;0;1\n7;-1;\n"
LINES = "photo,LabelName\n8,cat\n8,fish\n9,fish\n"


def source(folder, *tables, path_images=Path(), need_images=False, **more):
    config = table_config(tuple(folder / name for name in tables), **more)
    return DatasetSource(path_images, Path(), 0, Cache(folder / "cache"), need_images, config)


def read(folder, *tables, see=lambda _: None, **more):
    given = source(folder, *tables, **more)
    return read_tables(given, given.table.table, see)


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "names.csv", NAMES)
    written(tmp_path / "columns.csv", COLUMNS)
    written(tmp_path / "lines.csv", LINES)
    return tmp_path


def test_each_table_is_read_in_its_own_form(folder):
    found = read(folder, "names.csv", "columns.csv", "lines.csv", repeated="union")
    assert found.classes == ("bird", "cat", "dog", "boat", "fish")
    assert dict(zip(found.ids, found.codes.tolist(), strict=True)) == {
        "1": [0, 1, 1, 1, 0],
        "2": [0, 0, 1, -1, -1],
        "3": [1, 1, 0, -1, -1],
        "4": [1, 0, 1, -1, -1],
        "5": [0, 0, 0, -1, -1],
        "6": [-1, -1, -1, 0, 1],
        "7": [-1, -1, -1, -1, -1],
        "8": [-1, 1, -1, -1, 1],
        "9": [-1, 0, -1, -1, 1],
    }
    said = [note.split(": ")[0].rpartition("/")[2] for note in found.notes]
    assert said == [*["names.csv"] * 2, *["columns.csv"] * 4, *["lines.csv"] * 3, "3 tables", *said[-3:]]
    assert said[-3:] == ["names.csv", "columns.csv", "lines.csv"]  # the classes that each lacks


@pytest.mark.parametrize("how", ["union", "majority", "unknown", "first"])
def test_a_line_per_class_stays_one_whatever_is_said_of_repeated_images(folder, how):
    found = read(folder, "columns.csv", "lines.csv", repeated=how)
    assert codes_of(found)["8"] == {"boat": -1, "cat": 1, "fish": 1}


def test_lines_of_annotators_are_taken_together_in_each_table_and_then_the_tables(folder):
    written(folder / "votes.csv", "image,boat\n1,0\n1,0\n1,1\n6,1\n6,1\n6,0\n")
    found = codes_of(read(folder, "columns.csv", "votes.csv", repeated="majority"))
    assert (found["1"]["boat"], found["6"]["boat"]) == (-1, -1)  # one table against one


def test_an_image_in_two_tables_is_refused_with_files_lines_and_flag(folder):
    with pytest.raises(UserError) as caught:
        read(folder, "names.csv", "columns.csv")
    assert str(caught.value) == (
        f"{folder}/columns.csv, line 2: image '1' is in another table too ({folder}/names.csv, line 2); 1 images are; "
        "say with --repeated how tables belong together (union, majority, unknown, first)"
    )


def test_what_was_found_gives_the_same_reading_again_whatever_comes_into_the_tables(folder):
    first = read(folder, "names.csv", "columns.csv", repeated="union")
    found = json.loads(first.found["table_columns"])
    assert found == {
        f"{folder}/names.csv": {"image_column": "Id", "label_column": "tags", "label_separator": " "},
        f"{folder}/columns.csv": {"image_column": "file", "class_columns": "boat,fish"},
    }
    written(folder / "columns.csv", "seen;image;file;boat;fish\n1;x;1;1;0\n0;y;6;0;1\n1;z;7;-1;\n")
    assert read(folder, "names.csv", "columns.csv", ignore_columns="file").ids == (*"12345", *"xyz")
    again = read(folder, "names.csv", "columns.csv", repeated="union", **first.found)
    assert (again.ids, again.classes, again.codes.tolist()) == (first.ids, first.classes, first.codes.tolist())
    assert again.found == first.found


def test_settings_of_one_table_leave_the_others_alone(folder):
    written(folder / "names.csv", NAMES.replace("cat dog", "hot dog"))
    own = json.dumps({f"{folder}/names.csv": {"label_separator": ";"}})
    found = read(folder, "names.csv", "lines.csv", table_columns=own)
    assert found.classes == ("bird dog", "cat bird", "dog", "hot dog", "cat", "fish")


def test_flags_name_columns_of_the_tables_that_have_them(folder):
    written(folder / "more.csv", "file,key,what,boat\n11,12,a;b,1\n12,11,b,0\n13,14,a,1\n")
    found = read(folder, "columns.csv", "more.csv", image_column="key", label_column="what", ignore_columns="fish")
    assert found.classes == ("boat", "a", "b")
    assert found.ids == ("1", "11", "12", "14", "6", "7")


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"image_column": "kez"}, "--image_column kez: none of .*names.csv and .*lines.csv has such a column"),
        ({"label_column": "tags,x"}, "--label_column tags,x: none of"),
        ({"ignore_columns": "photo,nothing"}, "--ignore_columns nothing: none of"),
    ],
)
def test_a_flag_that_names_a_column_of_no_table_is_refused(folder, flags, told):
    with pytest.raises(UserError, match=told):
        read(folder, "names.csv", "lines.csv", **flags)


def test_each_table_has_its_own_encoding(folder):
    written(folder / "names.csv", NAMES.replace("bird", "müwe"))
    written(folder / "latin.csv", "image,labels\n21,größe\n22,größe;cat\n", "cp1252")
    written(folder / "wide.csv", "image,labels\n31,猫\n32,猫;cat\n", "utf-16")
    found = read(folder, "names.csv", "latin.csv", "wide.csv", encoding="cp1252")
    assert found.classes == ("cat", "dog", "müwe", "größe", "猫")
    assert [note for note in found.notes if " read as " in note] == [
        f"{folder}/latin.csv: read as cp1252 (--encoding)",
        f"{folder}/wide.csv: read as utf-16",
    ]


def test_names_that_a_list_has_are_known_in_every_table_and_come_in_its_order(folder):
    written(folder / "all.csv", "id,name\nf,fish\nd,dog\nc,cat\nb,bird\no,boat\n")
    found = read(folder, "names.csv", "lines.csv", "columns.csv", class_names=folder / "all.csv", repeated="first")
    assert found.classes == ("fish", "dog", "cat", "bird", "boat")
    assert codes_of(found)["9"] == {"fish": 1, "dog": 0, "cat": 0, "bird": 0, "boat": 0}
    assert codes_of(found)["6"] == {"fish": 1, "dog": -1, "cat": -1, "bird": -1, "boat": 0}
    written(folder / "classes.txt", "fish\ndog\ncat\nbird\nboat\n")
    assert read(folder, "names.csv", "lines.csv").classes == ("fish", "dog", "cat", "bird", "boat")


def test_a_file_of_uncertain_entries_may_name_the_classes_of_all_tables(folder):
    written(folder / "b.csv", "image,cow\n41,-1\n42,1\n")
    policy = written(folder / "policy.csv", "class,uncertain\nboat,present\ncow,absent\n")
    found = codes_of(read(folder, "columns.csv", "b.csv", uncertain=str(policy)))
    assert (found["7"]["boat"], found["41"]["cow"]) == (1, 0)
    written(folder / "policy.csv", "class,uncertain\nsheep,present\n")
    with pytest.raises(UserError, match=r"policy\.csv, line 2: 'sheep' is no class"):
        read(folder, "columns.csv", "b.csv", uncertain=str(policy))


def test_a_coco_style_json_may_be_one_of_several(folder):
    boxes = [(1, 7, 0, (1, 2, 3, 4)), (2, 7, 0, (1, 2, 3, 4))]
    instances(folder / "i.json", [(1, "51.jpg"), (2, "2.jpg")], boxes, {7: "kite"})
    found = read(folder, "names.csv", "i.json", repeated="union")
    assert codes_of(found)["2"] == {"bird": 0, "cat": 0, "dog": 1, "kite": 1}
    assert codes_of(found)["51.jpg"] == {"bird": -1, "cat": -1, "dog": -1, "kite": 1}
    assert found.boxes is None
    with pytest.raises(UserError, match=r"i\.json: image '2' is in another table too \(.*names\.csv, line 3\)"):
        read(folder, "names.csv", "i.json")


def test_folders_are_read_alone_and_tables_of_two_folders_need_one_for_the_images(folder):
    (folder / "voc").mkdir()
    with pytest.raises(UserError, match=r"--table .*/voc: a folder of annotations is read alone"):
        read(folder, "names.csv", "voc")
    written(folder / "sub" / "b.csv", LINES)
    with pytest.raises(UserError, match=r"sub/b\.csv: is in another folder than .*/names\.csv; give --path_images"):
        read(folder, "names.csv", "sub/b.csv")
    assert len(read(folder, "names.csv", "sub/b.csv", path_images=folder).ids) == 7
    with pytest.raises(UserError, match=r"c\.csv: no such file or folder; check --table and --test_table"):
        read(folder, "names.csv", "c.csv")


def test_the_folder_of_the_images(tmp_path):
    assert image_folder(Path("im"), tmp_path / "t.csv") == Path("im")
    assert image_folder(Path(), tmp_path / "t.csv") == tmp_path
    assert image_folder(Path(), tmp_path) == tmp_path
    (tmp_path / "JPEGImages").mkdir()
    assert image_folder(Path(), tmp_path) == tmp_path / "JPEGImages"
    assert READER.startswith("table ")


def test_tables_for_the_test_may_be_several_too(folder):
    written(folder / "t1.csv", "image,cat,boat\n61,1,0\n62,0,1\n")
    written(folder / "t2.csv", "image,tags\n63,bird;dog\n64,dog;cat\n65,fish\n")
    tests = (folder / "t1.csv", folder / "t2.csv")
    splits = load_table(source(folder, "names.csv", "lines.csv", test_table=tests))
    assert splits.train.classes == splits.test.classes == ("bird", "boat", "cat", "dog", "fish")
    assert dict(zip(splits.test.ids, splits.test.truth.dense().tolist(), strict=True))["61"] == [-1, 0, 1, -1, -1]
    assert dict(zip(splits.train.ids, splits.train.truth.dense().tolist(), strict=True))["2"] == [0, -1, 0, 1, -1]
    kept = json.loads(splits.found["table_columns"])
    assert [name.rpartition("/")[2] for name in kept] == ["names.csv", "lines.csv", "t1.csv", "t2.csv"]
    written(folder / "t1.csv", "image,cat,dog,bird,fish\n61,1,0,0,1\n")
    one = load_table(source(folder, "names.csv", "lines.csv", test_table=(folder / "t1.csv",)))
    assert json.loads(one.found["table_columns"])[f"{folder}/t1.csv"]["class_columns"] == "cat,dog,bird,fish"


def test_the_images_of_several_tables_are_found_and_a_bad_one_is_named_with_its_lines(folder):
    for name in "123456789":
        picture(folder / "im" / f"{name}.png")
    (folder / "im" / "1.png").write_bytes(b"nothing")
    more = {"path_images": folder / "im", "need_images": True, "repeated": "first"}
    splits = load_table(source(folder, "names.csv", "columns.csv", **more))
    bad = [part for part in splits[:2] if "1" in part.ids]
    with pytest.raises(UserError, match=r"im/1\.png \(.*/names\.csv, line 2 and .*/columns\.csv, line 2\) is damaged"):
        bad[0].images.check()


def test_an_inspection_reads_each_table_once_and_tells_of_all(folder, monkeypatch):
    opened = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), plain(path))[1])
    splits, report = load_described(source(folder, "names.csv", "columns.csv", "lines.csv", repeated="union"))
    assert sorted(name for name in opened if name.endswith(".csv")) == ["columns.csv", "lines.csv", "names.csv"]
    assert len(splits.train) + len(splits.test) == 9
    assert [column.title for column in report.columns] == ["Id", "tags", "file", "boat", "fish", "photo", "LabelName"]
    assert [entries.classes for entries in report.entries] == [
        ("bird", "cat", "dog"),
        ("boat", "fish"),
        ("cat", "fish"),
        splits.train.classes,
    ]


def pieces(rng, folder):
    """A random truth cut into tables by images and classes: each in some form, and what is known in the end."""
    names = [f"{word}{n}" for n, word in enumerate(("cat", "dog", "bird", "fish", "horse", "cow"))]
    images = [f"{10 + n}.jpg" for n in range(rng.randint(20, 50))]
    cuts = [
        (sorted(rng.sample(images, rng.randint(12, len(images)))), rng.sample(names, rng.randint(3, 6)))
        for _ in range(rng.randint(2, 4))
    ]
    truth = {image: {name for name in names if rng.random() < 0.4} for image in images}
    for shown, held in cuts:  # a name that never occurs is no class
        for image, name in zip(shown, held, strict=False):
            truth[image].add(name)
    tables, known = [], {image: {} for image in images}
    for number, (shown, held) in enumerate(cuts):
        (folder / str(number)).mkdir()
        present = {image: [name for name in held if name in truth[image]] for image in shown}
        tables.append(written_form(folder / str(number), rng, shown, held, present))
        for image, codes in tables[-1].truth.items():
            known[image].update({name: code for name, code in codes.items() if code != UNKNOWN})
    named = {image for form in tables for image in form.truth}
    return tables, {image: known[image] for image in named}


def check(tmp_path, seeds):
    refused = []
    for seed in seeds:
        rng, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        tables, known = pieces(rng, folder)
        own = {str(form.path): form.flags for form in tables}
        order, how = tuple(own), rng.choice(("union", "majority", "unknown", "first"))
        try:
            found = read(folder, *order, repeated=how, table_columns=json.dumps(own), path_images=folder)
        except UserError as refusal:
            refused.append(str(refusal))
            continue
        expected = {image: {name: codes.get(name, UNKNOWN) for name in found.classes} for image, codes in known.items()}
        assert codes_of(found) == expected, [seed, *(form.told for form in tables)]
        assert set(found.classes) == {name for form in tables for name in next(iter(form.truth.values()))}
    assert len(refused) <= len(seeds) / 10, refused
    assert all("--label_separator" in line for line in refused)


def test_a_truth_that_was_cut_into_tables_comes_back(tmp_path):
    pytest.importorskip("openpyxl")
    check(tmp_path, range(30))


@pytest.mark.slow
def test_five_hundred_truths_that_were_cut_into_tables_come_back(tmp_path):
    pytest.importorskip("openpyxl")
    check(tmp_path, range(1000, 1500))


def test_a_flag_that_names_no_column_of_the_only_table_is_refused(folder):
    with pytest.raises(UserError, match="--label_column what: no such column"):
        read(folder, "names.csv", label_column="what")


def test_the_class_file_of_a_test_table_elsewhere_is_that_beside_the_training_table(folder):
    written(folder / "classes.txt", "bird\ncat\ndog\nboat\n")
    test = written(folder / "test" / "t.csv", "image,tags\n7,cat;dog\n")
    both = {"test_table": test, "path_images": folder}
    assert load_table(source(folder, "names.csv", **both)).test.classes == ("bird", "cat", "dog", "boat")
    written(test, "image,tags\n7,cat;wolf\n")
    with pytest.raises(UserError, match=r"t\.csv, line 2: class 'wolf' is not in classes\.txt"):
        load_table(source(folder, "names.csv", **both))


def test_each_of_several_training_tables_has_the_class_file_beside_it(folder):
    written(folder / "sub" / "b.csv", "image,labels\n8,cow;hen\n9,cow\n")
    written(folder / "sub" / "classes.txt", "hen\ncow\nswan\n")
    assert read(folder, "names.csv", "sub/b.csv", path_images=folder).classes[-3:] == ("hen", "cow", "swan")


def test_what_no_name_of_a_class_file_holds_follows_the_separator(folder):
    written(folder / "t.csv", "image,labels\n1,cat\n")
    written(folder / "classes.txt", "cat\na;b\n")
    assert read(folder, "t.csv", label_separator="|").classes == ("cat", "a;b")
    with pytest.raises(UserError, match=r"classes\.txt, line 2: class 'a;b' holds the separator ';'"):
        read(folder, "t.csv")


def test_what_one_training_table_lacks_is_absent_and_what_several_test_tables_lack_unknown(folder):
    written(folder / "t1.csv", "image,cat,boat\n61,1,0\n62,0,1\n")
    written(folder / "t2.csv", "image,tags\n63,bird;dog\n64,dog;cat\n")
    splits = load_table(source(folder, "names.csv", test_table=(folder / "t1.csv", folder / "t2.csv")))
    assert splits.train.classes == ("bird", "boat", "cat", "dog")
    assert dict(zip(splits.train.ids, splits.train.truth.dense().tolist(), strict=True))["2"] == [0, 0, 0, 1]
    assert dict(zip(splits.test.ids, splits.test.truth.dense().tolist(), strict=True))["61"] == [-1, 0, 1, -1]
