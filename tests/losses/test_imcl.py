"""IMCL against plain loops; its gradient, limits, steps, resuming, processes, and labels that it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import CRITERIA, build_criterion, imcl
from losses.imcl import IMCL, MEASURED, IMCLConfig, asym_sigmoid, clamped
from losses.imcl_coding import sparse_codes
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.peers import dealt_out
from tests.losses.steps import check_resume, trainer
from tests.oracles import imcl as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

ROWS, CLASSES = 11, 5
CODES = random_labels(ROWS, CLASSES, seed=5)
BATCHES = [[0, 1, 2, 8], [3, 10, 4], [5, 9, 6, 7]]
SIZES = torch.tensor([0.9, 1.7, 40.0]).double()


def build(codes=CODES, **settings):
    return IMCL(IMCLConfig(**{"collaborate_from": 2, **settings}), info_for(codes)).double()


def batch(index, codes=CODES):
    found = batch_of(codes, index)
    return found._replace(images=found.images.double())


def model():
    return FakeModel(CLASSES).double()


def filled(**settings):
    """A criterion that has seen all images, in a later epoch and with sizes of the losses that stay."""
    criterion, network = build(**settings), model()
    for index in BATCHES:
        criterion(network, batch(index))
    criterion.on_epoch_start(2)
    criterion.steps = MEASURED
    criterion.measured.copy_(SIZES)
    return criterion, network


@pytest.mark.parametrize("c", [1.0, 2.0, 5.0])
def test_scores_are_the_published_formula(c):
    logits = torch.linspace(-15, 15, 31).double()
    np.testing.assert_allclose(asym_sigmoid(logits, c), oracle.score(logits.numpy(), c), rtol=1e-9, atol=1e-12)
    assert float(asym_sigmoid(torch.zeros(1).double(), c)) == pytest.approx(0, abs=1e-15)
    ends = asym_sigmoid(torch.tensor([-200.0, 200.0]), c)
    torch.testing.assert_close(ends, torch.tensor([-1 / c, 1.0]))


def test_scores_of_c_1_are_the_hyperbolic_tangent():
    logits = torch.randn(20).double()
    torch.testing.assert_close(asym_sigmoid(logits, 1.0), logits.tanh())


def test_known_labels_replace_scores_and_stop_their_gradient():
    scores = torch.full((1, 3), 0.3, requires_grad=True)
    found = clamped(scores, torch.tensor([[PRESENT, ABSENT, UNKNOWN]]), 2.0)
    torch.testing.assert_close(found.detach(), torch.tensor([[1.0, -0.5, 0.3]]))
    found.sum().backward()
    assert scores.grad.tolist() == [[0.0, 0.0, 1.0]]


SETTINGS = {
    "as it comes": {},
    "COCO": {"unknown_as": "absent", "asymmetry": 1.0},
    "features": {"feature_loss": True, "feature_weight": 0.5, "collaborative_weight": 2.0, "graph_neighbours": 0},
    "labels alone": {"feature_weight": 0.0, "atoms": 2},
    "small": {"dictionary_size": 4, "atoms": 5, "graph_neighbours": 1, "unknown_as": "absent"},
}


def expected_step(criterion, network, index, sums, step):
    """Total, cost of labels, of features, and atoms per image of the next step by the oracle; adds to the sums."""
    config, images = criterion.config, batch(index)
    with torch.no_grad():
        output = network(images.images, frozenset({"pooled"}))
    dictionary = criterion.dictionary
    features, seen = dictionary.features.numpy().copy(), dictionary.seen.numpy().copy()
    for image, row in enumerate(index):
        for atom in np.flatnonzero(dictionary.rows.numpy() == row):
            features[atom], seen[atom] = output.pooled.vectors[image], True
    case = {"logits": output.logits.numpy(), "features": output.pooled.vectors.numpy(), "codes": CODES[index]}
    case |= {"classifier": output.pooled.weights.detach().numpy(), "bias": output.pooled.bias.detach().numpy()}
    case |= {"rows": index, "atom_rows": dictionary.rows.numpy(), "atom_codes": CODES[dictionary.rows.numpy()]}
    weights = oracle.graph_weights(CODES, config.graph_neighbours)
    found = oracle.costs(
        case | {"atom_features": features, "seen": seen},
        weights,
        c=config.asymmetry,
        most=config.atoms,
        label_weight=config.collaborative_weight,
        feature_weight=config.feature_weight,
    )
    bce = oracle.bce(output.logits.numpy(), CODES[index], config.unknown_as)
    labels, of_features, atoms = found.mean(axis=0)
    if step < MEASURED:
        sums += [bce, labels, of_features]
    total = bce + config.collaborative_weight * sums[0] / sums[1] * labels
    if config.feature_loss:
        total += config.feature_weight * sums[0] / sums[2] * of_features
    return total, labels, of_features, atoms


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_steps_are_the_formulas_in_loops(settings):
    criterion, network = build(**settings), model()
    bce = [float(criterion(network, batch(index)).total.detach()) for index in BATCHES]
    unknown = criterion.config.unknown_as
    for found, index in zip(bce, BATCHES, strict=True):
        logits = network(batch(index).images).logits.detach().numpy()
        assert found == pytest.approx(oracle.bce(logits, CODES[index], unknown), rel=1e-12)
    sums, steps = np.zeros(3), 0
    for epoch in (2, 3, 4, 5):
        criterion.on_epoch_start(epoch)
        for index in BATCHES:
            network.head.weight.data.mul_(0.97)  # so that what is kept and what is seen now differ
            network.features.weight.data.mul_(1.01)
            total, labels, features, atoms = expected_step(criterion, network, index, sums, steps)
            out = criterion(network, batch(index))
            steps += 1
            assert float(out.total.detach()) == pytest.approx(total, rel=1e-9)
            assert float(out.parts["collaborative"]) == pytest.approx(labels, rel=1e-9)
            assert float(out.parts["atoms"]) == pytest.approx(atoms)
            assert ("features" in out.parts) == criterion.config.feature_loss
            if "features" in out.parts:
                assert float(out.parts["features"]) == pytest.approx(features, rel=1e-9)
            assert float(out.parts["weight"]) == pytest.approx(
                criterion.config.collaborative_weight * sums[0] / sums[1], rel=1e-9
            )
    assert (steps, criterion.steps, MEASURED) == (12, 10, 10)


@pytest.mark.parametrize("settings", [SETTINGS["as it comes"], SETTINGS["features"] | {"graph_neighbours": 3}])
def test_the_gradient_is_the_slope_where_codes_and_dictionary_stay(settings, monkeypatch):
    criterion, network = filled(**settings)
    images = batch(BATCHES[0])
    codes = []
    with torch.no_grad():
        monkeypatch.setattr(imcl, "sparse_codes", lambda *given: codes.append(sparse_codes(*given)) or codes[0])
        criterion(network, images)
    monkeypatch.setattr(criterion.dictionary, "refresh", lambda index, features: None)
    criterion(network, images).total.backward()
    parameters = {"head": network.head.weight, "bias": network.head.bias, "graph": criterion.graph.strengths}
    parameters |= {"backbone": network.features.bias} if criterion.config.feature_loss else {}
    rng = np.random.default_rng(0)
    for name, parameter in parameters.items():
        flat = parameter.data.view(-1)
        for at in rng.integers(0, len(flat), 5):
            ends, value = [], float(flat[at])
            for sign in (1, -1):
                flat[at] = value + sign * 1e-5
                with torch.no_grad():
                    ends.append(float(criterion(network, images).total))
            flat[at] = value
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(parameter.grad.view(-1)[at]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_the_first_epoch_is_bce_and_fills_the_dictionary():
    criterion, network = build(collaborate_from=3), model()
    shares = []
    for epoch, index in ((1, BATCHES[0]), (1, BATCHES[1]), (2, BATCHES[2])):
        criterion.on_epoch_start(epoch)
        out = criterion(network, batch(index))
        assert out.parts.keys() == {"bce", "seen"}
        assert out.total.detach() == out.parts["bce"]
        shares.append(float(out.parts["seen"]))
    assert shares == pytest.approx([4 / ROWS, 7 / ROWS, 1])
    assert criterion.steps == 0
    criterion.on_epoch_start(3)
    assert "collaborative" in criterion(network, batch(BATCHES[0])).parts
    assert criterion.steps == 1


def test_an_image_for_which_there_is_no_atom_costs_nothing():
    criterion, network = build(dictionary_size=1), model()
    (row,) = criterion.dictionary.rows.tolist()
    criterion.on_epoch_start(2)
    out = criterion(network, batch([row]))
    assert out.total.detach() == out.parts["bce"]
    assert (float(out.parts["collaborative"]), float(out.parts["atoms"]), float(out.parts["weight"])) == (0, 0, 0)
    out.total.backward()
    assert network.head.weight.grad.isfinite().all()


def test_images_of_a_batch_in_another_order_cost_the_same():
    criterion, network = filled()
    first = criterion(network, batch(BATCHES[0])).total
    other = criterion(network, batch(BATCHES[0][::-1])).total
    torch.testing.assert_close(first, other)


def test_features_that_are_kept_have_no_gradient_and_those_of_the_step_are_kept():
    criterion, network = filled()
    network.features.weight.data.mul_(1.5)
    out = criterion(network, batch(BATCHES[1]))
    vectors = network(batch(BATCHES[1]).images, frozenset({"pooled"})).pooled.vectors
    torch.testing.assert_close(criterion.dictionary.features[BATCHES[1]], vectors.detach())
    assert not criterion.dictionary.features.requires_grad
    assert not out.logits.requires_grad
    assert not any(value.requires_grad for value in out.parts.values())
    assert network.calls[-2] == frozenset({"pooled"})


def test_in_half_precision_everything_is_of_float32():
    criterion, network = IMCL(IMCLConfig(collaborate_from=2), info_for(CODES)), FakeModel(CLASSES)
    criterion.on_epoch_start(2)
    output = network(batch_of(CODES, BATCHES[0]).images, frozenset({"pooled"}))
    images = batch_of(CODES, BATCHES[0])
    first = criterion(lambda images, want: output, images)
    assert first.total.dtype == torch.float32
    criterion.steps = MEASURED
    outside = criterion(lambda images, want: output, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = criterion(lambda images, want: output, images)
    assert inside.total.dtype == torch.float32
    assert torch.equal(inside.total, outside.total)


@pytest.mark.parametrize("size", [200.0, -200.0])
@pytest.mark.parametrize("unknown", ["masked", "absent"])
def test_saturated_scores_give_finite_losses_and_gradients(size, unknown):
    criterion, network = filled(unknown_as=unknown, feature_loss=True)
    output = network(batch(BATCHES[0]).images, frozenset({"pooled"}))
    logits = torch.full((4, CLASSES), size, dtype=torch.float16).requires_grad_()
    weights = (output.pooled.weights.detach().float() * 1e3).requires_grad_()
    vectors = output.pooled.vectors.detach().float().requires_grad_()
    pooled = output.pooled._replace(vectors=vectors, weights=weights, bias=output.pooled.bias.detach().float())
    out = criterion(lambda images, want: output._replace(logits=logits, pooled=pooled), batch(BATCHES[0]))
    out.total.backward()
    assert out.total.isfinite()
    assert all(each.grad.isfinite().all() for each in (logits, weights, vectors))
    assert out.logits.dtype == torch.float32


def parts():
    torch.manual_seed(0)
    config = IMCLConfig(dictionary_size=8, feature_loss=True, collaborate_from=2)
    network, criterion = FakeModel(CLASSES), IMCL(config, info_for(CODES))
    groups = [{"params": network.parameters()}, *({"params": each["params"]} for each in criterion.parameter_groups())]
    return criterion, network, torch.optim.Adam(groups, lr=0.02)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_run_that_is_cut_off_ends_the_same(cut):
    train = trainer(BATCHES, lambda index: batch_of(CODES, index))
    criterion, *_ = check_resume(parts, train, cut)
    assert criterion.steps == 9
    assert criterion.graph.strengths.detach().abs().max() > 0


def test_the_graph_is_learned_at_a_rate_of_its_own_and_does_not_decay():
    criterion = build(graph_lr_mult=7.0)
    (group,) = criterion.parameter_groups()
    assert (group["params"], group["lr_mult"], group["weight_decay"]) == ([criterion.graph.strengths], 7.0, 0.0)
    assert build(graph_neighbours=0).parameter_groups() == []


def test_it_plans_for_its_dictionary():
    config, info = IMCLConfig(dictionary_size=7), info_for(CODES)
    features, labels = IMCL.memory_needs(config, info)
    found = IMCL(config, info).dictionary
    assert (features.size, labels.size) == (found.features.nbytes, found.codes.nbytes)
    assert (features.per_image, labels.per_image) == (False, False)
    assert features.remedy == "a smaller --dictionary_size"
    assert IMCL.memory_needs(IMCLConfig(), info)[0].size == 4 * ROWS * 8


def share_batches(rank):
    """What a rank (None: one process alone) finds in some steps: losses, gradients weighted by rows, and state."""
    criterion, network = build(dictionary_size=7, feature_loss=True), model()
    alone, found = rank is None, []
    for epoch in (1, 2, 3):
        criterion.on_epoch_start(epoch)
        for index, share, whole in dealt_out(0 if alone else rank, 1 if alone else 2, ROWS, 4, epoch):
            network.zero_grad()
            criterion.graph.zero_grad()
            images = batch(index)._replace(global_index=None if alone else whole)
            out = criterion(network, images)
            (out.total * share).backward()
            gradients = [each.grad for each in (*network.parameters(), *criterion.graph.parameters())]
            found.append([out.total.detach() * share, *(torch.zeros(()) if g is None else g for g in gradients)])
    return found, [criterion.dictionary.features, criterion.measured]


@pytest.mark.slow
def test_two_ranks_do_what_one_process_does_on_the_whole_batch():
    (alone, state), ranks = share_batches(None), run_ranks(share_batches)
    for expected, *each in zip(alone, *(found for found, _ in ranks), strict=True):
        torch.testing.assert_close([sum(pair) for pair in zip(*each, strict=True)], expected)
    for _, own in ranks:
        torch.testing.assert_close(own, state)


@pytest.mark.parametrize(
    ("codes", "settings", "words"),
    [
        (
            np.where(CODES == ABSENT, UNKNOWN, CODES),
            {},
            "no label is known to be absent, so it would learn one ",
        ),
        (np.where(CODES == PRESENT, UNKNOWN, CODES), {}, "no label is known to be present; take --labels known$"),
        (
            np.maximum(CODES, 0),
            {"unknown_as": "absent"},
            "no label is unknown, so none is completed; take --loss ",
        ),
    ],
)
def test_labels_that_it_cannot_learn_from_are_refused(codes, settings, words):
    with pytest.raises(UserError, match=f"^imcl: {words}"):
        build(codes.astype(np.int8), **settings)


def test_labels_of_which_none_is_absent_are_taken_where_unknown_ones_are_read_so():
    codes = np.where(CODES == ABSENT, UNKNOWN, CODES).astype(np.int8)
    assert build(codes, unknown_as="absent").config.unknown_as == "absent"
    with pytest.raises(UserError, match=r"take --unknown_as absent, or --labels known$"):
        build(codes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dictionary_size": 0}, "--dictionary_size 0: must be at least 1; the published value is 10000"),
        ({"atoms": 0}, "--atoms 0: must be at least 1; the published value is 3"),
        ({"graph_neighbours": -1}, "--graph_neighbours -1: must be 0 or more"),
        ({"collaborate_from": 1}, "--collaborate_from 1: must be at least 2, for the first epoch fills the dictionary"),
        ({"asymmetry": 0.99}, "--asymmetry 0.99: must be 1 or more; the published values are 1 and 2"),
        ({"asymmetry": math.inf}, "--asymmetry inf"),
        ({"collaborative_weight": 0.0}, "--collaborative_weight 0.0: must be above 0"),
        ({"graph_lr_mult": math.inf}, "--graph_lr_mult inf: must be above 0"),
        ({"feature_weight": -0.1}, "--feature_weight -0.1: must be 0 or more"),
        ({"feature_weight": 0.0, "feature_loss": True}, "--feature_loss: has no weight; give --feature_weight above 0"),
        ({"unknown_as": "present"}, "unknown_as"),
    ],
)
def test_values_that_cannot_work_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        IMCLConfig(**settings)


def test_values_at_the_ends_work():
    least = {"dictionary_size": 1, "atoms": 1, "graph_neighbours": 0, "collaborate_from": 2, "asymmetry": 1.0}
    assert IMCLConfig(**least, feature_weight=0.0).atoms == 1


def test_its_defaults_are_the_published_values():
    config = IMCLConfig()
    assert (config.dictionary_size, config.atoms, config.asymmetry) == (10_000, 3, 2.0)
    assert (config.collaborative_weight, config.feature_weight, config.feature_loss) == (0.5, 0.25, False)
    assert (config.graph_neighbours, config.graph_lr_mult) == (5, 1.0)
    assert (config.unknown_as, config.collaborate_from) == ("masked", None)


@pytest.mark.parametrize(("epochs", "first"), [(1, 2), (2, 2), (3, 2), (4, 3), (5, 3), (30, 16)])
def test_combinations_begin_after_half_of_the_epochs_but_not_in_the_first(epochs, first):
    info = replace(info_for(CODES), epochs=epochs)
    assert IMCL(IMCLConfig(), info).first == first
    assert IMCL(IMCLConfig(collaborate_from=7), info).first == 7


def test_the_dictionary_follows_the_seed_of_the_run():
    rows = [IMCL(IMCLConfig(dictionary_size=4), replace(info_for(CODES), seed=seed)).dictionary.rows for seed in (0, 1)]
    assert not torch.equal(*rows)


def test_a_model_of_logits_alone_is_refused_and_so_are_spliced_images():
    criterion = build_criterion("imcl", observed=CODES, feature_width=8)
    with pytest.raises(ValueError, match=r"IMCL needs more than logits \(pooled\)"):
        criterion.from_logits(torch.zeros(2, CLASSES), torch.tensor(CODES[:2]), torch.arange(2))
    assert criterion.refuses_spliced() == "keeps features of training images, and a spliced image is none of them"
    assert CRITERIA["imcl"].script == "main_BCE.py"
    with pytest.raises(UserError, match=r"^imcl: give feature_width"):
        build_criterion("imcl", observed=CODES)
