"""HST against golden values of the published code and plain loops; limits, margins, resuming, what it refuses."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from losses import build_criterion
from losses.hst import (
    HST,
    HSTConfig,
    PairScores,
    above_margin,
    intra_similarity,
    pair_loss,
    pair_targets,
    prototype_contrast,
    pseudo_labels,
)
from losses.sarb_prototypes import mean_cosines
from tests.golden_files import each_case
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.losses.steps import check_resume, trainer
from tests.losses.test_sarb import ours
from tests.oracles import consistency as known_oracle
from tests.oracles import hst as oracle
from tests.oracles import sarb as sarb_oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, ClassVectors, ModelOutput

ROWS, CLASSES, WIDTH = 9, 5, 4
CODES = np.random.default_rng(3).integers(-1, 2, (ROWS, CLASSES)).astype(np.int8)
INDEX = [0, 1, 2, 8, 3]
PAIRS = CLASSES * (CLASSES - 1) // 2


def of_prototypes(arrays, case):
    vectors, codes = torch.tensor(arrays["features"], requires_grad=True), torch.tensor(ours(arrays["targets"]))
    similarity = mean_cosines(vectors, torch.tensor(arrays["prototypes"]))
    right = prototype_contrast(similarity, codes)
    np.testing.assert_allclose(float(right.detach()), arrays["right_loss"], rtol=1e-9)
    published = 2 - right  # 1 + s in the place of 1 - s, and the other way round
    published.backward()
    np.testing.assert_allclose(float(published.detach()), arrays["loss"], rtol=1e-9)
    np.testing.assert_allclose(vectors.grad, arrays["grad"], rtol=1e-9, atol=1e-12)


def of_pseudo(arrays, case):
    codes = torch.tensor(ours(arrays["targets"]))
    intra = intra_similarity(torch.tensor(arrays["cooccurrence_logits"]), codes)
    inter = mean_cosines(torch.tensor(arrays["features"]), torch.tensor(arrays["prototypes"]))
    for name, similarity in (("intra", intra), ("inter", inter)):
        found = above_margin(similarity, torch.tensor(case[f"{name}_margin"]))
        single = arrays[name].dtype == np.float32
        np.testing.assert_allclose(found, arrays[name], rtol=1e-5 if single else 1e-9, atol=1e-6 if single else 1e-12)


GOLDEN = {"proto_contrast": of_prototypes, "hst_pseudo": of_pseudo}


def of_hst(case, arrays):
    """True of the cases of HST; those of SARB are compared in test_sarb.py."""
    return case is None or case["kind"] in GOLDEN


@pytest.mark.parametrize(("case", "arrays"), [each for each in each_case("sarb.npz") if of_hst(*each.values)])
def test_golden_hst(case, arrays):
    GOLDEN[case["kind"]](arrays, case)


def pair_scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(len(INDEX), PAIRS, generator=generator, dtype=torch.float64)).requires_grad_()


def test_similarities_and_losses_of_pairs_are_their_formulas_in_loops():
    scores, codes = pair_scores(), torch.tensor(CODES[INDEX])
    pairs = list(itertools.combinations(range(CLASSES), 2))
    both = [[float(row[i] == row[j] == 1) for i, j in pairs] for row in codes.tolist()]
    assert pair_targets(codes, torch.float64).tolist() == both
    plain = scores.detach().numpy()
    np.testing.assert_allclose(intra_similarity(scores, codes).detach(), oracle.intra(plain, CODES[INDEX]), rtol=1e-12)
    assert float(pair_loss(scores, codes).detach()) == pytest.approx(oracle.pair_loss(plain, CODES[INDEX]), rel=1e-9)
    assert torch.autograd.gradcheck(lambda z: (intra_similarity(z, codes), pair_loss(z, codes)), scores)


def test_a_class_is_with_itself_for_certain_and_without_present_ones_nothing_is_alike():
    codes = torch.tensor([[PRESENT, UNKNOWN, ABSENT], [UNKNOWN, ABSENT, UNKNOWN]])
    scores = torch.tensor([[0.0, 200.0, -200.0]] * 2)  # pairs 01, 02, 12
    assert intra_similarity(scores, codes).tolist() == [[1.0, 0.5, 1.0], [0.0, 0.0, 0.0]]


def test_unknown_labels_above_the_margin_are_present_and_known_ones_stay():
    codes = torch.tensor([[PRESENT, ABSENT, UNKNOWN, UNKNOWN, UNKNOWN]]).float()
    margin = torch.tensor(0.5, requires_grad=True)
    above = above_margin(torch.tensor([[0.9, 0.9, 0.75, 0.5, 1.0]]), margin)
    torch.testing.assert_close(above.detach(), torch.tensor([[0.4, 0.4, 0.25, 0.0, 0.5]]))
    found = pseudo_labels(above, codes)
    assert found.tolist() == [[PRESENT, ABSENT, PRESENT, UNKNOWN, PRESENT]]
    assert not found.requires_grad
    above.sum().backward()
    assert float(margin.grad) == -4  # of the one that is at the margin there is no gradient


def test_scores_of_pairs_are_their_formula_in_loops():
    net = PairScores(WIDTH, CLASSES, 3, 7).double()
    vectors = torch.randn(2, CLASSES, WIDTH, dtype=torch.float64)
    weight, bias = net.layer.weight.detach().numpy(), net.layer.bias.detach().numpy()
    found = net(vectors).detach().numpy()
    for image, each in enumerate(vectors.numpy()):
        for number, (i, j) in enumerate(itertools.combinations(range(CLASSES), 2)):
            hidden = weight[:3] @ each[i] + bias[:3] + weight[3:] @ each[j] + bias[3:]
            own = net.weights[number].detach().numpy() @ np.maximum(hidden, 0) + float(net.bias[number].detach())
            assert found[image, number] == pytest.approx(own, rel=1e-9)
    learned = (vectors.requires_grad_(), *net.parameters())
    assert torch.autograd.gradcheck(lambda *_: net(vectors), learned)
    again, other = PairScores(WIDTH, CLASSES, 3, 7).state_dict(), PairScores(WIDTH, CLASSES, 3, 8).state_dict()
    assert all(torch.equal(value, again[name].double()) for name, value in net.state_dict().items())
    assert not torch.equal(other["weights"], again["weights"])
    assert net.weights.abs().max() <= 3**-0.5
    assert net.layer.weight.abs().max() <= WIDTH**-0.5


class Given(nn.Module):
    """A model whose logits and class vectors are known."""

    def __init__(self, logits, vectors):
        super().__init__()
        self.output = ModelOutput(logits, class_vectors=ClassVectors(vectors, torch.ones(CLASSES, WIDTH)))
        self.wanted = []

    def forward(self, images, want=frozenset()):
        self.wanted.append(want)
        return self.output


def given(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (len(INDEX), CLASSES), (len(INDEX), CLASSES, WIDTH)
    return Given(*(torch.tensor(scale * rng.normal(size=shape), requires_grad=True) for shape in shapes))


def build(codes=CODES, **settings):
    return HST(HSTConfig(**{"cooccurrence_width": 6, "prototypes": 2, **settings}), info_for(codes, WIDTH)).double()


def late(**settings):
    """A criterion in an epoch in which all counts, with prototypes of two steps."""
    criterion = build(pseudo_from=2, intra_margin=0.4, inter_margin=0.1, **settings)
    for seed in (11, 12):
        criterion(given(seed), batch_of(CODES, INDEX))
    criterion.on_epoch_start(2)
    return criterion


def test_a_late_step_is_its_formula_in_loops():
    criterion, model, codes = (
        late(margin_weight=0.3, cooccurrence_weight=2.0, contrast_weight=0.2),
        given(9),
        CODES[INDEX],
    )
    torch.manual_seed(4)
    out = criterion(model, batch_of(CODES, INDEX))
    torch.manual_seed(4)
    draws = torch.rand(10, CLASSES).double().numpy()
    logits, vectors = model.output.logits.detach().numpy(), model.output.class_vectors.vectors.detach()
    pairs = criterion.pairs(vectors).detach().numpy()
    margins = dict(zip(("intra", "inter"), criterion.margins.tolist(), strict=True))
    alike = {
        "intra": oracle.intra(pairs, codes),
        "inter": oracle.inter(vectors.numpy(), criterion.centres.centres.numpy()),
    }
    expected = {
        "known": known_oracle.mean_cost(logits, codes, "batch")[0],
        "pairs": oracle.pair_loss(pairs, codes),
        "contrast": sarb_oracle.contrast(vectors.numpy(), codes, draws),
        "prototype": oracle.prototype_contrast(alike["inter"], codes),
    }
    for kind, similarity in alike.items():
        labels = oracle.pseudo(similarity, margins[kind], codes)
        assert (labels != codes).any()
        expected[kind] = known_oracle.mean_cost(logits, labels, "batch")[0]
        above = np.clip(similarity - margins[kind], 0, 1)
        expected[f"{kind}_fit"] = known_oracle.mean_cost(above, codes, "batch")[0]
        expected[f"{kind}_added"] = (labels != codes).sum() / len(codes)
        expected[f"{kind}_margin"] = margins[kind]
    assert {name: float(value) for name, value in out.parts.items()} == pytest.approx(expected, rel=1e-9)
    weights = dict.fromkeys(("known", "intra", "inter"), 1.0) | {"intra_fit": 0.3, "inter_fit": 0.3, "prototype": 0.05}
    weights |= {"pairs": 2.0 * 2 / 3, "contrast": 0.2 * 2 / 3}  # the third step of an epoch of three
    total = sum(weight * expected[name] for name, weight in weights.items())
    assert float(out.total.detach()) == pytest.approx(total, rel=1e-9)
    marked = np.logical_or(*(oracle.pseudo(alike[kind], margins[kind], codes) != codes for kind in alike))
    assert out.modified.tolist() == marked.tolist()
    out.total.backward()
    assert (criterion.margins.grad != 0).all()
    assert model.output.class_vectors.vectors.grad.abs().sum() > 0
    assert torch.equal(out.logits, model.output.logits)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert set(model.wanted) == {frozenset({"class_vectors"})}


def test_before_its_epoch_nothing_is_added():
    criterion = build(pseudo_from=3, intra_margin=0.0, inter_margin=0.0)
    for epoch in (1, 2, 3):
        criterion.on_epoch_start(epoch)
        out = criterion(given(epoch), batch_of(CODES, INDEX))
        early = ["known", "pairs", "contrast"]
        if epoch == 3:
            later = ["known", "intra", "intra_fit", "inter", "inter_fit", "pairs", "contrast", "prototype"]
            assert list(out.parts) == [*later, "intra_added", "intra_margin", "inter_added", "inter_margin"]
            assert out.modified.any()
        else:
            assert list(out.parts) == early
            assert not out.modified.any()
        assert out.modified.shape == (len(INDEX), CLASSES)


@pytest.mark.parametrize("margin", [1.0, 0.95])
def test_a_margin_that_nothing_is_above_stays(margin):
    criterion = build(pseudo_from=1, inter_margin=margin)
    criterion.centres.centres.copy_(torch.eye(WIDTH)[:2].expand(CLASSES, 2, WIDTH))  # mean cosines of at most .71
    criterion(given(3), batch_of(CODES, INDEX)).total.backward()
    assert float(criterion.margins.grad[1]) == 0


def test_known_labels_above_a_margin_move_it_by_which_kind_they_are():
    for kind, sign in ((PRESENT, 1), (ABSENT, -1)):
        codes = torch.full((2, 3), kind).float()
        margin = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        above = above_margin(torch.full((2, 3), 0.7, dtype=torch.float64), margin)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(above, codes.double())
        losses.backward()
        assert np.sign(float(margin.grad)) == sign  # down where they are present, up where they are absent


@pytest.mark.parametrize(("left", "kept"), [(1.4, 1.0), (-0.2, 0.0), (0.7, 0.7)])
def test_margins_are_brought_back_before_they_are_used(left, kept):
    criterion = build(pseudo_from=1)
    with torch.no_grad():
        criterion.margins.fill_(left)
    out = criterion(given(1), batch_of(CODES, INDEX))
    assert criterion.margins.tolist() == pytest.approx([kept, kept])
    assert float(out.parts["inter_margin"]) == pytest.approx(kept)


def test_margins_are_parameters_without_decay_where_they_are_learned():
    criterion = build()
    pairs, margins = criterion.parameter_groups()
    assert (margins["params"], margins["weight_decay"]) == ([criterion.margins], 0.0)
    assert pairs == {"params": list(criterion.pairs.parameters())}
    fixed = build(margins_learned=False, pseudo_from=1)
    assert len(fixed.parameter_groups()) == 1
    fixed(given(1), batch_of(CODES, INDEX)).total.backward()
    assert fixed.margins.grad is None


def test_weights_of_0_leave_a_part_out():
    criterion = build(contrast_weight=0.0)
    state = torch.get_rng_state()
    assert float(criterion(given(1), batch_of(CODES, INDEX)).parts["contrast"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    weights = []
    for _ in range(4):
        weights.append(float(criterion._weights()["pairs"]))
        criterion.steps += 1
    assert weights == pytest.approx([10 / 3, 20 / 3, 10, 10])  # after one step of three


@pytest.mark.parametrize("size", [200.0, -200.0])
def test_saturated_scores_give_finite_losses_and_gradients(size):
    criterion, model = late().float(), given(2, scale=1e3)
    vectors = model.output.class_vectors.vectors.detach().float().requires_grad_()
    logits = torch.full((5, CLASSES), size, dtype=torch.float16).requires_grad_()
    model.output = ModelOutput(logits, class_vectors=ClassVectors(vectors, torch.ones(CLASSES, WIDTH)))
    out = criterion(model, batch_of(CODES, INDEX))
    out.total.backward()
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert out.total.isfinite()
    for each in (vectors, logits, *criterion.parameters()):
        assert each.grad.isfinite().all()


def test_rows_may_come_in_any_order():
    orders, totals = ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]), []
    for order in orders:
        criterion, model = late(contrast_weight=0.0), given(5)
        logits, (vectors, *rest) = model.output.logits[order], model.output.class_vectors
        model.output = ModelOutput(logits, class_vectors=ClassVectors(vectors[order], *rest))
        totals.append(criterion(model, batch_of(CODES, [INDEX[row] for row in order])).total)
    torch.testing.assert_close(*totals)


def parts():
    torch.manual_seed(0)
    model = FakeModel(CLASSES)
    config = HSTConfig(cooccurrence_width=6, prototypes=2, prototype_every=2, pseudo_from=2, intra_margin=0.4)
    criterion = HST(config, info_for(CODES))
    groups = [{"params": model.parameters()}, *criterion.parameter_groups()]
    return criterion, model, torch.optim.Adam(groups, lr=0.02)


@pytest.mark.parametrize("cut", [1, 5])
def test_a_run_that_is_cut_off_ends_the_same(cut):
    train = trainer([[4, 2, 0, 3], [6, 1, 5], [8, 7]], lambda index: batch_of(CODES, index))
    criterion, *_ = check_resume(parts, train, cut)
    assert criterion.margins[0] != 0.4
    assert int(criterion.steps) == 12
    assert criterion.centres.held.all()


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.where(CODES == 0, -1, CODES), "no label is known to be absent"),
        (np.where(CODES == 1, -1, CODES), "no label is known to be present"),
        (
            np.maximum(CODES, 0),
            "no label is unknown, so there is none to add; take --loss partial_bce, or --labels known",
        ),
        (np.array([[1], [0], [-1]]), "there is one class, which goes with no other; take --loss partial_bce"),
    ],
)
def test_labels_that_it_cannot_learn_from_are_refused(codes, words):
    with pytest.raises(UserError, match=f"^hst: {words}"):
        build(codes.astype(np.int8))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pseudo_from", 0, "must be at least 1"),
        ("intra_margin", 1.01, r"must be in \[0, 1\]"),
        ("inter_margin", -0.01, r"must be in \[0, 1\]"),
        ("cooccurrence_width", 0, "must be at least 1"),
        ("prototypes", 0, "must be at least 1; the published value is 10"),
        ("prototype_memory", 9, r"must be at least 1, and not below --prototypes \(10\)"),
        *(
            (f"{name}_weight", -0.1, "must be 0 or more")
            for name in ("margin", "cooccurrence", "contrast", "prototype")
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(name, value, words):
    with pytest.raises(UserError, match=f"^--{name} {value}: {words}$"):
        HSTConfig(**{name: value})


def test_its_defaults_and_what_it_keeps():
    config = HSTConfig()
    assert (config.pseudo_from, config.intra_margin, config.inter_margin, config.margins_learned) == (
        6,
        0.95,
        0.95,
        True,
    )
    assert (config.margin_weight, config.cooccurrence_weight, config.cooccurrence_width) == (0.1, 10.0, 512)
    assert (config.contrast_weight, config.prototype_weight) == (0.05, 0.05)
    assert (config.prototypes, config.prototype_every, config.prototype_memory) == (10, 5, 100)
    kept, pairs = HST.memory_needs(config, info_for(CODES, WIDTH))
    assert (kept.name, kept.size) == ("prototypes", 4 * CLASSES * 110 * WIDTH)
    assert (pairs.name, pairs.size, pairs.per_image, pairs.learned) == (
        "pairs of classes",
        4 * PAIRS * 512,
        False,
        True,
    )
    assert build().refuses_spliced() == ""


def test_a_model_of_logits_alone_is_refused():
    criterion = build_criterion("hst", observed=CODES, class_vector_width=WIDTH)
    with pytest.raises(ValueError, match=r"HST needs more than logits \(class_vectors\)"):
        criterion.from_logits(torch.zeros(2, CLASSES), torch.tensor(CODES[:2]), torch.arange(2))
