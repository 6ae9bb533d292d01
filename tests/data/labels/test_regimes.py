import itertools
import re
import zlib

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.labels import entries, regimes
from data.labels.partial_annotation import fixed_per_class_labels, known_labels, random_per_sample_labels
from data.labels.regimes import (
    candidate_labels,
    confused_labels,
    dropped_positives,
    flipped_labels,
    full_labels,
    observed_labels,
    semi_labels,
)
from tests import golden_files
from tests.oracles import regimes as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

PUBLISHED_CODE = {PRESENT: 1, ABSENT: -1, UNKNOWN: 0}  # of the single-positive papers
MAKERS = [np.random.RandomState, np.random.default_rng]
RATES = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
CONFUSION = np.random.RandomState(11).random_sample((7, 7)) * np.random.RandomState(12).choice([0, 0.6, 1], (7, 7))

DRAWN = {
    "candidate": lambda truth, rng: candidate_labels(truth, rng, 0.3),
    "class-rates": lambda truth, rng: candidate_labels(truth, rng, RATES),
    "confusion": lambda truth, rng: confused_labels(truth, rng, CONFUSION),
    "dropped": lambda truth, rng: dropped_positives(truth, rng, 0.4),
    "keep-one": lambda truth, rng: dropped_positives(truth, rng, 0.9, keep_one=True),
    "single": lambda truth, rng: observed_labels(truth, rng, 1, 0),
    "observed": lambda truth, rng: observed_labels(truth, rng, 1, 2),
    "all-negatives": lambda truth, rng: observed_labels(truth, rng, 1, -1),
    "all": lambda truth, rng: observed_labels(truth, rng, -1, -1),
    "known": lambda truth, rng: known_labels(truth, rng, 0.4),
    "flip": lambda truth, rng: flipped_labels(truth, rng, 0.3, 0.2),
    "semi": lambda truth, rng: semi_labels(truth, rng, 0.4),
    "fpc": lambda truth, rng: fixed_per_class_labels(truth, rng, 4),
    "rps": lambda truth, rng: random_per_sample_labels(truth, rng, 0.4),
}
ROUTES = DRAWN | {"full": lambda truth, rng: full_labels(truth)}
ORACLES = {
    "candidate": lambda truth, seed, *stored: oracle.candidates(truth, seed, 0.3, *stored),
    "class-rates": lambda truth, seed, *stored: oracle.candidates(truth, seed, RATES, *stored),
    "confusion": lambda truth, seed, *stored: oracle.confused(truth, seed, CONFUSION, *stored),
    "dropped": lambda truth, seed, *stored: oracle.dropped(truth, seed, 0.4),
    "keep-one": lambda truth, seed, *stored: oracle.dropped(truth, seed, 0.9, True),
    "single": lambda truth, seed, *stored: oracle.observed(truth, seed, 1, 0, *stored),
    "observed": lambda truth, seed, *stored: oracle.observed(truth, seed, 1, 2, *stored),
    "all-negatives": lambda truth, seed, *stored: oracle.observed(truth, seed, 1, -1, *stored),
    "all": lambda truth, seed, *stored: oracle.observed(truth, seed, -1, -1, *stored),
    "known": lambda truth, seed, *stored: oracle.known(truth, seed, 0.4, *stored),
    "flip": lambda truth, seed, *stored: oracle.flipped(truth, seed, 0.3, 0.2, *stored),
    "semi": lambda truth, seed, *stored: oracle.semi(truth, seed, 0.4, *stored),
    "fpc": lambda truth, seed, *stored: oracle.fpc(truth, seed, 4, *stored),
    "rps": lambda truth, seed, *stored: oracle.rps(truth, seed, 0.4, *stored),
}


def truth_table(seed, rows=40, classes=7):
    return np.random.RandomState(seed).choice([1, 0, -1], (rows, classes), p=[0.3, 0.6, 0.1]).astype(np.int8)


def sparse(codes, stored, default):
    """The CSR table that holds `codes` where `stored`, with some rows' classes out of order."""
    rows = [np.flatnonzero(row) for row in stored]
    rows = [row[::-1] if i % 3 == 0 else row for i, row in enumerate(rows)]
    indices = np.concatenate([*rows, []]).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    data = codes[np.repeat(np.arange(len(rows)), [len(row) for row in rows]), indices]
    return LabelTable(csr_array((data, indices, indptr), shape=codes.shape), default=default)


def mostly_absent(truth, seed=0):
    """A sparse table of `truth` whose default is absent; it stores some absent entries too."""
    return sparse(
        truth, (truth != ABSENT) | (np.random.RandomState(seed + 100).random_sample(truth.shape) < 0.2), ABSENT
    )


def known_only(truth, seed=0):
    """A sparse table whose default is unknown, and what it stores of `truth`: half of it, unknown entries too."""
    stored = np.random.RandomState(seed + 100).random_sample(truth.shape) < 0.5
    return sparse(truth, stored, UNKNOWN), stored


def require_canonical(table, default=None):
    assert isinstance(table.codes, csr_array)
    fresh = csr_array((table.codes.data, table.codes.indices, table.codes.indptr), shape=table.codes.shape)
    assert fresh.has_canonical_format
    assert table.codes.indices.dtype == table.codes.indptr.dtype == np.int32
    assert default is None or table.default == default


def in_published_code(codes):
    table = np.zeros(3, dtype=np.int8)
    for ours, theirs in PUBLISHED_CODE.items():
        table[ours + 1] = theirs
    return table[codes + 1]


def number(text):
    return -int(text[1:]) if text.startswith("m") else int(text)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("candidate_labels.npz"))
def test_golden_candidates(case, arrays):
    truth, rate, seed = arrays["true_labels"].astype(np.int8), float(arrays["rho"]), int(arrays["seed"])
    got = candidate_labels(truth, np.random.RandomState(seed), rate)
    np.testing.assert_array_equal(got, arrays["candidates"])
    by_class = np.full(truth.shape[1], rate)
    np.testing.assert_array_equal(candidate_labels(truth, np.random.RandomState(seed), by_class), got)
    table = candidate_labels(mostly_absent(truth), np.random.RandomState(seed), rate)
    np.testing.assert_array_equal(table.dense(), got)


def test_golden_observed_labels():
    golden = golden_files.load("observed_labels.npz")
    truth = golden["labels"].astype(np.int8)
    assert len(golden["cases"]) > 0
    for name in golden["cases"].tolist():
        seed, num_pos, num_neg = map(number, re.fullmatch(r"obs_s(\d+)_p(m?\d+)_n(m?\d+)", name).groups())
        seen = observed_labels(truth, np.random.RandomState(seed), num_pos, num_neg)
        got = in_published_code(seen)
        np.testing.assert_array_equal(got, golden[name], err_msg=name)
        assert zlib.crc32(got.tobytes()) == int(golden[f"{name}__crc32_int8"]), name
        table = observed_labels(mostly_absent(truth), np.random.RandomState(seed), num_pos, num_neg)
        np.testing.assert_array_equal(table.dense(), seen, err_msg=name)
    empty = golden.get("zero_positive_rows", np.array([], dtype=np.int64))
    assert (observed_labels(truth, np.random.RandomState(0), -1, 0)[empty] == UNKNOWN).all()


def big_cases():
    try:
        names = golden_files.load("observed_labels.npz")
    except pytest.skip.Exception:
        return []
    return sorted({name.split("__")[0] for name in names if name.startswith("big_")})


@pytest.mark.parametrize("name", big_cases())
def test_golden_single_positives_of_whole_datasets(name):
    golden = golden_files.load("observed_labels.npz")
    rows, classes = map(int, re.fullmatch(r"big_(\d+)x(\d+)", name).groups())
    truth = (np.random.RandomState(7).random_sample((rows, classes)) < float(golden[f"{name}__p"])).astype(np.int8)
    assert zlib.crc32(truth.tobytes()) == int(golden[f"{name}__labels_crc32_int8"])
    positive = observed_labels(truth, np.random.RandomState(1200), 1, 0) == PRESENT
    column = np.where(positive.any(axis=1), positive.argmax(axis=1), -1).astype(np.int64)
    np.testing.assert_array_equal(column[:50], golden[f"{name}__poscol_first50"])
    np.testing.assert_array_equal(column[-50:], golden[f"{name}__poscol_last50"])
    assert zlib.crc32(column.tobytes()) == int(golden[f"{name}__poscol_crc32_int64"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("route", DRAWN)
def test_dense_labels_match_the_oracle(seed, route):
    truth = truth_table(seed)
    got = DRAWN[route](truth, np.random.RandomState(seed + 50))  # another stream than the truth's own
    np.testing.assert_array_equal(got, ORACLES[route](truth, seed + 50))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("route", DRAWN)
def test_labels_of_tables_of_known_labels_match_the_oracle(seed, route):
    truth = truth_table(seed)
    table, stored = known_only(truth, seed)
    assert set(table.codes.data.tolist()) == {PRESENT, ABSENT, UNKNOWN}
    got = DRAWN[route](table, np.random.RandomState(seed + 50))
    require_canonical(got, UNKNOWN)
    there = np.where(stored, truth, UNKNOWN)
    np.testing.assert_array_equal(got.dense(), ORACLES[route](there, seed + 50, stored))
    if route not in ("dropped", "keep-one"):
        assert (got.dense()[there == UNKNOWN] == UNKNOWN).all()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_rates_match_the_oracle(rate):
    truth = truth_table(9)
    for ours, theirs in (
        (candidate_labels, oracle.candidates),
        (dropped_positives, oracle.dropped),
        (known_labels, oracle.known),
        (semi_labels, oracle.semi),
    ):
        np.testing.assert_array_equal(ours(truth, np.random.RandomState(5), rate), theirs(truth, 5, rate))
    np.testing.assert_array_equal(
        flipped_labels(truth, np.random.RandomState(5), rate, 1 - rate), oracle.flipped(truth, 5, rate, 1 - rate)
    )


@pytest.mark.parametrize("numbers", [(1, 0), (2, 3), (-1, 0), (0, -1), (-1, -1), (0, 0), (99, 99)])
def test_numbers_match_the_oracle(numbers):
    truth = truth_table(5)
    got = observed_labels(truth, np.random.RandomState(55), *numbers)
    np.testing.assert_array_equal(got, oracle.observed(truth, 55, *numbers))
    table, stored = known_only(truth, 5)
    there = np.where(stored, truth, UNKNOWN)
    got = observed_labels(table, np.random.RandomState(5), *numbers)
    np.testing.assert_array_equal(got.dense(), oracle.observed(there, 5, *numbers, stored))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("route", ROUTES)
def test_sparse_tables_get_the_labels_of_dense_ones(route, make):
    for seed in range(12):
        truth = truth_table(seed, rows=[0, 1, 2, 37, 40, 63][seed % 6])
        dense = LabelTable(truth.copy())
        table = mostly_absent(truth, seed)
        got = ROUTES[route](table, make(seed + 50))
        require_canonical(got)
        np.testing.assert_array_equal(got.dense(), ROUTES[route](dense, make(seed + 50)).dense())
        np.testing.assert_array_equal(got.dense(), ROUTES[route](truth, make(seed + 50)))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("route", ROUTES)
def test_blocks_of_any_size_give_the_same_labels(route, make, monkeypatch):
    """Byte draws excepted: of a `Generator` the block is part of what the stream means."""
    if make is np.random.default_rng and route in ("candidate", "class-rates", "confusion"):
        make = np.random.RandomState
    truth = truth_table(2, rows=50)
    tables = [LabelTable(truth.copy()), mostly_absent(truth), known_only(truth)[0]]
    before = [ROUTES[route](table, make(3)).dense() for table in tables]
    for size in (1, 5, 16):
        monkeypatch.setattr(entries, "BLOCK", size)
        monkeypatch.setattr(
            regimes, "row_blocks", lambda rows, classes, size=size: entries.row_blocks(rows, classes, size)
        )
        for table, expected in zip(tables, before, strict=True):
            np.testing.assert_array_equal(ROUTES[route](table, make(3)).dense(), expected)


@pytest.mark.parametrize("make", MAKERS)
def test_many_native_blocks_are_the_same_sparse_and_dense(make):
    truth = np.random.RandomState(0).choice([1, 0], (9_001, 90), p=[0.05, 0.95]).astype(np.int8)
    assert truth.size > 3 * entries.BLOCK
    rates = np.linspace(0, 1, 90)
    for rate in (0.0123, rates):
        dense = candidate_labels(truth, make(1), rate)
        np.testing.assert_array_equal(candidate_labels(mostly_absent(truth), make(1), rate).dense(), dense)
    equal = candidate_labels(truth, make(1), np.full(90, 0.0123))
    np.testing.assert_array_equal(equal, candidate_labels(truth, make(1), 0.0123))


@pytest.mark.parametrize("rows", [0, 1, 40_000])
def test_long_tables_are_drawn_as_one_stream(rows):
    truth = truth_table(1, rows)
    draws = np.random.RandomState(2).uniform(0, 1, truth.shape)
    got = candidate_labels(truth, np.random.RandomState(2), 0.2)
    np.testing.assert_array_equal(got, (truth == PRESENT) | (draws < 0.2))
    got = known_labels(truth, np.random.RandomState(2), 0.2)
    np.testing.assert_array_equal(got != UNKNOWN, draws < 0.2)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("make", MAKERS)
def test_inputs_stay_and_draws_repeat(route, make):
    truth = truth_table(3)
    before = truth.copy()
    truth.flags.writeable = False
    one, two = (ROUTES[route](truth, make(9)) for _ in range(2))
    np.testing.assert_array_equal(truth, before)
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.int8
    assert not np.shares_memory(one, truth)
    if route not in ("full", "all"):
        assert (ROUTES[route](truth, make(10)) != one).any()
    open_array = before.copy()
    ROUTES[route](open_array, make(9))
    assert open_array.flags.writeable
    for table in (mostly_absent(before), known_only(before)[0]):
        held = table.codes.data.copy(), table.codes.indices.copy(), table.codes.indptr.copy()
        ROUTES[route](table, make(9))
        for now, then in zip((table.codes.data, table.codes.indices, table.codes.indptr), held, strict=True):
            np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("make", MAKERS)
def test_unknown_truth_counts_as_absent(route, make):
    truth = truth_table(4)
    assert (truth == UNKNOWN).any()
    read_as_absent = np.where(truth == UNKNOWN, ABSENT, truth)
    expected = ROUTES[route](read_as_absent, make(1))
    np.testing.assert_array_equal(ROUTES[route](truth, make(1)), expected)
    np.testing.assert_array_equal(ROUTES[route](mostly_absent(truth), make(1)).dense(), expected)


def test_a_table_of_known_labels_is_its_own_full_labels():
    table, _ = known_only(truth_table(4))
    assert full_labels(table) is table


def test_unchanged_places_are_shared_and_changed_ones_are_of_32_bits():
    truth = np.where(truth_table(3) == UNKNOWN, ABSENT, truth_table(3))
    indices, indptr = np.tile(np.arange(7, dtype=np.int32), 40), np.arange(41, dtype=np.int32) * 7
    table = LabelTable(csr_array((truth.reshape(-1), indices, indptr)), default=UNKNOWN)
    for route in ("candidate", "class-rates", "confusion", "flip"):
        got = DRAWN[route](table, np.random.RandomState(0))
        assert np.shares_memory(got.codes.indices, table.codes.indices), route
    held = LabelTable(entries.canonical(mostly_absent(truth)))
    assert np.shares_memory(full_labels(held).codes.indices, held.codes.indices)
    wide = LabelTable(
        csr_array((truth.reshape(-1), indices.astype(np.int64), indptr.astype(np.int64))), default=UNKNOWN
    )
    for route in DRAWN:
        require_canonical(DRAWN[route](wide, np.random.RandomState(0)), UNKNOWN)


def test_an_entry_that_is_stored_twice_is_a_mistake_of_the_reader():
    held = csr_array((np.ones(3, np.int8), np.array([1, 1, 2], np.int32), np.array([0, 2, 3], np.int32)), shape=(2, 4))
    with pytest.raises(ValueError, match="twice"):
        dropped_positives(LabelTable(held, default=UNKNOWN), np.random.RandomState(0), 0.5)
    with pytest.raises(TypeError, match="dense"):
        entries.canonical(LabelTable(np.zeros((2, 2), np.int8)))


@pytest.mark.parametrize("make", MAKERS)
def test_rates_at_their_ends(make):
    truth = truth_table(6)
    full = full_labels(truth)
    np.testing.assert_array_equal(candidate_labels(truth, make(0), 0.0), full)
    assert (candidate_labels(truth, make(0), 1.0) == PRESENT).all()
    np.testing.assert_array_equal(confused_labels(truth, make(0), np.zeros((7, 7))), full)
    everything = confused_labels(truth, make(0), np.ones((7, 7)))
    np.testing.assert_array_equal(everything, np.repeat((full == PRESENT).any(axis=1, keepdims=True), 7, axis=1))
    assert (dropped_positives(truth, make(0), 1.0) == UNKNOWN).all()
    np.testing.assert_array_equal(dropped_positives(truth, make(0), 0.0) == PRESENT, truth == PRESENT)
    assert (known_labels(truth, make(0), 0.0) == UNKNOWN).all()
    np.testing.assert_array_equal(known_labels(truth, make(0), 1.0), full)
    np.testing.assert_array_equal(flipped_labels(truth, make(0), 0.0, 0.0), full)
    np.testing.assert_array_equal(flipped_labels(truth, make(0), 1.0, 1.0), 1 - full)
    assert (flipped_labels(truth, make(0), 1.0, 0.0) == ABSENT).all()
    assert (flipped_labels(truth, make(0), 0.0, 1.0) == PRESENT).all()
    assert (semi_labels(truth, make(0), 0.0) == UNKNOWN).all()
    np.testing.assert_array_equal(semi_labels(truth, make(0), 1.0), full)


@pytest.mark.parametrize("make", MAKERS)
def test_more_is_known_where_more_is_asked_for(make):
    truth = truth_table(7, rows=300)
    for recipe in (known_labels, semi_labels):
        sets = [recipe(truth, make(0), rate) != UNKNOWN for rate in (0.1, 0.2, 0.5, 0.9)]
        for small, large in itertools.pairwise(sets):
            assert large[small].all()
            assert large.sum() > small.sum()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rate", [0.3, 0.75, 0.97, 1.0])
def test_keeping_one_adds_the_last_hope_of_rows_that_would_lose_all(make, rate):
    truth = truth_table(8, rows=400)
    without, kept = (dropped_positives(truth, make(1), rate, keep) == PRESENT for keep in (False, True))
    positive = truth == PRESENT
    assert kept[without].all()
    lost = positive.any(axis=1) & ~without.any(axis=1)
    assert lost.any()
    np.testing.assert_array_equal(kept.sum(axis=1), np.where(lost, 1, without.sum(axis=1)))
    assert positive[kept].all()


def test_equal_draws_keep_the_first():
    class Even:
        def uniform(self, low, high, count):
            return np.full(count, 0.5)

    truth = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=np.int8)
    got = dropped_positives(truth, Even(), 0.9, keep_one=True)
    np.testing.assert_array_equal(np.argwhere(got == PRESENT), [[0, 1], [2, 0]])


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.7037, 0.999])
def test_the_native_draws_keep_the_rate(rate):
    truth = np.zeros((4000, 250), dtype=np.int8)
    drawn = candidate_labels(truth, np.random.default_rng(0), rate)
    spread = np.sqrt(rate * (1 - rate) / truth.size)
    assert abs(drawn.mean() - rate) < 4 * spread
    halves = drawn.reshape(-1, 2).astype(float)  # neighbours come from one machine word
    assert abs((halves[:, 0] * halves[:, 1]).mean() - rate**2) < 5 * rate * np.sqrt((1 - rate**2) / len(halves))


def near(values, rate):
    assert abs(values.mean() - rate) < 5 * np.sqrt(max(rate * (1 - rate), 1e-12) / values.size)


@pytest.mark.parametrize("make", MAKERS)
def test_shares_are_those_asked_for(make):
    truth = np.random.RandomState(1).choice([1, 0], (20_000, 7), p=[0.3, 0.7]).astype(np.int8)
    positive = truth == PRESENT
    by_class = candidate_labels(truth, make(0), RATES)
    for k, rate in enumerate(RATES):
        near(by_class[~positive[:, k], k], rate)
    confused = confused_labels(truth, make(0), CONFUSION)
    chance = 1 - np.prod(np.where(positive[:, :, None], 1 - CONFUSION, 1), axis=1)
    for k in range(7):
        wrong = ~positive[:, k]
        assert abs(confused[wrong, k].mean() - chance[wrong, k].mean()) < 5 * np.sqrt(0.25 / wrong.sum())
    flipped = flipped_labels(truth, make(0), 0.3, 0.05)
    near(flipped[positive] == ABSENT, 0.3)
    near(flipped[~positive] == PRESENT, 0.05)
    known = known_labels(truth, make(0), 0.1) != UNKNOWN
    near(known[positive], 0.1)
    near(known[~positive], 0.1)
    assert ((semi_labels(truth, make(0), 0.25) != UNKNOWN).sum(axis=1) == 7).sum() == 5000


def test_confusion_needs_a_true_label_and_follows_its_row():
    confusion = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.int8)
    got = confused_labels(truth, np.random.RandomState(0), confusion)
    np.testing.assert_array_equal(got, [[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])


def test_rows_draw_in_the_order_they_are_told():
    truth, order = truth_table(7, rows=30), np.random.RandomState(1).permutation(30)
    for recipe in (lambda *a: observed_labels(*a[:2], 1, 1, *a[2:]), lambda *a: semi_labels(*a[:2], 0.3, *a[2:])):
        expected = np.empty_like(truth)
        expected[order] = recipe(truth[order], np.random.RandomState(3))
        np.testing.assert_array_equal(recipe(truth, np.random.RandomState(3), order), expected)
        got = recipe(mostly_absent(truth), np.random.RandomState(3), order)
        np.testing.assert_array_equal(got.dense(), expected)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "recipe",
    [
        candidate_labels,
        dropped_positives,
        known_labels,
        semi_labels,
        lambda truth, rng, rate: candidate_labels(truth, rng, np.array([0.1] * 6 + [rate])),
        lambda truth, rng, rate: confused_labels(truth, rng, np.full((7, 7), rate)),
        lambda truth, rng, rate: flipped_labels(truth, rng, rate, 0.1),
        lambda truth, rng, rate: flipped_labels(truth, rng, 0.1, rate),
    ],
)
def test_rates_outside_their_range_are_refused(rate, recipe):
    with pytest.raises(UserError, match="between 0 and 1"):
        recipe(truth_table(0), np.random.RandomState(0), rate)


def test_numbers_below_all_are_refused():
    with pytest.raises(UserError, match="num_pos -2"):
        observed_labels(truth_table(0), np.random.RandomState(0), -2, 0)
    with pytest.raises(UserError, match="num_neg -3"):
        observed_labels(truth_table(0), np.random.RandomState(0), 1, -3)
