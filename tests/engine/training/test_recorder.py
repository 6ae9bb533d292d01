import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data.loading.samplers import ShuffledBatches
from engine.training.recorder import LABELS_FILE, RecordConfig, Recorder, assume_negative_losses
from losses.assume_negative import BCE, BCEConfig
from losses.common.memory import MemoryNeed
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import label_dynamics as oracle
from tests.ranks import run_ranks
from utils.checks import RunError, UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, LabelTable, LossOutput

ROWS, CLASSES, EPOCHS = 13, 5, 4
FIGURES = {"modified_true", "modified_ever_true", "unknown_true", "warmup_TP", "warmup_TN", "warmup_FN"}
FIGURES |= {"found", "found_ever", "an_loss_TP", "an_loss_TN", "an_loss_FN"}


class Run:
    """A pretended run: logits and modified labels of every epoch are known beforehand."""

    def __init__(self, seed=0, batch_size=4):
        rng = np.random.default_rng(seed)
        self.batch_size = batch_size
        self.truth = random_labels(ROWS, CLASSES, seed)
        self.observed = np.where(rng.random(self.truth.shape) < 0.3, self.truth, UNKNOWN).astype(np.int8)
        self.logits = 3 * rng.normal(size=(EPOCHS, ROWS, CLASSES)).astype(np.float32)
        self.modified = (rng.random((EPOCHS, ROWS, CLASSES)) < 0.2) & (self.observed == UNKNOWN)
        self.modified[0] = False

    def recorder(self, record="all", **settings):
        config = RecordConfig(record=record)
        tables = {"observed": LabelTable(self.observed.copy()), "truth": LabelTable(self.truth.copy())}
        return Recorder(config, **{**tables, "epochs": EPOCHS, **settings})

    def steps(self, epoch, rank=0, world_size=1):
        batches = ShuffledBatches(ROWS, self.batch_size, seed=7, rank=rank, world_size=world_size)
        batches.set_epoch(epoch)
        for samples in batches:
            yield self.step(epoch, [sample.row for sample in samples])

    def step(self, epoch, rows, modifies=True):
        observed, truth = torch.from_numpy(self.observed[rows]).float(), torch.from_numpy(self.truth[rows])
        batch = Batch(torch.zeros(len(rows), 3, 1, 1), observed, torch.tensor(rows), truth=truth)
        modified = torch.from_numpy(self.modified[epoch - 1][rows]) if modifies else None
        return batch, LossOutput(torch.zeros(()), torch.from_numpy(self.logits[epoch - 1][rows]), {}, modified)

    def expected(self, epoch):
        """All figures after `epoch`, those of nothing left out."""
        truth, observed = self.truth.tolist(), self.observed.tolist()
        signs = np.where(self.observed == PRESENT, -1, 1)
        losses = np.log1p(np.exp((signs * self.logits[:epoch]).astype(np.float64))).tolist()
        found = {
            "modified_true": oracle.precision(self.modified[epoch - 1].tolist(), truth),
            "modified_ever_true": oracle.precision(self.modified[:epoch].any(axis=0).tolist(), truth),
            "unknown_true": oracle.precision((self.observed == UNKNOWN).tolist(), truth),
            "found": oracle.found(self.modified[epoch - 1].tolist(), observed, truth),
            "found_ever": oracle.found(self.modified[:epoch].any(axis=0).tolist(), observed, truth),
            "warmup_TP": oracle.warmup_share(losses, observed, truth, PRESENT, PRESENT),
            "warmup_TN": oracle.warmup_share(losses, observed, truth, UNKNOWN, ABSENT),
            "warmup_FN": oracle.warmup_share(losses, observed, truth, UNKNOWN, PRESENT),
            "an_loss_TP": oracle.mean_loss(losses[-1], observed, truth, PRESENT, PRESENT),
            "an_loss_TN": oracle.mean_loss(losses[-1], observed, truth, UNKNOWN, ABSENT),
            "an_loss_FN": oracle.mean_loss(losses[-1], observed, truth, UNKNOWN, PRESENT),
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}


def follow(run, recorder, epochs=range(1, EPOCHS + 1), **ranks):
    """The figures of each epoch."""
    rows = []
    for epoch in epochs:
        for batch, output in run.steps(epoch, **ranks):
            recorder.step(epoch, batch, output)
        rows.append(recorder.epoch_end(epoch))
    return rows


def assert_rows_equal(found, expected):
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other)


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_the_oracle_after_every_epoch(seed):
    run = Run(seed)
    found = follow(run, run.recorder())
    assert_rows_equal(found, [run.expected(epoch) for epoch in range(1, EPOCHS + 1)])
    assert set(found[-1]) == FIGURES
    assert "modified_true" not in found[0]  # nothing is modified in the first epoch


@pytest.mark.parametrize(
    "record, prefixes",
    [("none", ()), ("modification", ("modified", "unknown", "found")), ("memorisation", ("warmup", "an_loss"))],
)
def test_only_what_is_asked_for_is_recorded(record, prefixes):
    run = Run()
    everything = follow(run, run.recorder())[-1]
    expected = {name: value for name, value in everything.items() if name.startswith(prefixes)}
    assert follow(run, run.recorder(record))[-1] == expected


def test_nothing_at_all_happens_without_recording():
    run = Run()
    recorder = run.recorder("none")
    batch, output = run.step(1, [0, 1])
    recorder.step(1, batch._replace(truth=None), output._replace(modified=None))
    assert recorder.epoch_end(1) == {}
    assert recorder.memorisation() == {}
    assert recorder.state_dict() == {"epoch": 0}


def test_figures_may_be_asked_for_again():
    run = Run()
    recorder = run.recorder()
    follow(run, recorder, range(1, 3))
    assert recorder.epoch_end(2) == recorder.epoch_end(2) == pytest.approx(run.expected(2))
    assert recorder.epoch_end(3) == {}  # no step of it was seen


@pytest.mark.parametrize("record", ["all", "modification", "memorisation", "scores"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_figures(tmp_path, record, stop):
    run = Run()
    expected = follow(run, run.recorder(record))
    first = run.recorder(record)
    found = follow(run, first, range(1, 3))
    steps = list(run.steps(3))
    for batch, output in steps[:stop]:
        first.step(3, batch, output)
    torch.save(first.state_dict(), tmp_path / "state.pth")
    second = run.recorder(record)
    second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for batch, output in steps[stop:]:
        second.step(3, batch, output)
    found.append(second.epoch_end(3))
    assert found + follow(run, second, range(4, EPOCHS + 1)) == expected


def test_figures_survive_a_save_between_the_last_step_and_the_log():
    run = Run()
    first, second = run.recorder(), run.recorder()
    figures = follow(run, first, range(1, 3))[-1]
    second.load_state_dict(first.state_dict())
    assert second.epoch_end(2) == figures


def as_rank(rank, batch_size):
    run = Run(batch_size=batch_size)
    recorder = run.recorder()
    rows = follow(run, recorder, rank=rank, world_size=2)
    return rows, recorder.state_dict()


@pytest.mark.parametrize("batch_size", [3, 4])  # 13 rows: the last batch has one, which pads the other process
def test_two_processes_record_what_one_does(batch_size):
    run = Run(batch_size=batch_size)
    alone = run.recorder()
    expected = follow(run, alone)
    ranks = run_ranks(as_rank, batch_size)
    for rows, state in ranks:
        assert_rows_equal(rows, expected)
        for part, tensors in alone.state_dict().items():
            if part != "epoch":  # sums of losses depend on their order in the last digit, all else is exact
                near = torch.allclose if part == "losses" else torch.equal
                assert all(near(state[part][name], value) for name, value in tensors.items()), part
    assert ranks[0][0] == ranks[1][0]


def test_labels_of_a_method_that_modifies_none_are_still_memorised():
    run = Run()
    recorder = run.recorder("all")
    for epoch in range(1, 3):
        recorder.step(epoch, *run.step(epoch, list(range(ROWS)), modifies=False))
    rest = {name: value for name, value in run.expected(2).items() if not name.startswith(("modified", "found"))}
    expected = {**rest, "found": 0.0, "found_ever": 0.0}
    assert recorder.epoch_end(2) == pytest.approx(expected)


def test_recording_modification_of_a_method_that_modifies_none_is_refused():
    run = Run()
    with pytest.raises(UserError, match="modifies no labels"):
        run.recorder("modification").step(1, *run.step(1, [0], modifies=False))


def test_batches_without_truth_are_a_mistake_of_the_caller():
    run = Run()
    batch, output = run.step(1, [0])
    with pytest.raises(ValueError, match="truth"):
        run.recorder().step(1, batch._replace(truth=None), output)


def test_a_criterion_is_recorded_as_it_is():
    truth = random_labels(6, CLASSES)
    observed = np.where(truth == PRESENT, truth, UNKNOWN).astype(np.int8)
    model, criterion = FakeModel(CLASSES), BCE(BCEConfig(), info_for(observed))
    batch = batch_of(observed, [4, 2, 0])._replace(truth=torch.from_numpy(truth[[4, 2, 0]]))
    output = criterion(model, batch)
    recorder = Recorder(RecordConfig(record="all"), observed=LabelTable(observed), truth=LabelTable(truth), epochs=1)
    recorder.step(1, batch, output)
    losses = recorder.state_dict()["highest"]["loss"]
    assert losses[[4, 2, 0]].mean().item() == pytest.approx(output.total.item(), rel=1e-6)
    assert torch.isneginf(losses[[1, 3, 5]]).all()


def test_losses_are_those_of_negatives_wherever_a_label_is_not_known_to_be_present():
    logits = torch.tensor([[2.0, 2.0, 2.0, 80.0]]).bfloat16()
    losses = assume_negative_losses(logits, torch.tensor([[PRESENT, ABSENT, UNKNOWN, UNKNOWN]]))
    positive, negative = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    torch.testing.assert_close(losses, torch.tensor([[positive, negative, negative, 80.0]]))


def test_saved_arrays_are_the_tables(tmp_path):
    run = Run()
    recorder = run.recorder()
    follow(run, recorder)
    recorder.save(tmp_path / LABELS_FILE)
    with np.load(tmp_path / LABELS_FILE, allow_pickle=False) as saved:
        assert set(saved.files) == {"first_modified", "highest_loss", "epoch_of_highest"}
        np.testing.assert_array_equal(saved["first_modified"], oracle.first_modified(run.modified.tolist()))
        assert saved["first_modified"].dtype == np.uint8
        signs = np.where(run.observed == PRESENT, -1, 1)
        np.testing.assert_array_equal(saved["epoch_of_highest"], (signs * run.logits).argmax(axis=0) + 1)
        assert saved["highest_loss"].shape == (ROWS, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]


def test_nothing_recorded_leaves_no_file(tmp_path):
    Run().recorder("none").save(tmp_path / "labels.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(RunError, match=r"gone.*labels\.npz"):
        Run().recorder().save(Path(tmp_path / "gone" / "labels.npz"))


def test_unknown_choice_is_refused_with_the_choices():
    with pytest.raises(UserError, match="--record both: choose from none, modification, memorisation, all, scores"):
        RecordConfig(record="both")
    assert RecordConfig().record == "none"


@pytest.mark.parametrize(("record", "size"), [("modification", 1), ("memorisation", 6), ("all", 7), ("scores", 4)])
def test_tables_say_what_they_need(record, size):
    labels = LabelTable(np.zeros((10, 3), dtype=np.int8))
    need = MemoryNeed(f"records of {record}", 30 * size, remedy="--record none")
    assert RecordConfig(record=record).memory_needs(labels) == [need]
    made = Recorder(RecordConfig(record=record), observed=labels, truth=labels, epochs=2)
    tables = [each for part in made.state_dict().values() if isinstance(part, dict) for each in part.values()]
    assert sum(each.nbytes for each in tables if len(each) == 10 and each.ndim == 2) == 30 * size
    assert RecordConfig().memory_needs(labels) == []


@pytest.mark.parametrize("record", ["modification", "memorisation", "all"])
def test_epochs_of_highest_losses_are_numbered_as_far_as_numbers_go(record):
    labels = LabelTable(np.zeros((2, 3), dtype=np.int8))
    made = {"observed": labels, "truth": labels, "epochs": 32768}
    if record == "modification":
        Recorder(RecordConfig(record=record), **made)
    else:
        with pytest.raises(UserError, match=f"--record {record}.*32767"):
            Recorder(RecordConfig(record=record), **made)


def test_scores_are_mean_probabilities_over_the_epochs(tmp_path):
    run = Run()
    recorder = run.recorder("scores")
    assert follow(run, recorder) == [{}] * EPOCHS
    recorder.save(tmp_path / LABELS_FILE)
    with np.load(tmp_path / LABELS_FILE) as content:
        assert list(content) == ["mean_score"]
        expected = (1 / (1 + np.exp(-run.logits.astype(np.float64)))).mean(axis=0)
        np.testing.assert_allclose(content["mean_score"], expected, atol=1e-6)
    unseen = run.recorder("scores")
    unseen.save(tmp_path / LABELS_FILE)
    with np.load(tmp_path / LABELS_FILE) as content:
        assert np.isnan(content["mean_score"]).all()
