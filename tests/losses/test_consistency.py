"""Partial BCE and consistency against slow loops and closed-form gradients; limits, labels, several processes."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from losses import AN, ANConfig, build_criterion
from losses.consistency import (
    Consistency,
    ConsistencyConfig,
    PartialBCE,
    PartialBCEConfig,
    confident_labels,
    known_means,
)
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.oracles import consistency as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, LabelTable, ModelOutput

ROWS, CLASSES = 9, 5
CODES = np.random.default_rng(3).integers(-1, 2, (ROWS, CLASSES)).astype(np.int8)
CODES[2] = UNKNOWN
INDEX = [4, 2, 0, 3, 6]
VIEWS = ("both", "weak", "strong")


class Answers(nn.Module):
    """A model that gives prepared logits, one call after the other, and notes whether a gradient is wanted."""

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.with_gradient = list(logits), []

    def forward(self, images, want=frozenset()):
        self.with_gradient.append(torch.is_grad_enabled())
        return ModelOutput(self.logits[len(self.with_gradient) - 1] * 1)


def logits_of(seed, rows=5):
    """Logits of two views, float64, for the rows at `INDEX` or as many as asked for."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(0, 1.5, (rows, CLASSES)), requires_grad=True) for _ in range(2)]


def given(codes, rows=None, **more):
    """A batch of labels whose images nobody looks at."""
    view = torch.zeros(len(codes), 3, 1, 1)
    rows = torch.arange(len(codes)) if rows is None else torch.tensor(rows)
    return Batch(view, torch.tensor(codes).double(), rows, view, **more)


def build(codes=CODES, **settings):
    return Consistency(ConsistencyConfig(**settings), info_for(codes))


def partial(codes=CODES, **settings):
    return PartialBCE(PartialBCEConfig(**settings), info_for(codes))


def step(criterion, codes, weak, strong):
    model = Answers(strong, weak)
    out = criterion(model, given(codes))
    out.total.backward()
    return out, model


@pytest.mark.parametrize("over, view, tau", [*product(("batch", "image"), VIEWS, (0.6,)), ("batch", "both", 0.8)])
def test_a_step_is_its_formula_in_loops_with_its_gradients(over, view, tau):
    (weak, strong), codes = logits_of(1), CODES[INDEX]
    criterion = build(mean_over=over, known_view=view, pseudo_threshold=tau)
    out, model = step(criterion, codes, weak, strong)
    values = [each.detach().numpy() for each in (weak, strong)]
    known, pseudo, by_weak, by_strong = oracle.consistency(*values, codes, tau, over, view)
    assert float(out.total.detach()) == pytest.approx(known + pseudo, rel=1e-12)
    assert (float(out.parts["known"]), float(out.parts["pseudo"])) == pytest.approx((known, pseudo), rel=1e-12)
    np.testing.assert_allclose(strong.grad, by_strong, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(0 if weak.grad is None else weak.grad, by_weak, rtol=1e-10, atol=1e-15)
    found = oracle.pseudo_labels(values[0], codes, tau)
    np.testing.assert_array_equal(out.modified, found == 1)
    counts = [(found == code).sum() / len(codes) for code in (1, 0)]
    assert [float(out.parts[f"pseudo_{kind}"]) for kind in ("present", "absent")] == pytest.approx(counts)
    assert min(counts) > 0
    assert torch.equal(out.logits, weak)
    assert model.with_gradient == [True, view != "strong"]
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("over", ["batch", "image"])
def test_partial_bce_is_its_formula_in_loops_with_its_gradient(over):
    weak, codes = logits_of(2)[0], CODES[INDEX]
    out = partial(mean_over=over).from_logits(weak, torch.tensor(codes), torch.arange(len(codes)))
    out.total.backward()
    expected, gradient = oracle.mean_cost(weak.detach().numpy(), codes, over)
    assert float(out.total.detach()) == float(out.parts["bce"]) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(weak.grad, gradient, rtol=1e-10, atol=1e-15)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_gradients_are_those_of_finite_differences():
    codes = torch.tensor(CODES[INDEX]).double()
    batch = given(CODES[INDEX])

    def total(weak, strong):
        return build()(Answers(strong, weak), batch).total

    weak, strong = logits_of(3)
    sure = (weak.detach().abs() - np.log(1.5)).abs() > 1e-4  # no pseudo label may change by a step of the differences
    assert sure[codes == UNKNOWN].all()
    assert torch.autograd.gradcheck(total, (weak, strong))


def test_confidence_begins_at_the_threshold_and_half_is_neither():
    bound = math.log(0.75 / 0.25)  # that of NumPy 1.26 is another float
    values = [[bound, np.nextafter(bound, 0), -bound, np.nextafter(-bound, 0), 0.0, 9.0]]
    logits = torch.tensor(values, dtype=torch.float64)
    unknown = torch.full((1, 6), UNKNOWN)
    found = confident_labels(logits, unknown, 0.75)
    assert found.tolist() == [[PRESENT, UNKNOWN, ABSENT, UNKNOWN, UNKNOWN, PRESENT]]
    assert confident_labels(logits, unknown, 0.5).tolist() == [[PRESENT, PRESENT, ABSENT, ABSENT, UNKNOWN, PRESENT]]
    known = torch.tensor([[0, 1, 1, 0, 1, 0]])
    assert (confident_labels(logits, known, 0.5) == UNKNOWN).all()


def test_of_full_labels_partial_bce_is_bce():
    codes, model = np.abs(CODES), FakeModel(CLASSES)
    batch = batch_of(codes, INDEX)
    expected = AN(ANConfig(), info_for(codes))(model, batch).total
    for over in ("batch", "image"):
        torch.testing.assert_close(partial(codes, mean_over=over)(model, batch).total, expected)


def test_at_one_known_share_in_all_images_partial_bce_is_iu_by_that_share():
    codes = np.array([[1, 0, -1, -1, -1], [-1, -1, 0, 1, -1], [-1, 0, -1, -1, 1]], dtype=np.int8)
    logits, observed = logits_of(4, rows=3)[0], torch.tensor(codes)
    iu = build_criterion("iu", observed=codes).from_logits(logits, observed, torch.arange(3)).total
    for over in ("batch", "image"):
        own = partial(codes, mean_over=over).from_logits(logits, observed, torch.arange(3)).total
        torch.testing.assert_close(own, iu / 0.4, rtol=1e-12, atol=0)


@pytest.mark.parametrize("over", ["batch", "image"])
def test_a_batch_without_a_known_or_a_confident_label_has_no_loss_and_a_gradient_of_zeros(over):
    nothing = np.full((2, CLASSES), UNKNOWN)
    weak, strong = (torch.full((2, CLASSES), 0.1, requires_grad=True) for _ in range(2))
    out, _ = step(build(mean_over=over), nothing, weak, strong)
    assert float(out.total.detach()) == 0
    for leaf in (weak, strong):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))
    weak.grad = None
    out = partial(mean_over=over).from_logits(weak, torch.tensor(nothing), torch.arange(2))
    out.total.backward()
    assert float(out.total.detach()) == 0
    assert torch.equal(weak.grad, torch.zeros_like(weak))


def test_an_image_without_a_known_label_counts_among_the_images_and_not_among_the_labels():
    logits, codes = logits_of(5, rows=2)[0], np.array([[1, 0, -1, -1, 1], [-1] * 5])
    observed, rows = torch.tensor(codes), torch.arange(2)
    batch, image = (partial(mean_over=over).from_logits(logits, observed, rows).total for over in ("batch", "image"))
    torch.testing.assert_close(image, batch / 2, rtol=1e-12, atol=0)


def test_a_term_without_labels_leaves_the_other_alone():
    losses = torch.tensor([[2.0, 4.0]])
    none, both = torch.tensor([[UNKNOWN, UNKNOWN]]), torch.tensor([[1, 0]])
    batch = Batch(torch.zeros(1, 3, 1, 1), both.float(), torch.arange(1))
    for over in ("batch", "image"):
        assert [float(each) for each in known_means([losses, losses * 0], [both, none], batch, over)] == [3.0, 0.0]


def test_rows_and_classes_may_come_in_any_order():
    (weak, strong), codes = logits_of(6), CODES[INDEX]
    rows, columns = torch.randperm(len(INDEX)), torch.randperm(CLASSES)
    one = build()(Answers(strong, weak), given(codes))
    other = build()(Answers(*(each[rows][:, columns] for each in (strong, weak))), given(codes[rows][:, columns]))
    torch.testing.assert_close(one.total, other.total, rtol=1e-12, atol=0)
    assert torch.equal(one.modified[rows][:, columns], other.modified)


@pytest.mark.parametrize(
    "change", [{"mean_over": "image"}, {"known_view": "weak"}, {"known_view": "strong"}, {"pseudo_threshold": 0.9}]
)
def test_each_setting_reaches_training(change):
    gradients = []
    for settings in ({}, change):
        weak, strong = logits_of(7)
        step(build(**settings), CODES[INDEX], weak, strong)
        gradients.append(strong.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("code", [PRESENT, ABSENT, UNKNOWN])
def test_loss_and_gradient_are_finite_at_any_logit(kind, code):
    values = torch.tensor([-6e4, -200.0, -40.0, 0.0, 40.0, 200.0, 6e4], dtype=kind)
    codes = np.full((1, len(values)), code)
    weak, strong = (each[None].clone().requires_grad_() for each in (values, -values))
    out, _ = step(build(), codes, weak, strong)
    assert out.total.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert all(torch.isfinite(each).all() for each in (out.total, weak.grad, strong.grad))


def two_views(index):
    """The rows at `index` in two views, which depend on the row alone."""
    batch = batch_of(CODES, index)
    return batch._replace(second_view=batch.images.flip(-1) + 0.1)


def test_the_first_view_is_the_weak_one_and_the_second_the_strong_one():
    model, batch = FakeModel(CLASSES), two_views(INDEX)
    out = build()(model, batch)
    weak, strong = (model(view).logits for view in (batch.images, batch.second_view))
    other = build()(Answers(strong, weak), batch)
    torch.testing.assert_close(out.total, other.total)
    assert torch.equal(out.logits, weak.detach())
    assert Consistency.needs == {"second_view"}
    assert PartialBCE.needs == frozenset()


@pytest.mark.parametrize("build_one", [build, partial])
def test_a_step_never_waits_for_the_device(build_one):
    criterion, model, batch = build_one(), FakeModel(CLASSES), two_views(INDEX)
    with Recorder() as seen:
        criterion(model, batch)
    assert not seen.names & WAITING


@pytest.mark.parametrize("criterion", [build(), build(known_view="strong"), partial()])
def test_mixed_precision_leaves_the_loss_in_single_precision(criterion):
    model = FakeModel(CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = criterion(model, two_views(INDEX))
    out.total.backward()
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in model.parameters())


@pytest.mark.parametrize("cut", [3, 4])
def test_a_run_goes_on_in_any_step_to_the_same_numbers(cut):
    def parts():
        model = FakeModel(CLASSES)
        return build(), model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    criterion = check_resume(parts, trainer([[4, 0, 7, 8], [1, 3, 5, 6]], two_views), cut)[0]
    assert not criterion.state_dict()
    assert criterion.memory_needs(criterion.config, criterion.info) == ()


# --- several processes

BATCHES = [[4, 2, 0, 3, 6], [1, 7], [5]]  # odd ones, and one that goes to both


def share_batches(rank):
    """For each method, setting and batch: index, total and gradients of a process; rank None has whole batches."""
    results = []
    settings = [{}, {"mean_over": "image"}, {"known_view": "strong"}]
    for setting, told, whole in product(settings, (True, False), BATCHES):
        if setting.get("mean_over") == "image" and len(whole) == 1:
            continue  # the padding counts as an image, as in every mean over images
        index = whole if rank is None else whole[rank::2] or whole[:1]
        everyone = torch.tensor(whole) if told else None
        for name in ("consistency", "partial_bce"):
            weak, strong = (each.detach()[index].requires_grad_() for each in logits_of(9, rows=ROWS))
            batch = given(CODES[index], index, global_index=everyone)
            if name == "partial_bce":
                out = partial(mean_over=setting.get("mean_over", "batch"))(Answers(weak), batch)
            else:
                out = build(**setting)(Answers(strong, weak), batch)
            out.total.backward()
            zeros = torch.zeros_like(weak)
            grads = [zeros if leaf.grad is None else leaf.grad for leaf in (weak, strong)]
            results.append((index, out.total.detach(), *grads))
    return results


def test_two_ranks_do_what_one_process_does_on_the_whole_batch():
    alone, ranks = share_batches(None), run_ranks(share_batches)
    for (rows, total, *grads), *parts in zip(alone, *ranks, strict=True):
        shares = [len(part[0]) / sum(len(each[0]) for each in parts) for part in parts]
        mean = sum(share * part[1] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(mean, total, rtol=1e-10, atol=1e-14)
        for number, expected in enumerate(grads):
            found = torch.zeros_like(expected)
            for share, part in zip(shares, parts, strict=True):
                for at, row in enumerate(part[0]):
                    found[rows.index(row)] += share * part[2 + number][at]
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


# --- labels


def test_labels_that_are_stored_sparse_are_taken():
    rows, columns = (CODES != UNKNOWN).nonzero()
    table = LabelTable(csr_array((CODES[rows, columns], (rows, columns)), shape=CODES.shape), default=UNKNOWN)
    info = type(info_for(CODES))(**{**vars(info_for(CODES)), "observed": table})
    Consistency(ConsistencyConfig(), info)
    PartialBCE(PartialBCEConfig(), info)


@pytest.mark.parametrize("name", ["consistency", "partial_bce"])
def test_labels_of_one_kind_alone_are_refused_in_one_line(name):
    for codes, word in (([[1, -1]], "absent"), ([[0, -1]], "present")):
        with pytest.raises(UserError, match=f"^{name}: no label is known to be {word}, so it would learn one [^\n]*$"):
            build_criterion(name, observed=codes)


def test_without_an_unknown_label_consistency_is_refused_and_partial_bce_is_bce():
    build_criterion("partial_bce", observed=[[1, 0]])
    with pytest.raises(UserError, match=r"^consistency: no label is unknown, [^\n]*--loss partial_bce, [^\n]*$"):
        build_criterion("consistency", observed=[[1, 0]])


@pytest.mark.parametrize("wrong", [0.49, 1.0, float("nan"), float("inf")])
def test_a_threshold_is_at_least_a_half_and_below_one(wrong):
    ConsistencyConfig(pseudo_threshold=0.5)
    with pytest.raises(UserError, match=r"^--pseudo_threshold [^\n]*: must be in \[0\.5, 1\)"):
        ConsistencyConfig(pseudo_threshold=wrong)
