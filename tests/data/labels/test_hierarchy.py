"""Files of hierarchies, and what is said about those that are none."""

import json

import pytest

from data.labels.hierarchy import Pair, meant_classes, read_hierarchy, read_pairs
from utils.checks import UserError

CLASSES = ("Animal", "Cat", "Dog", "Pet")
OFFICIAL = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/0jbk",
            "Subcategory": [
                {"LabelName": "carnivore", "Subcategory": [{"LabelName": "/m/01yrx"}, {"LabelName": "Dog"}]}
            ],
            "Part": [{"LabelName": "/m/tail", "Subcategory": [{"LabelName": "Pet"}]}],
        },
        {"LabelName": "Pet", "Subcategory": [{"LabelName": "Cat"}]},
    ],
}
CODES = {"/m/0jbk": "Animal", "/m/01yrx": "Cat", "/m/0bt9lr": "Dog", "/m/other": "no class"}


def written(folder, content, name="h.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pairs_of(hierarchy):
    row, column = hierarchy.above.nonzero()
    return {(CLASSES[one], CLASSES[other]) for one, other in zip(row, column, strict=True)}


def test_the_official_form_by_codes_and_names_with_names_between(tmp_path):
    found = read_hierarchy(written(tmp_path, OFFICIAL), CLASSES, CODES)
    assert pairs_of(found) == {("Cat", "Animal"), ("Dog", "Animal"), ("Cat", "Pet")}
    assert set(found.above.data.tolist()) == {1}
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "3 of its 8 names are no class here ('/m/0bl9f', '/m/tail', 'carnivore')",
        "1 names are given as parts; nothing follows from a part",
    ]


def test_pairs_in_a_table_give_the_same(tmp_path):
    text = "class, parent\ncat,carnivore\nDog,carnivore\ncarnivore,/m/0jbk\nCat,Pet\n"
    found = read_hierarchy(written(tmp_path, text, "h.csv"), CLASSES, CODES)
    assert pairs_of(found) == {("Cat", "Animal"), ("Dog", "Animal"), ("Cat", "Pet")}
    assert read_pairs(tmp_path / "h.csv")[0] == Pair("cat", "carnivore", is_part=False)
    everything = read_hierarchy(written(tmp_path, "class,parent\nCat,Animal\n", "h.csv"), CLASSES, {})
    assert everything.notes == ()


def test_the_very_name_wins_over_a_code_and_that_over_nearly_the_name():
    classes = ("b", "B", "c\u0301")
    meant = meant_classes(["a", "b", "B", "x", "\u0107", "Ć"], classes, {"a": "c\u0301", "b": "B", "x": "gone"})
    assert meant == {"a": "c\u0301", "b": "b", "B": "B", "\u0107": "c\u0301", "Ć": "c\u0301"}


def test_a_long_chain_is_read(tmp_path):
    lines = "".join(f"{k},{k + 1}\n" for k in range(5000))
    found = read_hierarchy(written(tmp_path, f"class,parent\nCat,0\n5000,Animal\n{lines}", "h.csv"), CLASSES, {})
    assert pairs_of(found) == {("Cat", "Animal")}


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("h.json", {"LabelName": "Cat", "Subcategory": [{"LabelName": "Cat"}]}, r"below itself \(Cat < Cat\)"),
        ("h.csv", "class,parent\nCat,x\nx,Dog\nDog,/m/01yrx\n", r"below itself \((Cat|x|Dog) < .* < .* < \1\)"),
        ("h.json", {"LabelName": "a", "Subcategory": [{"LabelName": "b"}]}, r"none of its 2 names \('a', 'b'\) is one"),
        ("h.json", {"Subcategory": []}, "its outermost value is no object with a text 'LabelName'"),
        ("h.json", [OFFICIAL], "its outermost value is no object"),
        ("h.json", {"LabelName": "Cat", "Subcategory": ["Dog"]}, "an entry below 'Cat' is no object"),
        ("h.json", {"LabelName": "Cat", "Subcategory": [{"LabelName": 3}]}, "an entry below 'Cat' is no object"),
        ("h.json", {"LabelName": "Cat", "Part": {"LabelName": "Dog"}}, "'Part' of 'Cat' is no list"),
        ("h.json", "{", "not a json file"),
        ("h.json", "[" * 100_000, "not a json file"),
        ("h.csv", "class,above\nCat,Pet\n", "no column 'parent'"),
        ("h.csv", "class,parent\nCat,\n", "line 2: needs a class and a parent"),
        ("h.csv", "class,parent\n", "names no class"),
        ("h.txt", "Cat Pet\n", r"must be a \.json as of OpenImages, or a \.csv headed class,parent"),
    ],
)
def test_what_is_no_hierarchy_is_named_in_one_line(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said) as error:
        read_hierarchy(written(tmp_path, content, name), CLASSES, CODES)
    assert str(error.value).count("\n") == 0
    assert len(str(error.value)) < 500


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        read_hierarchy(tmp_path / "gone.json", CLASSES, CODES)


@pytest.mark.parametrize("names, shown", [(5, 6), (6, 6), (9, 6)])
def test_of_a_circle_six_names_are_shown_and_long_ones_cut(tmp_path, names, shown):
    chain = [f"{n}".ljust(41, "x") for n in range(names)]
    lines = "".join(f"{one},{other}\n" for one, other in zip(chain, [*chain[1:], chain[0]], strict=True))
    with pytest.raises(UserError) as caught:
        read_hierarchy(written(tmp_path, f"class,parent\nCat,Pet\n{lines}", "h.csv"), CLASSES, {})
    circle = str(caught.value).partition("(")[2].partition(")")[0].split(" < ")
    assert (len(circle), {len(name) for name in circle}) == (shown, {40})


@pytest.mark.parametrize("count, more", [(3, ""), (4, ", ...")])
def test_three_names_that_are_no_class_are_shown_and_long_ones_cut(tmp_path, count, more):
    strange = [f"{n}".ljust(41, "x") for n in range(count)]
    lines = "".join(f"{name},Cat\n" for name in strange)
    notes = read_hierarchy(written(tmp_path, f"class,parent\nCat,Pet\n{lines}", "h.csv"), CLASSES, {}).notes
    shown = ", ".join(repr(name[:40]) for name in strange[:3])
    assert notes == (f"{tmp_path / 'h.csv'}: {count} of its {count + 2} names are no class here ({shown}{more})",)
