"""Which test images a run shows, how much of them, and what stands beside them."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.files import ArrayImages
from data.loading.eval_view import EvalView
from engine.training import examples as room
from engine.training.examples import choose_rows, draw_examples, draw_tail, examples, visible_image
from tests.losses.fake_model import FakeModel
from utils.types import Annotations, LabelTable


def annotations(codes, side=8):
    """Annotations of random images in memory."""
    codes = np.asarray(codes, dtype=np.int8)
    ids = tuple(f"{row}" for row in range(len(codes)))
    pixels = np.random.default_rng(0).integers(0, 256, (len(codes), side, side, 3), dtype=np.uint8)
    classes = tuple(f"class {k}" for k in range(codes.shape[1]))
    return Annotations(ArrayImages(pixels, ids), ids, classes, LabelTable(codes))


def with_labels(*counts):
    """Annotations whose rows have so many labels, of five classes; the others are unknown."""
    return annotations([[1] * count + [-1] * (5 - count) for count in counts])


def test_images_with_several_labels_come_first_and_those_without_any_never():
    truth = with_labels(0, 1, 2, 3, 1, 0, 2, 3, 0)
    assert choose_rows(truth, 2) == [3, 7]
    assert choose_rows(truth, 4) == [2, 3, 6, 7]
    assert choose_rows(truth, 100) == [1, 2, 3, 4, 6, 7]
    assert len(choose_rows(truth, 5)) == 5


def test_three_labels_and_more_are_as_good_as_each_other_and_the_seed_decides():
    truth = with_labels(*[3, 4, 5] * 20)
    assert choose_rows(truth, 6) == choose_rows(truth, 6, seed=0) != choose_rows(truth, 6, seed=1)
    assert len({len(set(choose_rows(truth, 20, seed)) & set(range(0, 60, 3))) for seed in range(8)}) > 1


def test_rows_are_chosen_alike_however_many_are_read_at_a_time():
    truth = annotations(np.where(np.arange(9000)[:, None] % 1000 == 7, 1, 0), side=1)
    assert choose_rows(truth, 20) == list(range(7, 9000, 1000))


@pytest.mark.parametrize(("augment", "box"), [("none", (0, 0, 40, 24)), ("resize-crop", (2, 1, 37, 22))])
def test_the_part_that_models_see_is_shown(augment, box):
    view = EvalView(32, augment, "unit", "pillow")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    assert visible_image(image, view).tobytes() == image.crop(box).tobytes()
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert visible_image(tensor, view).tobytes() == image.crop(box).tobytes()
    assert visible_image(Image.new("RGB", (1, 1)), view).size == (1, 1)


def test_scores_and_maps_are_those_of_the_highest_classes():
    model, truth = FakeModel(5).eval(), with_labels(2, 0, 5)
    view = EvalView(8, "none", "unit", "pillow")
    found = examples([model, FakeModel(5, seed=1)], truth, [0, 2], view)
    assert [example.truth for example in found] == [("class 0", "class 1"), truth.classes]
    assert [len(example.views) for example in found] == [2, 2]
    pixels = torch.stack([torch.from_numpy(np.array(truth.images.open(row))).permute(2, 0, 1) for row in (0, 2)])
    output = model(pixels / 255, want=frozenset({"cam"}))
    for row, example in enumerate(found):
        seen, scores = example.views[0], output.logits[row].sigmoid()
        best = scores.argsort(descending=True)[:3].tolist()
        assert seen.labels == tuple(f"class {k}" for k in best)
        assert seen.scores == pytest.approx(scores[best].tolist(), rel=1e-5)
        said = {k: "found" if scores[k] >= 0.5 else "missed" for k in range(5 if row == 1 else 2)}
        assert seen.kinds == tuple(said.get(k, "unknown") for k in best)
        np.testing.assert_allclose(seen.cam, output.cam[row, best[0]].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("code", "score", "kind"),
    [
        *((1, 0.5, "found"), (1, 0.49, "missed"), (0, 0.5, "wrong"), (0, 0.49, "rejected")),
        *((-1, 0.9, "unknown"), (-1, 0.1, "unknown")),
    ],
)
def test_a_label_that_is_absent_and_scores_low_is_right(code, score, kind):
    assert room._kind(code, score) == kind


def test_few_classes_are_all_named():
    view = EvalView(8, "none", "unit", "pillow")
    (found,) = examples([FakeModel(2)], annotations([[1, 0]]), [0], view)
    assert len(found.views[0].labels) == 2


def test_a_run_shows_up_to_eight_images_and_none_where_none_has_a_label(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(room, "plot_examples", lambda *args: drawn.append(args))
    view = EvalView(8, "none", "unit", "pillow")
    draw_examples("bce", FakeModel(5), with_labels(*[1] * 11), view, tmp_path / "examples.png")
    ((shown, names, path),) = drawn
    assert (len(shown), names, path) == (8, ["bce"], tmp_path / "examples.png")
    draw_examples("bce", FakeModel(5), with_labels(0, 0), view, tmp_path / "examples.png")
    assert len(drawn) == 1


def test_the_tail_is_drawn_where_there_are_head_middle_and_tail(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(room, "plot_tail", lambda *args: drawn.append(args))
    groups = {name: np.array([k]) for k, name in enumerate(("tail", "other", "head", "middle"))}
    train, test = with_labels(3, 1), with_labels(1)
    data = type("Data", (), {"groups": groups, "train": train, "test": test})
    metrics = type("Metrics", (), {"per_class": np.arange(5.0)})
    draw_tail(data, metrics, tmp_path / "tail.png")
    ((classes, counts, precision, shown, path),) = drawn
    assert (classes, counts.tolist(), precision.tolist()) == (test.classes, [2, 1, 1, 0, 0], [0, 1, 2, 3, 4])
    assert {name: part.tolist() for name, part in shown.items()} == {"head": [2], "middle": [3], "tail": [0]}
    assert list(shown) == ["head", "middle", "tail"]
    assert path == tmp_path / "tail.png"
    data.groups = {name: part for name, part in groups.items() if name != "other"}
    draw_tail(data, metrics, tmp_path / "tail.png")
    assert len(drawn) == 2
    data.groups = {name: part for name, part in groups.items() if name != "middle"}
    draw_tail(data, metrics, tmp_path / "tail.png")
    assert len(drawn) == 2
