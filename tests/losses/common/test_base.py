"""`from_logits` of every method, and the epochs in which training scores are wanted."""

import numpy as np
import pytest
import torch

from losses import CRITERIA, build_criterion
from losses.common.base import Criterion, ScheduledCriterion
from tests.losses.fake_model import FakeModel, batch_of, info_for, prior_scores, random_labels
from utils.types import PRESENT, UNKNOWN, LossOutput

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
OPTIONS = {
    "epr": {"expected_num_pos": 2},
    "role": {"expected_num_pos": 2},
    "curriculum": {"relabel_every": 1},
    "cdcr": {"candidate_threshold": 0.5},
    "mime": {"mime_warmup": 1, "pseudo_threshold": 0.5},
    "comes": {"candidate_rate": 0.1},
    "comes_rl": {"candidate_rate": 0.1},
    "cones": {"feature_width": 8},
    "imcl": {"feature_width": 8, "dictionary_size": 6},
    "lac": {"class_vector_width": 8},
    "hst": {"class_vector_width": 8, "pseudo_from": 2, "intra_margin": 0.5, "prototypes": 2},
    "ndlp": {"prior": "candidate"},
    "large_loss": {"mod_scheme": "LL-Cp", "delta_rel": 20},
    "ignore": {"several": "union"},
    "vlpl": {"prior_scores": prior_scores(ROWS, CLASSES)},
    "gpr": {"prior_scores": prior_scores(ROWS, CLASSES), "expected_num_pos": 1.5},
}
SEMI = np.where(np.arange(ROWS)[:, None] % 2 == 0, np.maximum(CODES, 0), UNKNOWN)
LABELS = {"cap": SEMI, "bce_ls": np.maximum(CODES, 0), "epr": np.where(CODES == 0, UNKNOWN, CODES)}
STEPS = [(1, [4, 0, 3, 7]), (1, [1, 2, 5]), (2, [4, 7, 9, 1]), (2, [0, 4, 3])]
MORE_THAN_LOGITS = {"cam", "features", "class_vectors", "pooled", "second_view", "peers", "labels", "grids"}


def labels_of(name):
    return LABELS.get(name, CODES).astype(np.int8)


def trained(name, forward):
    """A method after some steps: the loss and the gradient of each, and the state in the end."""
    codes = labels_of(name)
    criterion, model = build_criterion(name, observed=codes, epochs=4, **OPTIONS.get(name, {})), FakeModel(CLASSES)
    scores, results, begun = model(batch_of(codes, list(range(ROWS))).images).logits.detach(), [], 0
    for epoch, index in STEPS:
        if epoch > begun:
            criterion.on_epoch_start(epoch, scores if criterion.wants_train_scores(epoch) else None)
            begun = epoch
        model.zero_grad()
        out = forward(criterion, model, batch_of(codes, index))
        out.total.backward()
        results += [out.total.detach(), out.logits, *(each.grad.clone() for each in model.parameters())]
        results += [each.grad for each in criterion.parameters()]
    return results, {key: value for key, value in criterion.state_dict().items() if isinstance(value, torch.Tensor)}


def from_logits(criterion, model, batch):
    return criterion.from_logits(model(batch.images).logits, batch.observed.long(), batch.index)


def needs_more(name):
    criterion = CRITERIA[name].criterion
    return bool(criterion.needs & MORE_THAN_LOGITS) or not criterion.single_pass


@pytest.mark.parametrize("name", [name for name in CRITERIA if not needs_more(name)])
def test_from_logits_is_a_step_with_the_model(name):
    results, state = trained(name, from_logits)
    expected, expected_state = trained(name, lambda criterion, model, batch: criterion(model, batch))
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(value, expected_state[key]) for key, value in state.items())


def test_what_is_lacking_is_named_in_alphabetical_order_and_the_passes_last():
    criterion = build_criterion("an", observed=CODES)
    criterion.needs, criterion.single_pass = frozenset({"second_view", "cam", "features", "peers"}), False
    with pytest.raises(ValueError, match=r"\(cam, features, peers, second_view, several forward passes\)"):
        criterion.from_logits(torch.randn(2, CLASSES), torch.from_numpy(CODES[:2]), torch.arange(2))


@pytest.mark.parametrize("name", [name for name in CRITERIA if needs_more(name)])
def test_a_method_that_needs_more_than_logits_says_what(name):
    criterion = build_criterion(name, observed=CODES, **OPTIONS.get(name, {}))
    state = {key: value for key, value in criterion.state_dict().items() if isinstance(value, torch.Tensor)}
    before = {key: value.clone() for key, value in state.items()}
    with pytest.raises(ValueError, match=r"^\w+ needs more than logits \(\w[\w, ]+\): call criterion") as error:
        criterion.from_logits(torch.randn(2, CLASSES), torch.from_numpy(CODES[:2]), torch.arange(2))
    assert "\n" not in str(error.value)
    lacking = sorted(criterion.needs & MORE_THAN_LOGITS)
    assert f"({', '.join(lacking)}" in str(error.value)
    assert ("several forward passes" in str(error.value)) is not criterion.single_pass
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_methods_of_one_pass_are_those_that_are_known():
    assert {name for name in CRITERIA if needs_more(name)} <= {
        *("cones", "label_mask", "cls", "co-teaching", "co-teaching+", "decoupling", "jocor", "ndlp", "ignore"),
        *("consistency", "plc", "lac", "pu_mlc", "sarb", "hst", "splicemix_cl", "imcl"),
    }


class CallsTwice(Criterion):
    def forward(self, model, batch):
        logits = model(batch.images).logits + model(batch.images).logits
        return LossOutput(logits.mean(), logits, {})


def test_a_second_forward_pass_is_noticed():
    with pytest.raises(ValueError, match="more than once"):
        CallsTwice(None, info_for(CODES)).from_logits(torch.randn(2, 6), torch.zeros(2, 6), torch.arange(2))


def test_methods_without_images_see_one_black_pixel_for_each():
    seen = []

    class Looks(Criterion):
        def forward(self, model, batch):
            seen.append(batch)
            return LossOutput(model(batch.images).logits.mean(), None, {})

    Looks(None, info_for(CODES)).from_logits(torch.randn(2, 6), torch.ones(2, 6).int(), torch.tensor([4, 0]).int())
    (batch,) = seen
    assert torch.equal(batch.images, torch.zeros(2, 3, 1, 1))
    assert (batch.observed.dtype, batch.index.dtype) == (torch.float32, torch.int64)


SCHEDULED = [name for name, method in CRITERIA.items() if issubclass(method.criterion, ScheduledCriterion)]


@pytest.mark.parametrize("name", SCHEDULED)
def test_methods_that_follow_a_schedule_begin_in_the_first_epoch(name):
    assert build_criterion(name, observed=CODES, **OPTIONS.get(name, {})).epoch == 1


@pytest.mark.parametrize("shapes", [((2, 5), (2,)), ((3, 6), (2,)), ((2, 6), (3,)), ((2, 6), (2, 1))])
def test_tensors_that_do_not_fit_together_are_refused(shapes):
    observed, index = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"must be \(B, C\), \(B, C\) and \(B,\), got \(2, 6\), "):
        build_criterion("bce", observed=CODES).from_logits(torch.randn(2, 6), observed, index)


def test_scores_are_wanted_always_or_never_unless_a_method_says_more():
    class Scored(Criterion):
        needs = frozenset({"train_scores"})

    for kind, wanted in ((Criterion, False), (Scored, True)):
        assert [kind(None, info_for(CODES)).wants_train_scores(epoch) for epoch in (1, 2)] == [wanted] * 2
        assert kind.train_scores_of == "network"


def parts_of(name, logits):
    """What one step logs of given logits, of a method at its start."""
    criterion = build_criterion(name, observed=labels_of(name), **OPTIONS.get(name, {}))
    criterion.on_epoch_start(1, torch.zeros(ROWS, CLASSES) if criterion.wants_train_scores(1) else None)
    return criterion.from_logits(logits, torch.from_numpy(labels_of(name)), torch.arange(ROWS))


SPLIT = [
    name for name in CRITERIA if not needs_more(name) and "negative" in parts_of(name, torch.zeros(ROWS, CLASSES)).parts
]


@pytest.mark.parametrize("name", SPLIT)
def test_what_is_logged_of_present_labels_comes_from_their_scores_alone(name):
    logits = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1))
    before = parts_of(name, logits).parts
    present = torch.from_numpy(labels_of(name)) == PRESENT
    others, own = parts_of(name, torch.where(present, logits, logits + 0.5)), parts_of(name, logits + 0.5 * present)
    assert others.parts["positive"] == before["positive"] != own.parts["positive"]
    assert others.parts["negative"] != before["negative"] == own.parts["negative"]


@pytest.mark.parametrize("name", [name for name in CRITERIA if not needs_more(name)])
def test_nothing_that_is_returned_or_kept_has_a_gradient_but_the_loss(name):
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    out = parts_of(name, logits)
    assert out.total.requires_grad
    kept = [out.logits, *out.parts.values()]
    assert not any(torch.as_tensor(value).requires_grad for value in kept)


class Kept(Criterion):
    """A criterion with state of three kinds."""

    float32_state = frozenset({"published"})

    def __init__(self):
        super().__init__(None, None)
        for name in ("published", "free"):
            self.register_buffer(name, torch.full((2,), 0.1))
        self.register_buffer("codes", torch.ones(2, dtype=torch.int8))


def test_in_float64_only_what_is_published_so_stays_float32():
    criterion = Kept()
    assert criterion.in_float64() is criterion
    state = criterion.state_dict()
    assert {name: value.dtype for name, value in state.items()} == {
        "published": torch.float32,
        "free": torch.float64,
        "codes": torch.int8,
    }
    assert torch.equal(state["free"], torch.full((2,), 0.1).double())
