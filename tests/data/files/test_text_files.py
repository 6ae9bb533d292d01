import csv

import numpy as np
import pytest

from data.files.text_files import (
    is_plain_text,
    json_entries,
    read_csv,
    read_json,
    read_lines,
    read_rows,
    read_text,
    relative_path,
)
from utils.checks import UserError

PURPOSE = "it lists the images"


def file(folder, content):
    path = folder / "held.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, mark):
    assert read_text(file(tmp_path, mark + "é,1\n".encode()), PURPOSE) == "é,1\n"


@pytest.mark.parametrize("content", ["é".encode("latin-1"), "a,b\n".encode("utf-16")])
def test_another_encoding_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"held\.csv: not UTF-8.*it lists the images"):
        read_text(file(tmp_path, content), PURPOSE)


def test_a_file_that_is_not_there_or_is_a_folder_is_named_with_its_purpose(tmp_path):
    for path in (tmp_path / "nothing.txt", tmp_path):
        with pytest.raises(UserError, match=f"{path.name}.*it lists the images"):
            read_text(path, PURPOSE)


def test_lines_are_stripped_numbered_and_not_blank(tmp_path):
    assert list(read_lines(file(tmp_path, "a \r\n\r\n  b\n"), PURPOSE)) == [(1, "a"), (3, "b")]


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a": 1'])
def test_what_is_no_json_is_refused_in_one_line(tmp_path, content):
    with pytest.raises(UserError, match=r"held\.csv") as refusal:
        read_json(file(tmp_path, content), PURPOSE)
    assert len(str(refusal.value).splitlines()) == 1


def test_rows_of_a_table_are_what_the_csv_module_reads(tmp_path):
    rng = np.random.default_rng(0)
    cells = [["".join(rng.choice(list('ab ,"\n'), 4)) for _ in range(3)] for _ in range(50)]
    path = tmp_path / "held.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([["x", "y", "z"], *cells])
    got = [list(fields.values()) for _, fields in read_csv(path, ["x"], PURPOSE)]
    expected = [[cell.strip() for cell in row] for row in cells]
    assert got == [row for row in expected if any(row)]


def test_the_line_of_a_row_is_that_of_the_file(tmp_path):
    rows = list(read_csv(file(tmp_path, "a,b\n\n1,2\n , \n3,4\n"), ["b"], PURPOSE))
    assert rows == [(3, {"a": "1", "b": "2"}), (5, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    "content, fault",
    [
        ("", ": is empty; it lists the images"),
        ("\n \n", ": is empty; it lists the images"),
        ("a,c\n1,2\n", ": no column 'b'; its first line must name the columns, it has 'a', 'c'"),
        (
            ",".join("acdefghijklmnop"),
            ": no column 'b'; its first line must name the columns, it has "
            "'a', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm'",
        ),
        ("a,b,a\n", ": column 'a' is there 2 times; each name may be used once"),
        ("a,b\n1,2\n1\n", ", line 3: 1 fields, the header has 2 columns"),
        ("a,b\n1,2,3\n", ", line 2: 3 fields, the header has 2 columns"),
        ('a,b\n1,"2\n3,4\n', ", line 3: not a table of text (unexpected end of data); correct this line"),
        ('a,b\n1,"2"x\n', ", line 2: not a table of text (',' expected after '\"'); correct this line"),
        ("a,b\n1,\0\n", ", line 2: holds NUL bytes; get it anew"),
    ],
)
def test_damage_of_a_table_is_refused_with_its_line(tmp_path, content, fault):
    path = file(tmp_path, content)
    with pytest.raises(UserError) as refusal:
        list(read_csv(path, ["b"], PURPOSE))
    assert str(refusal.value) == f"{path}{fault}"


@pytest.mark.parametrize("text", ["", "caf\u00e9 au lait", "\u7ea2\u00a0x", "\U0001f600", "\ue000"])
def test_unusual_letters_and_spaces_are_plain_text(text):
    assert is_plain_text(text)


@pytest.mark.parametrize("text", ["a\tb", "\x7f", "a\u2028", "\u2029a", "caf\u00e9\ud800x"])
def test_controls_breaks_and_lone_surrogates_are_no_plain_text(text):
    assert not is_plain_text(text)


@pytest.mark.parametrize("text, name", [("a/b.jpg", "a/b.jpg"), ("a\\b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg")])
def test_names_inside_the_dataset_are_made_plain(text, name):
    assert relative_path(text, "here") == name


@pytest.mark.parametrize("text", ["", ".", "/etc/passwd", "../x", "a/../../x", "C:\\x", "\\\\host\\x", "a\0b"])
def test_names_that_lead_out_are_refused(text):
    with pytest.raises(UserError, match=r"list\.txt, line 3"):
        relative_path(text, "list.txt, line 3")


def test_a_field_has_at_most_four_million_letters(tmp_path):
    longest = "x" * (1 << 22)
    assert list(read_rows(file(tmp_path, f"a\n{longest}\n"), PURPOSE)) == [(1, ["a"]), (2, [longest])]
    with pytest.raises(UserError, match=r"held\.csv, line 2: not a table of text \(field larger than field limit"):
        list(read_rows(file(tmp_path, f"a\n{longest}x\n"), PURPOSE))


@pytest.mark.parametrize("longer", [0, 1])
def test_a_line_about_many_columns_is_cut_at_400_characters(tmp_path, longer):
    path = file(tmp_path, f"{'c' * 300}\n")
    said = f"{path}: no column 'b'; its first line must name the columns, it has ''"
    path.write_text(f"{'c' * (400 - len(said) + longer)}\n1\n")
    with pytest.raises(UserError) as caught:
        list(read_csv(path, ["b"], PURPOSE))
    assert len(str(caught.value)) == 400
    assert str(caught.value).endswith("c" if longer else "c'")


@pytest.mark.parametrize(
    "text", ["[]", " [ ] \n", "[1]", '\ufeff[1, {"a": [2, "]"]} , null,\n"x,y"]\n', "[[], [[]], 1e3]", '["\\u00e9"]']
)
def test_entries_of_a_list_are_those_that_json_reads(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert list(json_entries(path, "why")) == list(enumerate(read_json(path, "why")))


@pytest.mark.parametrize("text", ["", "{}", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1]]", "[1] x", "[1}", "[nul]"])
def test_what_is_no_list_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.json: not a json file [^\n]*; get it anew$"):
        list(json_entries(path, "why"))


def test_entries_come_before_what_is_wrong_is_reached(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1, 2 3]")
    entries = json_entries(path, "why")
    assert [next(entries), next(entries)] == [(0, 1), (1, 2)]
    with pytest.raises(UserError, match="nothing ends entry 1 of its list"):
        next(entries)
    with pytest.raises(UserError, match=r"none\.json: cannot be read .*; why$"):
        next(json_entries(tmp_path / "none.json", "why"))
