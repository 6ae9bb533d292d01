import numpy as np
import pytest
import torch

from losses import CRITERIA, build_criterion, methods_of
from losses.build import label_table
from utils.checks import UserError
from utils.types import LabelTable

CODES = [[1, -1, 0], [0, 1, -1]]


@pytest.mark.parametrize(
    "observed",
    [
        CODES,
        np.array(CODES, dtype=np.int8),
        np.array(CODES, dtype=np.float32),
        torch.tensor(CODES),
        torch.tensor(CODES, dtype=torch.float16, requires_grad=True),
        LabelTable(np.array(CODES, dtype=np.int8)),
    ],
    ids=lambda observed: type(observed).__name__,
)
def test_labels_may_be_a_table_an_array_a_tensor_or_lists(observed):
    info = build_criterion("bce", observed=observed).info
    np.testing.assert_array_equal(info.observed.dense(), CODES)
    assert info.class_counts.origin == "observed"
    np.testing.assert_array_equal(info.class_counts.values, [1, 1, 0])


def test_the_array_that_was_given_stays_the_callers():
    own = np.array(CODES, dtype=np.int8)
    table = label_table(own)
    own[0, 0] = 0
    assert table.rows(slice(0, 1)).tolist() == [[1, -1, 0]]


def test_what_an_engine_would_say_has_defaults():
    info = build_criterion("bce", observed=CODES).info
    assert info.classes == ("class 0", "class 1", "class 2")
    assert (info.epochs, info.steps_per_epoch, info.feature_width, info.seed, info.frozen_epochs) == (1, 1, 0, 0, 0)
    assert info.clean_counts is None
    given = build_criterion(
        *("bce",), observed=CODES, clean=[[1, 1, 0], [0, 1, 0]], classes="abc", epochs=3, frozen_epochs=2, seed=5
    ).info
    assert (given.classes, given.epochs, given.frozen_epochs, given.seed) == (("a", "b", "c"), 3, 2, 5)
    assert given.clean_counts.values.tolist() == [1, 2, 0]
    assert given.clean_counts.origin == "clean"


def test_options_have_the_types_of_the_config():
    config = build_criterion("asl", observed=CODES, gamma_neg=2, clip="0.1", reduction="query2label").config
    assert (config.gamma_neg, config.clip, config.reduction) == (2.0, 0.1, "query2label")
    assert isinstance(config.gamma_neg, float)
    config = build_criterion("asl", observed=CODES, disable_torch_grad_focal_loss="False", eps=np.float64(1e-7)).config
    assert config.disable_torch_grad_focal_loss is False
    assert config.eps == 1e-7
    assert build_criterion("large_loss", observed=CODES, R0=1.5, flip=None).config.r0 == 1.5


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("larg_loss", {}, "unknown method 'larg_loss'; did you mean large_loss"),
        ("???", {}, "unknown method .* known: bce, "),
        ("asl", {"gama_neg": 1}, "unknown option of asl 'gama_neg'; did you mean gamma_neg"),
        ("asl", {"gamma_neg": "much"}, "asl: gamma_neg 'much': must be a number"),
        ("asl", {"gamma_neg": -1.0}, "--gamma_neg -1.0: must be 0 or more"),
        ("asl", {"reduction": "mean"}, "asl: reduction 'mean': must be one of sum, query2label"),
        ("curriculum", {"relabel_every": 2.5}, "relabel_every '2.5': must be a whole number"),
        ("large_loss", {"R0": 1, "r0": 2}, "r0 and another spelling"),
        ("cones", {}, "cones: give feature_width"),
        ("lac", {}, "lac: give class_vector_width"),
        ("imcl", {}, "imcl: give feature_width"),
        ("db", {"prior": "clean"}, "no true labels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name, options, line):
    with pytest.raises(UserError, match=line) as error:
        build_criterion(name, observed=CODES, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "observed, line", [([1, 0], r"shape \(N, C\), got \(2,\)"), ([[2, 0]], "1 .present."), ([[0.5]], "1 .present.")]
)
def test_labels_that_are_none_are_refused(observed, line):
    with pytest.raises(UserError, match=line):
        build_criterion("bce", observed=observed)


LEAST = {
    "cap": [[1], [-1]],
    "cones": [[1]],
    "ndlp": [[1, 1]],
    "wan": [[-1, -1]],
    **{name: [[1, 0, -1]] for name in ("curriculum", "consistency", "sarb", "hst", "imcl")},
}
LEAST["pu_mlc"] = [[1]]
LEAST |= {
    name: [[1, -1]] for name in ("cls", "large_loss", "ignore", "epr", "role", "em", "em_apl", "csl", "plc", "lac")
}
LEAST |= {name: [[1, 0]] for name in ("bce_ls", "iu", "iun", "partial_bce", "cdcr")}
LEAST |= {name: [[1, 0]] for name in ("comes", "comes_rl", "transition")}
"""The fewest labels that a method can be built for, where one unknown label is not enough."""
NEEDED = {"epr": {"expected_num_pos": 2}, "role": {"expected_num_pos": 2}, "cones": {"feature_width": 1}}
NEEDED |= {name: {"class_vector_width": 1} for name in ("lac", "hst")}
NEEDED["imcl"] = {"feature_width": 1}
NEEDED |= {"ndlp": {"prior": "candidate"}, "vlpl": {"prior_scores": [[0.5]]}}
NEEDED |= {"gpr": {"prior_scores": [[0.5]], "expected_num_pos": 1}}
NEEDED |= {name: {"candidate_rate": 0.1} for name in ("comes", "comes_rl")}


@pytest.mark.parametrize("name", CRITERIA)
def test_one_label_of_each_kind_that_a_method_needs_is_enough(name):
    labels = LEAST.get(name, [[-1]])
    criterion = build_criterion(name, observed=labels, **NEEDED.get(name, {}))
    np.testing.assert_array_equal(criterion.info.observed.dense(), labels)


@pytest.mark.parametrize(
    "name, labels, line",
    [
        *((name, [1, 0], "no label is unknown") for name in ("cls", "large_loss", "ignore", "curriculum", "splc")),
        *((name, [1, 0], "no label is unknown") for name in ("em", "em_apl", "gr", "consistency", "csl")),
        *((name, [1, -1], "no label is known to be absent") for name in ("iu", "iun", "curriculum")),
        *((name, [1, -1], "no label is known to be absent") for name in ("partial_bce", "consistency")),
        *((name, [0, -1], "no label is known to be present") for name in ("partial_bce", "consistency")),
        *((name, [0, -1], "no label is known to be present") for name in ("iu", "iun", "curriculum", "em", "em_apl")),
        ("imcl", [0, -1], "imcl: no label is known to be present"),
        ("imcl", [1, -1], "imcl: no label is known to be absent"),
        ("imcl", [1, 0], "imcl: no label is unknown"),
        ("cap", [1, -1], "1 of 1 have some of their labels"),
        ("cap", [1, 0], "no image is unlabelled"),
        ("pu_mlc", [0, -1], "no label is known to be present"),
        ("plc", [0, -1], "no label is known to be present"),
        ("lac", [0, -1], "lac: no label is known to be present"),
        ("lac", [1, 0], "lac: no label is unknown"),
        ("plc", [1, 0], "no label is unknown"),
        ("csl", [0, -1], "no label is known to be present"),
        ("cdcr", [1, -1], "no label is known to be absent"),
        ("cdcr", [0, -1], "no label is a candidate"),
        ("comes", [1, -1], "no label is known to be absent"),
        ("wan", [-1], "needs two classes or more"),
        ("ndlp", [1, 0], "no image has several candidates"),
        ("epr", [1, 0], "1 labels are known to be absent"),
        ("bce_ls", [1, -1], "1 labels are unknown"),
    ],
)
def test_one_label_fewer_or_one_too_many_is_refused(name, labels, line):
    with pytest.raises(UserError, match=line):
        build_criterion(name, observed=[labels], **NEEDED.get(name, {}))


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(UserError, match="2 class names for labels of 3 classes"):
        build_criterion("bce", observed=CODES, classes=["a", "b"])


def test_scripts_name_their_methods_in_the_order_of_the_registry():
    assert methods_of("main_BCE.py")[0] == "bce"
    assert methods_of("main_cls.py") == ("cls", "co-teaching", "co-teaching+", "decoupling", "jocor")
    assert methods_of("main_llm.py") == ("large_loss",)
    assert methods_of("no_script.py") == ()
    assert sum(len(methods_of(script)) for script in {method.script for method in CRITERIA.values()}) == len(CRITERIA)


def test_prior_scores_are_taken_as_probabilities_or_as_they_are(monkeypatch):
    values = np.linspace(0, 0.99, np.size(CODES)).reshape(np.shape(CODES))
    monkeypatch.setattr(CRITERIA["bce"].criterion, "needs", frozenset({"prior_scores"}))
    found = build_criterion("bce", observed=CODES, prior_scores=torch.from_numpy(values)).info.prior_scores
    np.testing.assert_array_equal(found.rows(slice(None)), values.astype(np.float32))
    assert build_criterion("bce", observed=CODES, prior_scores=found).info.prior_scores is found
    for wrong in (values[1:], values[:, 1:], values + 0.1, np.where(values > 0.5, np.nan, values)):
        with pytest.raises(UserError, match=r"prior_scores: must be \d+ x \d+ numbers between 0 and 1"):
            build_criterion("bce", observed=CODES, prior_scores=wrong)
    with pytest.raises(UserError, match="prior_scores: must be of 1 images and"):
        build_criterion("bce", observed=CODES[:1], prior_scores=found)
    with pytest.raises(UserError, match="bce: give prior_scores"):
        build_criterion("bce", observed=CODES)
