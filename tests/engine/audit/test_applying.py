import pytest

from tests.commands.scene import refusal, succeed
from tests.engine.audit.small_table import read_rows

TABLE = "image,cat,dog\n1.jpg,1,0\n2.jpg,0,\n=3.jpg,0,1\n"
WORDS = ("audit.py", "--dataset", "table", "--table", "labels.csv", "--apply", "decisions.csv")


def write(folder, decisions, table=TABLE):
    (folder / "labels.csv").write_text(table)
    (folder / "decisions.csv").write_text(decisions)


@pytest.mark.parametrize(
    ("decisions", "table"),
    [
        (
            "image,class,given,new\n2.jpg,dog,unknown,present\n1.jpg,cat,present,absent\n",
            "1.jpg,0,0\n2.jpg,0,1\n=3.jpg,0,1\n",
        ),
        ("class;new;image\ndog;1;1.jpg\ncat;;2.jpg\n", "1.jpg,1,1\n2.jpg,0,\n=3.jpg,0,1\n"),
        ("image,class,new\n'=3.jpg,dog,Unknown\n'=3.jpg,dog,-1\n", "1.jpg,1,0\n2.jpg,0,\n=3.jpg,0,\n"),
    ],
)
def test_decisions_of_a_page_of_hand_and_of_a_spreadsheet(tmp_path, decisions, table):
    write(tmp_path, decisions)
    succeed(tmp_path, *WORDS)
    assert (tmp_path / "labels.corrected.csv").read_text() == f"image,cat,dog\n{table}"
    assert (tmp_path / "labels.csv").read_text() == TABLE


def test_each_correction_has_a_name_of_its_own_and_a_log(tmp_path):
    write(tmp_path, "image,class,new\n1.jpg,dog,present\n2.jpg,cat,absent\n")
    said = succeed(tmp_path, *WORDS)
    assert "1 of 2 decisions are what the table says already" in said
    assert read_rows(tmp_path / "labels.corrected.log.csv") == [
        {
            "image": "1.jpg",
            "class": "dog",
            "before": "absent",
            "after": "present",
            "decided_in": "decisions.csv, line 2",
        }
    ]
    succeed(tmp_path, *WORDS)
    assert (tmp_path / "labels.corrected-2.csv").exists()
    (tmp_path / "decisions.csv").write_text("image,class,new\n2.jpg,cat,present\n")
    succeed(tmp_path, *WORDS[:4], "labels.corrected-2.csv", *WORDS[5:])
    assert (tmp_path / "labels.corrected-3.csv").read_text() == "image,cat,dog\n1.jpg,1,1\n2.jpg,1,\n=3.jpg,0,1\n"


@pytest.mark.parametrize(
    ("decisions", "fault"),
    [
        ("image,class,new\n4.jpg,cat,present\n", "line 2: image '4.jpg' is not in labels.csv (did you mean "),
        ("image,class,new\n1.jpg,cats,present\n", "line 2: class 'cats' is not in labels.csv (did you mean cat?)"),
        ("image,class,new\n1.jpg,cat,maybe\n", "line 2: 'maybe' in column 'new' must be present, absent or unknown"),
        ("image,class,given,new\n1.jpg,cat,x,absent\n", "line 2: 'x' in column 'given' must be present"),
        (
            "image,class,given,new\n1.jpg,cat,unknown,absent\n",
            "line 2: 'cat' of '1.jpg' is present in labels.csv, and was unknown at the audit; audit the table again",
        ),
        ("image,class,new\n1.jpg,cat,0\n1.jpg,cat,-1\n", "line 3: 'cat' of '1.jpg' is decided otherwise than in "),
        ("image,class,new\n1.jpg,cat,\n", "decisions.csv: decides nothing; write image,class,new"),
        ("image,class\n1.jpg,cat\n", "decisions.csv"),
        ("", "decisions.csv: is empty"),
    ],
)
def test_decisions_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, decisions, fault):
    write(tmp_path, decisions)
    assert fault in refusal(tmp_path, *WORDS)
    assert {one.name for one in tmp_path.iterdir()} <= {"labels.csv", "decisions.csv", "cache"}


def test_only_tables_of_ones_own_are_corrected(tmp_path):
    write(tmp_path, "image,class,new\n1.jpg,cat,absent\n")
    assert "--apply: corrects a table of your own" in refusal(tmp_path, "audit.py", "--apply", "decisions.csv")


def test_each_of_several_tables_gets_what_it_has(tmp_path):
    write(tmp_path, "image,class,new\n1.jpg,cat,absent\n9.jpg,dog,present\n")
    (tmp_path / "test.csv").write_text("image,cat,dog\n8.jpg,1,0\n9.jpg,1,0\n")
    said = succeed(tmp_path, *WORDS, "--test_table", "test.csv")
    assert "decisions are what" not in said
    assert said.count("with 1 labels changed") == 2
    assert (tmp_path / "labels.corrected.csv").read_text() == TABLE.replace("1.jpg,1", "1.jpg,0")
    assert (tmp_path / "test.corrected.csv").read_text() == "image,cat,dog\n8.jpg,1,0\n9.jpg,1,1\n"


def test_a_label_that_no_table_has_as_a_whole(tmp_path):
    write(tmp_path, "image,class,new\n1.jpg,cow,absent\n")
    (tmp_path / "more.csv").write_text("image,cow,yak\n8.jpg,1,0\n9.jpg,1,0\n")
    fault = refusal(tmp_path, *WORDS[:5], "more.csv", *WORDS[5:])
    assert "line 2: no table, labels.csv or more.csv, has both '1.jpg' and 'cow'; leave the line out" in fault


SEVERAL = (*WORDS[:4], "names.csv", "columns.csv", "--path_images", "images", "--repeated", "union", *WORDS[5:])


@pytest.fixture
def two_tables(tmp_path):
    """Two tables that call an image otherwise; one entry is known to one of them alone."""
    (tmp_path / "images").mkdir()
    for name in "123":
        (tmp_path / "images" / f"{name}.jpg").touch()
    (tmp_path / "names.csv").write_text("image,labels\n1.jpg,cat\n2.jpg,cat;dog\n3.jpg,dog\n")
    (tmp_path / "columns.csv").write_text("image,cat,owl\nC:\\x\\1.JPG,-1,0\nC:\\x\\2.JPG,1,1\n")
    return tmp_path


def test_tables_that_are_read_as_one_are_corrected_by_the_names_of_the_first(two_tables):
    lines = ["image,class,given,new", "1.jpg,cat,present,absent", "x/2.JPG,owl,present,absent", "3.jpg,dog,,present"]
    (two_tables / "decisions.csv").write_text("\n".join(lines) + "\n")
    said = succeed(two_tables, *SEVERAL)
    assert "1 of 3 decisions are what the table says already" in said
    assert (two_tables / "names.corrected.csv").read_text() == "image,labels\n1.jpg,\n2.jpg,cat;dog\n3.jpg,dog\n"
    assert (two_tables / "columns.corrected.csv").read_text() == ("image,cat,owl\nC:\\x\\1.JPG,0,0\nC:\\x\\2.JPG,1,0\n")


def test_an_image_of_two_names_is_decided_once(two_tables):
    lines = ["image,class,new", "2.jpg,owl,absent", "x/2.JPG,owl,absent"]
    (two_tables / "decisions.csv").write_text("\n".join(lines) + "\n")
    said = succeed(two_tables, *SEVERAL)
    assert "columns.corrected.csv with 1 labels changed" in said
    (two_tables / "decisions.csv").write_text("\n".join([*lines[:2], "x/2.JPG,owl,present"]) + "\n")
    fault = "line 3: 'owl' of 'x/2.JPG' is decided otherwise than in decisions.csv, line 2, where the image has another"
    assert fault in refusal(two_tables, *SEVERAL)
    assert not list(two_tables.glob("*corrected-2*"))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("3.jpg,owl,,present", "no table, names.csv or columns.csv, has both '3.jpg' and 'owl'; leave the line out"),
        ("2.jpg,owl,absent,unknown", "'owl' of '2.jpg' is present in columns.csv, and was absent at the audit"),
        ("1.jpg,emu,,present", "class 'emu' is not in names.csv or columns.csv"),
        ("y/1.JPG,cat,,absent", "image 'y/1.JPG' is not in names.csv or columns.csv (did you mean x/1.JPG?)"),
    ],
)
def test_what_no_table_can_take_is_refused(two_tables, line, fault):
    (two_tables / "decisions.csv").write_text(f"image,class,given,new\n{line}\n")
    assert fault in refusal(two_tables, *SEVERAL)
    assert not list(two_tables.glob("*corrected*"))
