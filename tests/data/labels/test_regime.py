import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.labels.class_rates import read_class_rates, read_confusion
from data.labels.files import resolve_labels
from data.labels.regime import Regime, observe
from data.labels.regimes import observed_labels
from tests import golden_files
from tests.data.trees import annotations
from tests.oracles import regimes as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

NAMES = ("candidate", "dropped", "single", "observed", "known", "flip", "semi", "fpc", "rps", "full", "given")
DRAWN = NAMES[:9]
OTHERS = {"num_pos": 3, "num_neg": 3, "keep_one": True, "fpc_known": 3}
"""Other values of parameters that are no rates."""


def truth_table(seed, rows=40, classes=7):
    return np.random.RandomState(seed).choice([1, 0, -1], (rows, classes), p=[0.3, 0.6, 0.1]).astype(np.int8)


def sparse(truth):
    return LabelTable(csr_array(truth))


def rates_file(folder, rates):
    """A file of class rates whose lines are in the order of their names, backwards."""
    lines = [f"class{k},{rate!r}" for k, rate in enumerate(rates.tolist())]
    path = folder / "rates.csv"
    path.write_text("\n".join(["class,rate", *lines[::-1]]))
    return path


def confusion_file(folder, confusion, shuffle=0):
    """A confusion whose lines and columns are in orders of their own, with nonsense on the diagonal."""
    size = len(confusion)
    across, down = (np.random.RandomState(shuffle + k).permutation(size) for k in range(2))
    lines = [",".join(["true class", *(f"class{k}" for k in across)])]
    for j in down:
        cells = ("-" if j == k else repr(float(confusion[j, k])) for k in across)
        lines.append(",".join([f"class{j}", *cells]))
    path = folder / "confusion.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("case, arrays", golden_files.each_case("candidate_labels.npz"))
def test_golden_candidates_of_a_dataset(case, arrays):
    truth = arrays["true_labels"].astype(np.int8)
    regime = Regime(labels="candidate", partial_rate=float(arrays["rho"]), label_seed=int(arrays["seed"]))
    np.testing.assert_array_equal(observe(annotations(truth), regime).dense(), arrays["candidates"])


@pytest.mark.parametrize("rng", ["published", "native"])
@pytest.mark.parametrize("name", NAMES[:10])
def test_every_regime_keeps_its_promise(name, rng):
    held = annotations(truth_table(2, rows=300))
    table = observe(held, Regime(labels=name, partial_rate=0.2, num_pos=2, num_neg=1, label_seed=3, label_rng=rng))
    assert isinstance(table, LabelTable)
    codes, positive = table.dense(), held.truth.dense() == PRESENT
    known = codes != UNKNOWN
    if name == "candidate":
        assert (codes[positive] == PRESENT).all()
    if name in ("candidate", "full", "flip"):
        assert set(np.unique(codes)) == {ABSENT, PRESENT}
    else:
        np.testing.assert_array_equal(codes[known] == PRESENT, positive[known])
    if name == "full":
        np.testing.assert_array_equal(codes == PRESENT, positive)
    if name in ("dropped", "single"):
        assert not (codes == ABSENT).any()
    if name in ("single", "observed"):
        kept = np.minimum(positive.sum(axis=1), 1 if name == "single" else 2)
        np.testing.assert_array_equal((codes == PRESENT).sum(axis=1), kept)
        assert ((codes == ABSENT).sum(axis=1) == np.minimum((~positive).sum(axis=1), name == "observed")).all()
    if name == "semi":
        assert sorted(known.sum(axis=1)) == [0] * 270 + [7] * 30
    if name == "fpc":
        assert known.all()  # by default there are more known than rows
    if name == "flip":
        assert (codes == PRESENT)[positive].mean() == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize("rng", ["published", "native"])
@pytest.mark.parametrize("name", NAMES)
def test_sparse_truth_gives_the_same_labels_and_stays_sparse(name, rng):
    truth = truth_table(6, rows=50)
    ids = [str(7 * row) for row in range(50)]
    regime = Regime(labels=name, label_seed=5, label_rng=rng, num_neg=1, num_pos=2, keep_one=True)
    dense = annotations(truth, ids)
    got = observe(replace(dense, truth=sparse(truth)), regime)
    assert isinstance(got.codes, csr_array)
    assert got.hash() == observe(dense, regime).hash()


def test_regimes_draw_as_the_oracle_says():
    held = annotations(truth_table(9))
    truth = held.truth.dense()
    for regime, expected in (
        (Regime(labels="known", known_rate=0.3, label_seed=0), oracle.known(truth, 0, 0.3)),
        (Regime(labels="flip", rho_pos=0.4, rho_neg=0.05, label_seed=2), oracle.flipped(truth, 2, 0.4, 0.05)),
        (Regime(labels="semi", labelled_share=0.3, label_seed=2), oracle.semi(truth, 2, 0.3)),
        (Regime(labels="fpc", fpc_known=4, label_seed=2), oracle.fpc(truth, 2, 4)),
        (Regime(labels="rps", rps_unknown=0.3, label_seed=2), oracle.rps(truth, 2, 0.3)),
        (Regime(labels="dropped", drop_rate=0.9, keep_one=True, label_seed=2), oracle.dropped(truth, 2, 0.9, True)),
        (Regime(labels="observed", num_pos=2, num_neg=-1, label_seed=2), oracle.observed(truth, 2, 2, -1)),
    ):
        np.testing.assert_array_equal(observe(held, regime).dense(), expected)


def test_given_is_what_the_files_give_and_else_the_truth():
    held = annotations(truth_table(4))
    assert observe(held, Regime(labels="given")) is held.truth
    given = LabelTable(truth_table(5))
    assert observe(replace(held, given=given), Regime(labels="given")) is given
    full = observe(replace(held, given=given), Regime(labels="full")).dense()
    np.testing.assert_array_equal(full == PRESENT, held.truth.dense() == PRESENT)


def test_rows_draw_in_the_order_of_the_ids_as_texts_or_of_the_published_lists():
    truth = truth_table(7, rows=30)
    ids = [str(3 * row + 2) for row in range(30)]  # 2, 5, 8, 11, ...: by number, as COCO's rows
    held = annotations(truth, ids)
    by_text = np.array(sorted(range(30), key=lambda row: ids[row]))
    assert by_text.tolist() != list(range(30))
    places = np.random.RandomState(1).permutation(30)
    listed = replace(held, places=places)
    for data, order in ((held, by_text), (listed, np.argsort(places))):
        single = np.empty_like(truth)
        single[order] = observed_labels(truth[order], np.random.RandomState(1200), 1, 0)
        np.testing.assert_array_equal(observe(data, Regime(labels="single", label_seed=1200)).dense(), single)
        semi = np.empty_like(truth)
        semi[order] = oracle.semi(truth[order], 1200, 0.1)
        np.testing.assert_array_equal(observe(data, Regime(labels="semi", label_seed=1200)).dense(), semi)


@pytest.mark.parametrize("name", ["candidate", "dropped", "known", "flip"])
def test_entries_are_drawn_in_row_order_whatever_the_ids(name):
    truth = truth_table(8, rows=20)
    regime = Regime(labels=name, label_seed=4)
    one = observe(annotations(truth), regime)
    two = observe(annotations(truth, [str(row) for row in range(20, 0, -1)]), regime)
    assert one.hash() == two.hash()


@pytest.mark.parametrize("rng", ["published", "native"])
def test_equal_class_rates_are_one_rate(tmp_path, rng):
    held = annotations(truth_table(3, rows=200))
    path = rates_file(tmp_path, np.full(7, 0.3))
    got = observe(held, Regime(labels="candidate", class_rates=path, label_seed=6, label_rng=rng))
    assert got.hash() == observe(held, Regime(labels="candidate", partial_rate=0.3, label_seed=6, label_rng=rng)).hash()


def test_class_rates_and_confusion_are_read_from_files_in_any_order(tmp_path):
    held = annotations(truth_table(3, rows=60))
    truth, rng = held.truth.dense(), np.random.RandomState(2)
    rates, confusion = rng.random_sample(7), rng.random_sample((7, 7)) * 0.5
    got = observe(held, Regime(labels="candidate", class_rates=rates_file(tmp_path, rates), label_seed=1))
    np.testing.assert_array_equal(got.dense(), oracle.candidates(truth, 1, rates))
    path = confusion_file(tmp_path, confusion)
    got = observe(held, Regime(labels="candidate", confusion=path, label_seed=1))
    np.testing.assert_array_equal(got.dense(), oracle.confused(truth, 1, confusion))
    read = read_confusion(path, held.classes)
    np.testing.assert_array_equal(read, np.where(np.eye(7, dtype=bool), 0, confusion))


def test_class_names_may_hold_separators(tmp_path):
    classes = ('dog, "small"', "Möwe", "a;b")
    path = tmp_path / "rates.csv"
    path.write_text('\ufeffrate,class,note\n0.25,"dog, ""small""",\n\n 1 , Möwe ,x\n1e-3,a;b,\n', encoding="utf-8")
    np.testing.assert_array_equal(read_class_rates(path, classes), [0.25, 1.0, 1e-3])


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", ": is empty; it gives each class its rate"),
        ("class,rate\n", ": no line for class 'a' and 2 other classes; every class of the dataset needs one"),
        ("class,rate\na,0.1\nb,0.2\n", ": no line for class 'c'; every class of the dataset needs one"),
        (
            "class,rate\na,0.1\nb,0.2\nc,0.1\nd,0.1",
            ", line 5: 'd' is no class of this dataset; write one of its 3 names",
        ),
        ("class,rate\na,0.1\nb,0.2\na,0.3\nc,1", ", line 4: class 'a' is there twice (first in line 2)"),
        ("class,rate\na,0.1\nb,much\nc,1", ", line 3: rate of b is 'much', must be a number between 0 and 1"),
        ("class,rate\na,nan\nb,1\nc,1", ", line 2: rate of a is 'nan', must be a number between 0 and 1"),
        ("class,rate\na,inf\nb,1\nc,1", ", line 2: rate of a is 'inf', must be a number between 0 and 1"),
        ("class,rate\na,\nb,1\nc,1", ", line 2: rate of a is '', must be a number between 0 and 1"),
        ("class,rate\na,1.01\nb,1\nc,1", ", line 2: rate of a is 1.01, must be between 0 and 1"),
        ("class,rate\na,-0.01\nb,1\nc,1", ", line 2: rate of a is -0.01, must be between 0 and 1"),
        ("class,rate\na,0_1\nb,1\nc,1", ", line 2: rate of a is '0_1', must be a number between 0 and 1"),
        ("class,rate\na,1e999\nb,1\nc,1", ", line 2: rate of a is 1e999, must be between 0 and 1"),
        ("class,rates\na,0.1\n", ": no column 'rate'; its first line must name the columns, it has 'class', 'rates'"),
        ("class,rate,rate\na,0.1,0.2\n", ": column 'rate' is there 2 times; each name may be used once"),
        ("class,rate\na,0.1,0.2\n", ", line 2: 3 fields, the header has 2 columns"),
        ('class,rate\n"a,0.1\nb,1', ", line 3: not a table of text (unexpected end of data); correct this line"),
    ],
)
def test_a_file_of_class_rates_is_read_strictly(tmp_path, text, fault):
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_class_rates(path, ("a", "b", "c"))
    assert str(caught.value) == f"{path}{fault}"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("x,a,b\n", ": no line for class 'a' and 1 other classes; every class of the dataset needs one"),
        ("x,a\na,0\nb,0", ": no column for class 'b'; every class of the dataset needs one"),
        ("x,a,b,c\na,0,0,0\nb,0,0,0", ": column 'c' is no class of this dataset; its first line names classes"),
        ("x,a,a\na,0,0\nb,0,0", ": column 'a' is there 2 times; each name may be used once"),
        ("x,a,b\na,0,0\n", ": no line for class 'b'; every class of the dataset needs one"),
        ("x,a,b\na,0,0\nb,0,0\nc,0,0", ", line 4: 'c' is no class of this dataset; write one of its 2 names"),
        ("x,a,b\na,0,0\na,0,0", ", line 3: class 'a' is there twice (first in line 2)"),
        ("x,a,b\na,0,often\nb,0,0", ", line 2: b for a is 'often', must be a number between 0 and 1"),
        ("x,a,b\na,0,0.1\nb,1.5,0", ", line 3: a for b is 1.5, must be between 0 and 1"),
        ("x,a,b\na,0,\nb,0,0", ", line 2: b for a is '', must be a number between 0 and 1"),
        ("x,a,b\na,0,NaN\nb,0,0", ", line 2: b for a is 'NaN', must be a number between 0 and 1"),
        ("x,a,b\na,0\nb,0,0", ", line 2: 2 fields, the header has 3 columns"),
    ],
)
def test_a_confusion_is_read_strictly(tmp_path, text, fault):
    path = tmp_path / "confusion.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_confusion(path, ("a", "b"))
    assert str(caught.value) == f"{path}{fault}"


def refused(read, *words):
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_a_file_of_rates_that_is_not_there_is_refused(tmp_path):
    held = annotations(truth_table(3))
    for setting in ("class_rates", "confusion"):
        for path in (tmp_path / "gone.csv", tmp_path):
            regime = Regime(labels="candidate", **{setting: path})
            refused(lambda regime=regime: observe(held, regime), str(path), "no such file")
            refused(lambda regime=regime: regime.rate_text, str(path), "no such file")


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"labels": "partial"}, "partial"),
        ({"labels": "candidate", "partial_rate": 2.0}, "partial_rate 2.0"),
        ({"labels": "dropped", "drop_rate": -1.0}, "drop_rate -1.0"),
        ({"labels": "known", "known_rate": float("nan")}, "known_rate nan"),
        ({"labels": "flip", "rho_pos": 1.5}, "rho_pos 1.5"),
        ({"labels": "flip", "rho_neg": -0.5}, "rho_neg -0.5"),
        ({"labels": "semi", "labelled_share": 1.5}, "labelled_share 1.5"),
        ({"labels": "rps", "rps_unknown": 1.5}, "rps_unknown 1.5"),
        ({"labels": "fpc", "fpc_known": 0}, "fpc_known 0"),
        ({"labels": "observed", "num_pos": -5}, "num_pos -5"),
        ({"labels": "observed", "num_neg": -5}, "num_neg -5"),
        ({"labels": "single", "label_seed": -1}, "seed -1"),
        ({"labels": "single", "label_seed": 2**32}, "seed"),
        ({"labels": "single", "label_rng": "fast"}, "fast"),
        ({"labels": "dropped", "class_rates": Path("x.csv")}, "class_rates"),
        ({"labels": "full", "confusion": Path("x.csv")}, "confusion"),
        ({"labels": "candidate", "class_rates": Path("x.csv"), "confusion": Path("y.csv")}, "both"),
    ],
)
def test_a_wrong_regime_cannot_be_described(wrong, words):
    with pytest.raises(UserError, match=words):
        Regime(**wrong)


def test_rate_texts_and_parameters_tell_regimes_apart(tmp_path):
    one, two, three = (rates_file(tmp_path, np.full(7, rate)).rename(tmp_path / str(rate)) for rate in (0.1, 0.2, 0.3))
    regimes = [
        Regime(labels="candidate", partial_rate=0.1),
        Regime(labels="candidate", partial_rate=0.1234567),
        Regime(labels="candidate", partial_rate=0.1234568),
        Regime(labels="candidate", partial_rate=0.1, label_rng="native"),
        Regime(labels="candidate", class_rates=one),
        Regime(labels="candidate", class_rates=two),
        Regime(labels="candidate", confusion=three),
        Regime(labels="dropped", drop_rate=0.75),
        Regime(labels="dropped", drop_rate=0.75, keep_one=True),
        Regime(labels="single", num_pos=5),
        Regime(labels="observed", num_pos=-1, num_neg=2),
        Regime(labels="known", known_rate=0.75),
        Regime(labels="flip", rho_pos=0.75, rho_neg=0.1),
        Regime(labels="flip", rho_pos=0.1, rho_neg=0.75),
        Regime(labels="semi", labelled_share=0.75),
        Regime(labels="fpc", fpc_known=20),
        Regime(labels="rps", rps_unknown=0.75),
        Regime(labels="full"),
        Regime(labels="given", label_rng="native"),
    ]
    texts = [regime.rate_text for regime in regimes]
    assert texts[:4] == ["0.1", "0.1234567", "0.1234568", "0.1-native"]
    assert texts[7:14] == ["0.75", "0.75-keep1", "p1n0", "palln2", "0.75", "p0.75n0.1", "p0.1n0.75"]
    assert texts[14:] == ["0.75", "n20", "0.75", "all", "all"]
    assert len({(regime.name, text) for regime, text in zip(regimes, texts, strict=True)}) == len(regimes)
    assert len({regime.describe() for regime in regimes}) == len(regimes)
    assert len({(one.name, one.rng, repr(one.parameters())) for one in regimes}) == len(regimes)
    assert regimes[0].describe() == "candidate labels at rate 0.1"
    assert regimes[7].describe() == "dropped labels at rate 0.75"
    assert regimes[15].describe() == "fpc labels (fpc_known 20)"
    assert "native" in Regime(labels="single", label_rng="native").describe()
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for text in texts)


def test_parameters_that_play_no_part_change_nothing(tmp_path):
    held = annotations(truth_table(1))
    numbers = {"partial_rate": 0.7, "drop_rate": 0.7, **OTHERS, "rps_unknown": 0.7}
    numbers |= {"known_rate": 0.7, "rho_pos": 0.7, "rho_neg": 0.7, "labelled_share": 0.7}
    for name in NAMES:
        plain = Regime(labels=name)
        counting = plain.parameters().keys() if name != "single" else ()
        other = Regime(labels=name, **{key: value for key, value in numbers.items() if key not in counting})
        assert (other.parameters(), other.rate_text) == (plain.parameters(), plain.rate_text)
        assert (other.describe(), other.rate) == (plain.describe(), plain.rate)
        assert observe(held, other).hash() == observe(held, plain).hash()


def test_a_parameter_that_counts_changes_the_labels():
    held = annotations(truth_table(1, rows=200))
    for name in DRAWN:
        for key in Regime(labels=name).parameters() if name != "single" else ():
            other = Regime(labels=name, **{key: OTHERS.get(key, 0.9)})
            assert observe(held, other).hash() != observe(held, Regime(labels=name)).hash(), (name, key)
            assert other.rate_text != Regime(labels=name).rate_text


def test_a_rate_is_told_by_the_content_of_its_file(tmp_path):
    path = rates_file(tmp_path, np.full(7, 0.2))
    regime = Regime(labels="candidate", class_rates=path)
    before = regime.rate_text
    assert before == f"class_rates-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    assert regime.rate is None
    moved = Regime(labels="candidate", class_rates=path.rename(tmp_path / "moved.csv"))
    assert (moved.rate_text, moved.parameters()) == (before, {"class_rates": before.removeprefix("class_rates-")})
    rates_file(tmp_path, np.full(7, 0.25))
    assert regime.rate_text != before


def soft_annotations():
    soft = np.array([[0.25, 1], [-1, 0.5]], dtype=np.float32)
    table = LabelTable(np.array([[0, 1], [-1, 1]], dtype=np.int8), soft=soft)
    return replace(annotations(table.dense()), truth=table)


def test_soft_labels_stay_soft_where_nothing_is_drawn():
    data = soft_annotations()
    assert observe(data, Regime(labels="given")) is data.truth
    full = observe(data, Regime(labels="full"))
    assert full.soft.tolist() == [[0.25, 1], [0, 0.5]]
    assert full.dense().tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("name", DRAWN)
def test_no_labels_are_drawn_from_soft_ones(name):
    with pytest.raises(UserError, match=rf"^--labels {name}: is of labels that are present or absent, and these are"):
        observe(soft_annotations(), Regime(labels=name))


def test_a_label_file_is_not_for_soft_labels(tmp_path):
    regime = Regime(labels="given", label_file=tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"^--label_file .*x\.npy: is of labels that are present or absent"):
        resolve_labels(soft_annotations(), "table", regime, tmp_path, regime.label_file)
