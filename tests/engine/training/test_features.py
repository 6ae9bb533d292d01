"""Features of a frozen backbone: what they are, for whom they will do, and when kept ones are used again."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.files.cache import Cache
from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.loading.loader import LoaderConfig
from engine.core.distributed import Runtime
from engine.training import features as features_module
from engine.training.features import features_fingerprint, pooled_features, require_pooled, weights_hash
from engine.training.loaders import FeatureLoaders, ImageLoaders
from models.build import Architecture, build_model
from models.classifier import OnPooled
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
    return SimpleNamespace(train=parts[0], observed=parts[0].truth, validation=None, test=parts[1])


def feed(data, config=CONFIG):
    return ImageLoaders(data, config, Runtime("cpu", "fp32"), 0, 0)


def computed(data, folder, model=None, config=CONFIG):
    parts = {"train": len(data.train), "test": len(data.test)}
    return pooled_features(model or network(), feed(data, config), parts, Cache(folder))


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
    loaders = FeatureLoaders(data, computed(data, tmp_path, model), 4, Runtime("cpu", "fp32"))
    images, features = feed(data).scoring("train"), loaders.scoring("train")
    model.eval()
    with torch.no_grad():
        for by_image, by_feature in zip(images, features, strict=True):
            assert torch.equal(by_image.index, by_feature.index)
            logits = OnPooled(model)(features.to_batch(by_feature, CPU).images).logits
            assert torch.equal(logits, model(images.to_batch(by_image, CPU).images).logits)


def test_kept_features_are_used_and_nothing_is_computed_again(tmp_path, monkeypatch):
    data = array_data()
    first = computed(data, tmp_path)
    monkeypatch.setattr(features_module, "rows_in_order", lambda *_, **__: pytest.fail("computed again"))
    again = computed(data, tmp_path)
    for part, values in first.items():
        np.testing.assert_array_equal(again[part], values)


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


def prints(data, config=CONFIG, model=None, precision="fp32"):
    weights = weights_hash((model or network()).backbone)
    return features_fingerprint(weights, data.train, config, Runtime("cpu", precision))


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
        prints(data, replace(CONFIG, augment="resize-crop")),
        prints(data, model=network(seed=1)),
        prints(data, precision="bf16"),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_the_fingerprint_is_blind_to_augmentation_head_and_workers():
    data = array_data()
    head = network()
    torch.nn.init.zeros_(head.head.fc.weight)
    changed = replace(CONFIG, augment="flip", num_workers=3, check_images=False)
    assert prints(data, changed, model=head) == prints(data)


def test_files_are_told_apart_by_their_marks_and_parts_of_files_are_not_kept(tmp_path):
    paths = []
    for row, image in enumerate(pixels(4)):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(image).save(paths[-1])
    files = FileImages(paths)
    data = SimpleNamespace(train=annotations(files))
    before = prints(data)
    Image.fromarray(pixels(1, seed=9)[0]).resize((40, 40)).save(paths[2])
    assert prints(data) != before
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (4, 1))
    assert prints(SimpleNamespace(train=annotations(CroppedImages(files, boxes)))) is None


def test_weights_that_are_not_finite_end_the_run(tmp_path):
    model = network()
    torch.nn.init.constant_(model.backbone.conv1.weight, float("nan"))
    with pytest.raises(RunError, match="features of train"):
        computed(array_data(), tmp_path, model)


@pytest.mark.parametrize("settings", [{}, {"boostlu": 1.0}, {"head": "csra", "lam": 0.0}], ids=str)
def test_heads_that_pool_first_take_features(settings):
    model = network(**settings).train()
    require_pooled(model, frozenset({"train_scores"}), "an")
    assert model.head.training


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"head": "csra"}, "CSRAHead"),
        ({"boostlu": 5.0}, "BoostedLinearHead"),
        ({"head": "csra", "lam": 0.0, "boostlu": 2.0}, "BoostedCSRAHead"),
    ],
    ids=str,
)
def test_heads_that_read_the_map_are_refused_by_name(settings, name):
    with pytest.raises(UserError, match=rf"linear_fixed_features.*{name}.*--train_mode linear"):
        require_pooled(network(**settings), frozenset(), "an")


@pytest.mark.parametrize("need", ["cam", "features", "second_view", "peers"])
def test_methods_that_need_more_are_refused_by_name(need):
    with pytest.raises(UserError, match=f"cones needs {need};"):
        require_pooled(network(), frozenset({need, "train_scores"}), "cones")


def test_features_have_one_view(tmp_path):
    data = array_data()
    loaders = FeatureLoaders(data, computed(data, tmp_path), 4, Runtime("cpu", "fp32"))
    with pytest.raises(ValueError, match="one view"):
        loaders.training([], 2)
