"""Features of a frozen backbone: what they are, for whom they will do, and when kept ones are used again."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.files.cache import Cache
from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.images.reading import AS_STORED, Reading
from data.loading.loader import LoaderConfig
from data.loading.samplers import ShuffledBatches
from engine.core.distributed import Runtime
from engine.training import feature_maps
from engine.training import features as features_module
from engine.training.features import (
    FeatureConfig,
    FeatureView,
    FrozenFeatures,
    feature_arrays,
    features_fingerprint,
    reads_maps,
    wanted_views,
    weights_hash,
)
from engine.training.loaders import FeatureLoaders, ImageLoaders
from models.build import Architecture, build_model
from models.classifier import OnFeatures
from utils.checks import RunError, UserError
from utils.types import Annotations, LabelTable

CONFIG = LoaderConfig(img_size=16, batch_size=4, augment="crop")
CLASSES = ("a", "b", "c")

CPU = torch.device("cpu")


def network(seed=0, **settings):
    return build_model(Architecture.of(model="scenenet", weights="none", **settings), len(CLASSES), seed)


def annotations(images):
    ids = tuple(f"{row:02d}" for row in range(len(images)))
    codes = np.random.default_rng(len(images)).integers(-1, 2, (len(images), len(CLASSES))).astype(np.int8)
    return Annotations(images, ids, CLASSES, LabelTable(codes))


def pixels(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 20, 24, 3), dtype=np.uint8)


def array_data(seed=0):
    """Stands for `Data`: 10 training and 3 test images in memory."""
    parts = [annotations(ArrayImages(pixels(rows, seed), [str(row) for row in range(rows)])) for rows in (10, 3)]
    return SimpleNamespace(train=parts[0], observed=parts[0].truth, validation=None, test=parts[1], undivided=None)


def feed(data, config=CONFIG):
    return ImageLoaders(data, config, Runtime("cpu", "fp32"), 0, 0)


def frozen(data, folder, model=None, config=CONFIG, maps=False, half=False):
    return FrozenFeatures(model or network(), feed(data, config), Cache(folder), maps=maps, half=half)


def computed(data, folder, model=None, **how):
    """Features of both splits in the view of evaluation."""
    features = frozen(data, folder, model, **how)
    return {part: features.of(FeatureView(part)) for part in ("train", "test")}


def loaders_of(data, folder, model=None, needs=frozenset(), copies=1, **how):
    views = wanted_views(needs, copies, ["train", "test"])
    arrays = feature_arrays(frozen(data, folder, model, **how), views)
    return FeatureLoaders(data, arrays, 4, Runtime("cpu", "fp32"), 5)


def test_features_are_the_pooled_maps_of_the_test_view_in_row_order(tmp_path):
    data, model = array_data(), network()
    found = computed(data, tmp_path, model)
    assert {part: values.dtype for part, values in found.items()} == {"train": np.float32, "test": np.float32}
    for part in ("train", "test"):
        for row, feature in enumerate(found[part]):
            pixels_of_row = getattr(data, part).images.open(row).resize((16, 16), Image.Resampling.BILINEAR)
            image = torch.from_numpy(np.asarray(pixels_of_row) / 255).float().permute(2, 0, 1)[None]
            with torch.no_grad():
                expected = model.eval()(image).features.mean(dim=(2, 3))[0]
            np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)


def test_the_head_on_features_gives_the_logits_of_the_model(tmp_path):
    data, model = array_data(), network()
    loaders = loaders_of(data, tmp_path, model)
    images, features = feed(data).scoring("train"), loaders.scoring("train")
    model.eval()
    with torch.no_grad():
        for by_image, by_feature in zip(images, features, strict=True):
            assert torch.equal(by_image.index, by_feature.index)
            logits = OnFeatures(model)(features.to_batch(by_feature, CPU).images).logits
            assert torch.equal(logits, model(images.to_batch(by_image, CPU).images).logits)


def test_kept_features_are_used_and_nothing_is_computed_again(tmp_path, monkeypatch):
    data = array_data()
    first = computed(data, tmp_path)
    monkeypatch.setattr(features_module, "rows_in_order", lambda *_, **__: pytest.fail("computed again"))
    again = computed(data, tmp_path)
    for part, values in first.items():
        np.testing.assert_array_equal(again[part], values)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("size", [16, 70])  # maps of one position, and of several
def test_means_of_kept_maps_are_those_of_the_images(tmp_path, monkeypatch, size, precision):
    data, config = array_data(), replace(CONFIG, img_size=size)
    views = [FeatureView("train"), FeatureView("train", 2), FeatureView("test")]

    def features(folder, *, maps):
        loaders = ImageLoaders(data, config, Runtime("cpu", precision), 0, 0)
        return FrozenFeatures(network().to(loaders.runtime.dtype), loaders, Cache(folder), maps=maps, half=False)

    expected = [features(tmp_path / "none", maps=False).of(view) for view in views]
    for view in views:
        features(tmp_path / "kept", maps=True).of(view)
    monkeypatch.setattr(features_module, "rows_in_order", lambda *_, **__: pytest.fail("computed again"))
    for view, means in zip(views, expected, strict=True):
        np.testing.assert_array_equal(features(tmp_path / "kept", maps=False).of(view), means)


def test_maps_in_half_precision_do_not_stand_for_means(tmp_path):
    data, view = array_data(), FeatureView("train")
    frozen(data, tmp_path / "kept", maps=True, half=True).of(view)
    found = [frozen(data, tmp_path / folder).of(view) for folder in ("none", "kept")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("maps", [False, True])
def test_of_two_runs_at_once_one_computes_and_the_other_waits(tmp_path, monkeypatch, maps):
    data, found = array_data(), []
    first, second = (frozen(data, tmp_path, maps=maps) for _ in range(2))
    name, module = ("computed_batches", feature_maps) if maps else ("rows_in_order", features_module)
    compute, other = getattr(module, name), threading.Thread(target=lambda: found.append(second.of(VIEW)))
    computing, waiting = [], threading.Event()

    def slowly(*given, **named):
        computing.append(threading.current_thread())
        other.start()
        assert waiting.wait(10)
        return compute(*given, **named)

    monkeypatch.setattr(module, name, slowly)
    monkeypatch.setattr(features_module, "say", lambda line: (said.append(line), waiting.set()))
    said = []
    of_first = first.of(VIEW)
    other.join()
    assert said == ["features of train: another run computes them; waiting"]
    assert computing == [threading.current_thread()]
    np.testing.assert_array_equal(found[0], of_first)
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["maps" if maps else "features"]


@pytest.mark.parametrize("maps", [False, True])
def test_training_and_validation_share_what_is_kept_however_they_are_divided(tmp_path, monkeypatch, maps):
    whole, seen = array_data(), []
    monkeypatch.setattr(
        ImageLoaders, "of", lambda self, part, made=ImageLoaders.of: seen.append(part) or made(self, part)
    )
    expected = np.asarray(frozen(whole, tmp_path / "alone", maps=maps).of(FeatureView("train")))
    for rows, held_out in (([0, 2, 3, 5, 7, 8, 9], [1, 4, 6]), ([1, 2, 4, 9], [0, 8])):
        kept = whole.train.take(np.union1d(rows, held_out))
        parts = [whole.train.take(np.array(part)) for part in (rows, held_out)]
        data = SimpleNamespace(train=parts[0], validation=parts[1], test=whole.test, undivided=kept)
        features = frozen(data, tmp_path / "kept", maps=maps)
        for split, part in (("train", rows), ("validation", held_out)):
            found = features.of(FeatureView(split))
            assert len(found) == len(part)
            np.testing.assert_allclose(found[np.arange(len(part))], expected[part], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(found[1], found[np.array([1])][0])
        assert len(list((tmp_path / "kept").glob("*"))) == (1 if len(kept) == 10 else 2)
    assert [len(part) for part in seen] == [10, 10, 6]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None, "shape", "type"])
def test_damaged_kept_features_are_computed_anew(tmp_path, damage):
    data = array_data()
    first = computed(data, tmp_path)
    for file in tmp_path.glob("features-*.npz"):
        if damage == "shape":
            np.savez(file, features=np.zeros((10, 5), np.float32))
        elif damage == "type":
            np.savez(file, features=np.zeros((10, 96), np.float64))
        elif damage is None:
            np.savez(file, other=np.zeros(3))
        else:
            file.write_bytes(damage)
    again = computed(data, tmp_path)
    for part, values in first.items():
        np.testing.assert_array_equal(again[part], values)


VIEW = FeatureView("train")


NO_CACHE = Cache(Path(os.devnull) / "none")


def prints(data, config=CONFIG, model=None, precision="fp32", view=VIEW, dtype="float32", seed=0):
    weights = weights_hash((model or network()).backbone)
    loaders = ImageLoaders(data, config, Runtime("cpu", precision), 0, seed)
    return features_fingerprint(weights, data.train, loaders, view, dtype, NO_CACHE)


def test_the_fingerprint_sees_whatever_changes_features():
    data = array_data()
    base = prints(data)
    assert prints(array_data()) == base
    renamed = SimpleNamespace(train=replace(data.train, ids=tuple(f"x{one}" for one in data.train.ids)))
    others = [
        prints(array_data(seed=1)),
        prints(renamed),
        prints(data, replace(CONFIG, img_size=24)),
        prints(data, replace(CONFIG, normalize="imagenet")),
        prints(data, replace(CONFIG, eval_batch_size=5)),
        prints(data, replace(CONFIG, augment="resize-crop")),
        prints(data, model=network(seed=1)),
        prints(data, precision="bf16"),
        prints(data, dtype="float16"),
        *(prints(data, view=FeatureView("train", copy, second)) for copy in (1, 2) for second in (False, True)),
        prints(data, view=FeatureView("train", 1), seed=1),
        prints(data, replace(CONFIG, augment="flip"), view=FeatureView("train", 1)),
        prints(data, replace(CONFIG, second_view="randaugment"), view=FeatureView("train", 1, True)),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_the_fingerprint_is_blind_to_augmentation_head_and_workers():
    data = array_data()
    head = network()
    torch.nn.init.zeros_(head.head.fc.weight)
    changed = replace(CONFIG, augment="flip", num_workers=3, check_images=False)
    assert prints(data, changed, model=head, seed=7) == prints(data)
    first = FeatureView("train", 1)
    assert prints(data, replace(CONFIG, second_view="randaugment"), view=first) == prints(data, view=first)


def test_files_are_told_apart_by_content_and_reading_and_parts_of_files_are_not_kept(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for path, image in zip(paths, pixels(4), strict=True):
        Image.fromarray(image).save(path)
    files = FileImages(paths)
    data = SimpleNamespace(train=annotations(files))
    before = prints(data)
    copies = [Path(shutil.copy(path, tmp_path / f"copy of {path.name}")) for path in paths]
    assert prints(SimpleNamespace(train=annotations(FileImages(copies)))) == before
    Image.fromarray(pixels(1, seed=9)[0]).resize((40, 40)).save(paths[2])
    assert prints(data) != before
    others = [Reading("apply"), Reading(value_range=(0.0, 4095.0)), Reading(value_range=(0.0, 1023.0))]
    read = {prints(SimpleNamespace(train=annotations(files.read_as(one)))) for one in others}
    assert len(read | {prints(data)}) == 4
    assert prints(SimpleNamespace(train=annotations(files.read_as(AS_STORED)))) == prints(data)
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (4, 1))
    assert prints(SimpleNamespace(train=annotations(CroppedImages(files, boxes)))) is None


def test_features_of_files_that_were_copied_are_not_computed_again(tmp_path, monkeypatch):
    found = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        for row, image in enumerate(pixels(4)):
            Image.fromarray(image).save(folder / f"{row}.png")
        part = annotations(FileImages(sorted(folder.iterdir())))
        data = SimpleNamespace(train=part, observed=part.truth, validation=None, test=part, undivided=None)
        found.append(frozen(data, tmp_path / "cache").of(VIEW))
        monkeypatch.setattr(features_module, "rows_in_order", lambda *_, **__: pytest.fail("computed again"))
    np.testing.assert_array_equal(*found)


def test_weights_that_are_not_finite_end_the_run(tmp_path):
    model = network()
    torch.nn.init.constant_(model.backbone.conv1.weight, float("nan"))
    with pytest.raises(RunError, match="features of train"):
        computed(array_data(), tmp_path, model)


@pytest.mark.parametrize("settings", [{}, {"boostlu": 1.0}, {"saliency": 0.0}, {"head": "csra", "lam": 0.0}], ids=str)
def test_heads_that_pool_first_take_means(settings):
    model = network(**settings).train()
    assert not reads_maps(model, frozenset({"train_scores", "second_view", "peers"}))
    assert model.head.training


TRAINING_READS_MAPS = {"saliency": 0.5, "saliency_test": False}


@pytest.mark.parametrize(
    "settings", [{"head": "csra"}, {"boostlu": 5.0}, {"head": "q2l"}, {"saliency": 0.5}, TRAINING_READS_MAPS], ids=str
)
def test_heads_that_read_the_map_take_maps(settings):
    assert reads_maps(network(**settings), frozenset())


@pytest.mark.parametrize("need", ["cam", "features", "class_vectors"])
def test_methods_that_read_the_map_take_maps(need):
    assert reads_maps(network(), frozenset({need, "train_scores"}))


def test_the_view_of_evaluation_serves_for_training_unless_copies_are_asked_for():
    splits, both = ["train", "test", "validation"], frozenset({"second_view"})
    plain = [FeatureView("train"), FeatureView("test"), FeatureView("validation")]
    assert wanted_views(frozenset(), 1, splits) == wanted_views(both, 1, splits) == plain
    copies = [FeatureView("train", 1), FeatureView("train", 2)]
    assert wanted_views(frozenset(), 2, splits) == plain[1:] + copies
    assert wanted_views(frozenset({"train_scores"}), 2, splits) == plain + copies
    second = [FeatureView("train", 1, True), FeatureView("train", 2, True)]
    assert wanted_views(both, 2, splits) == plain[1:] + copies + second


def test_views_have_names_of_their_own():
    views = [FeatureView("test"), FeatureView("train", 3), FeatureView("train", 3, True)]
    assert [view.label for view in views] == [
        "features of test",
        "features of train, copy 3",
        "features of train, copy 3 (second view)",
    ]


@pytest.mark.parametrize("maps", [False, True])
def test_copies_are_augmented_as_in_the_epochs_and_each_epoch_sees_the_next(tmp_path, maps):
    data, model = array_data(), network()
    needs = frozenset({"second_view"})
    loaders = loaders_of(data, tmp_path, model, needs, copies=3, maps=maps)
    arrays = loaders.features
    assert (len(arrays.copies), len(arrays.second), set(arrays.scored)) == (3, 3, {"test"})
    model.eval()
    for copy, found in enumerate(arrays.copies, 1):
        batches = [images.to_batch(raw, CPU) for images in [feed(data).augmented(copy, second=False)] for raw in images]
        with torch.no_grad():
            expected = torch.cat([model(batch.images).features for batch in batches])
        expected = expected if maps else expected.mean(dim=(2, 3))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(arrays.copies[0], arrays.copies[1])
    assert not np.allclose(arrays.copies[0], arrays.second[0])
    batches, seen = ShuffledBatches(10, 4, seed=1), {row: [] for row in range(10)}
    for epoch in (1, 2, 3, 4):
        batches.set_epoch(epoch)
        for raw in loaders.training(batches, 2):
            batch = loaders.training(batches, 2).to_batch(raw, CPU)
            for place, row in enumerate(batch.index.tolist()):
                shown = batch.images[place].numpy().reshape(arrays.copies[0].shape[1:])
                (copy,) = (k for k in range(3) if np.array_equal(shown, arrays.copies[k][row]))
                other = batch.second_view[place].numpy().reshape(shown.shape)
                assert np.array_equal(other, arrays.second[copy][row])
                seen[row].append(copy)
    for copies in seen.values():
        assert sorted(copies[:3]) == [0, 1, 2]
        assert copies[3] == copies[0]
    assert len({copies[0] for copies in seen.values()}) > 1  # images begin with different copies


def test_without_copies_the_second_view_is_the_first(tmp_path):
    data = array_data()
    loader = loaders_of(data, tmp_path).training(ShuffledBatches(10, 4, seed=1), 2)
    for raw in loader:
        batch = loader.to_batch(raw, CPU)
        assert torch.equal(batch.images, batch.second_view)
    one = loaders_of(data, tmp_path).training(ShuffledBatches(10, 4, seed=1), 1)
    assert all(one.to_batch(raw, CPU).second_view is None for raw in one)


def test_features_have_two_views_at_most(tmp_path):
    with pytest.raises(ValueError, match="two views at most, not 3"):
        loaders_of(array_data(), tmp_path).training([], 3)


def test_features_without_their_mode_are_a_mistake():
    FeatureConfig().require_mode("end_to_end")
    FeatureConfig(feature_views=2, half_features=True).require_mode("linear_fixed_features")
    for given, flag in (({"feature_views": 2}, "--feature_views"), ({"half_features": True}, "--half_features")):
        with pytest.raises(UserError, match=rf"^{flag}: is of --train_mode linear_fixed_features; "):
            FeatureConfig(**given).require_mode("linear")
    with pytest.raises(UserError, match=r"^--feature_views 0: must be at least 1$"):
        FeatureConfig(feature_views=0)


@pytest.mark.parametrize(
    "maps, half, kept", [(False, False, "float64"), (True, False, "float64"), (True, True, "float16")]
)
def test_in_fp64_batches_of_features_are_float64_too(tmp_path, maps, half, kept):
    data = array_data()
    images = ImageLoaders(data, CONFIG, Runtime("cpu", "fp64"), 0, 0)
    for _ in ("computed", "kept"):
        features = FrozenFeatures(network(), images, Cache(tmp_path), maps=maps, half=half)
        arrays = feature_arrays(features, [VIEW, VIEW._replace(split="test")])
        assert arrays.scored["train"].dtype == kept
    loader = FeatureLoaders(data, arrays, 4, images.runtime, 5).scoring("test")
    batch = loader.to_batch(next(iter(loader)), torch.device("cpu"))
    assert batch.images.dtype == torch.float64
