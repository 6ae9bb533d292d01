import numpy as np
import pytest

from data.datasets import nuswide
from data.datasets.formatted import names_below, write_formatted
from data.datasets.nuswide import NUSWIDE_CLASSES, TABLE, image_id, load_nuswide, parse_names, read_table
from tests import golden_files
from tests.data.damage.nuswide import HEADER, ROWS, load, nuswide_tree, table
from tests.data.trees import picture, source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, LabelTable

CELL = {"3": "\"['sky', 'sun']\"", "1": "['cow']", "2": "[]"}
SPLIT = {"3": "train", "1": "val", "2": "train"}


def names(codes):
    """The classes of each row, in the order of the columns."""
    return [[NUSWIDE_CLASSES[label] for label in np.flatnonzero(row == PRESENT)] for row in codes]


def as_right(folder, content):
    """Whether a table holds what the right one holds."""
    got, expected = read_table(nuswide_tree(folder, content) / TABLE), read_table(nuswide_tree(folder, table()) / TABLE)
    return all(
        one.ids == other.ids and one.files == other.files and (one.codes == other.codes).all()
        for one, other in zip(got, expected, strict=True)
    )


def test_rows_classes_codes_and_files(tmp_path):
    train, test, *_ = load(nuswide_tree(tmp_path, table()))[:2]
    assert train.ids == ("2", "3")
    assert test.ids == ("1",)
    assert train.classes == test.classes == NUSWIDE_CLASSES
    assert names(train.truth.dense()) == [[], ["sky", "sun"]]  # an image without any label stays
    assert names(test.truth.dense()) == [["cow"]]
    assert set(np.unique(train.truth.dense())) == {PRESENT, ABSENT}
    assert train.images.name(1) == f"{tmp_path}/images/3.jpg"
    assert train.given is None
    picture(tmp_path / "images" / "3.jpg")
    assert load(tmp_path, need_images=True)[0].images.open(1).size == (40, 30)


def test_golden_nuswide_rows(tmp_path):
    golden = golden_files.load_json("data_layer_cones.json", "nuswide")
    assert list(NUSWIDE_CLASSES) == golden["classes"]
    train, test, *_ = load(nuswide_tree(tmp_path, golden["csv"]))[:2]
    for got, expected in ((train, golden["expected"]["train"]), (test, golden["expected"]["val"])):
        found = {
            got.images.name(row).removeprefix(f"{tmp_path}/"): np.flatnonzero(codes == PRESENT).tolist()
            for row, codes in enumerate(got.truth.dense())
        }
        assert found == {name: sorted(positives) for name, positives in expected}
        assert got.ids == tuple(sorted(got.ids))


def test_golden_first_row_of_each_split_is_not_lost(tmp_path):
    golden = golden_files.load_json("data_layer_cones.json", "nuswide")
    train, test, *_ = load(nuswide_tree(tmp_path, golden["csv"]))[:2]
    lost = [len(golden["expected"][split]) - len(golden["reference_reads"][split]) for split in ("train", "val")]
    assert lost == [1, 1]  # what the published code reads lacks them
    assert [len(train), len(test)] == [len(golden["reference_reads"][split]) + 1 for split in ("train", "val")]


@pytest.mark.parametrize(
    "header",
    [
        "filepath,label,split_name",
        "FilePath, Labels ,Split",
        "label,split_name,filepath",
        ",filepath,label,split_name",
        "Unnamed: 0,file_name,tags,phase",
        "split,other,image,labels",
    ],
)
def test_columns_are_found_by_name_in_any_order(tmp_path, header):
    def field(column, row):
        column = column.strip().lower()
        if column in ("filepath", "file_name", "image"):
            return f"images/{row}.jpg"
        if column in ("label", "labels", "tags"):
            return CELL[row]
        return SPLIT[row] if column in ("split_name", "split", "phase") else "7"

    columns = header.split(",")
    lines = [header, *(",".join(field(column, row) for column in columns) for row in CELL)]
    assert as_right(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("header", ["a,b,c", "0,1,2", None])
@pytest.mark.parametrize("counted", [False, True])
def test_columns_without_a_known_name_are_taken_by_place(tmp_path, header, counted):
    lines = ([] if header is None else [header]) + list(ROWS)
    if counted:
        lines = [f"{number},{line}" for number, line in enumerate(lines)]
    assert as_right(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    "content",
    [
        table().replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + table().encode(),
        table() + "\n\n",
        table().replace("['sky', 'sun']", '[""sky"", ""sun""]'),
        table().replace("['sky', 'sun']", "[ 'sun','sky' ,'sun' ]"),
        table().replace("images/", "images\\"),
        HEADER + "\n" + "\n".join(reversed(ROWS)),
    ],
)
def test_line_ends_spaces_order_and_repeated_names_do_not_matter(tmp_path, content):
    assert as_right(tmp_path, content)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[]", []),
        ("[ ]", []),
        ("['a']", ["a"]),
        ("['a', \"b c\"]", ["a", "b c"]),
        ("['']", [""]),
        ("['a',]", None),
        ("[,]", None),
        ("['a' 'b']", ["a' 'b"]),  # no class is called so: the caller refuses it
        ("['a\"]", None),
        ("[a]", None),
        ("[']", None),
        ("'a'", None),
        ("", None),
        ("[", None),
        ("('a',)", None),
    ],
)
def test_printed_lists(text, expected):
    assert parse_names(text) == expected


@pytest.mark.parametrize("seed", range(5))
def test_what_python_prints_is_parsed(seed):
    rng = np.random.RandomState(seed)
    chosen = [NUSWIDE_CLASSES[label] for label in rng.permutation(81)[: rng.randint(0, 12)]]
    assert parse_names(str(chosen)) == chosen


def test_the_table_may_lie_among_the_lists(tmp_path):
    for folder in (tmp_path / "lists", tmp_path / "lists" / "nuswide"):
        folder.mkdir()
        nuswide_tree(folder, table())
        train = load(tmp_path)[0]
        assert train.images.name(1) == f"{tmp_path}/images/3.jpg"
        (folder / TABLE).unlink()
    with pytest.raises(UserError, match="no NUS-WIDE here"):
        load(tmp_path)


def test_the_second_start_parses_nothing_until_the_table_changes(tmp_path, monkeypatch):
    first = load(nuswide_tree(tmp_path, table()))[:2]
    parsed = []
    monkeypatch.setattr(nuswide, "read_table", lambda path: parsed.append(path.name) or read_table(path))
    second = load(tmp_path)[:2]
    assert parsed == []
    for one, other in zip(first, second, strict=True):
        assert one.row_hash() == other.row_hash()
        assert one.truth.hash() == other.truth.hash()
        assert [one.images.name(row) for row in range(len(one))] == [other.images.name(row) for row in range(len(one))]
    nuswide_tree(tmp_path, table("images/9.jpg,['sky'],val"))
    assert load(tmp_path)[1].ids == ("1", "9")
    assert parsed == [TABLE]


def test_formatted_arrays_come_first_and_have_the_same_ids(tmp_path):
    direct = load(nuswide_tree(tmp_path, table()))[:2]
    observed = [LabelTable(part.truth.dense()) for part in direct]
    splits = load(tmp_path)
    write_formatted(tmp_path, splits, *observed, names_below(tmp_path))
    (tmp_path / TABLE).write_text("not needed")
    (tmp_path / "images").mkdir()
    for one, other in zip(direct, load(tmp_path)[:2], strict=True):
        assert one.row_hash() == other.row_hash()
        assert one.truth.hash() == other.truth.hash()
        assert one.images.name(0) == other.images.name(0)
    (tmp_path / "Flickr").mkdir()
    assert load(tmp_path)[1].images.name(0) == f"{tmp_path}/Flickr/1.jpg"


def test_nothing_is_printed(tmp_path, capsys):
    load_nuswide(source(nuswide_tree(tmp_path, table()), tmp_path / "cache"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_at_random_are_read_or_refused(tmp_path, seed):
    rng = np.random.RandomState(seed)
    data = bytearray(table().encode())
    for position in rng.randint(0, len(data), rng.randint(1, 5)):
        data[position] = rng.choice([0, 9, 10, 13, 34, 39, 44, 91, 93, 200, rng.randint(256)])
    nuswide_tree(tmp_path, bytes(data))
    outcome = outcome_of(lambda: load(tmp_path))
    if isinstance(outcome, str):
        assert "\n" not in outcome
        assert TABLE in outcome
    else:
        ids = outcome[0].ids + outcome[1].ids
        assert len(ids) == len(set(ids)) <= len(ROWS)


def outcome_of(call):
    """What a call returns, or the text of its refusal."""
    try:
        return call()
    except UserError as refusal:
        return str(refusal)


def test_one_leading_folder_of_images_is_no_part_of_an_id():
    assert image_id("images/Flickr/a.jpg") == "Flickr/a"
    assert image_id("Flickr/b/1.jpg") == "b/1"


@pytest.mark.parametrize("count, width, shown", [(8, 3, 8), (9, 3, 8), (8, 40, 0)])
def test_eight_columns_are_shown_and_cut_at_200_characters(tmp_path, count, width, shown):
    names = ["filepath", "labels", *(f"{n}".ljust(width, "x") for n in range(count - 2))]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n")
    with pytest.raises(UserError) as caught:
        read_table(tmp_path / "t.csv")
    there = str(caught.value).partition("there are ")[2]
    assert there == (", ".join(map(repr, names[:shown])) if shown else ", ".join(map(repr, names))[:200])
