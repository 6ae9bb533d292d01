"""The log of a run, read back."""

import csv
import shutil

import pytest

from engine.core.checkpoint import read_state
from engine.core.run_folder import RunFolder, damage_told
from engine.core.run_results import beside, read_history, read_result
from utils.checks import RunError, UserError


def written(path, content):
    """A run folder whose log holds these bytes."""
    (path / "metrics.csv").write_bytes(content)
    return path


def refused(path):
    """The one line with which it is refused."""
    with pytest.raises(UserError) as caught:
        read_history(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_logged_reads_back(tmp_path):
    row = {"epoch": 1, "loss": 0.1 + 0.2, "images_per_second": 3.0}
    history = [row, {**row, "epoch": 2, "test_mAP": 1 / 3}]
    folder = RunFolder(tmp_path)
    folder.log_epoch(history[:1], 2)
    folder.log_epoch(history, 2)
    assert read_history(tmp_path) == history


def test_empty_cells_and_empty_lines_are_left_out(tmp_path):
    assert read_history(written(tmp_path, b"epoch,a,b\r\n1,,2\r\n\r\n2,3,\r\n")) == [
        {"epoch": 1.0, "b": 2.0},
        {"epoch": 2.0, "a": 3.0},
    ]
    assert read_history(written(tmp_path, b"")) == read_history(written(tmp_path, b"epoch,loss\n")) == []


@pytest.mark.parametrize(
    "content, line, reason",
    [
        (b"epoch,loss\n1,2\n2,x\n3,4\n", 3, "'x' is not a number"),
        (b"epoch,loss\n1,2,3\n2,3\n", 2, "not as many cells as in the first line"),
        (b"epoch,loss\n1,2\n2\n", 3, "not as many cells as in the first line"),
        (b"epoch,loss\n1,2\n2,\xff\n", 3, "no UTF-8 text"),
        (b"\xff\xfe\x00", 1, "no UTF-8 text"),
        (b"\n\xff", 2, "no UTF-8 text"),
        (b"epoch,loss\n1,\0\n", 2, "is not a number"),
        (b"epoch,loss\n1,2\n2,3\r4\n", 4, "not as many cells as in the first line"),
        (b"epoch,loss\n1," + b"y" * 100_000 + b"\n", 2, "is not a number"),
        (b'epoch,loss\n1,"2\n3\n', 3, "is not a number"),
    ],
)
def test_damage_is_told_by_file_and_line(tmp_path, content, line, reason):
    message = refused(written(tmp_path, content))
    assert message.startswith(f"{tmp_path / 'metrics.csv'}, line {line}: not readable (")
    assert reason in message
    assert len(message) < len(str(tmp_path)) + 200


def test_a_cell_beyond_what_the_csv_reader_takes_is_told_too(tmp_path):
    before = csv.field_size_limit(1000)  # of the whole process, and readers of datasets raise it
    try:
        message = refused(written(tmp_path, b"epoch,loss\n1," + b"9" * 2000 + b"\n"))
    finally:
        csv.field_size_limit(before)
    assert "line 2: not readable (field larger than field limit" in message


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    assert refused(tmp_path).startswith(f"{tmp_path / 'metrics.csv'}: not readable (No such file")
    (tmp_path / "metrics.csv").mkdir()
    assert refused(tmp_path).startswith(f"{tmp_path / 'metrics.csv'}: not readable (")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"method": "bce"}', b'{"test": null}', b"\xff"])
def test_a_damaged_result_is_refused_in_one_line_naming_the_file(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json") as caught:
        read_result(tmp_path)
    assert "\n" not in str(caught.value)


def finished(path, **extra):
    """The lines that a finished run is summed up in."""
    folder = RunFolder(path)
    test = {"mAP": 0.5, "OF1": 0.25, "OF1@3": 0.125}
    content = {"selected_epoch": 4, "selection": "last", "epochs": 4, "test": test}
    folder.finish({**content, "extra": {"classes_without_positives": [], **extra}})
    return folder.summary().splitlines()


def test_one_network_is_summed_up_in_one_line(tmp_path):
    assert finished(tmp_path) == ["test, epoch 4 (last): mAP 50.00  OF1 25.00", f"written: {tmp_path}"]


def test_two_networks_are_summed_up_as_f_g_and_both_whatever_the_order_in_the_file(tmp_path):
    g, both = {"mAP": 0.375, "OF1": 0.75, "OF1@3": 0.5}, {"mAP": 0.625, "OF1": 0.5, "OF1@3": 0.5}
    assert finished(tmp_path, ensemble=both, mean={"mAP": 0.4375}, g=g, head=0.5) == [
        "test, epoch 4 (last), network f: mAP 50.00  OF1 25.00",
        "  network g: mAP 37.50  OF1 75.00",
        "  ensemble of both: mAP 62.50  OF1 50.00",
        f"written: {tmp_path}",
    ]


@pytest.mark.parametrize("content", [{}, {"extra": None}, {"extra": {"head": 0.5, "mean": {"mAP": 0.5}}}])
def test_nothing_stands_beside_a_single_network(content):
    assert beside(content) == {}


INFO = {
    **{"method": "bce", "dataset": "voc07", "images": {"train": 30, "validation": 0, "test": 7}, "labels": "dropped"},
    **{"label_file": None, "label_file_made_now": False, "label_seed": 3, "label_hash": "0123456789abcdef"},
    **{"network": "resnet101, head linear", "sampler": "shuffled"},
    **{"device": "cpu", "processes": 2, "precision": "fp32", "epoch": 1, "step": 0},
}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, {}),
        ({"images": {"train": 30, "validation": 5, "test": 7}}, {0: "bce on voc07: 30 train, 5 validation, 7 test"}),
        ({"label_file": "a.npy"}, {1: "labels: dropped, a.npy (read), seed 3, hash 0123456789ab"}),
        (
            {"label_file": "a.npy", "label_file_made_now": True},
            {1: "labels: dropped, a.npy (made now), seed 3, hash 0123456789ab"},
        ),
        ({"sampler": "class-aware"}, {1.7: "sampler: class-aware"}),
        ({"step": 1}, {3: "resuming at epoch 1, after step 1"}),
        ({"epoch": 2}, {3: "resuming at epoch 2, after step 0"}),
    ],
)
def test_a_start_is_told_in_a_few_lines(tmp_path, capsys, change, lines):
    titles = []
    settings = type("Settings", (), {"values": {}, "as_yaml": lambda self, title: titles.append(title) or "lr: 1\n"})()
    (tmp_path / "new").mkdir()
    RunFolder(tmp_path / "new").start(settings, {**INFO, **change})
    plain = {
        0: "bce on voc07: 30 train, 7 test",
        1: "labels: dropped, no file, seed 3, hash 0123456789ab",
        1.5: "network: resnet101, head linear",
        2: f"device: cpu x 2, fp32; writing to {tmp_path / 'new'}",
    }
    assert capsys.readouterr().out.splitlines() == [text for _, text in sorted({**plain, **lines}.items())]
    assert titles == ["bce on voc07; --config reads this"]
    assert (tmp_path / "new" / "settings.yaml").read_text() == "lr: 1\n"
    (event,) = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert '"event": "start", "method": "bce"' in event


def test_an_epoch_is_one_line_of_the_log_and_one_for_the_reader(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    rows = [{"epoch": 1, "loss": 0.5, "images_per_second": 12.4, "test_mAP": 0.25}]
    rows.append({"epoch": 2, "loss": 1 / 3, "images_per_second": 12.6, "validation_mAP": 0.5})
    folder.log_epoch(rows[:1], 3)
    folder.log_epoch(rows, 3)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3  loss 0.5000  test mAP 25.00  12 images/s",
        "epoch 2/3  loss 0.3333  validation mAP 50.00  13 images/s",
    ]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"best_on_test": {"mAP": 0.5}},
        {"best_on_test": {"epoch": 1, "CF1": 0.5}},
        {"test": {"mAP": "0.5"}},
        {"extra": {"groups": {"head": {"mAP": {}}}}},
        {"extra": {"classes_without_positives": [1]}},
        {"epochs": "9"},
    ],
)
def test_a_damaged_result_is_named_in_one_line(tmp_path, damage):
    folder = RunFolder(tmp_path)
    content = {"selected_epoch": 2, "selection": "last", "epochs": 9, "epochs_trained": 9, "test": {"mAP": 0.5}}
    folder.finish({**content, "extra": {}, **damage})
    with pytest.raises(UserError, match=r"result\.json: damaged, or of another run \(\w+: [^\n]*\)$"):
        folder.summary()


def test_an_early_end_groups_and_classes_without_positives_are_summed_up(tmp_path):
    folder = RunFolder(tmp_path)
    content = {"selected_epoch": 2, "selection": "validation", "epochs": 9, "epochs_trained": 4, "test": {"mAP": 0.5}}
    groups = {"head": {"mAP": 0.75, "F1": None}, "tail": {"mAP": 0.25, "F1": 0.125}}
    folder.finish({**content, "extra": {"classes_without_positives": ["a", "b"], "groups": groups}})
    assert folder.summary().splitlines() == [
        "test, epoch 2 (validation): mAP 50.00",
        "  head: mAP 75.00",
        "  tail: mAP 25.00  F1 12.50",
        "stopped early, after 4 of 9 epochs",
        "classes without positives in the test set: a, b (left out of mAP; 0 in mAP_all, the mAP of the "
        "single-positive papers)",
        f"written: {tmp_path}",
    ]
    folder = RunFolder(tmp_path)
    folder.finish({**content, "epochs_trained": 9, "extra": {"classes_without_positives": []}})
    assert folder.summary().splitlines() == ["test, epoch 2 (validation): mAP 50.00", f"written: {tmp_path}"]


def test_a_log_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written"):
        RunFolder(tmp_path / "run").log_epoch([{"epoch": 1, "loss": 0.5, "images_per_second": 1.0}], 1)
    assert not (tmp_path / "elsewhere").exists()


def state_of(number):
    return {"loop": {"number": number}, "recorder": {}, "label_hash": "b" * 64}


@pytest.mark.parametrize(
    ("damage", "number", "noted"),
    [
        (lambda folder: None, 3, False),
        (lambda folder: folder.state.write_bytes(folder.state.read_bytes()[:-1]), 2, True),
        (lambda folder: folder.state.unlink(), 2, True),
    ],
)
def test_the_state_before_is_taken_where_the_last_is_damaged_and_stays_until_another_is_whole(
    tmp_path, damage, number, noted
):
    folder = RunFolder(tmp_path)
    assert folder.saved() is None
    for each in (1, 2, 3):
        folder.save(state_of(each))
    damage(folder)
    folder = RunFolder(tmp_path)
    saved = folder.saved()
    assert saved.state["loop"]["number"] == number
    assert ("going on from the save before it" in saved.note) == noted
    for each in (number + 1, number + 2):
        folder.save(state_of(each))
        assert read_state(folder.previous)["loop"]["number"] == each - 1
        assert read_state(folder.state)["loop"]["number"] == each
    assert sorted(path.name for path in folder.state.parent.iterdir()) == ["previous.pth", "state.pth"]


def test_two_damaged_states_are_refused_in_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    for each in (1, 2):
        folder.save(state_of(each))
    for file in (folder.state, folder.previous):
        file.write_bytes(b"x")
    with pytest.raises(UserError, match=r"previous\.pth: not a readable file of tensors"):
        RunFolder(tmp_path).saved()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (RuntimeError("size mismatch\nmore"), "RuntimeError: size mismatch"),
        (OverflowError(), "OverflowError: "),
        (ValueError("x" * 161), f"ValueError: {'x' * 160}"),
    ],
)
def test_what_does_not_fit_a_run_is_told_by_its_file(error, said):
    with pytest.raises(UserError) as told, damage_told("state.pth"):
        raise error
    assert str(told.value) == f"state.pth: damaged, or of another run ({said})"


def test_figures_that_are_chosen_or_computed_otherwise_have_a_line_each(tmp_path):
    folder = RunFolder(tmp_path)
    content = {"selected_epoch": 2, "selection": "last", "epochs": 2, "test": {"mAP": 0.5}, "extra": {}}
    best, published = {"epoch": 1, "mAP": 0.75, "epochs_scored": 2}, {"test": {"mAP": 0.25}, "last": None}
    content["extra"] = {"classes_without_negatives": ["a", "b"]}
    folder.finish({**content, "best_on_test": best, "published_metrics": published})
    assert folder.summary().splitlines()[1:-1] == [
        "chosen on the test set itself, epoch 1: mAP 75.00",
        "test by the published evaluators (CSRA, CoNeS): mAP 25.00",
        "classes that no test image is known to be without: a, b (left out of mAP)",
    ]
    folder.finish({**content, "extra": {}, "best_on_test": {**best, "epoch": 2}, "published_metrics": {"test": None}})
    assert len(folder.summary().splitlines()) == 2
    folder.finish({**content, "extra": {}, "full_rows": {"test": {"mAP": 0.125}, "last": None}})
    assert folder.summary().splitlines()[1] == "test on images without an unknown label: mAP 12.50"
    del content["selection"]
    folder.finish(content)
    with pytest.raises(UserError, match=r"result\.json: damaged: 'selection' is missing"):
        folder.summary()


def test_a_run_without_its_folder_writes_nothing_more(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.lock.take(wait=False)
    folder.save(state_of(1))
    shutil.rmtree(folder.path)
    row = [{"epoch": 1, "loss": 0.5, "images_per_second": 1.0}]
    for write in (lambda: folder.save(state_of(2)), lambda: folder.log_epoch(row, 1), lambda: folder.finish({})):
        with pytest.raises(RunError, match="removed, or taken by another run, while this one went on"):
            write()
    folder.close()
    assert not folder.path.exists()
