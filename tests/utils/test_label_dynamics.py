import math

import numpy as np
import pytest
import torch

from tests.golden_files import load
from tests.oracles import label_dynamics as oracle
from utils.label_dynamics import (
    GROUPS,
    LAST_MODIFIED,
    MOST_EPOCHS,
    GroupLosses,
    HighestLoss,
    Modifications,
    memorisation,
    modification_counts,
)
from utils.types import UNKNOWN, LabelTable


def batches(rows, size, seed):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows))
    return order.split(size)


def highest_of(losses, size=4):
    """The table after all epochs of losses (T, N, C), rows in another order each time."""
    highest = HighestLoss(*losses.shape[1:])
    for epoch, values in enumerate(losses, start=1):
        for index in batches(len(values), size, epoch):
            highest.add(epoch, index, torch.from_numpy(values)[index])
    return highest


def modifications_of(modified, observed, truth, size=4):
    """The figures of each epoch of modified labels (T, N, C)."""
    counts = Modifications(*observed.shape)
    observed, truth = torch.from_numpy(observed), torch.from_numpy(truth)
    for epoch, chosen in enumerate(torch.from_numpy(modified), start=1):
        counts.start_epoch()
        for index in batches(len(chosen), size, epoch):
            counts.add(epoch, index, observed[index].float(), truth[index], chosen[index])
        yield counts.figures()


def random_case(seed, epochs=5, rows=13, classes=6):
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 4, (epochs, rows, classes)) / 4  # many ties
    truth = rng.integers(-1, 2, (rows, classes)).astype(np.int8)
    observed = np.where(rng.random((rows, classes)) < 0.4, truth, UNKNOWN).astype(np.int8)
    modified = rng.random((epochs, rows, classes)) < 0.2
    modified[0] = False
    return losses, observed, truth, modified


def test_golden_memorisation():
    golden = load("ll_analysis.npz")
    observed = np.where(golden["obs"] == 0, UNKNOWN, golden["obs"]).astype(np.int8)  # 0 stands for unknown there
    truth = golden["true"].astype(np.int8)
    table = memorisation(highest_of(golden["loss"]).epoch, LabelTable(observed), LabelTable(truth))
    for place, name in enumerate(golden["groups"].tolist()):
        assert 100 * table[name].warmup == pytest.approx(golden["warmup_percent"][place])
        assert 100 * table[name].regular == pytest.approx(golden["regular_percent"][place])


def test_golden_precision_of_modification():
    golden = load("ll_analysis.npz")
    observed = np.where(golden["obs"] == 0, UNKNOWN, golden["obs"]).astype(np.int8)
    truth = golden["true"].astype(np.int8)
    figures = list(modifications_of(golden["modified"], observed, truth))
    for name, key in [("modified_true", "precision_per_epoch"), ("modified_ever_true", "precision_cumulative")]:
        np.testing.assert_allclose([100 * row[name] for row in figures], golden[key], rtol=1e-12)
    assert figures[0]["unknown_true"] == pytest.approx(truth[observed == UNKNOWN].mean())


@pytest.mark.parametrize("seed", range(5))
def test_memorisation_equals_the_oracle(seed):
    losses, observed, truth, _ = random_case(seed)
    highest = highest_of(losses)
    np.testing.assert_array_equal(highest.epoch.numpy(), losses.argmax(axis=0) + 1)
    np.testing.assert_array_equal(highest.loss.numpy(), losses.max(axis=0))
    table = memorisation(highest.epoch, LabelTable(observed), LabelTable(truth))
    for name, codes in GROUPS.items():
        expected = oracle.warmup_share(losses.tolist(), observed.tolist(), truth.tolist(), *codes)
        assert table[name].warmup == pytest.approx(expected)
        assert table[name].warmup + table[name].regular == pytest.approx(1)
        assert table[name].labels == ((observed == codes[0]) & (truth == codes[1])).sum()


@pytest.mark.parametrize("seed", range(5))
def test_precision_equals_the_oracle(seed):
    _, observed, truth, modified = random_case(seed)
    for epoch, figures in enumerate(modifications_of(modified, observed, truth)):
        ever = modified[: epoch + 1].any(axis=0)
        expected = {
            "modified_true": oracle.precision(modified[epoch].tolist(), truth.tolist()),
            "modified_ever_true": oracle.precision(ever.tolist(), truth.tolist()),
            "unknown_true": oracle.precision((observed == UNKNOWN).tolist(), truth.tolist()),
            "found": oracle.found(modified[epoch].tolist(), observed.tolist(), truth.tolist()),
            "found_ever": oracle.found(ever.tolist(), observed.tolist(), truth.tolist()),
        }
        assert figures == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_first_epochs_of_modification_equal_the_oracle(seed):
    _, observed, truth, modified = random_case(seed)
    counts = Modifications(*observed.shape)
    observed, truth = torch.from_numpy(observed), torch.from_numpy(truth)
    for epoch, chosen in enumerate(torch.from_numpy(modified), start=1):
        for index in batches(len(chosen), 4, epoch):
            counts.add(epoch, index, observed[index], truth[index], chosen[index])
    assert counts.first.tolist() == oracle.first_modified(modified.tolist())


def test_epochs_beyond_the_last_that_fits_are_written_down_as_that_one():
    counts, codes = Modifications(1, 3), torch.zeros(1, 3)
    for epoch, place in ((LAST_MODIFIED, 0), (LAST_MODIFIED + 1, 1), (40_000, 1)):
        chosen = torch.zeros(1, 3, dtype=torch.bool)
        chosen[0, place] = True
        counts.add(epoch, torch.tensor([0]), codes, codes, chosen)
    assert counts.first.tolist() == [[255, 255, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_mean_losses_equal_the_oracle(seed):
    losses, observed, truth, _ = random_case(seed)
    sums = GroupLosses()
    for epoch, values in enumerate(losses, start=1):
        sums.start_epoch()
        for index in batches(len(values), 4, epoch):
            parts = (torch.from_numpy(each)[index] for each in (observed, truth, values))
            sums.add(*parts)
        expected = {
            name: oracle.mean_loss(values.tolist(), observed.tolist(), truth.tolist(), *codes)
            for name, codes in GROUPS.items()
        }
        assert sums.means() == pytest.approx(expected, nan_ok=True)


def test_mean_losses_of_empty_groups_are_none_and_infinite_ones_stay_in_their_group():
    sums = GroupLosses()
    sums.add(torch.tensor([[1, -1]]), torch.tensor([[1, 0]]), torch.tensor([[0.5, math.inf]]))
    means = sums.means()
    assert (means["TP"], means["TN"]) == (0.5, math.inf)
    assert math.isnan(means["FN"])


def test_labels_never_seen_and_empty_groups_are_left_out():
    highest = HighestLoss(3, 2)
    highest.add(1, torch.tensor([1]), torch.tensor([[0.5, 0.25]]))
    codes = LabelTable(np.array([[1, 1], [1, -1], [1, 1]], dtype=np.int8))
    table = memorisation(highest.epoch, codes, LabelTable(np.ones((3, 2), dtype=np.int8)))
    assert table["TP"] == (1.0, 0.0, 1)
    assert table["FN"] == (1.0, 0.0, 1)
    assert math.isnan(table["TN"].warmup)
    assert table["TN"].labels == 0


def test_the_table_does_not_depend_on_the_size_of_its_blocks(monkeypatch):
    losses, observed, truth, _ = random_case(0)
    arguments = highest_of(losses).epoch, LabelTable(observed), LabelTable(truth)
    whole = memorisation(*arguments)
    monkeypatch.setattr("utils.label_dynamics._BLOCK", 13)
    assert memorisation(*arguments) == whole


def test_half_precision_losses_are_kept_and_change_nothing_else():
    highest, losses = HighestLoss(2, 2), torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    highest.add(1, torch.tensor([1]), losses)
    highest.add(2, torch.tensor([1]), losses)
    assert highest.epoch.tolist() == [[0, 0], [1, 1]]
    assert highest.loss.dtype == torch.float32


@pytest.mark.parametrize("epoch", [-1, 0, 32_768])
def test_epochs_that_cannot_be_stored_are_refused(epoch):
    with pytest.raises(ValueError, match=f"epoch {epoch}: must be between 1 and 32767"):
        HighestLoss(1, 1).add(epoch, torch.tensor([0]), torch.zeros(1, 1))


def test_epochs_up_to_the_last_that_can_be_stored_are_kept():
    highest, counts, codes = HighestLoss(1, 3), Modifications(1, 3), torch.zeros(1, 3)
    for place, (epoch, first) in enumerate([(1, 1), (254, 254), (32_767, 255)]):
        chosen = torch.arange(3)[None] == place
        highest.add(epoch, torch.tensor([0]), torch.where(chosen, 1.0, -math.inf))
        counts.add(first, torch.tensor([0]), codes, codes, chosen)
    assert highest.epoch.tolist() == [[1, 254, 32_767]]
    assert counts.first.tolist() == [[1, 254, 255]]
    assert (MOST_EPOCHS, LAST_MODIFIED) == (32_767, 255)


def test_tables_carry_no_gradient():
    losses = torch.rand(2, 3, requires_grad=True)
    highest, sums = HighestLoss(2, 3), GroupLosses()
    highest.add(1, torch.tensor([0, 1]), losses)
    sums.add(torch.ones(2, 3), torch.ones(2, 3), losses)
    assert not highest.loss.requires_grad
    assert not sums.sums.requires_grad


def test_a_saved_state_goes_on_in_tables_of_its_own():
    losses, observed, truth, modified = (torch.from_numpy(each) for each in random_case(1))
    index = torch.arange(13)

    def add(tables, epoch):
        highest, sums, counts = tables
        highest.add(epoch, index, losses[epoch])
        sums.add(observed, truth, losses[epoch])
        counts.add(epoch, index, observed, truth, modified[epoch])
        return [highest.loss, highest.epoch, sums.sums, counts.first, counts.counts, counts.ever_counts]

    first, second = ((HighestLoss(13, 6), GroupLosses(), Modifications(13, 6)) for _ in range(2))
    before = add(first, 1)
    for table, saved in zip(second, first, strict=True):
        table.load_state_dict(saved.state_dict())
    kept = [each.clone() for each in before]
    after = add(second, 2)
    assert all(torch.equal(one, other) for one, other in zip(kept, before, strict=True)), "nothing is shared"
    assert all(torch.equal(one, other) for one, other in zip(after, add(first, 2), strict=True))


@pytest.mark.parametrize("classes, block, size", [(6, 12, 2), (6, 17, 2), (6, 5, 1), (1, 4, 4)])
def test_a_table_is_counted_as_many_rows_at_a_time_as_a_block_has_labels(monkeypatch, classes, block, size):
    read, rows = [], LabelTable.rows
    monkeypatch.setattr("utils.label_dynamics._BLOCK", block)
    monkeypatch.setattr(LabelTable, "rows", lambda self, index: read.append(index) or rows(self, index))
    codes = LabelTable(np.ones((9, classes), dtype=np.int8))
    assert memorisation(torch.ones(9, classes), codes, codes)["TP"] == (1.0, 0.0, 9 * classes)
    assert read[::2] == [slice(start, start + size) for start in range(0, 9, size)]


def test_tables_take_the_memory_they_name():
    for kind in (HighestLoss, Modifications):
        tables = [value for value in kind(30, 7).state_dict().values() if value.shape == (30, 7)]
        assert sum(value.element_size() for value in tables) == kind.BYTES


def test_inputs_stay_as_they_are():
    losses, index = torch.rand(2, 3), torch.tensor([4, 1])
    modified, truth = losses > 0.5, torch.tensor([[1, 0, -1], [1, 1, 0]])
    before = [each.clone() for each in (losses, index, modified, truth)]
    HighestLoss(5, 3).add(1, index, losses)
    Modifications(5, 3).add(1, index, truth, truth, modified)
    GroupLosses().add(truth, truth, losses)
    assert all(torch.equal(a, b) for a, b in zip(before, (losses, index, modified, truth), strict=True))


def test_unknown_truth_counts_as_neither():
    truth = torch.tensor([[1, 0, -1, 1]])
    assert modification_counts(truth, torch.ones(1, 4, dtype=torch.bool)).tolist() == [2, 1]
