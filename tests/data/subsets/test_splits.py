import zlib
from dataclasses import replace

import numpy as np
import pytest

from data.subsets.splits import SplitConfig, group_split, split_rows, subsample, validation_split
from tests import golden_files
from tests.data.trees import annotations
from utils.checks import UserError


def golden_cases():
    """Parameters by name, and the golden arrays, of each case of splits.npz."""
    golden = golden_files.load("splits.npz")
    for case in golden["cases"].tolist():
        held = golden_files.part(golden, f"{case}__")
        yield dict(zip(golden["params_columns"].tolist(), held.pop("params").tolist(), strict=True)), held


def agree(places, held, name):
    """Compare places with what the golden file has of them: length, ends, checksum."""
    assert len(places) == held[f"{name}_len"]
    assert zlib.crc32(np.asarray(places, dtype="<i8").tobytes()) == held[f"{name}_crc32"]
    for end, part in (("first20", places[:20]), ("last20", places[-20:])):
        if f"{name}_{end}" in held:
            np.testing.assert_array_equal(part, held[f"{name}_{end}"])


def config_of(params):
    """The settings of a golden case."""
    return SplitConfig(
        val_frac=params["val_frac"],
        split_seed=int(params["split_seed"]),
        ss_frac_train=params["ss_frac_train"],
        ss_frac_val=params["ss_frac_val"],
        ss_seed=int(params["ss_seed"]),
    )


def rows_of(count, ids=None, places=None):
    """Annotations of one class; `places` as readers of published files set them."""
    held = annotations(np.zeros((count, 1)), ids)
    return held if places is None else replace(held, places=np.asarray(places))


def test_golden_splits_and_subsamples():
    for params, held in golden_cases():
        parts = validation_split(int(params["n"]), params["val_frac"], int(params["split_seed"]))
        rng = np.random.RandomState(int(params["ss_seed"]))
        for name, places in zip(("train", "val"), parts, strict=True):
            agree(places, held, f"{name}_presub")
            agree(subsample(places, params[f"ss_frac_{name}"], rng), held, name)


def test_golden_splits_of_annotations_in_the_order_of_their_files():
    for params, held in golden_cases():
        train, held_out = split_rows(rows_of(int(params["n"])), config_of(params), seed=5)
        agree(train, held, "train")
        agree(held_out, held, "val")


def test_golden_splits_of_annotations_in_another_order():
    for number, (params, held) in enumerate(golden_cases()):
        places = np.random.RandomState(number).permutation(int(params["n"]))
        parts = split_rows(rows_of(len(places), places=places), config_of(params), seed=5)
        for name, rows in zip(("train", "val"), parts, strict=True):
            agree(np.sort(places[rows]), held, name)
            assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_rows_follow_their_places(seed):
    rng = np.random.RandomState(seed)
    count = rng.randint(2, 60)
    places = np.sort(rng.choice(1000, count, replace=False))[rng.permutation(count)]  # with gaps, as after a choice
    config = SplitConfig(val_frac=0.3, ss_frac_train=0.7, ss_frac_val=0.5)
    plain = split_rows(rows_of(count), config, seed)
    moved = split_rows(rows_of(count, places=places), config, seed)
    in_file = np.argsort(places)
    for one, other in zip(plain, moved, strict=True):
        assert other.tolist() == sorted(in_file[one].tolist())
    assert not set(moved[0].tolist()) & set(moved[1].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_ids_that_are_numbers_draw_as_texts(seed):
    numbers = sorted(np.random.RandomState(seed).choice(5000, 150, replace=False).tolist())
    held = rows_of(150, [str(one) for one in numbers])
    train, held_out = split_rows(held, SplitConfig(val_frac=0.2, split_seed=1200), seed)
    as_texts = sorted(held.ids)  # "100" before "9"
    for rows, places in zip((train, held_out), validation_split(150, 0.2, 1200), strict=True):
        assert {held.ids[row] for row in rows} == {as_texts[place] for place in places}
    assert sorted([*train, *held_out]) == list(range(150))


@pytest.mark.parametrize("seed", range(3))
def test_the_same_images_validate_in_whatever_order_the_rows_are(seed):
    rng = np.random.RandomState(seed)
    held = rows_of(40, [str(one) for one in rng.choice(999, 40, replace=False)])
    other = held.take(rng.permutation(40))
    chosen = [{rows.ids[row] for row in split_rows(rows, SplitConfig(val_frac=0.25), 7)[1]} for rows in (held, other)]
    assert chosen[0] == chosen[1]


def test_the_split_seed_stands_before_the_seed_of_the_run():
    held, config = rows_of(50), SplitConfig(val_frac=0.4)
    fixed = SplitConfig(val_frac=0.4, split_seed=3)
    assert split_rows(held, fixed, 1)[1].tolist() == split_rows(held, config, 3)[1].tolist()
    assert split_rows(held, fixed, 1)[1].tolist() == split_rows(held, fixed, 2)[1].tolist()
    assert split_rows(held, config, 1)[1].tolist() != split_rows(held, config, 2)[1].tolist()


def test_no_row_left_to_train_on_is_refused():
    with pytest.raises(UserError, match="--ss_frac_train"):
        split_rows(rows_of(4), SplitConfig(ss_frac_train=0.1), 0)


@pytest.mark.parametrize(
    "values",
    [
        {"val_frac": 1.0},
        {"val_frac": float("nan")},
        {"ss_frac_train": 0.0},
        {"ss_frac_val": 1.1},
        {"ss_seed": -1},
        {"split_seed": 2**32},
    ],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UserError, match=f"--{next(iter(values))}"):
        SplitConfig(**values)


def test_the_published_recipe():
    order = np.random.RandomState(1200).permutation(14)
    train, held_out = validation_split(14, 0.2, 1200)
    assert held_out.tolist() == sorted(order[-3:])
    assert train.tolist() == sorted(order[:-3])


@pytest.mark.parametrize("rows, fraction, size", [(10, 0.25, 2), (10, 0.35, 4), (14, 0.25, 4), (3000, 0.2, 600)])
def test_rounding_is_half_to_even(rows, fraction, size):
    train, held_out = validation_split(rows, fraction, 0)
    assert len(held_out) == size
    assert sorted([*train, *held_out]) == list(range(rows))


def test_no_fraction_leaves_everything_for_training():
    train, held_out = validation_split(5, 0.0, 3)
    assert train.tolist() == [0, 1, 2, 3, 4]
    assert held_out.size == 0


@pytest.mark.parametrize(
    "fraction, fault",
    [(-0.1, "must be in [0, 1)"), (1.0, "must be in [0, 1)"), (0.99, "leaves none of the 5 images for training")],
)
def test_fractions_that_leave_nothing_are_refused(fraction, fault):
    with pytest.raises(UserError) as refusal:
        validation_split(5, fraction, 0)
    assert str(refusal.value) == f"--val_frac {fraction}: {fault}"


@pytest.mark.parametrize(
    "values",
    [
        {"val_frac": 0.0},
        {"val_frac": 0.999},
        {"ss_frac_train": 1.0},
        {"ss_frac_val": 1e-9},
        {"ss_seed": 0},
        {"ss_seed": 2**32 - 1},
        {"split_seed": 0},
        {"split_seed": 2**32 - 1},
    ],
)
def test_the_least_and_largest_settings_are_taken(values):
    assert len(split_rows(rows_of(2000), SplitConfig(**values), 0)[0]) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_groups_stay_whole_and_come_near_the_share(fraction, seed):
    groups = np.random.default_rng(seed).integers(0, 12, 90) * 7
    train, held_out = group_split(groups, fraction, seed)
    assert sorted([*train, *held_out]) == list(range(90))
    assert not set(groups[train]) & set(groups[held_out])
    assert abs(len(held_out) - 90 * fraction) <= np.bincount(groups).max() / 2 + 1
    again = group_split(groups, fraction, seed)
    np.testing.assert_array_equal(again[1], held_out)
    assert group_split(groups, 0.0, seed)[1].size == 0


def test_which_groups_validate_depends_on_the_seed_and_one_group_cannot_be_split():
    groups = np.repeat(np.arange(10), 3)
    assert len({tuple(group_split(groups, 0.3, seed)[1]) for seed in range(8)}) > 4
    assert [len(group_split(groups, share, 0)[1]) for share in (0.01, 0.3, 0.99)] == [3, 9, 27]
    with pytest.raises(UserError, match=r"--val_frac 0\.2: all 30 images are of one group"):
        group_split(np.zeros(30, dtype=np.int64), 0.2, 0)


def test_a_split_of_grouped_annotations_keeps_groups():
    rows = annotations(np.ones((20, 2), dtype=np.int8))
    grouped = replace(rows, groups=np.arange(20) // 5)
    train, held_out = split_rows(grouped, SplitConfig(val_frac=0.25), 3)
    assert len(held_out) == 5
    assert len(set(grouped.groups[held_out])) == 1
    assert len(train) == 15
    assert grouped.take(held_out).groups.tolist() == grouped.groups[held_out].tolist()
