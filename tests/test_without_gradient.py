"""What is remembered, averaged or shown has no gradient, though what it is made of has one."""

import pytest
import torch
from torch import nn

from data.loading.eval_view import EvalView
from engine.core.inference import infer
from engine.training.ema import EMA
from losses.common.memory import write_rows
from losses.cones import negative_weights, pseudo_labels, update_confidence
from losses.cones_prototypes import PrototypeBank, Prototypes, class_prototypes
from losses.ndlp_confidence import predicted_confidence, predicted_confidence_each
from models.heads import HEADS
from tests.losses.common.test_global_batch import batch_at
from tests.losses.fake_model import FakeModel
from tests.models.heads.test_base import built
from utils.label_dynamics import GroupLosses, HighestLoss, Modifications

CANDIDATES = torch.tensor([[1.0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]])


def learned(*shape):
    """Positive numbers with a gradient."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_of_the_parts_of_cones():
    logits, confidence = learned(3, 4), learned(3, 4)
    assert not negative_weights(logits, CANDIDATES, 3.0).requires_grad
    assert not pseudo_labels(confidence, CANDIDATES).requires_grad
    assert not update_confidence(confidence, logits, CANDIDATES, torch.eye(4), 0.5).requires_grad
    found = class_prototypes(learned(3, 5, 2, 2), learned(3, 4, 2, 2), 0.5)
    assert not any(part.requires_grad for part in found)


class Graph:
    """Counts what autograd keeps for a backward pass."""

    def __init__(self):
        self.kept = 0

    def pack(self, tensor):
        self.kept += 1
        return tensor


@pytest.mark.parametrize(
    "compute",
    [
        lambda a, b: negative_weights(a, CANDIDATES, 3.0),
        lambda a, b: pseudo_labels(a, CANDIDATES),
        lambda a, b: update_confidence(a, b, CANDIDATES, torch.eye(4), 0.5),
        lambda a, b: class_prototypes(learned(3, 5, 2, 2), learned(3, 4, 2, 2), 0.5),
        lambda a, b: predicted_confidence(a, CANDIDATES.bool()),
        lambda a, b: predicted_confidence_each(a, CANDIDATES.bool()),
        lambda a, b: write_rows(torch.zeros(5, 4), batch_at([0, 3, 4]), a),
        lambda a, b: HighestLoss(5, 4).add(1, torch.arange(3), a),
        lambda a, b: PrototypeBank(4, 3, 5).push(Prototypes(learned(4, 5), torch.ones(4, dtype=torch.bool))),
    ],
)
def test_what_is_computed_for_itself_keeps_nothing_for_a_backward_pass(compute):
    first, second, graph = learned(3, 4), learned(3, 4), Graph()
    with torch.autograd.graph.saved_tensors_hooks(graph.pack, lambda tensor: tensor):
        compute(first, second.detach())
    assert graph.kept == 0
    with torch.autograd.graph.saved_tensors_hooks(graph.pack, lambda tensor: tensor):
        (first * second).sum()
    assert graph.kept > 0  # it does count


def test_of_the_bank_of_prototypes():
    bank = PrototypeBank(4, 3, 5)
    bank.push(Prototypes(learned(4, 5), torch.ones(4, dtype=torch.bool)))
    assert not bank.rows.requires_grad
    assert not bank.newest_first(0).requires_grad
    assert len(bank.newest_first(0)) == 1


def test_of_the_confidences_of_ndlp():
    for predicted in (predicted_confidence, predicted_confidence_each):
        assert not predicted(learned(3, 4), CANDIDATES.bool()).requires_grad


def test_of_a_memory_whose_rows_are_written():
    memory = torch.zeros(5, 4)
    write_rows(memory, batch_at([0, 3, 4]), learned(3, 4))
    assert not memory.requires_grad
    assert (memory.sum(dim=1) > 0).tolist() == [True, False, False, True, True]


def test_of_recorded_losses_and_modifications():
    highest, groups, modified = HighestLoss(5, 4), GroupLosses(), Modifications(5, 4)
    codes = torch.tensor([[1, -1, 0, -1]] * 3)
    highest.add(1, torch.arange(3), learned(3, 4))
    groups.add(codes, codes.abs(), learned(3, 4))
    modified.add(1, torch.arange(3), codes, codes.abs(), codes == -1)
    held = [*highest.state_dict().values(), *groups.state_dict().values(), *modified.state_dict().values()]
    assert not any(each.requires_grad for each in held)
    assert all(bool(each.any()) for each in held)


@pytest.mark.parametrize("name", HEADS)
def test_of_the_maps_of_every_head(name):
    head, features = built(name), torch.randn(2, 32, 3, 4).requires_grad_()
    assert head(features).requires_grad
    assert not head.cam(features).requires_grad
    logits, maps = head.with_cam(features)
    assert logits.requires_grad
    assert not maps.requires_grad


@pytest.mark.parametrize("name", HEADS)
def test_maps_alone_keep_nothing_for_a_backward_pass(name):
    head, features, graph = built(name), torch.randn(2, 32, 3, 4).requires_grad_(), Graph()
    with torch.autograd.graph.saved_tensors_hooks(graph.pack, lambda tensor: tensor):
        head.cam(features)
    assert graph.kept == 0


def test_of_inference():
    pixels = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2
    output = infer(FakeModel(3), pixels, EvalView(8, "none", "unit", "pillow"), frozenset({"cam"}))
    assert not output.logits.requires_grad
    assert not output.cam.requires_grad


def test_of_averaged_weights():
    network = nn.Linear(3, 2)
    average = EMA(network, 0.5)
    for _ in range(3):
        average.update()
        with torch.no_grad():
            network.weight.add_(1)
    assert all(parameter.grad_fn is None for parameter in average.network.parameters())
