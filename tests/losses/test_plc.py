"""PLC and LAC against golden values, slow loops, its limits and several processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses import AN, LAC, PLC, ANConfig, LACConfig, PLCConfig, build_criterion
from losses.plc import sure_labels, view_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import check_resume, trainer
from tests.losses.test_plc_queue import contrast_by_loops
from tests.oracles import plc as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.head_vectors import ClassVectors
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, ModelOutput

ROWS, CLASSES = 9, 5
CODES = random_labels(ROWS, CLASSES, seed=2, rate=0.2)
INDEX = [4, 2, 0, 3, 6]


def golden(kind):
    cases = golden_files.each_case("plc_lac.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


class Answers(nn.Module):
    """A model that gives prepared logits of both views and keeps what it was asked."""

    def __init__(self, weak, strong):
        super().__init__()
        self.logits, self.seen = torch.cat([weak, strong]), []

    def forward(self, images, want=frozenset()):
        self.seen.append((images, want))
        return ModelOutput(self.logits * 1)


def given(codes):
    """A batch of labels with views of one pixel that tell each other apart."""
    view = torch.zeros(len(codes), 3, 1, 1)
    return Batch(view, torch.tensor(codes).double(), torch.arange(len(codes)), view + 1)


def views(seed, rows=5, spread=2.0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(0, spread, (rows, CLASSES)), requires_grad=True) for _ in range(2)]


def build(codes=CODES, **settings):
    return PLC(PLCConfig(**settings), info_for(codes))


@pytest.mark.parametrize("case, arrays", golden("plc"))
def test_golden_labels_losses_and_gradients(case, arrays):
    weak, strong = (torch.from_numpy(arrays[name]).requires_grad_() for name in ("weak", "strong"))
    codes = np.where(arrays["obs"] == 1, PRESENT, UNKNOWN)
    labels = sure_labels(weak, torch.from_numpy(codes), case["threshold"])
    np.testing.assert_array_equal(labels, np.where(arrays["kept"] != 0, arrays["hard"], UNKNOWN))
    an, plc = view_losses(weak, strong, labels, given(codes))
    (an + plc).backward()
    np.testing.assert_allclose(float(an.detach()), arrays["loss_an"], rtol=1e-9)
    assert case["finite"] == bool((labels != UNKNOWN).any())
    if not case["finite"]:  # of nothing kept the mean is 0
        assert float(plc.detach()) == 0
        assert not strong.grad.any()
        return
    np.testing.assert_allclose(float(plc.detach()), arrays["loss_plc"], rtol=1e-9)
    np.testing.assert_allclose(weak.grad, arrays["grad_weak"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(strong.grad, arrays["grad_strong"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("tau", "weight"), [(0.5, 1.0), (0.6, 0.5), (0.9, 2.0)])
def test_a_step_is_its_formula_in_loops_with_its_gradients(tau, weight):
    (weak, strong), codes = views(1), CODES[INDEX]
    model = Answers(weak, strong)
    out = build(pseudo_threshold=tau, plc_weight=weight)(model, given(codes))
    an, plc, by_weak, by_strong = oracle.terms(weak.detach().numpy(), strong.detach().numpy(), codes, tau)
    out.total.backward()
    assert float(out.total.detach()) == pytest.approx(an + weight * plc, rel=1e-9)
    np.testing.assert_allclose(weak.grad, by_weak, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(strong.grad, weight * by_strong, rtol=1e-9, atol=1e-12)
    assert [float(out.parts[name]) for name in ("an", "plc")] == pytest.approx([an, plc], rel=1e-9)
    learned, unknown = oracle.labels(weak.detach().numpy(), codes, tau), codes == UNKNOWN
    np.testing.assert_array_equal(out.modified, unknown & (learned == 1))
    for name, code in (("pseudo_present", 1), ("pseudo_absent", 0)):
        assert float(out.parts[name]) == pytest.approx((unknown & (learned == code)).sum() / len(codes))
    assert torch.equal(out.logits, weak.detach())
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    ((images, want),) = model.seen
    assert torch.equal(images, torch.cat([torch.zeros(5, 3, 1, 1), torch.ones(5, 3, 1, 1)]))
    assert want == frozenset()


def test_labels_at_both_ends_of_the_threshold():
    logits = torch.tensor([[0.0, 1.0, -1.0, -2.0]], dtype=torch.float64)
    unknown, p = torch.full((1, 4), UNKNOWN), torch.sigmoid(logits)[0].tolist()
    assert sure_labels(logits, unknown, 0.5).tolist() == [[1, 1, 0, 0]]
    assert sure_labels(logits, unknown, p[1]).tolist()[0][:2] == [-1, 1]
    assert sure_labels(logits, unknown, np.nextafter(p[1], 1)).tolist()[0][:2] == [-1, -1]
    quarter = torch.logit(torch.tensor([[0.25] * 4], dtype=torch.float64))
    assert torch.sigmoid(quarter)[0, 0] == 0.25
    assert sure_labels(quarter, unknown, 0.75).tolist() == [[-1, -1, -1, -1]]
    assert sure_labels(quarter, unknown, np.nextafter(0.75, 0)).tolist() == [[0, 0, 0, 0]]
    known = torch.tensor([[PRESENT, ABSENT, ABSENT, PRESENT]])
    assert sure_labels(logits, known, 0.9).tolist() == [[1, 0, 0, 1]]
    assert not sure_labels(logits.requires_grad_(), known, 0.9).requires_grad


def test_without_weight_it_is_assume_negative_on_the_weak_view():
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    ours = build(plc_weight=0.0)(model, batch._replace(second_view=batch.images.flip(3)))
    torch.testing.assert_close(ours.total, AN(ANConfig(), info_for(CODES))(model, batch).total)


def test_the_loss_does_not_depend_on_the_order_of_the_rows():
    (weak, strong), order = views(3), [2, 4, 1, 0, 3]
    totals = [build()(Answers(weak[rows], strong[rows]), given(CODES[INDEX][rows])).total for rows in (range(5), order)]
    torch.testing.assert_close(*totals)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    signs = torch.randn(2, 5, CLASSES, generator=torch.Generator().manual_seed(0)).sign()
    weak, strong = ((200 * each).to(dtype).requires_grad_() for each in signs)
    out = build()(Answers(weak, strong), given(CODES[INDEX]))
    out.total.backward()
    assert out.total.isfinite()
    assert weak.grad.isfinite().all()
    assert strong.grad.isfinite().all()


def test_it_takes_two_views_and_keeps_nothing():
    criterion = build_criterion("plc", observed=CODES)
    assert (criterion.needs, criterion.corrects_from_present) == ({"second_view"}, True)
    assert criterion.state_dict() == {}


@pytest.mark.parametrize(
    ("codes", "line"),
    [
        (np.where(CODES == PRESENT, ABSENT, CODES), "plc: no label is known to be present"),
        (
            np.abs(CODES),
            "plc: no label is unknown, so there is nothing to learn from another view; take --labels single",
        ),
    ],
)
def test_labels_that_it_cannot_use_are_refused(codes, line):
    with pytest.raises(UserError, match=line):
        build(codes)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"pseudo_threshold": 0.49}, r"--pseudo_threshold 0.49: must be in \[0.5, 1\); the published value is 0.6"),
        ({"pseudo_threshold": 1.0}, r"--pseudo_threshold 1.0: must be in \[0.5, 1\)"),
        ({"plc_weight": -1.0}, "--plc_weight -1.0: must be 0 or more; the published value is 1"),
        ({"plc_weight": float("inf")}, "--plc_weight inf: must be 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        PLCConfig(**settings)


# --- LAC

WIDTH = 8


def lac(codes=CODES, **settings):
    settings = {"lac_warmup": 1, "queue_size": 12, "embedding_width": 3, **settings}
    return LAC(LACConfig(**settings), info_for(codes, WIDTH))


class Vectors(nn.Module):
    """A model of both views: logits, and a vector of each class."""

    def __init__(self, logits, vectors):
        super().__init__()
        self.logits, self.vectors, self.wanted = logits, vectors, []

    def forward(self, images, want=frozenset()):
        self.wanted.append(want)
        found = ClassVectors(self.vectors, torch.zeros(CLASSES, WIDTH)) if "class_vectors" in want else None
        return ModelOutput(self.logits * 1, class_vectors=found)


def seen(seed, rows=5):
    """Logits (2, B, C) and class vectors (2, B, C, V) of two views, float64, with gradient."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(0, 3, (2, rows, CLASSES, *more)), requires_grad=True) for more in ((), (WIDTH,))]


def embedded(criterion, vectors):
    """Unit vectors of the projector, by hand."""
    first, _, second = criterion.projector
    hidden = np.maximum(vectors @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    found = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_steps_of_lac_are_its_formula_with_a_queue_of_lists(weight):
    criterion = lac(lac_weight=weight, plc_weight=2.0).in_float64()
    criterion.on_epoch_start(2)
    ring, at = [(None, 0)] * 12, 0
    for number in range(4):
        (logits, vectors), codes = seen(number), CODES[INDEX]
        model = Vectors(logits.flatten(0, 1), vectors.flatten(0, 1))
        out = criterion(model, given(codes))
        weak, strong = logits.detach().numpy()
        an, plc, *_ = oracle.terms(weak, strong, codes, 0.9)
        labels, found = oracle.labels(weak, codes, 0.9), embedded(criterion, vectors.detach().numpy())
        for row, label in np.argwhere(labels == 1):
            ring[at % 12] = found[:, row, label], label + 1
            at += 1
        pairs = [np.zeros((2, 3)) if pair is None else pair for pair, _ in ring]
        contrast = contrast_by_loops(pairs, [label for _, label in ring], 0.5)
        assert float(out.parts["lac"]) == pytest.approx(contrast, rel=1e-9)
        assert float(out.total.detach()) == pytest.approx(an + 2 * plc + weight * contrast, rel=1e-9)
        assert float(out.parts["queued"]) == pytest.approx((labels == 1).sum() / 5)
        np.testing.assert_array_equal(out.modified, (codes == UNKNOWN) & (labels == 1))
        assert criterion.queue_labels.tolist() == [label for _, label in ring]
        np.testing.assert_allclose(criterion.queue, np.stack(pairs), rtol=1e-9, atol=1e-12)
        assert model.wanted == [{"class_vectors"}]
        out.total.backward()
        np.testing.assert_array_equal(vectors.grad.abs().sum(dim=(0, 3)) > 0, labels == 1)
        assert not criterion.queue.requires_grad
        assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert at > 12  # the ring has gone round


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_only_vectors_that_are_queued_are_embedded_where_nothing_waits(share):
    criterion, present = lac().in_float64(), torch.rand(5, CLASSES, generator=torch.manual_seed(0)) < share
    taken = []
    criterion.projector.register_forward_hook(lambda _, given, __: taken.append(len(given[0])))
    grads = []
    for embed in (criterion._embeddings, lambda every, _: F.normalize(criterion.projector(every), dim=2)):
        vectors = seen(3)[1]
        found = embed(vectors.flatten(0, 1), present)
        chosen = found.masked_fill(~present.repeat(2, 1)[:, :, None], 0)
        criterion.zero_grad()
        (chosen * torch.arange(3)).sum().backward()
        weights = [each.grad.flatten() for each in criterion.projector.parameters()]
        grads.append(torch.cat([chosen.detach().flatten(), vectors.grad.flatten(), *weights]))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert taken[0] == 2 * int(present.sum())
    assert found.dtype == torch.float64


def test_the_first_epochs_of_lac_are_plc():
    criterion, (logits, vectors) = lac(pseudo_threshold=0.7, plc_weight=0.5).in_float64(), seen(1)
    criterion.on_epoch_start(1)
    model = Vectors(logits.flatten(0, 1), vectors.flatten(0, 1))
    out = criterion(model, given(CODES[INDEX]))
    plc = build(pseudo_threshold=0.7, plc_weight=0.5)(model, given(CODES[INDEX]))
    assert torch.equal(out.total, plc.total)
    assert out.parts.keys() == plc.parts.keys()
    assert model.wanted == [frozenset()] * 2
    assert not criterion.queue_labels.any()


def test_half_of_the_epochs_are_a_warm_up_unless_told():
    options = {"observed": CODES, "class_vector_width": WIDTH}
    assert [build_criterion("lac", epochs=epochs, **options).warmup for epochs in (1, 2, 5)] == [0, 1, 2]
    assert build_criterion("lac", epochs=5, lac_warmup=4, **options).warmup == 4
    with pytest.raises(UserError, match="lac: --lac_warmup 5 leaves none of the 5 --epochs for it"):
        build_criterion("lac", epochs=5, lac_warmup=5, **options)


def test_the_projector_is_as_wide_as_asked_and_drawn_by_the_seed():
    shapes = [tuple(each.shape) for each in lac().projector.parameters()]
    assert shapes == [(8, 8), (8,), (3, 8), (3,)]
    narrow = lac(projector_width=2)
    assert [tuple(each.shape) for each in narrow.projector.parameters()] == [(2, 8), (2,), (3, 2), (3,)]
    assert float(narrow.projector[2].weight.detach().abs().max()) <= 2**-0.5
    assert float(lac().projector[0].weight.detach().abs().max()) <= 8**-0.5
    drawn = [LAC(LACConfig(), replace(info_for(CODES, WIDTH), seed=seed)).projector[0].weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].min() < 0 < drawn[0].max()
    (group,) = lac().parameter_groups()
    assert [tuple(each.shape) for each in group["params"]] == shapes


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_lac_resumes_within_an_epoch_bit_for_bit(cut):
    def parts():
        criterion, model = lac(), FakeModel(CLASSES)
        groups = [{"params": list(model.parameters())}, *criterion.parameter_groups()]
        return criterion, model, torch.optim.SGD(groups, lr=0.05, momentum=0.9)

    def two_views(index):
        batch = batch_of(CODES, index)
        return batch._replace(second_view=batch.images.flip(3))

    criterion = check_resume(parts, trainer([[4, 0, 7, 8], [1, 3, 5, 6]], two_views), cut)[0]
    assert criterion.queue_labels.any()


BATCHES = [[4, 2, 0, 3, 6], [1, 7, 8, 5], [5]]  # the last goes to both


def share_batches(rank):
    """Of every batch: index, total, gradients at logits and vectors, and of the projector; the queue in the end."""
    results, everything = [], seen(3, ROWS)
    for told in (True, False):
        criterion = lac(lac_weight=2.0).in_float64()
        criterion.on_epoch_start(2)
        for whole in BATCHES:
            index = whole if rank is None else whole[rank::2] or whole[:1]
            logits, vectors = (each.detach()[:, index].requires_grad_() for each in everything)
            batch = given(CODES[index])
            batch = batch._replace(index=torch.tensor(index), global_index=torch.tensor(whole) if told else None)
            criterion.zero_grad()
            out = criterion(Vectors(logits.flatten(0, 1), vectors.flatten(0, 1)), batch)
            out.total.backward()
            own = torch.cat([each.grad.flatten() for each in criterion.projector.parameters()])
            results.append((index, out.total.detach(), [logits.grad, vectors.grad], own, criterion.queue.clone()))
    return results


def test_two_ranks_do_what_one_process_does_on_the_whole_batch():
    alone, ranks = share_batches(None), run_ranks(share_batches)
    for (rows, total, gradients, own, queue), *parts in zip(alone, *ranks, strict=True):
        if len(rows) == 1:
            continue  # a row that pads counts in the mean over images of assume negative
        shares = [len(part[0]) / sum(len(each[0]) for each in parts) for part in parts]
        torch.testing.assert_close(sum(share * part[1] for share, part in zip(shares, parts, strict=True)), total)
        torch.testing.assert_close(sum(share * part[3] for share, part in zip(shares, parts, strict=True)), own)
        for number, expected in enumerate(gradients):
            found = torch.zeros_like(expected)
            for share, part in zip(shares, parts, strict=True):
                for at, row in enumerate(part[0]):
                    found[:, rows.index(row)] += share * part[2][number][:, at]
            torch.testing.assert_close(found, expected)
        assert torch.equal(parts[0][4], parts[1][4])
        torch.testing.assert_close(parts[0][4], queue)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_and_long_vectors_have_finite_gradients(dtype):
    criterion, (logits, vectors) = lac(), seen(2)
    criterion.on_epoch_start(2)
    logits = (200 * logits.detach().sign()).to(dtype).requires_grad_()
    vectors = (1e3 * vectors.detach()).to(dtype)
    vectors[:, 0] = 0
    vectors.requires_grad_()
    out = criterion(Vectors(logits.flatten(0, 1), vectors.flatten(0, 1)), given(CODES[INDEX]))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lac_warmup": -1}, "--lac_warmup -1: must be 0 or more"),
        ({"lac_threshold": 0.4}, r"--lac_threshold 0.4: must be in \[0.5, 1\); the published value is 0.9"),
        ({"lac_weight": -1.0}, "--lac_weight -1.0: must be 0 or more; the published value is 1"),
        ({"lac_temperature": 0.0}, "--lac_temperature 0.0: must be above 0; the published value is 0.5"),
        ({"queue_size": 0}, r"--queue_size 0: must be in \[1, 8192\]; the published value is 512"),
        ({"queue_size": 8193}, r"--queue_size 8193: must be in \[1, 8192\]"),
        ({"embedding_width": 0}, "--embedding_width 0: must be at least 1"),
        ({"projector_width": 0}, "--projector_width 0: must be at least 1"),
        ({"pseudo_threshold": 0.4}, "--pseudo_threshold 0.4"),
        ({"variant": "ring"}, "--variant ring: must be one of fixed, reference"),
    ],
)
def test_settings_of_lac_that_cannot_work_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        LACConfig(**settings)
