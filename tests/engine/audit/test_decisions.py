import pytest

from engine.audit.decisions import Decision, named_as, read_decisions


def test_each_label_is_decided_once(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("new;image;class;given;why\nPresent;a;cat;;x\n0;b;cat;unknown;\n;c;cat;present;\npresent;a;cat;;\n")
    assert read_decisions(path) == [
        Decision("a", "cat", None, 1, f"{path}, line 2"),
        Decision("b", "cat", -1, 0, f"{path}, line 3"),
    ]


@pytest.mark.parametrize(("text", "name"), [("a", "a"), ("'=b", "=b"), ("'c", "'c"), ("d", None)])
def test_an_apostrophe_of_a_spreadsheet_is_no_part_of_a_name(text, name):
    assert named_as(text, ("a", "=b", "'c", "c")) == name
