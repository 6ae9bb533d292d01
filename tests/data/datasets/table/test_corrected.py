"""Tables of every form, corrected: what changes is a cell or a line, letter by letter."""

import json

import pytest

from data.datasets.table.config import TableConfig
from data.datasets.table.corrected import corrected, open_table
from data.datasets.table.corrections import Change
from utils.checks import UserError

P, A, U = 1, 0, -1


def correct(folder, text, changes, name="labels.csv", written="utf-8", **config):
    """The text of a table after changes; the file itself is not touched."""
    path = folder / name
    path.write_bytes(text.encode(written))
    table = open_table(path, TableConfig(table=(path,), **config), folder)
    content = corrected(table, [Change(*one) for one in changes]).content
    assert path.read_bytes() == text.encode(written)
    assert [one.name for one in folder.iterdir()] == [name]
    return content.decode(written)


CODES = 'image,cat,dog,split,note\r\n1.jpg,1,0,train,"a,b"\r\n2.jpg, 0 ,1,train,x\r\n\r\n3.jpg,-1,,test,"q"""'


def test_cells_of_codes_change_and_nothing_else(tmp_path):
    changes = [("1.jpg", "dog", P), ("2.jpg", "cat", P), ("3.jpg", "cat", A), ("2.jpg", "dog", U)]
    expected = 'image,cat,dog,split,note\r\n1.jpg,1,1,train,"a,b"\r\n2.jpg, 1,,train,x\r\n\r\n3.jpg,0,,test,"q"""'
    assert correct(tmp_path, CODES, changes) == expected


FORMS = {
    "words": ("image;cat;dog\n1.jpg;TRUE;FALSE\n2.jpg;FALSE;TRUE\n", ("1.jpg", "dog", P), "1.jpg;TRUE;TRUE\n"),
    "ticks": ("image\tcat\tdog\n1.jpg\tx\t\n2.jpg\t\tX\n", ("1.jpg", "cat", A), "1.jpg\t\t\n"),
    "another tick": ("image,cat,dog\n1.jpg,x,\n2.jpg,,x\n", ("2.jpg", "cat", P), "2.jpg,x,x\n"),
    "numbers": ("image,cat,dog\n1.jpg,1.0,0.0\n2.jpg,0.0,1.0\n", ("1.jpg", "dog", P), "1.jpg,1.0,1.0\n"),
    "a class of one kind": ("image,cat,dog\n1.jpg,yes,no\n2.jpg,no,no\n", ("2.jpg", "dog", P), "2.jpg,no,yes\n"),
    "hint": ("sep=|\nimage|cat|dog\n1.jpg|1|0\n2.jpg|0|1\n", ("1.jpg", "dog", P), "1.jpg|1|1\n"),
    "quotes stay": ('image,"cat",dog\n"1.jpg","1","0"\n2.jpg,0,1\n', ("1.jpg", "dog", P), '"1.jpg","1","1"\n'),
    "names": ("image,tags\n1.jpg,cat;dog\n2.jpg,dog\n", ("2.jpg", "cat", P), "2.jpg,dog;cat\n"),
    "names and blanks": ("image,tags\n1.jpg,cat | dog\n2.jpg,dog\n", ("2.jpg", "cat", P), "2.jpg,dog | cat\n"),
    "names in commas": ('image,tags\n1.jpg,"cat, dog"\n2.jpg,dog\n', ("2.jpg", "cat", P), '2.jpg,"dog, cat"\n'),
    "a name less": ("image,tags\n1.jpg,cat;dog\n2.jpg,dog;cat\n", ("1.jpg", "cat", A), "1.jpg,dog\n"),
    "the last name": ("image,tags\n1.jpg,cat;dog\n2.jpg,dog\n3.jpg,cat\n", ("2.jpg", "dog", A), "2.jpg,\n"),
    "the first of many": ("image,tags\n1.jpg,cat\n2.jpg,dog\n", ("2.jpg", "cat", P), "2.jpg,dog;cat\n"),
    "Python's lists": (
        "image,tags\n1.jpg,\"['cat', 'dog']\"\n2.jpg,['dog']\n",
        ("2.jpg", "cat", P),
        "2.jpg,\"['dog', 'cat']\"\n",
    ),
    "NumPy's lists": (
        "image,tags\n1.jpg,['cat' 'dog']\n2.jpg,['dog']\n",
        ("1.jpg", "cat", A),
        "1.jpg,['dog']\n",
    ),
    "one more in NumPy's": (
        "image,tags\n1.jpg,['cat' 'dog']\n2.jpg,['dog']\n3.jpg,['cat' 'dog' 'cow']\n",
        ("1.jpg", "cow", P),
        "1.jpg,['cat' 'dog' 'cow']\n",
    ),
    "databases' lists": ('image,tags\n1.jpg,"{cat,dog}"\n2.jpg,{dog}\n', ("2.jpg", "cat", P), '2.jpg,"{dog,cat}"\n'),
    "JSON": (
        'image,tags\n1.jpg,"[""cat"", ""dog""]"\n2.jpg,"[""dog""]"\n',
        ("2.jpg", "cat", P),
        '2.jpg,"[""dog"", ""cat""]"\n',
    ),
    "choices": (
        'image,choice\n1.jpg,"{""choices"": [""cat"", ""dog""]}"\n2.jpg,dog\n',
        ("1.jpg", "dog", A),
        '1.jpg,"{""choices"": [""cat""]}"\n',
    ),
    "an empty list": ("image,tags\n1.jpg,\"['cat', 'dog']\"\n2.jpg,[]\n", ("2.jpg", "cat", P), "2.jpg,['cat']\n"),
    "a line more": (
        "image,tag\n1.jpg,cat\n1.jpg,dog\n2.jpg,dog\n3.jpg,cat\n",
        ("2.jpg", "cat", P),
        "2.jpg,dog\n2.jpg,cat\n",
    ),
    "a line less": ("image,tag\n1.jpg,cat\n1.jpg,dog\n2.jpg,dog\n3.jpg,cat\n", ("1.jpg", "cat", A), "tag\n1.jpg,dog\n"),
    "an image without": ("image,tag\n1.jpg,cat\n1.jpg,dog\n2.jpg,dog\n3.jpg,cat\n", ("3.jpg", "cat", A), "3.jpg,\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_stays_as_it_is(form, tmp_path):
    text, change, line = FORMS[form]
    found = correct(tmp_path, text, [change])
    assert line in found
    others = [each for each in text.splitlines() if not each.startswith(change[0]) and f'"{change[0]}' not in each]
    assert set(others) <= set(found.splitlines())


def test_lines_of_pairs_with_values(tmp_path):
    text = "ImageID,LabelName,Confidence,who\na,cat,1,x\na,dog,0,x\nb,dog,1,y\nb,cat,0,y"
    changes = [("a", "dog", P), ("b", "cat", P), ("b", "dog", A)]
    flags = {"label_column": "LabelName", "value_column": "Confidence", "image_column": "ImageID"}
    expected = "ImageID,LabelName,Confidence,who\na,cat,1,x\na,dog,1,x\nb,dog,0,y\nb,cat,1,y"
    assert correct(tmp_path, text, changes, **flags) == expected
    more = text + "\nc,dog,1,z"
    assert correct(tmp_path, more, [("c", "cat", P)], **flags) == more + "\nc,cat,1,z\n"
    assert correct(tmp_path, more, [("c", "dog", U)], **flags) == more[:-3] + ",z"


def test_one_line_takes_the_class_that_another_decision_takes_away(tmp_path):
    text = "image,tag,by\n1.jpg,cat,a\n1.jpg,dog,b\n2.jpg,dog,c\n"
    changed = correct(tmp_path, text, [("2.jpg", "cat", P), ("2.jpg", "dog", A)])
    assert changed == "image,tag,by\n1.jpg,cat,a\n1.jpg,dog,b\n2.jpg,cat,c\n"
    changed = correct(tmp_path, text, [("1.jpg", "dog", A), ("1.jpg", "cat", A)])
    assert changed == "image,tag,by\n1.jpg,,a\n2.jpg,dog,c\n"


def test_every_annotator_is_corrected(tmp_path):
    text = "image,cat,dog\n1.jpg,1,0\n1.jpg,0,0\n2.jpg,0,1\n"
    assert correct(tmp_path, text, [("1.jpg", "dog", P)], repeated="majority") == (
        "image,cat,dog\n1.jpg,1,1\n1.jpg,0,1\n2.jpg,0,1\n"
    )


def test_names_for_none_and_ids_of_classes(tmp_path):
    text = "image,finding\n1.jpg,cat;dog\n2.jpg,No Finding\n3.jpg,dog\n"
    changes = [("2.jpg", "cat", P), ("3.jpg", "dog", A)]
    assert correct(tmp_path, text, changes, empty_names="No Finding") == (
        "image,finding\n1.jpg,cat;dog\n2.jpg,cat\n3.jpg,No Finding\n"
    )
    names = tmp_path.parent / f"{tmp_path.name}-names.csv"
    names.write_text("id,name\n7,cat\n8,dog\n")
    text = "image,labels\n1.jpg,7 8\n2.jpg,8\n3.jpg,7\n"
    changed = correct(tmp_path, text, [("2.jpg", "cat", P)], class_names=names, label_separator=" ")
    assert changed == "image,labels\n1.jpg,7 8\n2.jpg,8 7\n3.jpg,7\n"


def test_labels_that_are_there_twice_change_in_both_places(tmp_path):
    text = "image,labels,cat,dog\n1.jpg,cat,1,0\n2.jpg,cat;dog,1,1\n"
    assert (
        correct(tmp_path, text, [("1.jpg", "dog", P)]) == "image,labels,cat,dog\n1.jpg,cat;dog,1,1\n2.jpg,cat;dog,1,1\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_stays(tmp_path, encoding):
    text = "image,Bär,dog\n1.jpg,1,0\n2.jpg,0,1\n"
    flags = {"encoding": encoding} if encoding == "cp1252" else {}
    assert correct(tmp_path, text, [("1.jpg", "dog", P)], written=encoding, **flags) == text.replace("1,0", "1,1")


def test_json_keeps_the_kinds_of_its_values(tmp_path):
    rows = [{"image": "1.jpg", "tags": ["cat", "dog"], "n": 1}, {"image": "2.jpg", "tags": ["dog"], "n": 2}]
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    changed = correct(tmp_path, text, [("2.jpg", "cat", P)], name="labels.jsonl")
    assert changed == text.replace('"2.jpg", "tags": ["dog"]', '"2.jpg", "tags": ["dog", "cat"]')
    tight = text.replace(": ", ":").replace(", ", ",")
    assert correct(tmp_path, tight, [("1.jpg", "dog", A)], name="labels.jsonl") == tight.replace(
        '["cat","dog"]', '["cat"]'
    )
    coded = [{"image": "1.jpg", "cat": True, "dog": False}, {"image": "2.jpg", "cat": False, "dog": None}]
    (tmp_path / "labels.jsonl").unlink()
    for indent in (None, 2):
        text = json.dumps(coded, indent=indent) + "\n"
        changed = correct(tmp_path, text, [("1.jpg", "dog", P), ("2.jpg", "cat", U)], name="labels.json")
        coded[0]["dog"], coded[1]["cat"] = True, None
        assert changed == json.dumps(coded, indent=indent) + "\n"
        coded[0]["dog"], coded[1]["cat"] = False, False


@pytest.mark.parametrize(
    ("text", "changes", "flags", "fault"),
    [
        ("image,tags\n1.jpg,cat;dog\n2.jpg,dog\n", [("1.jpg", "cat", U)], {}, "'cat' of '1.jpg' cannot be unknown"),
        ("image,t\n1.jpg,a\n1.jpg,b\n", [("1.jpg", "a", U)], {"label_column": "t"}, "'a' of '1.jpg' cannot be unknown"),
        (
            "image,a,b\n1.jpg,1,0\n2.jpg,0,1\n",
            [("1.jpg", "a", U)],
            {"blank": "absent", "uncertain": "absent"},
            "no text in column 'a' says",
        ),
        (
            "left,right,a,b\n1.jpg,2.jpg,1,0\n3.jpg,4.jpg,0,1\n",
            [("2.jpg", "b", P)],
            {"image_column": "left,right"},
            "'b' of '1.jpg' would change too, as it stands in the same line .present instead of absent.; leave it out",
        ),
    ],
)
def test_what_a_form_cannot_say_is_refused(tmp_path, text, changes, flags, fault):
    with pytest.raises(UserError, match=fault):
        correct(tmp_path, text, changes, **flags)


def test_other_kinds_of_files_are_refused(tmp_path):
    coco = tmp_path / "coco.json"
    coco.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"--apply: corrects tables .* --repeated first"):
        open_table(coco, TableConfig(table=(coco,)), tmp_path)
    with pytest.raises(UserError, match="no such file"):
        open_table(tmp_path / "none.csv", TableConfig(), tmp_path)


def test_flags_are_named_where_columns_are_no_longer_told_apart(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("image,tag,by\n1.jpg,cat,a\n1.jpg,dog,b\n2.jpg,dog,c\n")
    table = open_table(path, TableConfig(table=(path,)), tmp_path)
    assert corrected(table, [Change("2.jpg", "cat", P)]).flags == {}
    assert corrected(table, [Change("1.jpg", "dog", A), Change("1.jpg", "cat", A)]).flags == {
        "image_column": "image",
        "label_column": "tag",
    }
    path.write_text("image,cat,dog\n1.jpg,x,\n2.jpg,,x\n")
    table = open_table(path, TableConfig(table=(path,)), tmp_path)
    assert corrected(table, [Change("1.jpg", "cat", A)]).flags == {
        "image_column": "image",
        "class_columns": "cat,dog",
        "blank": "absent",
    }
