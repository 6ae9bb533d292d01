import re
import zlib

import numpy as np
import pytest

from data.observed import (
    Regime,
    candidate_labels,
    dropped_positives,
    full_labels,
    given_labels,
    observe,
    observed_labels,
)
from tests import golden_files
from tests.data.trees import annotations
from tests.oracles import regimes as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

PUBLISHED_CODE = {PRESENT: 1, ABSENT: -1, UNKNOWN: 0}  # of the single-positive papers


def truth_table(seed, rows=40, classes=7):
    return np.random.RandomState(seed).choice([1, 0, -1], (rows, classes), p=[0.3, 0.6, 0.1]).astype(np.int8)


def in_published_code(codes):
    table = np.zeros(3, dtype=np.int8)
    for ours, theirs in PUBLISHED_CODE.items():
        table[ours + 1] = theirs
    return table[codes + 1]


def number(text):
    return -int(text[1:]) if text.startswith("m") else int(text)


ROUTES = {
    "candidate": lambda truth, rng: candidate_labels(truth, rng, 0.3),
    "dropped": lambda truth, rng: dropped_positives(truth, rng, 0.4),
    "observed": lambda truth, rng: observed_labels(truth, rng, 1, 2),
    "full": lambda truth, rng: full_labels(truth),
    "given": lambda truth, rng: given_labels(truth),
}


@pytest.mark.parametrize("case, arrays", golden_files.each_case("candidate_labels.npz"))
def test_golden_candidates(case, arrays):
    truth = arrays["true_labels"].astype(np.int8)
    rate, rng = float(arrays["rho"]), np.random.RandomState(int(arrays["seed"]))
    np.testing.assert_array_equal(candidate_labels(truth, rng, rate), arrays["candidates"])
    regime = Regime(name="candidate", partial_rate=rate, seed=int(arrays["seed"]))
    np.testing.assert_array_equal(observe(annotations(truth), regime).dense(), arrays["candidates"])


def test_golden_observed_labels():
    golden = golden_files.load("observed_labels.npz")
    truth = golden["labels"].astype(np.int8)
    assert len(golden["cases"]) > 0
    for name in golden["cases"].tolist():
        seed, num_pos, num_neg = map(number, re.fullmatch(r"obs_s(\d+)_p(m?\d+)_n(m?\d+)", name).groups())
        got = in_published_code(observed_labels(truth, np.random.RandomState(seed), num_pos, num_neg))
        np.testing.assert_array_equal(got, golden[name], err_msg=name)
        assert zlib.crc32(got.tobytes()) == int(golden[f"{name}__crc32_int8"]), name
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
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_rates_match_the_oracle(seed, rate):
    truth = truth_table(seed)
    np.testing.assert_array_equal(
        candidate_labels(truth, np.random.RandomState(seed), rate), oracle.candidates(truth, seed, rate)
    )
    np.testing.assert_array_equal(
        dropped_positives(truth, np.random.RandomState(seed), rate), oracle.dropped(truth, seed, rate)
    )


@pytest.mark.parametrize("numbers", [(1, 0), (2, 3), (-1, 0), (0, -1), (-1, -1), (0, 0), (99, 99)])
def test_numbers_match_the_oracle(numbers):
    truth = truth_table(5)
    got = observed_labels(truth, np.random.RandomState(5), *numbers)
    np.testing.assert_array_equal(got, oracle.observed(truth, 5, *numbers))


@pytest.mark.parametrize("rows", [0, 1, 40_000])
def test_long_tables_are_drawn_as_one_stream(rows):
    truth = truth_table(1, rows)
    draws = np.random.RandomState(2).uniform(0, 1, truth.shape)
    got = candidate_labels(truth, np.random.RandomState(2), 0.2)
    np.testing.assert_array_equal(got, (truth == PRESENT) | (draws < 0.2))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_inputs_stay_and_draws_repeat(route, make):
    truth = truth_table(3)
    before = truth.copy()
    truth.flags.writeable = False
    one, two = (ROUTES[route](truth, make(9)) for _ in range(2))
    np.testing.assert_array_equal(truth, before)
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.int8
    assert not np.shares_memory(one, truth)
    if route in ("candidate", "dropped", "observed"):
        assert (ROUTES[route](truth, make(10)) != one).any()


@pytest.mark.parametrize("route", [name for name in ROUTES if name != "given"])
@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_unknown_truth_counts_as_absent(route, make):
    truth = truth_table(4)
    assert (truth == UNKNOWN).any()
    np.testing.assert_array_equal(
        ROUTES[route](truth, make(1)), ROUTES[route](np.where(truth == UNKNOWN, ABSENT, truth), make(1))
    )


def test_given_keeps_what_is_unknown():
    truth = truth_table(4)
    np.testing.assert_array_equal(given_labels(truth), truth)
    table = observe(annotations(truth), Regime(name="given"))
    np.testing.assert_array_equal(table.dense(), truth)


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_rates_at_their_ends(make):
    truth = truth_table(6)
    np.testing.assert_array_equal(candidate_labels(truth, make(0), 0.0), full_labels(truth))
    assert (candidate_labels(truth, make(0), 1.0) == PRESENT).all()
    assert (dropped_positives(truth, make(0), 1.0) == UNKNOWN).all()
    np.testing.assert_array_equal(dropped_positives(truth, make(0), 0.0) == PRESENT, truth == PRESENT)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.7037, 0.999])
def test_the_native_draws_keep_the_rate(rate):
    truth = np.zeros((4000, 250), dtype=np.int8)
    drawn = candidate_labels(truth, np.random.default_rng(0), rate)
    spread = np.sqrt(rate * (1 - rate) / truth.size)
    assert abs(drawn.mean() - rate) < 4 * spread
    halves = drawn.reshape(-1, 2).astype(float)  # neighbours come from one machine word
    assert abs((halves[:, 0] * halves[:, 1]).mean() - rate**2) < 5 * rate * np.sqrt((1 - rate**2) / len(halves))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("regime", [candidate_labels, dropped_positives])
def test_rates_outside_their_range_are_refused(rate, regime):
    with pytest.raises(UserError, match="between 0 and 1"):
        regime(truth_table(0), np.random.RandomState(0), rate)


def test_numbers_below_all_are_refused():
    with pytest.raises(UserError, match="num_pos -2"):
        observed_labels(truth_table(0), np.random.RandomState(0), -2, 0)
    with pytest.raises(UserError, match="num_neg -3"):
        observed_labels(truth_table(0), np.random.RandomState(0), 1, -3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "partial"},
        {"name": "candidate", "partial_rate": 2.0},
        {"name": "dropped", "drop_rate": -1.0},
        {"name": "observed", "num_pos": -5},
        {"name": "observed", "num_neg": -5},
        {"name": "single", "seed": -1},
        {"name": "single", "rng": "fast"},
    ],
)
def test_a_wrong_regime_cannot_be_described(wrong):
    with pytest.raises(UserError):
        Regime(**wrong)


def test_single_positives_are_drawn_in_the_order_of_the_ids_as_texts():
    truth = truth_table(7, rows=30)
    ids = [str(3 * row + 2) for row in range(30)]  # 2, 5, 8, 11, ...: by number, as COCO's rows
    got = observe(annotations(truth, ids), Regime(name="single", seed=1200)).dense()
    order = sorted(range(30), key=lambda row: ids[row])
    assert order != list(range(30))
    expected = np.empty_like(truth)
    for place, row in enumerate(order):
        expected[row] = observed_labels(truth[order], np.random.RandomState(1200), 1, 0)[place]
    np.testing.assert_array_equal(got, expected)


def test_candidates_are_drawn_in_row_order_whatever_the_ids():
    truth = truth_table(8, rows=20)
    regime = Regime(name="candidate", partial_rate=0.3, seed=4)
    one = observe(annotations(truth), regime)
    two = observe(annotations(truth, [str(row) for row in range(20, 0, -1)]), regime)
    assert one.hash() == two.hash()


@pytest.mark.parametrize("rng", ["published", "native"])
@pytest.mark.parametrize("name", ["candidate", "dropped", "single", "observed", "full"])
def test_every_regime_keeps_its_promise(name, rng):
    held = annotations(truth_table(2, rows=300))
    table = observe(held, Regime(name=name, partial_rate=0.2, num_pos=2, num_neg=1, seed=3, rng=rng))
    assert isinstance(table, LabelTable)
    codes, positive = table.dense(), held.truth.dense() == PRESENT
    known = (codes == PRESENT).sum(axis=1)
    if name == "candidate":
        assert (codes[positive] == PRESENT).all()
        assert set(np.unique(codes)) == {ABSENT, PRESENT}
    elif name == "full":
        np.testing.assert_array_equal(codes == PRESENT, positive)
        assert (codes != UNKNOWN).all()
    else:
        assert positive[codes == PRESENT].all()
        assert not positive[codes == ABSENT].any()
        expected = {"single": np.minimum(positive.sum(1), 1), "observed": np.minimum(positive.sum(1), 2)}.get(
            name, known
        )
        np.testing.assert_array_equal(known, expected)
        assert ((codes == ABSENT).sum(axis=1) == np.minimum((~positive).sum(1), name == "observed")).all()


def test_rate_texts_tell_regimes_apart():
    texts = [
        Regime(name="candidate", partial_rate=0.1).rate_text,
        Regime(name="candidate", partial_rate=0.1234567).rate_text,
        Regime(name="candidate", partial_rate=0.1234568).rate_text,
        Regime(name="candidate", partial_rate=0.1, rng="native").rate_text,
        Regime(name="dropped", drop_rate=0.75).rate_text,
        Regime(name="single", num_pos=5).rate_text,
        Regime(name="observed", num_pos=-1, num_neg=2).rate_text,
        Regime(name="full").rate_text,
    ]
    assert texts[0] == "0.1"
    assert texts[4:] == ["0.75", "p1n0", "palln2", "all"]
    assert len(set(texts)) == len(texts)
    assert "0.75" in Regime(name="dropped").describe()
    assert "native" in Regime(name="single", rng="native").describe()
