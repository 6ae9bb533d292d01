from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.images.files import ArrayImages, FileImages
from data.loading.loader import LoaderConfig, build_loader, training_batches
from data.loading.samplers import ClassAwareBatches, OrderedBatches, SemiBatches, ShuffledBatches
from data.loading.transforms import eval_transform, normalizer, train_transform
from tests.data.trees import picture
from tests.losses.fake_model import random_labels
from utils.checks import RunError, UserError
from utils.types import Annotations, LabelTable

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (23, 12, 12, 3), dtype=np.uint8)
    truth = LabelTable(rng.integers(-1, 2, (23, 4)).astype(np.int8))
    ids = tuple(f"{row:02}" for row in range(23))
    return Annotations(ArrayImages(images, ids), ids, tuple("abcd"), truth)


def load(pictures, *, epoch=1, start=0, workers=0, views=1, rank=0, world=1, seed=0):
    observed = LabelTable(np.abs(pictures.truth.dense()))
    batches = ShuffledBatches(23, 6, seed=seed, rank=rank, world_size=world)
    batches.set_epoch(epoch, start)
    return list(loader(pictures, observed, [train_transform("shift", 12)] * views, batches, workers, seed))


def loader(pictures, observed, views, batches, workers=0, seed=0, decoder="pillow"):
    return build_loader(
        pictures,
        observed,
        views,
        batches,
        normalizer=normalizer("half"),
        decoder=decoder,
        seed=seed,
        num_workers=workers,
        pin_memory=False,
    )


def test_a_batch_joins_pictures_and_labels_by_row(pictures):
    for batch in load(pictures):
        rows = batch.index.numpy()
        assert batch.pixels.shape == (len(rows), 3, 12, 12)
        np.testing.assert_array_equal(batch.truth, pictures.truth.rows(rows))
        np.testing.assert_array_equal(batch.observed, np.abs(pictures.truth.rows(rows)))
        assert batch.observed.dtype == torch.float32
        assert batch.second_pixels is None


def test_workers_change_nothing(pictures):
    for alone, helped in zip(load(pictures), load(pictures, workers=2), strict=True):
        assert torch.equal(alone.pixels, helped.pixels)
        assert torch.equal(alone.index, helped.index)


def test_a_resumed_epoch_loads_the_same_pictures(pictures):
    for whole, rest in zip(load(pictures)[2:], load(pictures, start=2), strict=True):
        assert torch.equal(whole.pixels, rest.pixels)


def test_processes_see_the_pictures_of_one_process(pictures):
    whole = {int(row): image for batch in load(pictures) for row, image in zip(batch.index, batch.pixels, strict=True)}
    for rank in range(2):
        for batch in load(pictures, rank=rank, world=2):
            for row, image in zip(batch.index, batch.pixels, strict=True):
                assert torch.equal(image, whole[int(row)])


def test_epochs_and_seeds_augment_anew(pictures):
    def by_row(batches):
        return torch.stack(
            [image for _, image in sorted((int(r), i) for b in batches for r, i in zip(b.index, b.pixels, strict=True))]
        )

    first = by_row(load(pictures))
    assert not torch.equal(first, by_row(load(pictures, epoch=2)))
    assert not torch.equal(first, by_row(load(pictures, seed=1)))


def test_two_views_differ_and_the_first_is_the_only_view_of_a_single_one(pictures):
    one, two = load(pictures)[0], load(pictures, views=2)[0]
    assert torch.equal(one.pixels, two.pixels)
    assert two.second_pixels is not None
    assert not torch.equal(two.pixels, two.second_pixels)


def test_loading_leaves_the_global_generators_alone(pictures):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    load(pictures)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_evaluation_order_is_row_order(pictures):
    batches = loader(pictures, pictures.truth, [eval_transform("none", 12)], OrderedBatches(23, 6))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", ["pillow", "torchcodec"])
def test_bytes_travel_and_floats_are_made_of_both_views(pictures, workers, decoder):
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    views = [train_transform("shift", 12)] * 2
    made = loader(pictures, pictures.truth, views, ShuffledBatches(23, 6, seed=0), workers, decoder=decoder)
    for batch in made:
        ready = made.to_batch(batch, CPU)
        for given, floats in ((batch.pixels, ready.images), (batch.second_pixels, ready.second_view)):
            assert given.dtype == torch.uint8
            assert given.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(floats, (given / 255 - 0.5) / 0.25)
        assert ready.index is batch.index
        assert ready.truth is batch.truth
    single = loader(pictures, pictures.truth, views[:1], OrderedBatches(23, 23))
    assert single.to_batch(next(iter(single)), CPU).second_view is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_ends_loading_with_its_name(tmp_path, workers):
    paths = [picture(tmp_path / f"{row}.jpg") for row in range(3)]
    paths[1].write_bytes(b"no picture")
    held = Annotations(FileImages(paths), tuple("abc"), ("x",), LabelTable(np.zeros((3, 1), dtype=np.int8)))
    with pytest.raises(RunError, match=r"1\.jpg \(row 1\)"):
        list(loader(held, held.truth, [eval_transform("none", 8)], OrderedBatches(3, 2), workers))


def test_workers_are_what_the_settings_say_or_what_helps(monkeypatch):
    monkeypatch.setattr("data.loading.loader._cores", lambda: 12)
    monkeypatch.setattr("data.loading.loader.shutil.disk_usage", lambda path: SimpleNamespace(free=2**36))
    default, given = LoaderConfig(), LoaderConfig(num_workers=3)
    assert default.workers(beside_gpu=False, processes=1) == 0
    assert default.workers(beside_gpu=True, processes=1) == 12
    assert default.workers(beside_gpu=True, processes=5) == 2
    assert default.workers(beside_gpu=True, processes=99) == 1
    monkeypatch.setattr("data.loading.loader._cores", lambda: 64)
    assert [default.workers(beside_gpu=True, processes=number) for number in (1, 4, 5)] == [16, 16, 12]
    assert {given.workers(beside_gpu=gpu, processes=2) for gpu in (False, True)} == {3}


@pytest.mark.parametrize("batches, workers", [(47.9, 5), (48, 6), (3, 1), (1000, 12)])
def test_batches_that_wait_take_at_most_half_of_the_shared_memory(monkeypatch, batches, workers):
    """Each worker is four batches ahead, so six have 24 batches of two views waiting, half of 48."""
    config = LoaderConfig(batch_size=10, img_size=100)
    free = int(batches * 10 * 2 * 3 * 100**2)
    monkeypatch.setattr("data.loading.loader._cores", lambda: 12)
    monkeypatch.setattr("data.loading.loader._SHARED_MEMORY", Path("/"))
    monkeypatch.setattr("data.loading.loader.shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    assert config.workers(beside_gpu=True, processes=1) == workers


def test_large_batches_of_scoring_count_where_they_wait(monkeypatch):
    """They have one view: 50 images take as much as 25 of training."""
    monkeypatch.setattr("data.loading.loader._cores", lambda: 12)
    monkeypatch.setattr("data.loading.loader._SHARED_MEMORY", Path("/"))
    free = 2 * 6 * 4 * 50 * 3 * 100**2
    monkeypatch.setattr("data.loading.loader.shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    found = [LoaderConfig(batch_size=10, img_size=100, eval_batch_size=size) for size in (50, 51, 20)]
    assert [config.workers(beside_gpu=True, processes=1) for config in found] == [6, 5, 12]


@pytest.mark.parametrize(
    ("given", "cpu", "gpu"), [({}, 6, 12), ({"eval_batch_size": 40}, 40, 40), ({"eval_batch_size": 1}, 1, 1)]
)
def test_batches_of_scoring_are_as_set_or_follow_training(given, cpu, gpu):
    config = LoaderConfig(batch_size=6, **given)
    assert (config.scoring_batch(on_gpu=False), config.scoring_batch(on_gpu=True)) == (cpu, gpu)


def test_whole_batches_of_a_protocol_are_those_of_training(pictures):
    config = LoaderConfig(batch_size=6, eval_batch_size=10, drop_last=("test",))
    assert len(config.scored("test", pictures)) == 18


@pytest.mark.parametrize("free, workers", [(0, 2), (-2, 1)])
def test_processes_share_batches_and_memory(monkeypatch, free, workers):
    """Of ten images, four processes take three at most: eight workers have 8 x 4 batches of them waiting."""
    config = LoaderConfig(batch_size=10, img_size=100)
    free += 2 * 8 * 4 * 3 * 2 * 3 * 100**2
    monkeypatch.setattr("data.loading.loader._cores", lambda: 40)
    monkeypatch.setattr("data.loading.loader._SHARED_MEMORY", Path("/"))
    monkeypatch.setattr("data.loading.loader.shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    assert config.workers(beside_gpu=True, processes=4) == workers


@pytest.mark.parametrize("workers, ahead", [(0, None), (1, 4), (2, 4)])
def test_workers_live_on_from_epoch_to_epoch_and_are_four_batches_ahead(pictures, workers, ahead):
    made = loader(pictures, pictures.truth, [eval_transform("none", 12)], OrderedBatches(23, 6), workers)
    assert (made.persistent_workers, made.prefetch_factor) == (workers > 0, ahead)
    assert (made.num_workers, made.num_classes, made.pin_memory) == (workers, 4, False)


def test_without_a_folder_of_shared_memory_every_core_gets_a_worker(monkeypatch, tmp_path):
    monkeypatch.setattr("data.loading.loader._cores", lambda: 7)
    monkeypatch.setattr("data.loading.loader._SHARED_MEMORY", tmp_path / "absent")
    assert LoaderConfig().workers(beside_gpu=True, processes=1) == 7


def test_a_decoder_that_is_not_there_is_told_when_the_settings_are_read(monkeypatch):
    def absent():
        raise UserError("--decoder torchcodec: ...")

    monkeypatch.setattr("data.images.decoders._jpeg_decoder", absent)
    LoaderConfig()
    with pytest.raises(UserError, match="torchcodec"):
        LoaderConfig(decoder="torchcodec")


@pytest.mark.parametrize("world", [1, 2])
def test_the_sampler_goes_by_the_labels_it_is_told_to(pictures, world):
    candidates = LabelTable(np.ones((23, 4), dtype=np.int8))
    settings = {"seed": 3, "rank": world - 1, "world_size": world}
    config = LoaderConfig(sampler="class-aware", batch_size=8, sampler_reduce=2, sampler_run=5)
    seen = training_batches(pictures, candidates, config, **settings)
    assert isinstance(seen, ClassAwareBatches)
    assert (seen.draws, seen.run, seen.batch_size, seen.seed) == (23 * 4 // 2, 5, 8, 3)
    assert (seen.rank, seen.world_size) == (world - 1, world)
    clean = training_batches(pictures, candidates, replace(config, sampler_labels="clean"), **settings)
    truth = pictures.truth.dense() == 1
    assert [own.tolist() for own in clean.members] == [np.flatnonzero(column).tolist() for column in truth.T]
    plain = training_batches(pictures, candidates, LoaderConfig(batch_size=8), **settings)
    expected = ShuffledBatches(23, 8, seed=3, rank=world - 1, world_size=world)
    assert list(plain) == list(expected)


def half_labelled(rows=23, labelled=5):
    codes = np.full((rows, 4), -1, dtype=np.int8)
    codes[:labelled] = 0
    return LabelTable(codes[::-1].copy())


def test_labelled_and_unlabelled_images_make_batches_together(pictures):
    config = LoaderConfig(sampler="semi", batch_size=8, labelled_per_batch=3)
    found = training_batches(pictures, half_labelled(), config, seed=3, rank=1, world_size=2)
    labelled, others = np.arange(18, 23), np.arange(18)
    expected = SemiBatches(labelled, others, 8, labelled_per_batch=3, seed=3, rank=1, world_size=2)
    assert list(found) == list(expected)
    assert [len(batch) for batch in found] == [4, 4, 4, 3]
    whole = training_batches(
        pictures, half_labelled(), replace(config, drop_last=("train",)), seed=3, rank=0, world_size=1
    )
    assert [len(batch) for batch in whole] == [8, 8, 8]


@pytest.mark.parametrize(
    ("settings", "labels", "line"),
    [
        (
            {},
            LabelTable(random_labels(23, 4)),
            "--sampler semi: is for images that are labelled or not, and ",
        ),
        ({}, half_labelled(labelled=0), "--sampler semi: no image is labelled; take --labels semi"),
        ({}, half_labelled(labelled=23), "--sampler semi: no image is unlabelled; take --labels semi"),
        (
            {"drop_last": ("train",), "batch_size": 24},
            half_labelled(),
            "--drop_last train: 18 unlabelled images make no batch with 20 of them; leave train out",
        ),
    ],
)
def test_labels_without_labelled_and_unlabelled_images_are_refused(pictures, settings, labels, line):
    config = LoaderConfig(**{"sampler": "semi", "batch_size": 8, **settings})
    with pytest.raises(UserError, match=line):
        training_batches(pictures, labels, config, seed=3, rank=0, world_size=1)


def test_some_images_of_each_batch_are_unlabelled():
    assert LoaderConfig(sampler="semi", batch_size=5).labelled_per_batch == 4
    LoaderConfig(batch_size=4)
    with pytest.raises(UserError, match="--labelled_per_batch 4: leaves no unlabelled image in a --batch_size of 4"):
        LoaderConfig(sampler="semi", batch_size=4)


@pytest.mark.parametrize(
    "flag, least",
    [
        *(("img_size", 8), ("batch_size", 1), ("num_workers", 0), ("sampler_reduce", 1), ("sampler_run", 1)),
        ("labelled_per_batch", 1),
    ],
)
def test_settings_have_a_least_value(flag, least):
    assert getattr(LoaderConfig(**{flag: least}), flag) == least
    with pytest.raises(UserError, match=f"--{flag} {least - 1}: "):
        LoaderConfig(**{flag: least - 1})


def test_as_many_images_as_a_batch_holds_make_one():
    config = LoaderConfig(batch_size=4, drop_last=("train",))
    assert [config.whole_rows("train", rows) for rows in (4, 7, 8)] == [4, 4, 8]
    with pytest.raises(UserError, match="--drop_last train: 3 images make no batch of 4; leave train out"):
        config.whole_rows("train", 3)
