"""Predictions: what evaluation would score, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.files import FileImages
from data.loading.eval_view import EvalView, VisiblePart
from data.loading.loader import LoaderConfig
from data.loading.transforms import AUGMENTATIONS, eval_transform
from engine.core.checkpoint import read_model, save_model
from engine.core.distributed import Runtime
from engine.core.scoring import evaluation_loader, score
from engine.prediction.heatmaps import SIDES, file_word, image_heat, overlay, write_maps
from engine.prediction.predictor import Prediction, Predictor, view_of
from engine.prediction.sources import ImageFile, find_images
from engine.prediction.walking import shown
from models.heads.linear import LinearHead
from tests.engine.checkpoints import CLASSES, SIZE, checkpoint, damaged, every_kind, pixels
from utils.checks import RunError, UserError
from utils.types import Annotations, LabelTable

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
WHOLE = VisiblePart(0.0, 1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    return checkpoint(folder / "best.pth", augment="resize-crop", normalize="imagenet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return every_kind(tmp_path_factory.mktemp("images") / "all")


def logits(predictor, images, **how):
    return np.stack([one.logits for one in predictor.predict(images, **how)])


def by_hand(path, image, size, resize, mean, std):
    """Logits (C,) as the settings say, with nothing of ours but the network."""
    whole = image.convert("RGB").resize((resize, resize), Image.Resampling.BILINEAR)
    left = (resize - size) // 2
    part = np.asarray(whole.crop((left, left, left + size, left + size)), dtype=np.float64) / 255
    ready = torch.from_numpy(((part - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        return read_model(path).build().eval()(ready).logits[0].numpy()


@pytest.mark.parametrize(
    "augment, normalize, resize, mean, std",
    [
        ("resize-crop", "imagenet", 46, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("crop", "unit", SIZE, 0, 1),
        ("shift", "centred", SIZE, 0.5, 0.5),
    ],
)
def test_an_image_is_seen_as_the_settings_of_the_checkpoint_say(tmp_path, augment, normalize, resize, mean, std):
    path = checkpoint(tmp_path / "m.pth", augment=augment, normalize=normalize)
    (found,) = Predictor.load(path, device="cpu").predict([pixels(3)])
    np.testing.assert_allclose(found.logits, by_hand(path, pixels(3), SIZE, resize, mean, std), **CLOSE)


def test_every_kind_of_file_is_scored_as_evaluation_scores_it(path, files):
    truth = LabelTable(np.zeros((len(files), len(CLASSES)), dtype=np.int8))
    annotations = Annotations(FileImages(files), tuple(map(str, files)), CLASSES, truth)
    config = LoaderConfig(img_size=SIZE, batch_size=4, augment="resize-crop", normalize="imagenet")
    runtime = Runtime("cpu", "fp32")
    network = runtime.to_device(read_model(path).build())
    wanted = score(network, evaluation_loader(annotations, config, runtime, 0), len(files), runtime)
    found = logits(Predictor.load(path, device="cpu"), files)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    assert len(np.unique(found.round(4), axis=0)) == len(files)


def test_scores_do_not_depend_on_the_batch(path, files):
    predictor = Predictor.load(path, device="cpu")
    alone = logits(predictor, files, batch_size=1)
    for size in (2, 3, 64):
        np.testing.assert_allclose(logits(predictor, files, batch_size=size), alone, **CLOSE)
    np.testing.assert_allclose(logits(predictor, files[::-1], batch_size=4), alone[::-1], **CLOSE)


def test_images_in_memory_are_scored_as_their_files(path, files):
    predictor = Predictor.load(path, device="cpu")
    opened = [Image.open(file) for file in files]
    np.testing.assert_array_equal(logits(predictor, opened), logits(predictor, files))
    assert [one.name for one in predictor.predict(opened[:2])] == ["image 1", "image 2"]
    assert [one.name for one in predictor.predict(files[:2])] == [str(file) for file in files[:2]]


def test_no_images_no_predictions(path):
    assert list(Predictor.load(path, device="cpu").predict([])) == []


def test_images_are_read_while_they_are_asked_for(path, files):
    first = next(Predictor.load(path, device="cpu").predict([files[0], "nowhere.jpg"], batch_size=1))
    assert first.name == str(files[0])


def test_maps_are_those_of_the_network_and_only_on_request(path, files):
    predictor = Predictor.load(path, device="cpu")
    plain = list(predictor.predict(files))
    assert all(one.maps is None for one in plain)
    for one, with_maps in zip(plain, predictor.predict(files, maps=True), strict=True):
        assert with_maps.maps.shape == (len(CLASSES), 5, 5)
        np.testing.assert_allclose(with_maps.logits, one.logits, **CLOSE)
        head = predictor.network.head
        assert isinstance(head, LinearHead)
        bias = head.fc.bias.detach().numpy()
        np.testing.assert_allclose(with_maps.maps.mean(axis=(1, 2)) + bias, one.logits, **CLOSE)


def test_of_two_networks_the_first_predicts(tmp_path, files):
    path = checkpoint(tmp_path / "two.pth", peers=True, augment="none")
    both = read_model(path).build().eval()
    found = logits(Predictor.load(path, device="cpu"), files[:1])
    ready = view_pixels(path, files[0])
    with torch.no_grad():
        f, g = both.f(ready).logits.numpy(), both.g(ready).logits.numpy()
    np.testing.assert_allclose(found, f, **CLOSE)
    assert np.abs(found - g).max() > 1e-2


def view_pixels(path, file):
    """(1, 3, s, s) of an image under --augment none and --normalize unit."""
    whole = Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(whole).transpose(2, 0, 1)[None].copy()).float() / 255


def test_a_damaged_image_ends_everything_unless_someone_listens(path, files, tmp_path):
    images = [files[0], damaged(tmp_path / "cut.jpg"), tmp_path / "gone.jpg", files[1]]
    predictor = Predictor.load(path, device="cpu")
    with pytest.raises(RunError, match=r"cut\.jpg: is damaged"):
        list(predictor.predict(images))
    heard = []
    found = list(predictor.predict(images, batch_size=2, unreadable=heard.append))
    assert [one.name for one in found] == [str(files[0]), str(files[1])]
    assert [(one.name, one.reason.split(" (")[0]) for one in heard] == [
        (str(images[1]), "is damaged"),
        (str(images[2]), "does not exist"),
    ]


def test_a_batch_of_damaged_images_only_is_passed_over(path, files, tmp_path):
    cut = damaged(tmp_path / "cut.jpg")
    heard = []
    predictor = Predictor.load(path, device="cpu")
    (found,) = predictor.predict([cut, files[0]], batch_size=1, unreadable=heard.append)
    assert found.name == str(files[0])
    assert len(heard) == 1


def test_an_image_in_memory_that_is_not_taken_is_named_by_its_number(path, monkeypatch):
    monkeypatch.setattr("data.images.depth._becomes_rgb", lambda mode: False)
    heard, images = [], [Image.new("RGB", (8, 8)), Image.new("LAB", (8, 8))]
    (found,) = Predictor.load(path, device="cpu").predict(images, unreadable=heard.append)
    assert found.name == "image 1"
    assert [one.name for one in heard] == ["image 2"]
    assert heard[0].reason.startswith("has colours of mode LAB")


def test_scores_that_are_no_numbers_are_refused(tmp_path, path, files):
    saved = read_model(path)
    network = saved.build()
    with torch.no_grad():
        network.head.fc.weight[2] = 3e38
    save_model(tmp_path / "large.pth", network, saved.classes, saved.settings, 1)
    with pytest.raises(RunError, match="not finite"):
        list(Predictor.load(tmp_path / "large.pth", device="cpu").predict(files[:1]))


def test_class_names_can_be_given_and_must_be_as_many(path):
    names = ["a", "b", "c", "d", "e"]
    assert Predictor.load(path, device="cpu", classes=names).classes == tuple(names)
    with pytest.raises(UserError, match=r"4 names, but .* has 5 classes"):
        Predictor.load(path, device="cpu", classes=names[:4])


def test_a_checkpoint_without_class_names_needs_them_given(path, files):
    saved = replace(read_model(path), classes=())
    with pytest.raises(UserError, match="what its 5 classes are called; give --classes"):
        Predictor.of(saved, device="cpu")
    (found,) = Predictor.of(saved, device="cpu", classes=list("abcde")).predict(files[:1])
    assert found.labels(top=1)[0].name in "abcde"


def test_damaged_settings_are_named(tmp_path):
    path = checkpoint(tmp_path / "m.pth", size="large")
    with pytest.raises(UserError, match="img_size 'large'"):
        view_of(read_model(path))


# labels


def prediction(values):
    return Prediction("x", tuple(f"c{k}" for k in range(len(values))), np.array(values, dtype=np.float32))


def test_labels_are_the_best_first_equal_ones_in_the_order_of_the_classes():
    found = prediction([0.0, 2.0, -1.0, 2.0])
    assert [one.name for one in found.labels()] == ["c1", "c3", "c0", "c2"]
    assert [one.column for one in found.labels(top=2)] == [1, 3]
    assert [one.name for one in found.labels(threshold=0.5)] == ["c1", "c3", "c0"]
    assert found.labels(threshold=0.9) == []
    np.testing.assert_allclose([one.score for one in found.labels()], 1 / (1 + np.exp([-2, -2, 0, 1])), rtol=1e-6)


def test_certain_scores_are_still_told_apart():
    found = prediction([40.0, 60.0, -300.0])
    assert [one.name for one in found.labels()] == ["c1", "c0", "c2"]
    assert found.scores.tolist() == [1.0, 1.0, 0.0]


# heat maps


@pytest.mark.parametrize("augment", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("size", [40, 224, 448])
def test_the_part_that_is_seen_is_what_the_transform_keeps(augment, size):
    ramp = np.linspace(0, 255, 4096).astype(np.uint8)
    image = Image.fromarray(np.tile(ramp[None, :, None], (8, 1, 3)))
    seen = eval_transform(augment, size)(image)[0, 0].numpy()
    part = EvalView(size, augment, "unit", "pillow").visible
    assert part == WHOLE or augment == "resize-crop"
    assert abs(seen[0] / 255 - part.start) < 2 / size
    assert abs(seen[-1] / 255 - part.end) < 2 / size


def test_heat_lies_where_the_model_looked_and_nowhere_else():
    cam = np.zeros((4, 4), dtype=np.float32)
    cam[0, 3] = 5.0
    found = image_heat(cam, (160, 80), VisiblePart(0.25, 0.75))
    assert found.shape == (80, 160)
    assert found.max() == pytest.approx(1.0)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 20 <= row < 30
    assert 100 <= column < 120
    outside = found.copy()
    outside[20:60, 40:120] = 0
    assert not outside.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_heat_fits_images_of_any_shape(size):
    cam = np.ones((3, 3), dtype=np.float32)
    for part in (WHOLE, VisiblePart(1 / 16, 15 / 16)):
        assert image_heat(cam, size, part).shape == size[::-1]


def test_without_heat_the_image_is_grey():
    image = pixels(1)
    found = np.asarray(overlay(image, np.full((3, 3), -1.0, dtype=np.float32), WHOLE))
    np.testing.assert_array_equal(found, np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2))
    hot = np.asarray(overlay(image, np.ones((3, 3), dtype=np.float32), WHOLE)).astype(int)
    assert (hot[..., 0] - hot[..., 2]).min() > 20  # the hottest colour is yellow


@pytest.mark.parametrize("side", [20, 300, 2000])
def test_maps_are_files_of_a_handy_size_named_by_rank_class_and_score(tmp_path, side):
    file = tmp_path / "in.png"
    pixels(2, side, side // 2).save(file)
    one = Prediction("in", ("a/b", "ü x"), np.array([0.0, 3.0], np.float32), np.ones((2, 4, 4), np.float32))
    write_maps(
        one,
        one.labels(),
        ImageFile(file, tmp_path.relative_to(tmp_path) / "sub" / "in"),
        tmp_path,
        EvalView(32, "crop", "unit", "pillow"),
    )
    names = sorted(path.name for path in (tmp_path / "sub").iterdir())
    assert names == ["in-1-ü_x-0.953.jpg", "in-2-a_b-0.500.jpg"]
    drawn = Image.open(tmp_path / "sub" / names[0])
    assert SIDES[0] <= max(drawn.size) <= SIDES[1]
    assert drawn.width == 2 * drawn.height


@pytest.mark.parametrize(
    "name, word", [("../../etc/passwd", "etc_passwd"), ("..", "class"), ("a\0b\nc", "a_b_c"), ("x" * 300, "x" * 40)]
)
def test_class_names_make_harmless_file_names(name, word):
    assert file_word(name) == word


# images in folders


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folders_are_searched_to_the_bottom_in_order(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "notes.txt", ".hidden.jpg", "z/c.webp", "z/y/d.tiff", ".git/e.jpg", "noending")
    found = find_images([tmp_path])
    assert [str(one.path.relative_to(tmp_path)) for one in found.sources] == [
        "a.png",
        "b.JPG",
        "z/c.webp",
        "z/y/d.tiff",
    ]
    assert [str(one.name) for one in found.sources] == ["a", "b", "z/c", "z/y/d"]
    assert found.skipped == 3


def test_an_image_is_taken_once_and_its_name_is_its_own(tmp_path):
    touch(tmp_path, "one/a.jpg", "one/a.png", "one/a-2.jpg", "two/a.jpg", "plain")
    given = [tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.jpg", tmp_path / "plain"]
    names = [str(one.name) for one in find_images(given).sources]
    assert len(names) == 5
    assert len(set(names)) == 5
    assert names[0] == "a-2"


def test_long_names_are_cut_between_letters(tmp_path):
    touch(tmp_path, "ü" * 120 + ".jpg", "ü" * 121 + ".jpg")
    names = [one.name.name for one in find_images([tmp_path]).sources]
    assert names == ["ü" * 50, "ü" * 50 + "-2"]


def test_links_that_lead_nowhere_are_named_later_and_circles_are_not_walked(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert [one.path.name for one in find_images([tmp_path]).sources] == ["a.jpg", "b.jpg"]


def test_nothing_to_predict_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"no images there .* 1 other files"):
        find_images([tmp_path])
    with pytest.raises(UserError, match=r"nowhere\.jpg: no such file or folder"):
        find_images([tmp_path / "nowhere.jpg"])


def test_paths_are_shown_as_one_line():
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert shown(b"\xff.jpg".decode("utf-8", "surrogateescape")) == "\\xff.jpg"
    assert shown("ü x.jpg") == "ü x.jpg"
