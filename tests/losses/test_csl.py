"""CSL: the published code's values, slow loops and closed slopes, batches of all processes, priors, what is refused."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import CSL, CSLConfig, build_criterion
from losses.common.functional import weighted_bce
from losses.csl import PerKind, known_weights, largest, partial_asymmetric_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import csl as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.class_facts import ClassPriors
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

CODES = random_labels(7, 5, seed=3)
INDEX = [4, 0, 3, 6, 1]
EXTREME = (-1e4, -300.0, -200.0, -40.0, -3.0, 0.0, 3.0, 40.0, 200.0, 300.0, 1e4)
PLAIN = PerKind(1.0, 1.0, 1.0)
FOCUS = PerKind(0.5, 1.0, 4.0)
PRIORS = np.array([0.9, 0.1, 0.6, 0.2, 0.3])


def made(codes=CODES, priors=None, extra=True, **settings):
    """A criterion; with `extra` rows in which every class is known to be present, known to be absent, and unknown."""
    rows = np.repeat([[PRESENT], [ABSENT], [UNKNOWN]], codes.shape[1], axis=1).astype(np.int8)
    info = info_for(np.concatenate([codes, rows]) if extra else codes)
    given = None if priors is None else ClassPriors(np.asarray(priors, dtype=np.float64), "given")
    return CSL(CSLConfig(**settings), replace(info, class_priors=given))


@pytest.mark.parametrize("case, arrays", golden_files.each_case("csl.npz"))
@pytest.mark.parametrize("variant, field", [("reference", ""), ("fixed", "right_")])
def test_golden_losses(case, arrays, variant, field):
    codes, named = arrays["targets"].astype(np.int8), ("pos", "neg", "unknown")
    settings = {f"gamma_{kind}": float(value) for kind, value in zip(named, case["gamma"], strict=True)}
    single = np.float32 if variant == "reference" else float  # the published weights are in single precision
    settings |= {f"alpha_{kind}": float(single(value)) for kind, value in zip(named, case["alpha"], strict=True)}
    criterion = made(
        codes,
        arrays["prior"] if case["has_prior"] else None,
        csl_mode=case["mode"],
        clip=float(case["clip"]),
        likelihood_topk=case["likelihood_topk"],
        prior_threshold=case["prior_threshold"],
        variant=variant,
        **settings,
    )
    logits = torch.from_numpy(arrays["logits"])
    leaf = (logits.double() if field else logits).requires_grad_()
    out = criterion.from_logits(leaf, torch.tensor(codes), torch.arange(len(codes)))
    out.total.backward()
    rtol, atol = (1e-9, 1e-9) if case["dtype"] == "float64" else (1e-5, 1e-6)
    if case["mode"] == "ignore_normalize_classes":
        rtol = max(rtol, 2e-7)
    np.testing.assert_allclose(float(out.total.detach()), arrays[f"{field}loss"], rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(leaf.grad, arrays[f"{field}grad"], rtol=rtol, atol=atol)
    kept = arrays["kept"]
    assert float(out.parts["dropped"]) == pytest.approx((~kept).sum() / len(kept), rel=1e-6)
    if case["mode"] == "selective":
        np.testing.assert_array_equal(~out.modified, kept)


def drawn(seed, shape=(4, 6)):
    """Logits in float64, and codes of all kinds."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, shape), rng.integers(-1, 2, shape).astype(np.int8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gammas", [PerKind(0.0, 3.0, 4.0), FOCUS, PerKind(0.0, 0.0, 0.0)])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_losses_and_slopes_match_loops(seed, gammas, clip):
    (logits, codes), alphas = drawn(seed), PerKind(1.0, 0.7, 0.3)
    leaf = torch.tensor(logits, requires_grad=True)
    losses = partial_asymmetric_losses(leaf, torch.tensor(codes), gammas=gammas, alphas=alphas, clip=clip)
    losses.sum().backward()
    expected = oracle.p_asl(logits, codes, gammas, alphas, clip)
    np.testing.assert_allclose(losses.detach(), expected[0], rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-9, atol=1e-14)


def test_without_focus_it_passes_gradcheck_and_is_bce():
    logits, codes = drawn(5)
    leaf, observed = torch.tensor(logits / 2, requires_grad=True), torch.tensor(codes)
    none = PerKind(0.0, 0.0, 0.0)

    def losses(z, clip=0.0):
        return partial_asymmetric_losses(z, observed, gammas=none, alphas=PLAIN, clip=clip)

    assert torch.autograd.gradcheck(losses, (leaf,))
    assert torch.autograd.gradcheck(lambda z: losses(z, 0.05), (leaf,))
    torch.testing.assert_close(losses(leaf).mean(), weighted_bce(leaf, (observed == PRESENT).double()))


def test_the_focusing_weight_is_a_constant():
    logits, codes = drawn(6)
    found = []
    for gammas in (PerKind(0.0, 0.0, 0.0), FOCUS):
        leaf = torch.tensor(logits, requires_grad=True)
        losses = partial_asymmetric_losses(leaf, torch.tensor(codes), gammas=gammas, alphas=PLAIN, clip=0.0)
        losses.sum().backward()
        found.append((losses.detach(), leaf.grad))
    (plain, slope), (focused, focused_slope) = found
    torch.testing.assert_close(focused_slope, slope * focused / plain)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_at_any_logit(kind, clip, variant):
    for code in (PRESENT, ABSENT, UNKNOWN):
        leaf = torch.tensor(EXTREME, dtype=kind, requires_grad=True)
        observed = torch.full(leaf.shape, float(code))
        losses = partial_asymmetric_losses(leaf, observed, gammas=FOCUS, alphas=PLAIN, clip=clip, variant=variant)
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert torch.isfinite(leaf.grad).all()


def test_a_missed_label_keeps_its_gradient_where_the_published_logarithm_is_cut_off():
    for variant, expected in (("fixed", -1.0), ("reference", 0.0)):
        leaf = torch.tensor([-40.0], requires_grad=True)
        partial_asymmetric_losses(
            leaf, torch.tensor([1.0]), gammas=PerKind(0.0, 1.0, 4.0), alphas=PLAIN, clip=0.0, variant=variant
        ).sum().backward()
        assert float(leaf.grad) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 1, 5, 9, 10, 11, 30])
def test_the_largest_are_as_many_as_asked_for_and_of_equal_ones_the_first(count):
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = rng.integers(0, 4, (3, 6)).astype(float)
        scores[rng.random((3, 6)) < 0.4] = -np.inf
        flat = scores.flatten()
        order = sorted(np.flatnonzero(flat > -np.inf), key=lambda at: -flat[at])[:count]
        expected = np.isin(np.arange(18), order).reshape(3, 6)
        np.testing.assert_array_equal(largest(torch.tensor(scores), count), expected)
    assert not largest(torch.full((2, 2), -torch.inf), 3).any()


@pytest.mark.parametrize("topk", [0, 1, 2, 5])
@pytest.mark.parametrize("priors", [None, PRIORS])
@pytest.mark.parametrize("reduction, scale", [("sum", 25), ("mean", 1)])
def test_one_selective_step(topk, priors, reduction, scale):
    criterion = made(priors=priors, likelihood_topk=topk, reduction=reduction, gamma_pos=0.5, alpha_neg=0.7)
    model, codes = FakeModel(5), CODES[INDEX]
    out = criterion(model, batch_of(CODES, INDEX))
    logits = out.logits.double().numpy()
    frequent = () if priors is None else np.flatnonzero(PRIORS > 0.5)
    dropped = oracle.selected(logits, codes, topk, frequent)
    losses = np.where(dropped, 0, oracle.p_asl(logits, codes, (0.5, 1, 4), (1, 0.7, 1), 0)[0])
    np.testing.assert_array_equal(out.modified, dropped)
    assert dropped.any() == (topk > 0 or priors is not None)
    check(out, losses, codes, dropped, scale)
    assert model.calls == [frozenset()]


@pytest.mark.parametrize("mode", ["negative", "ignore", "ignore_normalize_classes"])
def test_one_step_of_the_other_modes(mode):
    codes = CODES[INDEX]
    out = made(csl_mode=mode)(FakeModel(5), batch_of(CODES, INDEX))
    losses = oracle.p_asl(out.logits.double().numpy(), codes, (0, 1, 4), (1, 1, 1), 0)[0]
    dropped = np.zeros_like(codes, dtype=bool) if mode == "negative" else codes == UNKNOWN
    losses[dropped] = 0
    if mode == "ignore_normalize_classes":
        losses *= np.array([[1 + 1 / (1 + sum(code != UNKNOWN for code in row))] for row in codes.tolist()])
    check(out, losses, codes, dropped, 25)
    assert out.modified is None


def check(out, losses, codes, dropped, scale):
    """The total is that of the losses, and so are the parts; no part has a gradient."""
    assert float(out.total.detach()) == pytest.approx(losses.mean() * scale, rel=1e-5)
    for name, code in (("positive", PRESENT), ("negative", ABSENT), ("unknown", UNKNOWN)):
        assert float(out.parts[name]) == pytest.approx((losses * (codes == code)).mean(), rel=1e-5)
    assert float(out.parts["dropped"]) == pytest.approx(dropped.sum(axis=1).mean())
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_weights_of_images_by_their_known_labels():
    codes = torch.tensor([[1, 0, -1], [-1, -1, -1], [1, 1, 0]])
    torch.testing.assert_close(known_weights(codes, torch.float64)[:, 0].tolist(), [1 + 1 / 3, 2.0, 1.25])


def test_known_labels_stay_whatever_the_prior_and_a_prior_at_the_threshold_drops_nothing():
    criterion = made(priors=[0.5, 0.50001, 1, 0, 0.2], likelihood_topk=0)
    codes = np.array([[UNKNOWN] * 5, [PRESENT] * 5, [ABSENT] * 5], dtype=np.int8)
    out = criterion.from_logits(torch.zeros(3, 5), torch.tensor(codes), torch.arange(3))
    assert out.modified.tolist() == [[False, True, True, False, False], [False] * 5, [False] * 5]


def test_a_label_that_the_prior_drops_uses_up_a_place():
    criterion = made(priors=[1, 0, 0, 0, 0], likelihood_topk=1)
    codes = torch.tensor([[UNKNOWN] * 5])
    logits = torch.tensor([[5.0, 4, 3, 2, 1]])
    assert criterion.from_logits(logits, codes, torch.tensor([0])).modified.tolist() == [[True] + [False] * 4]


@pytest.mark.parametrize("mode", ["selective", "ignore"])
def test_the_order_of_rows_is_of_no_account(mode):
    found = []
    for index in (INDEX, INDEX[::-1]):
        model = FakeModel(5)
        out = made(csl_mode=mode, likelihood_topk=1)(model, batch_of(CODES, index))
        out.total.backward()
        found.append([out.total.detach(), model.head.weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["selective", "ignore"])
def test_half_precision_saturated_logits_stay_finite(mode, kind):
    codes = CODES[INDEX]
    logits = torch.full(codes.shape, 200.0, dtype=kind)
    logits[:, ::2] *= -1
    leaf = logits.requires_grad_()
    out = made(csl_mode=mode, priors=PRIORS if mode == "selective" else None).from_logits(
        leaf, torch.tensor(codes), torch.tensor(INDEX)
    )
    out.total.backward()
    assert out.total.dtype == torch.float32
    assert torch.isfinite(out.total)
    assert torch.isfinite(leaf.grad).all()


def test_priors_are_its_only_state_and_a_run_that_resumes_keeps_them():
    assert made().state_dict() == {}
    criterion, file = made(priors=PRIORS), io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    resumed = made(priors=np.zeros(5))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    batch = batch_of(CODES, INDEX)
    expected, found = criterion(FakeModel(5), batch), resumed(FakeModel(5), batch)
    assert torch.equal(expected.total, found.total)
    assert torch.equal(expected.modified, found.modified)
    held = resumed.class_priors()
    np.testing.assert_array_equal(held.values, PRIORS)
    assert held.origin == "given"
    assert made().class_priors() is None


def share_a_batch(rank):
    """Losses, gradients and selections as the engine combines them: each rank's by its share of the global batch."""
    index = INDEX if rank is None else INDEX[rank::2]
    found = []
    for settings in ({}, {"reduction": "mean"}, {"likelihood_topk": 1}, {"csl_mode": "ignore"}):
        for whole in (torch.tensor(INDEX), None):
            model, share = FakeModel(5), len(index) / len(INDEX)
            batch = batch_of(CODES, index)._replace(global_index=whole)
            out = made(**settings)(model, batch)
            (share * out.total).backward()
            found += [collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)]
            found.append(collectives.all_sum(out.parts["dropped"] * share))
    return found


def test_two_ranks_select_and_learn_as_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        *({f"gamma_{kind}": 2.0} for kind in ("pos", "neg", "unknown")),
        *({f"alpha_{kind}": 0.5} for kind in ("pos", "neg", "unknown")),
        {"clip": 0.1},
        {"likelihood_topk": 1},
        {"csl_mode": "ignore"},
        {"prior": "observed", "prior_threshold": 0.1},
        {"reduction": "mean"},
    ],
)
def test_each_setting_reaches_training(change):
    gradients = []
    for settings in ({}, change):
        model = FakeModel(5)
        made(**{"likelihood_topk": 0} | settings)(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma_pos": -0.1},
        {"gamma_unknown": float("inf")},
        {"alpha_neg": -1.0},
        {"clip": 1.0},
        {"likelihood_topk": -1},
        {"prior_threshold": 1.5},
        {"csl_mode": "some"},
        {"reduction": "total"},
        {"variant": "mended"},
        {"csl_mode": "ignore", "prior": "observed"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=f"^--{name} [^\n]*$"):
        CSLConfig(**wrong)


def test_labels_that_a_mode_cannot_use_are_refused():
    full, positives = np.maximum(CODES, 0), np.where(CODES == PRESENT, PRESENT, UNKNOWN).astype(np.int8)
    with pytest.raises(UserError, match=r"^csl: no label is unknown, .* --csl_mode negative"):
        build_criterion("csl", observed=full)
    assert build_criterion("csl", observed=full, csl_mode="negative").config.csl_mode == "negative"
    with pytest.raises(UserError, match=r"^csl in mode ignore: no label is known to be absent"):
        build_criterion("csl", observed=positives, csl_mode="ignore")
    with pytest.raises(UserError, match=r"^csl: no label is known to be present"):
        build_criterion("csl", observed=np.full((2, 3), UNKNOWN))
    assert build_criterion("csl", observed=positives).config.csl_mode == "selective"


def test_frequent_classes_without_known_negatives_are_told_and_refused_where_there_are_none_at_all(capsys):
    positives = np.where(CODES == PRESENT, PRESENT, UNKNOWN).astype(np.int8)
    with pytest.raises(
        UserError, match=r"^csl: class 0, class 2: prior above --prior_threshold 0\.5 .*no class priors$"
    ):
        build_criterion("csl", observed=positives, class_priors=PRIORS)
    assert build_criterion("csl", observed=positives, class_priors=PRIORS, prior_threshold=0.95)
    one = positives.copy()
    one[np.flatnonzero(one[:, 2] == UNKNOWN)[0], 2] = ABSENT
    assert capsys.readouterr().err == ""
    build_criterion("csl", observed=one, class_priors=PRIORS)
    said = capsys.readouterr().err
    assert said.startswith("note: csl: class 0: prior above --prior_threshold 0.5 and no label known to be absent")
    assert said.count("\n") == 1
    many = np.concatenate([np.full((1, 8), PRESENT), np.full((1, 8), UNKNOWN)]).astype(np.int8)
    with pytest.raises(UserError, match="class 4 and 3 more: prior above"):
        build_criterion("csl", observed=many, class_priors=np.ones(8))


def test_sparse_labels_are_told_alike():
    stored = csr_array(np.where(CODES == UNKNOWN, 0, CODES + 2))
    table = LabelTable(
        csr_array((stored.data.astype(np.int8) - 2, stored.indices, stored.indptr), shape=CODES.shape), default=UNKNOWN
    )
    np.testing.assert_array_equal(table.dense(), CODES)
    dense, sparse = (build_criterion("csl", observed=one, prior="observed").class_priors() for one in (CODES, table))
    np.testing.assert_array_equal(dense.values, sparse.values)


def test_priors_come_from_one_place():
    with pytest.raises(UserError, match=r"^--prior_file p\.csv: read by the training scripts"):
        build_criterion("csl", observed=CODES, prior_file="p.csv")
    with pytest.raises(UserError, match=r"^class priors are given: leave out --prior observed"):
        build_criterion("csl", observed=CODES, prior="observed", class_priors=PRIORS)
    for wrong in (PRIORS[:4], PRIORS * 2, [*PRIORS[:4], float("nan")]):
        with pytest.raises(UserError, match=r"^class_priors: must be 5 numbers between 0 and 1"):
            build_criterion("csl", observed=CODES, class_priors=wrong)
    criterion = build_criterion("csl", observed=CODES, class_priors=PRIORS.tolist())
    np.testing.assert_array_equal(criterion.class_priors().values, PRIORS)
    assert not criterion.estimates_priors
    assert all(
        build_criterion("csl", observed=CODES, csl_mode=mode).estimates_priors
        for mode in ("ignore", "ignore_normalize_classes")
    )
