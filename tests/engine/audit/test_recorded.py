import numpy as np
import pytest

from tests.commands.scene import refusal, succeed
from tests.engine.audit.small_table import FLAGS, read_rows, write_table

TRAINING = ("main_BCE.py", *FLAGS[:6], "--epochs", "6", "--batch_size", "16", "--optimizer", "adam", "--lr", "3e-2")
TRAINING = (*TRAINING, "--w_d", "0", "--warmup_epoch", "0", "--device", "cpu", "--val_frac", "0.1", "--test_every", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that recorded the scores of its labels."""
    folder = tmp_path_factory.mktemp("recorded")
    write_table(folder)
    succeed(folder, *TRAINING, "--record", "scores", "--output", "run")
    return folder


def test_a_run_is_audited_by_what_it_recorded(folder):
    with np.load(folder / "run" / "labels.npz") as content:
        assert list(content) == ["mean_score"]
        recorded = content["mean_score"]
    succeed(folder, "audit.py", "--run", "run", "--device", "cpu", "--output", "out")
    rows = read_rows(folder / "out" / "audit.csv")
    assert {row["split"] for row in rows} == {"train"}
    wrong = {("010.jpg", "cat"), ("020.jpg", "dog"), ("030.jpg", "cow")}
    there = wrong & {(row["image"], row["class"]) for row in rows}
    first = {(row["image"], row["class"]) for row in rows if int(row["rank"]) <= 3}
    assert there
    assert there <= first
    assert len({row["image"] for row in rows}) == len(recorded)
    page = (folder / "out" / "audit.html").read_text()
    assert "python audit.py --dataset table --table labels.csv --image_column image" in page


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--dataset", "digits"), "--dataset: --run run says what its dataset is; leave the flag out"),
        (("--audited", "all"), "--audited all: --run run recorded its training set alone"),
        (("--next", "3"), "--next: looks for images that differ"),
        (("--scores", "x.npz"), "--scores and --run: labels are scored by one of them"),
    ],
)
def test_what_does_not_go_with_a_run(folder, words, fault):
    assert fault in refusal(folder, "audit.py", "--run", "run", *words)


def test_a_run_without_records_and_one_of_other_labels_are_refused(folder):
    file = folder / "run" / "labels.npz"
    content = file.read_bytes()
    words = ("audit.py", "--run", "run", "--device", "cpu")
    try:
        np.savez(file, highest_loss=np.zeros((3, 4), dtype=np.float32))
        assert "labels.npz: has no mean_score; train it with --record scores" in refusal(folder, *words)
        np.savez(file, mean_score=np.zeros((3, 4), dtype=np.float32))
        assert "mean_score is not " in refusal(folder, *words)
        file.write_bytes(content[:50])
        assert "labels.npz: not readable" in refusal(folder, *words)
        file.unlink()
        assert "run: nothing was recorded of its labels (no labels.npz)" in refusal(folder, *words)
    finally:
        file.write_bytes(content)
    table = (folder / "labels.csv").read_text()
    try:
        (folder / "labels.csv").write_text(table.replace("005.jpg,0", "005.jpg,1").replace("006.jpg,0", "006.jpg,1"))
        assert "run: was trained on other labels than its settings now give" in refusal(folder, *words)
    finally:
        (folder / "labels.csv").write_text(table)
    assert "none" in refusal(folder, "audit.py", "--run", "none")
