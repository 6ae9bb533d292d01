"""Batches of a list of images, for the shards that are wanted."""

import pytest
import torch

from data.loading.eval_view import EvalView
from engine.prediction import shard_loader as room
from engine.prediction.image_list import write_list
from engine.prediction.predictor import ReadImage, read_image
from engine.prediction.shard_loader import NamedBatch, ShardPlan, named_batches, read_batches
from tests.engine.checkpoints import damaged, pixels

VIEW = EvalView(24, "none", "unit", "pillow")


def plan(folder, names, shard_size, batch_size):
    write_list(folder / "images.txt", names)
    return ShardPlan(folder / "images.txt", -(-len(names) // shard_size), shard_size, batch_size)


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        (2, {0, 1, 2}, [(0, "ab"), (0, "c"), (1, "de"), (1, "f"), (2, "g")]),
        (3, {0, 1, 2}, [(0, "abc"), (1, "def"), (2, "g")]),
        (9, {0, 2}, [(0, "abc"), (2, "g")]),
        (1, {2, 1}, [(1, "d"), (1, "e"), (1, "f"), (2, "g")]),
        (1, set(), []),
    ],
)
def test_a_batch_is_of_one_shard_whatever_else_is_wanted(tmp_path, size, wanted, expected):
    found = named_batches(plan(tmp_path, "abcdefg", 3, size), wanted)
    assert list(found) == [NamedBatch(shard, list(names)) for shard, names in expected]


def test_a_list_that_ends_with_a_full_shard_has_no_other(tmp_path):
    assert [batch.shard for batch in named_batches(plan(tmp_path, "abcdef", 3, 2), {0, 1, 2})] == [0, 0, 1, 1]


@pytest.fixture
def names(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        pixels(number).save(path)
    damaged(paths[1])
    paths[3].unlink()
    damaged(paths[6])
    return [str(path) for path in paths]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_images_are_read_in_order_and_those_that_cannot_be_stand_apart(tmp_path, names, workers):
    found = list(read_batches(plan(tmp_path, names, 3, 2), {0, 1, 2}, VIEW, workers))
    assert [(batch.shard, [name[-5] for name in batch.names], batch.size) for batch in found] == [
        *((0, ["0"], 2), (0, ["2"], 1), (1, ["4"], 2), (1, ["5"], 1), (2, [], 1))
    ]
    assert [[one.name[-5] for one in batch.unreadable] for batch in found] == [["1"], [], ["3"], [], ["6"]]
    assert found[2].unreadable[0].reason == "does not exist"
    assert found[4].pixels is None
    assert found[4].images == []
    for batch in found[:4]:
        (image,) = batch.images
        expected = read_image(VIEW, batch.names[0])
        assert isinstance(image, ReadImage)
        assert (image.name, image.pixels.dtype) == (expected.name, torch.uint8)
        assert torch.equal(image.pixels, expected.pixels)


def test_two_batches_of_a_shard_stay_apart_and_a_batch_has_its_images_in_order(tmp_path, names):
    whole = [names[0], names[2], names[4], names[5]]
    found = list(read_batches(plan(tmp_path, whole, 4, 2), {0}, VIEW, 0))
    assert [batch.names for batch in found] == [whole[:2], whole[2:]]
    assert [len(batch.pixels) for batch in found] == [2, 2]


@pytest.mark.parametrize(("number", "processes"), [(0, 2), (1, 2), (2, 3)])
def test_each_process_reads_every_nth_batch(tmp_path, names, monkeypatch, number, processes):
    class Process:
        id, num_workers = number, processes

    monkeypatch.setattr(room, "get_worker_info", Process)
    every = list(read_batches(plan(tmp_path, names, 3, 2), {0, 1, 2}, VIEW, 0))
    own = list(room._Batches(plan(tmp_path, names, 3, 2), {0, 1, 2}, VIEW))
    assert [batch.names for batch in own] == [batch.names for batch in every[number::processes]]


def test_processes_start_as_those_of_training_and_draw_no_random_number(tmp_path, monkeypatch):
    asked = []

    class Loader:
        def __init__(self, batches, **named):
            asked.append(named)

        def __iter__(self):
            return iter("ab")

    monkeypatch.setattr(room, "DataLoader", Loader)
    assert list(read_batches(plan(tmp_path, "a", 1, 1), {0}, VIEW, 3)) == ["a", "b"]
    assert isinstance(asked[0].pop("generator"), torch.Generator)
    start = {"multiprocessing_context": room.START}
    assert asked == [{"batch_size": None, "num_workers": 3, "prefetch_factor": 2, **start}]
