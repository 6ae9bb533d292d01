"""SARB against golden values of the published code and plain loops; limits, steps, resuming, labels that it refuses."""

import numpy as np
import pytest
import torch
from torch import nn

from data.labels.partial_annotation import known_labels
from losses import CRITERIA, build_criterion
from losses.sarb import SARB, SARBConfig, blended, blended_with_centres, contrast, cosines
from losses.single_positive import known_losses
from tests.golden_files import each_case
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.losses.steps import check_resume, trainer
from tests.oracles import consistency as known_oracle
from tests.oracles import sarb as oracle
from utils.checks import UserError
from utils.head_vectors import ClassVectors
from utils.types import ABSENT, PRESENT, UNKNOWN, ModelOutput

ROWS, CLASSES = 9, 5
CODES = np.random.default_rng(3).integers(-1, 2, (ROWS, CLASSES)).astype(np.int8)
INDEX = [0, 1, 2, 8, 3]


def ours(codes):
    """Labels of the published code, 1, -1 absent, 0 unknown, in our codes."""
    return np.select([codes == 1, codes == -1], [PRESENT, ABSENT], UNKNOWN)


def mean_of_known(losses, targets):
    return losses.sum() / (targets != UNKNOWN).sum().clamp(min=1)


def of_bce(arrays, case):
    logits, codes = torch.tensor(arrays["logits"], requires_grad=True), torch.tensor(ours(arrays["targets"]))
    loss = mean_of_known(known_losses(logits, codes), codes)
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, arrays["grad"], rtol=1e-5, atol=1e-6)


def of_mix(arrays, case):
    vectors, codes = torch.tensor(arrays["features"], requires_grad=True), torch.tensor(ours(arrays["targets"]))
    share = torch.tensor(case["alpha"], dtype=torch.float64, requires_grad=True)
    found = blended(vectors, codes, share)
    np.testing.assert_array_equal(torch.where(found.taken, share, 1.0).detach(), arrays["coef"])
    expected = arrays["mixed_targets"]
    targets = np.select([expected > 0, expected < 0], [expected, ABSENT], UNKNOWN)
    np.testing.assert_allclose(found.targets.detach(), targets, atol=1e-12)
    logits = ClassVectors(vectors, torch.tensor(arrays["classifier"])).classify(found.vectors)
    loss = mean_of_known(known_losses(logits, found.targets), found.targets)
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-5)  # the published loss is float32
    np.testing.assert_allclose(vectors.grad, arrays["grad_features"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(float(share.grad), arrays["grad_alpha"], rtol=1e-5, atol=1e-6)


def of_contrast(arrays, case):
    vectors, codes = torch.tensor(arrays["features"], requires_grad=True), ours(arrays["targets"])
    first, second = np.triu_indices(len(codes), 1)
    one, other = codes[first], codes[second]
    draws = np.full(one.shape, 2.0)
    kinds = {"perm_nn": (one == ABSENT) & (other == ABSENT), "perm_pn": (one + other == 1) & (one * other == 0)}
    for name, kind in kinds.items():
        order = arrays[name]
        if len(order):
            lots = np.empty(len(order))
            lots[order] = np.arange(len(order)) / len(order)
            draws[kind] = lots
    loss = contrast(vectors, torch.tensor(codes), torch.tensor(draws))
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-9)
    np.testing.assert_allclose(vectors.grad, arrays["grad"], rtol=1e-9, atol=1e-12)


def of_known(arrays, case):
    found = known_labels(arrays["truth"].astype(np.int8), np.random.RandomState(case["seed"]), case["p"])
    np.testing.assert_array_equal(found, ours(arrays["observed"]))


GOLDEN = {"bce": of_bce, "mix": of_mix, "contrast": of_contrast, "known": of_known}


def of_sarb(case, arrays):
    """True of the cases of SARB; those of HST are compared in test_hst.py."""
    return case is None or case["kind"] not in ("proto_contrast", "hst_pseudo")


@pytest.mark.parametrize(("case", "arrays"), [each for each in each_case("sarb.npz") if of_sarb(*each.values)])
def test_golden_sarb(case, arrays):
    GOLDEN[case["kind"]](arrays, case)


def drawn(seed, rows=5, width=4):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(rows, CLASSES, width)), requires_grad=True), rng


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blending_is_its_formula_in_loops(share):
    vectors, _ = drawn(0)
    codes = CODES[INDEX]
    found = blended(vectors, torch.tensor(codes), torch.tensor(share, dtype=torch.float64))
    mixed, targets = oracle.blended(vectors.detach().numpy(), codes, share)
    np.testing.assert_allclose(found.vectors.detach(), mixed, atol=1e-15)
    np.testing.assert_allclose(found.targets, targets, atol=1e-15)
    assert found.taken.any()
    assert ((found.targets == UNKNOWN) == torch.tensor(targets == -1)).all()


def test_a_share_of_1_takes_nothing_up_and_one_of_0_everything():
    vectors, _ = drawn(1)
    codes = torch.tensor(CODES[INDEX])
    none = blended(vectors, codes, torch.tensor(1.0).double())
    assert torch.equal(none.vectors, vectors)
    assert torch.equal(none.targets, codes.double())
    whole = blended(vectors, codes, torch.tensor(0.0).double())
    assert torch.equal(whole.vectors[whole.taken], vectors.flip(0)[whole.taken])
    assert (whole.targets[whole.taken] == 1).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blending_with_centres_is_its_formula_in_loops(share):
    vectors, rng = drawn(3, rows=6)
    codes = CODES[[*INDEX, 4]]
    codes[1] = [1, 0, 1, 0, 1]  # nothing is unknown
    centres, draws, held = rng.normal(size=(CLASSES, 4)), rng.random((6, CLASSES)), np.array([1, 1, 0, 1, 1], bool)
    codes[2] = [1, 0, -1, 0, 1]  # of what is unknown there is no centre
    given = (torch.tensor(codes), torch.tensor(centres), torch.tensor(held), torch.tensor(draws))
    found = blended_with_centres(vectors, *given, torch.tensor(share, dtype=torch.float64))
    mixed, targets, taken = oracle.blended_with_centres(vectors.detach().numpy(), codes, centres, held, draws, share)
    np.testing.assert_allclose(found.vectors.detach(), mixed, atol=1e-15)
    np.testing.assert_allclose(found.targets, targets, atol=1e-15)
    assert found.taken.tolist() == taken.tolist()
    assert found.taken.sum(dim=1).tolist() == [int(((row == -1) & held).any()) for row in codes]
    assert not found.taken[1:3].any()


@pytest.mark.parametrize("seed", range(4))
def test_the_contrast_is_its_formula_in_loops(seed):
    vectors, rng = drawn(seed, rows=6)
    codes = rng.choice([1, 0, -1], (6, CLASSES), p=[0.25, 0.55, 0.2])
    draws = rng.random((15, CLASSES))
    found = contrast(vectors, torch.tensor(codes), torch.tensor(draws))
    assert float(found.detach()) == pytest.approx(oracle.contrast(vectors.detach().numpy(), codes, draws), rel=1e-12)


def test_without_a_class_present_in_both_images_all_other_pairs_count():
    vectors, _ = drawn(5, rows=4)
    codes = np.zeros((4, CLASSES), dtype=int)
    codes[0] = 1
    found = contrast(vectors, torch.tensor(codes), torch.rand(6, CLASSES).double())
    assert float(found.detach()) == pytest.approx(float((1 + cosines(vectors)).mean().detach()), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 3])
def test_where_nothing_is_known_or_alone_the_contrast_is_0_with_a_gradient(rows):
    vectors, _ = drawn(6, rows=rows)
    codes = torch.full((rows, CLASSES), UNKNOWN if rows > 1 else PRESENT)
    found = contrast(vectors, codes, torch.rand(rows * (rows - 1) // 2, CLASSES).double())
    found.backward()
    assert float(found.detach()) == float(vectors.grad.abs().sum()) == 0


def test_a_vector_of_zeros_is_unlike_all_and_gives_no_gradient_that_is_not_finite():
    vectors = torch.zeros(3, CLASSES, 4, requires_grad=True)
    found = contrast(vectors, torch.ones(3, CLASSES), torch.rand(3, CLASSES))
    found.backward()
    assert float(found.detach()) == 1
    assert vectors.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    vectors, rng = drawn(7)
    codes, share = torch.tensor(CODES[INDEX]), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    weights, draws = torch.tensor(rng.normal(size=(CLASSES, 4))), torch.tensor(rng.random((10, CLASSES)))

    def losses(vectors, share):
        found = blended(vectors, codes, share)
        scores = ClassVectors(vectors, weights).classify(found.vectors)
        return known_losses(scores, found.targets).sum(), contrast(vectors, codes, draws)

    assert torch.autograd.gradcheck(losses, (vectors, share))


def test_the_order_of_pairs_does_not_matter_but_by_lot():
    vectors, _ = drawn(8)
    codes = torch.tensor(np.where(CODES[INDEX] == 0, UNKNOWN, CODES[INDEX]))  # nothing by lot
    order = [3, 0, 4, 2, 1]
    found = contrast(vectors, codes, torch.zeros(10, CLASSES).double())
    other = contrast(vectors[order], codes[order], torch.zeros(10, CLASSES).double())
    torch.testing.assert_close(found, other)


class Given(nn.Module):
    """A model whose logits and class vectors are known."""

    def __init__(self, logits, vectors, weights, bias):
        super().__init__()
        self.output = ModelOutput(logits, class_vectors=ClassVectors(vectors, weights, bias))
        self.wanted = []

    def forward(self, images, want=frozenset()):
        self.wanted.append(want)
        return self.output


def build(codes=CODES, **settings):
    return SARB(SARBConfig(**settings), info_for(codes))


def given(seed):
    vectors, rng = drawn(seed)
    logits = torch.tensor(rng.normal(size=(5, CLASSES)), requires_grad=True)
    weights, bias = torch.tensor(rng.normal(size=(CLASSES, 4))), torch.tensor(rng.normal(size=CLASSES))
    return Given(logits, vectors, weights, bias)


def test_a_step_is_its_formula_in_loops():
    model, codes = given(9), CODES[INDEX]
    criterion = build(blend_from=2, blend_share=0.3, contrast_weight=0.2).double()
    criterion.on_epoch_start(2)
    criterion.steps.fill_(2)  # of 3 in an epoch
    torch.manual_seed(4)
    out = criterion(model, batch_of(CODES, INDEX))
    torch.manual_seed(4)
    draws = torch.rand(10, CLASSES).double().numpy()
    output = model.output
    vectors, weights, bias = (each.detach().numpy() for each in output.class_vectors)
    known, _ = known_oracle.mean_cost(output.logits.detach().numpy(), codes, "batch")
    mixed, targets = oracle.blended(vectors, codes, float(np.float32(0.3)))
    scores = np.einsum("bcd,cd->bc", mixed, weights) + bias
    has = targets != -1
    costs = [
        t * known_oracle.cost(z, 1) + (1 - t) * known_oracle.cost(z, 0)
        for z, t in zip(scores[has], targets[has], strict=True)
    ]
    compared = oracle.contrast(vectors, codes, draws)
    parts = {name: float(value) for name, value in out.parts.items()}
    taken = (codes == -1) & (codes[::-1] == 1)
    assert parts == pytest.approx(
        {"known": known, "blended": np.mean(costs), "contrast": compared, "share": 0.3, "taken": taken.sum() / 5},
        rel=1e-6,
    )
    assert float(out.total.detach()) == pytest.approx(known + np.mean(costs) + 0.2 * 2 / 3 * compared, rel=1e-6)
    out.total.backward()
    assert criterion.share.grad.abs() > 0
    assert torch.equal(out.logits, output.logits)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert (out.modified, model.wanted) == (None, [frozenset({"class_vectors"})])


def test_blending_begins_at_its_epoch_and_the_contrast_grows_for_one():
    criterion, weights = build(blend_from=3), []
    for epoch in (1, 2, 3):
        criterion.on_epoch_start(epoch)
        names = [list(criterion(given(1), batch_of(CODES, INDEX)).parts) for _ in range(2)]
        blending = ["taken", "share", "known", "blended", "contrast"]
        assert names == [blending if epoch == 3 else ["known", "contrast"]] * 2
    criterion.steps.zero_()
    for _ in range(5):
        weights.append(float(criterion._weight()))
    assert weights == pytest.approx([0, 0.05 / 3, 0.1 / 3, 0.05, 0.05])


def test_without_a_contrast_nothing_is_drawn():
    criterion, state = build(contrast_weight=0.0), torch.get_rng_state()
    assert float(criterion(given(1), batch_of(CODES, INDEX)).parts["contrast"]) == 0
    assert torch.equal(torch.get_rng_state(), state)


def with_centres(**settings):
    return SARB(SARBConfig(blend_from=2, prototypes=2, prototype_every=2, **settings), info_for(CODES, width=4))


def test_a_step_with_centres_is_its_formula_in_loops():
    criterion, model, codes = with_centres(contrast_weight=0.0).double(), given(9), CODES[INDEX]
    early = criterion(given(10), batch_of(CODES, INDEX))
    assert list(early.parts) == ["known", "contrast"]
    criterion.on_epoch_start(2)
    with torch.no_grad():
        criterion.centre_share.fill_(0.25)
    torch.manual_seed(4)
    out = criterion(model, batch_of(CODES, INDEX))
    torch.manual_seed(4)
    *draws, last = torch.rand(6, CLASSES).double().numpy()
    number, draws = int(2 * last[0]), np.array(draws)
    vectors, weights, bias = (each.detach().numpy() for each in model.output.class_vectors)
    held = criterion.prototypes.held.numpy()
    centres = criterion.prototypes.centres[:, number].numpy()
    mixed, targets, taken = oracle.blended_with_centres(vectors, codes, centres, held, draws, 0.25)
    scores, has = np.einsum("bcd,cd->bc", mixed, weights) + bias, targets != -1
    costs = [
        t * known_oracle.cost(z, 1) + (1 - t) * known_oracle.cost(z, 0)
        for z, t in zip(scores[has], targets[has], strict=True)
    ]
    assert taken.any()
    assert list(out.parts) == ["taken", "share", "centre_share", "known", "blended", "centred", "contrast"]
    assert float(out.parts["centred"]) == pytest.approx(np.mean(costs), rel=1e-9)
    assert float(out.parts["centre_share"]) == 0.25
    total = sum(float(out.parts[name]) for name in ("known", "blended", "centred"))
    assert float(out.total.detach()) == pytest.approx(total, rel=1e-9)
    out.total.backward()
    assert criterion.centre_share.grad.abs() > 0


def test_centres_are_kept_only_where_they_are_wanted():
    assert build().prototypes is None
    assert sorted(build().state_dict()) == ["_extra_state", "share", "steps"]
    assert SARB.memory_needs(SARBConfig(), info_for(CODES)) == []
    (need,) = SARB.memory_needs(SARBConfig(prototypes=10), info_for(CODES))
    assert (need.name, need.size) == ("prototypes", 4 * CLASSES * 110 * 8)
    criterion = with_centres(blend_share=0.2)
    (group,) = criterion.parameter_groups()
    assert {id(each) for each in group["params"]} == {id(criterion.share), id(criterion.centre_share)}
    fixed = with_centres(blend_learned=False)
    assert fixed.parameter_groups() == []
    assert not any(each.requires_grad for each in fixed.parameters())
    with torch.no_grad():
        criterion.centre_share.fill_(1.5)
    criterion.on_epoch_start(2)
    criterion.float()(given32(), batch_of(CODES, INDEX))
    assert float(criterion.centre_share.detach()) == 1


def given32():
    model = given(1)
    model.output = ModelOutput(
        model.output.logits.float(), class_vectors=ClassVectors(*(each.float() for each in model.output.class_vectors))
    )
    return model


def centre_parts():
    torch.manual_seed(0)
    model, config = FakeModel(CLASSES), SARBConfig(blend_from=2, prototypes=2, prototype_every=2)
    criterion = SARB(config, info_for(CODES))
    groups = [{"params": model.parameters()}, *criterion.parameter_groups()]
    return criterion, model, torch.optim.Adam(groups, lr=0.02)


def test_a_run_with_centres_that_is_cut_off_ends_the_same():
    train = trainer([[4, 2, 0, 3], [6, 1, 5], [8, 7]], lambda index: batch_of(CODES, index))
    criterion, *_ = check_resume(centre_parts, train, 5)
    assert float(criterion.centre_share.detach()) != 0.5
    assert criterion.prototypes.held.all()


@pytest.mark.parametrize(("left", "kept"), [(1.4, 1.0), (-0.2, 0.0), (0.7, 0.7)])
def test_the_share_is_brought_back_before_it_is_used(left, kept):
    criterion = build(blend_from=1)
    with torch.no_grad():
        criterion.share.fill_(left)
    out = criterion(given(1), batch_of(CODES, INDEX))
    assert float(out.parts["share"]) == float(criterion.share.detach()) == pytest.approx(kept)


def test_the_share_is_a_parameter_without_decay_where_it_is_learned():
    criterion = build(blend_share=0.2)
    (group,) = criterion.parameter_groups()
    assert (group["params"], group["weight_decay"]) == ([criterion.share], 0.0)
    fixed = build(blend_learned=False, blend_from=1)
    assert fixed.parameter_groups() == []
    fixed(given(1), batch_of(CODES, INDEX)).total.backward()
    assert fixed.share.grad is None


@pytest.mark.parametrize("size", [200.0, -200.0])
def test_saturated_scores_give_finite_losses_and_gradients(size):
    model = given(2)
    vectors = (model.output.class_vectors.vectors.detach() * 1e3).requires_grad_()
    logits = torch.full((5, CLASSES), size, dtype=torch.float16).requires_grad_()
    weights = torch.ones(CLASSES, 4).double()
    model.output = ModelOutput(logits, class_vectors=ClassVectors(vectors, weights))
    out = build(blend_from=1)(model, batch_of(CODES, INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert vectors.grad.isfinite().all()
    assert logits.grad.isfinite().all()
    assert out.logits.dtype == torch.float32


def parts():
    torch.manual_seed(0)
    model, criterion = FakeModel(CLASSES), build(blend_from=2)
    groups = [{"params": model.parameters()}, *criterion.parameter_groups()]
    return criterion, model, torch.optim.Adam(groups, lr=0.02)


@pytest.mark.parametrize("cut", [1, 4])
def test_a_run_that_is_cut_off_ends_the_same(cut):
    train = trainer([[4, 2, 0, 3], [6, 1, 5], [8, 7]], lambda index: batch_of(CODES, index))
    criterion, *_ = check_resume(parts, train, cut)
    assert float(criterion.share.detach()) != 0.5
    assert int(criterion.steps) == 12


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.where(CODES == 0, -1, CODES), "no label is known to be absent"),
        (np.where(CODES == 1, -1, CODES), "no label is known to be present"),
        (np.maximum(CODES, 0), "no label is unknown, so nothing could be blended in; take --loss partial_bce, or"),
    ],
)
def test_labels_that_it_cannot_learn_from_are_refused(codes, words):
    with pytest.raises(UserError, match=f"^sarb: {words}"):
        build(codes.astype(np.int8))


def test_its_defaults_are_the_published_values():
    config = SARBConfig()
    assert (config.blend_from, config.blend_share, config.blend_learned) == (6, 0.5, True)  # epoch 5, counted from 0
    assert config.contrast_weight == 0.05
    assert (config.prototypes, config.prototype_every, config.prototype_memory) == (0, 5, 100)  # published: 10 of each
    with pytest.raises(UserError, match=r"^--prototypes -1: must be 0 or more; the published value is 10$"):
        SARBConfig(prototypes=-1)
    assert SARBConfig(prototypes=100).prototype_memory == 100
    with pytest.raises(
        UserError, match=r"^--prototype_memory 100: must be at least 1, and not below --prototypes \(101\)$"
    ):
        SARBConfig(prototypes=101)


def test_a_model_of_logits_alone_is_refused():
    criterion = build_criterion("sarb", observed=CODES)
    with pytest.raises(ValueError, match=r"SARB needs more than logits \(class_vectors\)"):
        criterion.from_logits(torch.zeros(2, CLASSES), torch.tensor(CODES[:2]), torch.arange(2))
    assert CRITERIA["sarb"].script == "main_BCE.py"
