import html
import json
import re

import numpy as np
import pytest

from tests.commands.scene import refusal, succeed
from tests.engine.audit.small_table import CLASSES, FLAGS, read_rows, write_cells, write_table

WRONG = {("010.jpg", "cat"), ("020.jpg", "dog"), ("030.jpg", "cow")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An audit of a table with three wrong labels, and three unknown ones."""
    folder = tmp_path_factory.mktemp("audit")
    truth, given = write_table(folder, unknown=3, images=32)
    said = succeed(folder, "audit.py", *FLAGS, "--output", "out", "--duplicates", "0.9999")
    return folder, truth, given, said


def test_wrong_labels_are_listed_first_with_their_reasons(folder):
    path, truth, given, said = folder
    rows = read_rows(path / "out" / "audit.csv")
    for kind, codes in (("missing", ("absent", "present")), ("wrong", ("present", "absent"))):
        mine = [row for row in rows if row["kind"] == kind]
        wrong = {(i, c) for i, c in WRONG if given[int(i[:3]), CLASSES.index(c)] == (kind == "wrong")}
        assert {(row["image"], row["class"]) for row in mine[: len(wrong)]} == wrong
        assert {(row["given"], row["suggested"]) for row in mine} == {codes}
        assert [int(row["rank"]) for row in mine] == list(range(1, len(mine) + 1))
        scores = [float(row["score"]) for row in mine]
        assert scores == sorted(scores, reverse=True)
        for name in CLASSES[:3]:
            ranks = [int(row["rank_in_class"]) for row in mine if row["class"] == name]
            assert ranks == list(range(1, len(ranks) + 1))
    assert len(rows) == 3 * 120  # every label of the classes that are ranked, below --most
    unknown = [row for row in rows if row["kind"] == "unknown"]
    assert {(row["image"], row["class"]) for row in unknown} == {
        ("040.jpg", "dog"),
        ("041.jpg", "cow"),
        ("042.jpg", "cat"),
    }
    for row in unknown:
        present = truth[int(row["image"][:3]), CLASSES.index(row["class"])] == 1
        assert (float(row["score"]) > 0.5) == present
    assert re.search(
        r"^probability 0\.\d\d, on average 0\.\d\d where labelled present and 0\.\d\d where absent; "
        r"labelled present on \d+ of the \d+ most similar images$",
        rows[0]["why"],
    )
    assert {row["split"] for row in rows} == {"train", "test"}  # all of the table
    assert "labelled absent, probably present: " in said


def test_a_class_of_few_labels_is_said_and_not_ranked(folder):
    path, _, given, said = folder
    rows = {row["class"]: row for row in read_rows(path / "out" / "classes.csv")}
    assert rows["yak"]["not_ranked_because"] == "only 3 present of the 10 that are needed"
    assert rows["yak"]["mean_where_present"] == ""
    assert "not ranked: yak: only 3 present of the 10 that are needed" in said
    assert all(row["class"] != "yak" for row in read_rows(path / "out" / "audit.csv"))
    assert (rows["cat"]["present"], rows["cat"]["unknown"]) == (str((given[:, 0] == 1).sum()), "1")
    assert rows["cat"]["not_ranked_because"] == ""


def test_ticked_boxes_become_a_corrected_table(folder):
    path, truth, given, _ = folder
    page = (path / "out" / "audit.html").read_text()
    keys = [json.loads(one.replace("&#34;", '"')) for one in re.findall(r'data-key="([^"]*)"', page)]
    ticked = [key for key in keys if (key[0], key[1]) in WRONG]
    assert len(ticked) == 3
    lines = ["image,class,given,new", *(",".join(f'"{cell}"' for cell in key) for key in ticked)]
    (path / "decisions.csv").write_text("\n".join(lines) + "\n")
    command = re.search(r'<pre id="command">(.*?)</pre>', page).group(1)
    assert command == "python audit.py --dataset table --table labels.csv --apply decisions.csv"
    before = (path / "labels.csv").read_bytes()
    said = succeed(path, *command.split()[1:])
    assert "written: labels.corrected.csv with 3 labels changed (labels.corrected.log.csv); labels.csv is as" in said
    assert (path / "labels.csv").read_bytes() == before
    write_cells(path / "expected.csv", [f"{row:03}.jpg" for row in range(120)], np.where(given < 0, -1, truth))
    assert (path / "labels.corrected.csv").read_bytes() == (path / "expected.csv").read_bytes()
    log = read_rows(path / "labels.corrected.log.csv")
    assert {(row["image"], row["class"]) for row in log} == WRONG
    assert {(row["before"], row["after"]) for row in log} <= {("absent", "present"), ("present", "absent")}
    assert log[0]["decided_in"].startswith("decisions.csv, line ")
    again = succeed(
        path, "audit.py", "--dataset", "table", "--table", "labels.corrected.csv", "--apply", "decisions.csv"
    )
    assert "3 of 3 decisions are what the table says already" in again
    assert not list(path.glob("labels.corrected-2*"))


def test_the_command_on_the_page_has_what_a_settings_file_says(folder):
    path, truth, _, _ = folder
    (path / "own.yaml").write_text("dataset: table\ntable: labels.csv\nblank: unknown\ntest_frac: 0.2\n")
    ids = [f"{row:03}.jpg" for row in range(120)]
    np.savez(path / "truth.npz", scores=0.1 + 0.8 * truth, ids=ids, classes=CLASSES, kind="probability")
    words = ("--config", "own.yaml", "--uncertain", "absent", "--scores", "truth.npz", "--device", "cpu")
    succeed(path, "audit.py", *words, "--output", "configured")
    page = (path / "configured" / "audit.html").read_text()
    command = html.unescape(re.search(r'<pre id="command">(.*?)</pre>', page).group(1))
    read = "--dataset table --table labels.csv --blank unknown --uncertain absent"
    assert command == f"python audit.py {read} --apply decisions.csv"


def test_scores_from_elsewhere_take_the_place_of_features(folder):
    path, truth, _, _ = folder
    rng = np.random.default_rng(0)
    scores = np.clip(0.1 + 0.8 * truth + 0.05 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    ids = [f"{row:03}.jpg" for row in range(120)]
    np.savez(path / "scores.npz", scores=scores, ids=ids, classes=CLASSES, kind="probability")
    words = ("--dataset", "table", "--table", "labels.csv", "--scores", "scores.npz", "--device", "cpu")
    succeed(path, "audit.py", *words, "--output", "scored", "--shown", "0", "--most", "4", "--audited", "train")
    assert not (path / "scored" / "audit.html").exists()
    rows = read_rows(path / "scored" / "audit.csv")
    assert {row["split"] for row in rows} == {"train"}
    assert max(int(row["rank"]) for row in rows) == 4
    assert read_rows(path / "scored" / "duplicates.csv") == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ("--least", "100"),
            "no class has 100 present and 100 absent labels, so none can be ranked; label more images",
        ),
        (("--folds", "101"), "--folds 101: must be in 2 .. 100"),
        (("--scores", "scores.npz"), "--features and --scores: labels are scored by one of them"),
        (("--apply", "none.csv"), "none.csv: cannot be read"),
        (("--apply", "none.csv", "--next", "3"), "--apply and --next: one corrects a table"),
        (("--features", "none.npz"), "none.npz"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(tmp_path, words, fault):
    write_table(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert fault in refusal(tmp_path, "audit.py", *FLAGS, *words, "--output", "out")
    assert [one for one in sorted(tmp_path.iterdir()) if one.name != "cache"] == before


def test_unknown_labels_can_be_taken_as_absent(tmp_path):
    truth, _ = write_table(tmp_path)
    write_cells(tmp_path / "labels.csv", [f"{row:03}.jpg" for row in range(120)], np.where(truth == 1, 1, -1))
    words = (*FLAGS, "--output", "out", "--duplicates", "0.9999")
    assert "or --unknown absent if what is unknown is mostly absent" in refusal(tmp_path, "audit.py", *words)
    succeed(tmp_path, "audit.py", *words, "--unknown", "absent")
    assert {row["kind"] for row in read_rows(tmp_path / "out" / "audit.csv")} == {"wrong", "unknown"}


def test_copies_with_contradicting_labels_are_named(tmp_path):
    _, given = write_table(tmp_path)
    content = dict(np.load(tmp_path / "features.npz"))
    content["features"][51] = content["features"][50]
    np.savez(tmp_path / "features.npz", **content)
    given[51] = given[50]
    given[51, 1] = 1 - given[50, 1]
    write_cells(tmp_path / "labels.csv", content["ids"].tolist(), given)
    said = succeed(tmp_path, "audit.py", *FLAGS, "--output", "out", "--duplicates", "0.99999")
    assert "nearly the same images: 1 pairs, of which 1 have contradicting labels" in said
    (row,) = read_rows(tmp_path / "out" / "duplicates.csv")
    assert (row["image"], row["other"], row["class"]) == ("050.jpg", "051.jpg", "dog")
    assert row["present_on"] == ("050.jpg" if given[50, 1] == 1 else "051.jpg")
    listed = [
        one for one in read_rows(tmp_path / "out" / "audit.csv") if (one["image"], one["class"]) == ("051.jpg", "dog")
    ]
    assert listed[0]["why"].endswith("on 050.jpg, which is nearly the same image")
