"""The one way from images to outputs: what evaluation, prediction and figures see is the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.files import ArrayImages, FileImages
from data.loading.loader import LoaderConfig
from engine.core.distributed import Runtime
from engine.core.inference import infer, view_image, viewed_batches
from engine.core.scoring import evaluation_loader, score
from models.build import Architecture, build_model
from utils.checks import RunError
from utils.types import Annotations, LabelTable

CONFIG = LoaderConfig(img_size=40, batch_size=3, augment="resize-crop", normalize="imagenet")


def images(count=7, side=50):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side + 6, 3), dtype=np.uint8)
    return ArrayImages(pixels, [f"{row}" for row in range(count)])


@pytest.mark.parametrize("augment", ["resize-crop", "crop"])
def test_it_gives_the_logits_of_evaluation(augment):
    config = LoaderConfig(img_size=40, batch_size=3, augment=augment, normalize="imagenet")
    stored, view = images(), config.eval_view()
    network = build_model(Architecture.of(model="scenenet", weights="none"), 4, 0).eval()
    truth = LabelTable(np.zeros((len(stored), 4), dtype=np.int8))
    annotations = Annotations(stored, tuple("abcdefg"), tuple("wxyz"), truth)
    runtime = Runtime("cpu", "fp32")
    expected = score(network, evaluation_loader(annotations, config, runtime, 0), len(stored), runtime)
    found = [
        infer(network, [image.pixels for image in batch], view).logits
        for batch in viewed_batches(view, stored, range(len(stored)), 3, "testing")
    ]
    assert [len(part) for part in found] == [3, 3, 1]
    np.testing.assert_array_equal(torch.cat(found).numpy(), expected)


def test_rows_come_in_the_order_asked_for_with_the_sizes_of_their_images():
    batches = list(viewed_batches(CONFIG.eval_view(), images(), [5, 0, 3, 3], 3, "testing"))
    assert [[image.row for image in batch] for batch in batches] == [[5, 0, 3], [3]]
    assert all(image.size == (50, 56) for batch in batches for image in batch)
    assert torch.equal(batches[0][2].pixels, batches[1][0].pixels)


def test_maps_are_float32_and_only_there_when_wanted():
    network = build_model(Architecture.of(model="scenenet", weights="none"), 4, 0).eval()
    view = CONFIG.eval_view()
    pixels = [view_image(view, images().open(row)).pixels for row in range(2)]
    assert infer(network, pixels, view).cam is None
    output = infer(network, pixels, view, want=frozenset({"cam"}))
    assert output.cam.dtype == torch.float32
    assert output.cam.shape[:2] == (2, 4)
    assert not output.logits.requires_grad


def test_a_damaged_image_is_named(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (9, 9)).save(good)
    bad.write_bytes(good.read_bytes()[:30])
    with pytest.raises(RunError, match=r"bad\.png"):
        list(viewed_batches(CONFIG.eval_view(), FileImages([good, bad]), [0, 1], 2, "testing"))
