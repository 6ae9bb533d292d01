import itertools

import numpy as np
import pytest

from data.loading.samplers import (
    ClassAwareBatches,
    OrderedBatches,
    SemiBatches,
    ShuffledBatches,
    class_members,
    cycled,
)
from tests import golden_files
from tests.oracles import class_aware as oracle
from utils.checks import UserError
from utils.long_tail import class_frequencies
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable


def epoch(rows=23, size=5, *, seed=0, number=1, start=0, rank=0, world=1):
    batches = ShuffledBatches(rows, size, seed=seed, rank=rank, world_size=world)
    batches.set_epoch(number, start)
    return list(batches)


def test_an_epoch_holds_every_row_once_at_its_own_position():
    batches = epoch()
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    samples = [sample for batch in batches for sample in batch]
    assert sorted(sample.row for sample in samples) == list(range(23))
    assert [sample.position for sample in samples] == list(range(23))
    assert {sample.epoch for sample in samples} == {1}


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch() == epoch()
    rows = {tuple(s.row for batch in epoch(seed=seed, number=n) for s in batch) for seed in (0, 1) for n in (1, 2)}
    assert len(rows) == 4


def test_a_resumed_epoch_is_the_rest_of_the_epoch():
    assert epoch(start=2) == epoch()[2:]
    assert epoch(start=5) == []


def test_processes_share_each_global_batch():
    for number, whole in enumerate(epoch(rows=24, size=6)):
        parts = [epoch(rows=24, size=6, rank=rank, world=3)[number] for rank in range(3)]
        assert {len(part) for part in parts} == {2}
        assert sorted(sample for part in parts for sample in part) == sorted(whole)


@pytest.mark.parametrize("rows", [7, 8])
def test_a_last_batch_smaller_than_the_processes_goes_to_each_whole(rows):
    last = [epoch(rows=rows, size=6, rank=rank, world=3)[-1] for rank in range(3)]
    assert last == [epoch(rows=rows, size=6)[-1]] * 3
    assert len(last[0]) == rows - 6


def test_a_last_batch_may_be_left_out_and_then_other_rows_miss_each_epoch():
    missed = set()
    for number in (1, 2, 3):
        batches = ShuffledBatches(23, 5, seed=0, drop_last=True)
        batches.set_epoch(number)
        rows = [sample.row for batch in batches for sample in batch]
        assert rows == [sample.row for batch in epoch(number=number) for sample in batch][:20]
        missed |= set(range(23)) - set(rows)
    assert (len(batches), batches.rows) == (4, 20)
    assert len(missed) > 3
    assert len(ShuffledBatches(20, 5, seed=0, drop_last=True)) == 4


def test_lengths_agree_with_what_is_yielded():
    for rows, size in ((23, 5), (20, 5), (1, 5)):
        batches = ShuffledBatches(rows, size, seed=0)
        assert len(list(batches)) == len(batches)


def test_evaluation_visits_each_row_once_whatever_the_number_of_processes():
    for world in (1, 2, 3, 9):
        parts = [OrderedBatches(7, 4, rank=rank, world_size=world) for rank in range(world)]
        rows = [sample.row for part in parts for batch in part for sample in batch]
        assert sorted(rows) == list(range(7))
        assert all(len(list(part)) == len(part) for part in parts)


SIZES = (1, 2, 7, 40)
"""Rows of each class of the long-tailed sets below."""


def members(sizes=SIZES):
    """Rows of each class; neighbouring classes share a row."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(begin - (begin > 0), end) for begin, end in itertools.pairwise(ends)]


def class_aware(size=8, *, seed=0, number=1, start=0, rank=0, world=1, **settings):
    batches = ClassAwareBatches(members(), size, seed=seed, rank=rank, world_size=world, **settings)
    batches.set_epoch(number, start)
    return batches


def golden_sets():
    golden = golden_files.load("class_aware_sampler.npz")
    return [golden_files.part(golden, f"{name}_") for name in golden["sets"]]


def golden_batches(held, seed=0):
    own = class_members(LabelTable(held["labels"].astype(np.int8)))
    return ClassAwareBatches(own, 32, seed=seed, reduce=int(held["reduce"]), run=int(held["run_length"]))


def test_golden_class_aware_lengths_and_runs():
    for held in golden_sets():
        batches, labels = golden_batches(held), held["labels"].astype(bool)
        assert (batches.draws, len(batches)) == (held["epoch_len"], held["batches_of_32"])
        order = batches.order(1)
        assert len(order) == held["epoch_len"]
        for group, label in enumerate(batches.groups(1)):
            assert labels[order[group * batches.run : (group + 1) * batches.run], label].all()


def test_golden_class_aware_statistics():
    for held in golden_sets():
        table = LabelTable(held["labels"].astype(np.int8))
        shares = class_frequencies(table).condition_prob
        np.testing.assert_allclose(shares, held["cond_prob"], rtol=1e-9)
        batches, epochs = golden_batches(held), range(1, 9)
        expected = batches.draws / len(shares) * shares.sum(axis=0)
        np.testing.assert_allclose(expected, held["expected_label_counts"], rtol=1e-9)
        for one in epochs:
            counts = np.bincount(batches.groups(one), minlength=len(shares))
            assert 0 < counts.max() <= counts.min() + 2
            assert counts.sum() == held["groups_per_class"].sum(axis=1).max()
        seen = np.mean([held["labels"][batches.order(one)].sum(axis=0) for one in epochs], axis=0)
        assert np.abs(seen / expected - 1).max() < (0.03 if len(table) > 1000 else 0.08)


@pytest.mark.parametrize("reduce, run", [(1, 3), (4, 3), (3, 1), (2, 5), (400, 3)])
def test_class_aware_order_is_that_of_cyclic_iterators_with_a_memory(reduce, run):
    batches = class_aware(reduce=reduce, run=run, seed=5)

    def reorder(label, size, number):
        key = ("classes",) if label is None else ("members", label)
        return np.random.default_rng(derive_seed(5, *key, number)).permutation(size).tolist()

    expected = oracle.epochs(members(), 6, batches.draws, run, reorder)
    for number, rows in enumerate(expected, start=1):
        assert batches.order(number).tolist() == rows


def test_class_aware_epochs_can_be_had_in_any_order():
    batches = class_aware()
    forwards = [batches.order(number).tolist() for number in range(1, 6)]
    backwards = [class_aware().order(number).tolist() for number in range(5, 0, -1)][::-1]
    assert forwards == backwards
    assert len({tuple(rows) for rows in forwards}) == 5
    assert class_aware(seed=1).order(1).tolist() != forwards[0]


def test_a_class_is_seen_as_often_as_any_other_whatever_its_size():
    batches = class_aware(reduce=1)
    for number in (1, 2, 9):
        counts = np.bincount(batches.groups(number), minlength=len(SIZES))
        assert counts.max() - counts.min() <= (1 if number == 1 else 2)  # later ones may begin and end within a pass


def test_class_aware_rows_of_a_frequent_class_come_round_over_the_epochs():
    batches = class_aware(reduce=8)
    own, seen = members()[3], []
    for number in range(1, 60):
        groups = np.repeat(batches.groups(number), batches.run)[: batches.draws]
        seen.extend(batches.order(number)[groups == 3].tolist())
    visits = np.bincount(seen)[own]
    assert len(seen) > 3 * len(own)
    assert visits.max() - visits.min() <= 1


def test_class_aware_batches_are_full_and_leave_the_rest_out():
    for size in (8, 20, 7, 39, 40):
        batches = class_aware(size, reduce=4)
        assert batches.draws == 41  # int(41 rows x 4 classes / 4)
        assert [len(batch) for batch in batches] == [size] * (41 // size)
        assert batches.rows == size * len(batches)
        samples = [sample for batch in batches for sample in batch]
        assert [sample.row for sample in samples] == batches.order(1)[: batches.rows].tolist()
        assert [sample.position for sample in samples] == list(range(batches.rows))
    alone = class_aware(100)
    assert [len(batch) for batch in alone] == [alone.draws]


def test_class_aware_epochs_resume_and_are_shared_out_like_others():
    whole = list(class_aware(6, number=3))
    assert list(class_aware(6, number=3, start=2)) == whole[2:]
    parts = [list(class_aware(6, number=3, rank=rank, world=3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert {len(share) for share in shares} == {2}
        assert sorted(sample for share in shares for sample in share) == sorted(batch)


def test_members_of_classes_are_their_present_rows():
    table = np.full((6, 4), ABSENT, dtype=np.int8)
    table[[4, 1, 2], 0] = PRESENT
    table[3, 1] = UNKNOWN
    table[[5, 1], 3] = PRESENT
    assert [rows.tolist() for rows in class_members(LabelTable(table))] == [[1, 2, 4], [1, 5]]
    with pytest.raises(UserError, match="--sampler"):
        class_members(LabelTable(np.full((6, 4), UNKNOWN, dtype=np.int8)))


def test_a_cycle_is_pass_after_pass_wherever_it_is_read():
    whole = cycled(7, 0, 70, 3, "x").tolist()
    passes = [whole[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 10
    for first in range(12):
        for count in range(17):
            assert cycled(7, first, count, 3, "x").tolist() == whole[first : first + count]
    assert cycled(7, 0, 70, 3, "y").tolist() != whole


def test_batches_of_evaluation_are_shared_out_in_whole_and_hold_an_image_at_least():
    sizes = {
        world: [len(batch) for batch in OrderedBatches(14, 8, rank=1, world_size=world)] for world in (2, 3, 5, 8, 13)
    }
    assert sizes == {2: [4, 3], 3: [2, 2, 1], 5: [1, 1, 1], 8: [1, 1], 13: [1]}
    assert [len(batch) for batch in OrderedBatches(7, 3)] == [3, 3, 1]


def test_class_aware_epochs_are_a_quarter_and_visits_three_images_unless_told():
    batches = class_aware()
    assert (batches.draws, batches.run) == (41, 3)


def test_the_smallest_epoch_has_one_draw():
    batches = ClassAwareBatches([np.array([5])], 1, seed=0)
    assert (batches.draws, [[one.row for one in batch] for batch in batches]) == (1, [[5]])


LABELLED, UNLABELLED = np.array([1, 4, 9, 10, 16]), np.array([row for row in range(23) if row not in (1, 4, 9, 10, 16)])


def semi(size=8, *, seed=0, number=1, start=0, rank=0, world=1, **settings):
    first = settings.pop("labelled_per_batch", 3)
    batches = SemiBatches(
        LABELLED, UNLABELLED, size, labelled_per_batch=first, seed=seed, rank=rank, world_size=world, **settings
    )
    batches.set_epoch(number, start)
    return batches


def rows_of(batches):
    return [[sample.row for sample in batch] for batch in batches]


@pytest.mark.parametrize(("size", "first", "sizes"), [(8, 3, [8, 8, 8, 6]), (9, 3, [9, 9, 9]), (24, 1, [19])])
def test_semi_batches_begin_with_labelled_images_and_hold_every_other_once(size, first, sizes):
    found = semi(size, labelled_per_batch=first)
    assert [len(batch) for batch in found] == sizes
    assert (len(found), found.rows) == (len(sizes), sum(sizes))
    assert all(set(rows[:first]) <= set(LABELLED) for rows in rows_of(found))
    assert sorted(row for rows in rows_of(found) for row in rows[first:]) == UNLABELLED.tolist()
    assert [sample.position for batch in found for sample in batch] == list(range(sum(sizes)))


def test_semi_labelled_images_come_round_over_the_epochs():
    drawn = [row for number in range(1, 6) for rows in rows_of(semi(number=number)) for row in rows[:3]]
    assert len(drawn) == 5 * 4 * 3
    assert drawn == LABELLED[cycled(5, 0, 60, 0, "labelled")].tolist()
    assert set(np.bincount(drawn)[LABELLED]) == {12}


def test_semi_order_is_a_function_of_seed_and_epoch():
    assert rows_of(semi()) == rows_of(semi())
    orders = {str(rows_of(semi(seed=seed, number=number))) for seed in (0, 1) for number in (1, 2)}
    assert len(orders) == 4
    others = [[row for rows in rows_of(semi(number=number)) for row in rows[3:]] for number in (1, 2)]
    assert others[0] != others[1]
    expected = np.random.default_rng(derive_seed(0, "order", 2)).permutation(UNLABELLED)
    assert others[1] == expected.tolist()


def test_semi_batches_resume_and_share_the_labelled_images_out():
    whole = list(semi(8, labelled_per_batch=4, number=3))
    assert list(semi(8, labelled_per_batch=4, number=3, start=2)) == whole[2:]
    parts = [list(semi(8, labelled_per_batch=4, number=3, rank=rank, world=2)) for rank in range(2)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert sorted(sample for share in shares for sample in share) == sorted(batch)
        assert [sum(sample.row in LABELLED for sample in share) for share in shares] == [2, 2]


def test_semi_a_last_batch_may_be_left_out():
    kept = rows_of(semi(drop_last=True))
    assert kept == rows_of(semi())[:3]
    assert semi(drop_last=True).rows == 24
    assert rows_of(semi(9, drop_last=True)) == rows_of(semi(9))
