"""The queue of LAC and the contrast over it against golden values, slow loops and lists."""

import math

import numpy as np
import pytest
import torch

from losses.plc_queue import Queue, class_contrast, free_places, put
from tests import golden_files
from tests.losses.steps import WAITING, Recorder


def golden(kind):
    cases = golden_files.each_case("plc_lac.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


def empty(size, width=1):
    return Queue(torch.zeros(size, 2, width), torch.zeros(size, dtype=torch.int64), torch.tensor(0))


def numbered(first, count, width=1):
    """Embeddings that hold their numbers, which are their labels too."""
    labels = torch.arange(first, first + count)
    return labels[:, None, None].expand(-1, 2, width).float(), labels


@pytest.mark.parametrize("case, arrays", golden("lac"))
def test_golden_contrast_and_gradients(case, arrays):
    pairs = torch.from_numpy(arrays["features"]).requires_grad_()
    loss = class_contrast(Queue(pairs, torch.from_numpy(arrays["labels"]), torch.tensor(0)), case["temperature"])
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pairs.grad, arrays["grad"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case, arrays", golden("queue"))
def test_golden_places(case, arrays):
    queue, done = empty(case["size"]), 0
    for count, rows in zip(arrays["added"], arrays["rows_after"], strict=True):
        pairs, labels = numbered(done + 1, int(count))
        queue = put(queue, pairs, labels, torch.ones(count, dtype=torch.bool), "reference")
        done += int(count)
        np.testing.assert_array_equal(queue.labels, rows)
        np.testing.assert_array_equal(queue.pairs[:, 1, 0], rows)


def contrast_by_loops(pairs, labels, temperature):
    """The contrast, embedding by embedding."""
    rows = [(pair[view], label) for pair, label in zip(pairs, labels, strict=True) for view in (0, 1) if label]
    losses = []
    for one, (own, label) in enumerate(rows):
        others = [(math.exp(own @ row / temperature), each) for at, (row, each) in enumerate(rows) if at != one]
        total = sum(value for value, _ in others)
        shares = [value / total for value, each in others if each == label]
        losses.append(-sum(map(math.log, shares)) / len(shares))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_contrast_matches_loops(temperature):
    rng = np.random.default_rng(0)
    pairs, labels = rng.normal(size=(9, 2, 4)), np.array([1, 2, 0, 1, 3, 2, 0, 2, 5])
    found = class_contrast(Queue(torch.tensor(pairs), torch.tensor(labels), torch.tensor(0)), temperature)
    assert float(found) == pytest.approx(contrast_by_loops(pairs, labels, temperature), rel=1e-12)
    order = rng.permutation(9)
    moved = class_contrast(Queue(torch.tensor(pairs[order]), torch.tensor(labels[order]), torch.tensor(0)), temperature)
    torch.testing.assert_close(moved, found)


def test_without_an_embedding_the_contrast_is_0_with_a_gradient_of_zeros():
    pairs = torch.randn(4, 2, 3, requires_grad=True)
    loss = class_contrast(Queue(pairs, torch.zeros(4, dtype=torch.int64), torch.tensor(0)), 0.5)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(pairs.grad, torch.zeros_like(pairs))


@pytest.mark.parametrize("size", [1, 5, 8])
def test_the_queue_is_a_ring_of_those_that_are_chosen(size):
    queue, kept, rng = empty(size, 2), [0] * size, np.random.default_rng(size)
    at = 0
    for step in range(7):
        pairs, labels = numbered(100 * step + 1, 12, 2)
        chosen = rng.random(12) < (0.2, 0.9, 0.0)[step % 3]
        new = labels.numpy()[chosen].tolist()
        for label in new:
            kept[at % size] = label
            at += 1
        queue = put(queue, pairs, labels, torch.from_numpy(chosen))
        assert queue.labels.tolist() == kept
        assert queue.pairs[:, 0, 1].tolist() == kept
        assert int(queue.pointer) == at % size


def test_of_more_than_there_is_room_for_the_last_stay_in_the_published_order_too():
    pairs, labels = numbered(1, 7)
    queue = put(empty(4), pairs, labels, torch.ones(7, dtype=torch.bool), "reference")
    assert (queue.labels.tolist(), int(queue.pointer)) == ([4, 5, 6, 7], 4)
    pairs, labels = numbered(8, 2)
    queue = put(queue, pairs, labels, torch.ones(2, dtype=torch.bool), "reference")
    assert (queue.labels.tolist(), int(queue.pointer)) == ([8, 9, 6, 7], 2)
    queue = put(queue, pairs, labels, torch.tensor([False, True]), "reference")
    assert (queue.labels.tolist(), int(queue.pointer)) == ([8, 9, 9, 7], 3)


def test_gradients_reach_those_that_are_put_in_and_no_others():
    pairs, labels = torch.randn(4, 2, 3, requires_grad=True), torch.tensor([1, 1, 2, 2])
    before = put(empty(5, 3), torch.randn(2, 2, 3), torch.tensor([2, 1]), torch.tensor([True, True]))
    after = put(before, pairs, labels, torch.tensor([True, False, True, False]))
    class_contrast(after, 0.5).backward()
    assert [bool(row.any()) for row in pairs.grad] == [True, False, True, False]
    places, pointer = free_places(torch.tensor([True, False]), before)
    assert (places.tolist(), int(pointer)) == ([2, 5], 3)


def test_nothing_waits_for_the_device():
    pairs, labels = torch.randn(4, 2, 3, requires_grad=True), torch.tensor([1, 1, 2, 2])
    with Recorder() as seen:
        class_contrast(put(empty(5, 3), pairs, labels, torch.tensor([True, False, True, False])), 0.5).backward()
    assert not seen.names & (WAITING - {"lift_fresh"})  # of the tensors that are made here
