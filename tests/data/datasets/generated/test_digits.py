"""Scenes of digits and letters: what is in them, that it can be repeated, and that the renderer does what it says."""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.datasets.generated import digits, letters, scenes
from data.datasets.generated.digits import (
    CLASSES,
    GROUPS,
    digit_scenes,
    load_digits,
    load_long_tailed_digits,
    samples,
    scene_weights,
    tail_weights,
)
from data.datasets.generated.letters import LETTERS, letter_scenes
from data.datasets.generated.scenes import COOL, SIDE, WARM, Objects
from utils.types import PRESENT, UNKNOWN, Annotations

ROOT = Path(__file__).parents[4]
FINGERPRINT = """
import sys
from data.datasets.generated.digits import digit_scenes
from tests.data.datasets.generated.test_digits import fingerprint
print(fingerprint(digit_scenes(int(sys.argv[1]), "test")))
"""


def pixels(annotations: Annotations) -> np.ndarray:
    return np.stack([np.asarray(annotations.images.open(row)) for row in range(len(annotations))])


def fingerprint(annotations: Annotations) -> str:
    digest = hashlib.sha256(pixels(annotations).tobytes())
    digest.update((annotations.truth.hash() + annotations.row_hash()).encode())
    digest.update(annotations.boxes.corners.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def splits():
    return load_digits(SimpleNamespace(seed=0))


def test_sizes_names_and_pictures(splits):
    assert (len(splits.train), len(splits.test)) == (3000, 1500)
    assert splits.train.classes == splits.test.classes == CLASSES
    assert (CLASSES[0], CLASSES[9], CLASSES[10], CLASSES[17]) == ("0 warm", "9 warm", "0 cool", "7 cool")
    image = splits.train.images.open(0)
    assert (image.size, image.mode) == ((40, 40), "RGB")
    assert splits.train.ids[1] == "s0-train-0001"
    assert list(splits.train.ids) == sorted(splits.train.ids)


def test_label_counts_and_prevalence(splits):
    for part in splits[:2]:
        codes = part.truth.dense()
        assert not (codes == UNKNOWN).any()
        shares = np.bincount((codes == PRESENT).sum(axis=1), minlength=6)[1:] / len(part)
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05, 0], atol=4 * 0.5 / np.sqrt(len(part)))
        prevalence = part.truth.counts() / len(part)
        assert prevalence.min() > 0.04
        assert prevalence.max() < 0.14


def test_prevalence_is_what_the_groups_imply(splits):
    """The expected number of scenes a class is in, from 20,000 draws one class at a time, against ours."""
    rng, total = np.random.default_rng(5), np.zeros(20)
    for _ in range(20_000):
        group = list(GROUPS[rng.integers(6)])
        chances = np.full(20, 0.25 / 20)
        chances[group] += 0.75 / 5
        count = rng.choice([1, 2, 3, 4], p=[0.5, 0.3, 0.15, 0.05])
        total[rng.choice(20, size=count, replace=False, p=chances)] += 1
    expected = total / 20_000
    found = splits.train.truth.counts() / len(splits.train)
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.12 / 3000) + 4 * np.sqrt(0.12 / 20_000))


def test_members_of_a_group_appear_together(splits):
    codes = (splits.train.truth.dense() == PRESENT).astype(float)
    given = codes.T @ codes / codes.sum(axis=0)[:, None]
    together = {(i, j) for group in GROUPS for i in group for j in group if i != j}
    inside = np.mean([given[pair] for pair in together])
    outside = np.mean([given[i, j] for i in range(20) for j in range(20) if i != j and (i, j) not in together])
    assert inside > 3 * outside


def test_train_and_test_share_no_sample_of_a_digit():
    (train, train_digits), (test, test_digits) = samples("train"), samples("test")
    assert (len(train), len(test)) == (1198, 599)
    both = {glyph.tobytes() for glyph in train} & {glyph.tobytes() for glyph in test}
    assert not both
    for glyphs, numbers in ((train, train_digits), (test, test_digits)):
        assert glyphs.shape[1:] == (8, 8)
        assert (glyphs.min(), glyphs.max()) == (0, 1)
        assert np.bincount(numbers).min() >= 55


def test_every_label_has_its_square_inside_the_picture(splits):
    for part in splits[:2]:
        boxes = part.boxes
        assert len(boxes.row) == part.truth.counts().sum()
        assert (part.truth.dense()[boxes.row, boxes.label] == PRESENT).all()
        assert (np.diff(boxes.row) >= 0).all()
        width, height = (boxes.corners[:, 2:] - boxes.corners[:, :2] + 1).T
        np.testing.assert_array_equal(width, height)
        assert set(width.tolist()) == set(range(11, 18))
        assert boxes.corners.min() == 0
        assert boxes.corners.max() == SIDE - 1


def test_squares_of_a_scene_hardly_overlap(splits):
    """Area counted pixel by pixel; where no free place was found in 12 tries there may be more overlap, rarely."""
    worst = []
    boxes = splits.train.boxes
    for row in range(300):
        masks = []
        for x1, y1, x2, y2 in boxes.corners[boxes.row == row].astype(int):
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
            masks.append(mask)
        pairs = [(a, b) for i, a in enumerate(masks) for b in masks[:i]]
        worst += [(a & b).sum() / min(a.sum(), b.sum()) for a, b in pairs]
    assert len(worst) > 200
    assert np.mean(np.array(worst) > 0.105) < 0.1
    assert max(worst) < 0.6


def test_overlap_by_hand():
    corner, side = np.array([[0, 0], [20, 20], [3, 4]]), np.array([10, 10, 4])
    other = np.array([[5, 5, 10], [0, 0, 10], [0, 0, 20]])
    np.testing.assert_allclose(scenes.overlap(corner, side, other), [0.25, 0, 1])


def test_the_ink_can_be_read_from_the_picture(splits):
    """Inside its square a warm digit adds red to the scene, a cool one blue."""
    shown, boxes = pixels(splits.train).astype(float), splits.train.boxes
    lead = np.empty(len(boxes.row))
    for i, (row, (x1, y1, x2, y2)) in enumerate(zip(boxes.row, boxes.corners.astype(int), strict=True)):
        inside = shown[row, y1 : y2 + 1, x1 : x2 + 1].mean(axis=(0, 1)) - shown[row].mean(axis=(0, 1))
        lead[i] = inside[0] - inside[2]
    warm = digits.ink_of(boxes.label) == WARM
    assert (lead[warm] > 0).mean() > 0.95
    assert (lead[~warm] < 0).mean() > 0.95


def test_inks_stand_out_and_keep_their_tint():
    tints = np.repeat([scenes.ANY_INK, WARM, COOL], 400)
    ground = np.full((1200, 3), 0.275, dtype=np.float32)
    inks = scenes.draw_inks(np.random.default_rng(0), tints, ground, bright=0.65)
    red, green, blue = inks.T
    assert (blue[tints == WARM] <= 0.45 * red[tints == WARM] + 1e-6).all()
    assert (red[tints == COOL] <= 0.45 * blue[tints == COOL] + 1e-6).all()
    assert (green <= 0.8 * np.maximum(red, blue) + 1e-6)[tints != scenes.ANY_INK].all()
    assert (green > np.maximum(red, blue))[tints == scenes.ANY_INK].any()
    assert (red > blue)[tints == scenes.ANY_INK].any()
    assert (blue > red)[tints == scenes.ANY_INK].any()
    assert inks.max(axis=1).min() >= 0.65 - 1e-6
    assert inks.max() <= 1
    assert inks.min() >= 0
    assert (np.abs(inks - ground).mean(axis=1) > 0.245).all()


def test_backgrounds_are_soft_colour_over_the_whole_range():
    ground = scenes.backgrounds(np.random.default_rng(0), 200)
    assert ground.shape == (200, SIDE, SIDE, 3)
    assert 0 <= ground.min() < 0.05
    assert 0.95 < ground.max() <= 1
    assert abs(ground.mean() - 0.5) < 0.02
    neighbours = np.abs(np.diff(ground, axis=1)).mean()
    assert 0.005 < neighbours < ground.std() / 4


def test_an_enlarged_glyph_keeps_level_and_place():
    assert scenes.enlarge(np.ones((8, 8), dtype=np.float32), 13) == pytest.approx(np.ones((13, 13)), abs=1e-5)
    corner = np.zeros((8, 8), dtype=np.float32)
    corner[0, 7] = 1
    large = scenes.enlarge(corner, 16)
    assert np.unravel_index(large.argmax(), large.shape) in {(0, 15), (0, 14), (1, 14), (1, 15)}
    assert large[4:, :12].max() < 0.05


def test_a_scene_without_clutter_and_noise_is_ground_and_objects():
    style = scenes.Style(sides=(10, 10), clutter=0, noise=0.0, background=0.0, bright=1.0)
    objects = Objects(np.array([0, 1]), np.array([0, 0]), np.array([0, 0]))
    full = np.ones((2, 8, 8), dtype=np.float32)
    shown, corners = scenes.render(np.random.default_rng(0), full, np.array([WARM, COOL]), objects, full, style)
    for image, (x1, y1, x2, y2), lead in zip(shown, corners.astype(int), (0, 2), strict=True):
        square = image[y1 : y2 + 1, x1 : x2 + 1].reshape(-1, 3)
        assert (x2 - x1, y2 - y1) == (9, 9)
        assert (square == square[0]).all()
        assert square[0, lead] > square[0, 2 - lead]
        assert image.sum(dtype=int) == square.sum(dtype=int) > 0


def test_draws_without_replacement_follow_the_weights():
    """Chances of first and second class against the exact ones of drawing one after the other."""
    weights = np.array([0.6, 0.3, 0.05, 0.03, 0.02])
    objects = scenes.draw_objects(np.random.default_rng(0), np.tile(weights, (40_000, 1)))
    first = np.bincount(objects.label[objects.position == 0], minlength=5) / 40_000
    np.testing.assert_allclose(first, weights, atol=0.01)
    second = objects.label[objects.position == 1]
    exact = [sum(weights[i] * weights[j] / (1 - weights[i]) for i in range(5) if i != j) for j in range(5)]
    np.testing.assert_allclose(np.bincount(second, minlength=5) / len(second), exact, atol=0.015)
    pairs = {(scene, label) for scene, label in zip(objects.scene.tolist(), objects.label.tolist(), strict=True)}
    assert len(pairs) == len(objects.scene)


def test_weights_of_the_groups_sum_to_one():
    weights = scene_weights(np.random.default_rng(0), 500, np.ones(20))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert {tuple(np.flatnonzero(row > 0.1)) for row in weights} == {tuple(sorted(group)) for group in GROUPS}


def test_long_tail_is_thirtyfold_and_named_apart(splits):
    tail = np.sort(tail_weights())[::-1]
    np.testing.assert_allclose(tail[1:] / tail[:-1], 30 ** (-1 / 19))
    assert tail[0] == 1
    tailed = digit_scenes(0, "train", long_tail=True)
    counts = tailed.truth.counts()
    assert counts.max() > 10 * counts.min() > 100
    assert np.corrcoef(np.log(counts), np.log(tail_weights()))[0, 1] > 0.9
    assert not set(tailed.ids) & set(splits.train.ids)


def test_the_long_tailed_set_has_groups_of_falling_frequency_and_the_plain_test_scenes(splits):
    found = load_long_tailed_digits(SimpleNamespace(seed=0))
    counts = found.train.truth.counts()
    head, middle, tail = (counts[found.groups[name]] for name in ("head", "middle", "tail"))
    assert (len(head), len(middle), len(tail)) == (7, 6, 7)
    assert head.min() >= middle.max()
    assert middle.min() >= tail.max()
    assert head.mean() > 2 * middle.mean() > 4 * tail.mean()
    assert sorted(np.concatenate(list(found.groups.values()))) == list(range(20))
    assert found.test.ids == splits.test.ids
    assert found.test.truth.hash() == splits.test.truth.hash()


@pytest.mark.slow
def test_the_same_in_another_process():
    run = subprocess.run(  # a fresh interpreter: other hash seed, nothing imported before
        [sys.executable, "-c", FINGERPRINT, "4"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == fingerprint(digit_scenes(4, "test"))


def test_seeds_and_splits_have_nothing_in_common(splits):
    other = digit_scenes(1, "test")
    assert not set(other.ids) & set(splits.test.ids)
    assert not set(splits.train.ids) & set(splits.test.ids)
    assert other.row_hash() != splits.test.row_hash()
    assert other.truth.hash() != splits.test.truth.hash()
    test, alien = pixels(splits.test), pixels(other)
    assert (test != alien).any(axis=(1, 2, 3)).all()
    assert (pixels(splits.train)[:1500] != test).any(axis=(1, 2, 3)).all()


def test_letters_leave_out_what_reads_as_a_digit():
    assert len(set(LETTERS)) == len(LETTERS) == 32
    assert LETTERS.isalpha()
    assert not set(LETTERS) & set("OoQDIiljZzSsBbgq")


def test_letter_scenes(monkeypatch):
    monkeypatch.setattr(letters, "SCENES", {"train": 300, "test": 200})
    monkeypatch.setattr(letters, "VARIANTS", {"train": 6, "test": 4})
    train, test, *_ = letters.load_letters(SimpleNamespace(seed=2))
    assert (len(train), len(test), train.classes) == (300, 200, tuple(LETTERS))
    assert train.truth.counts().min() > 0
    assert fingerprint(test) == fingerprint(letter_scenes(2, "test"))
    assert fingerprint(test) != fingerprint(letter_scenes(3, "test"))
    assert train.ids[0] == "letters-s2-train-0000"
    assert not set(train.ids) & set(digit_scenes(2, "train").ids)


def test_letter_shapes_fill_the_square_and_vary():
    rng, font = np.random.default_rng(0), letters.ImageFont.load_default(48)
    for letter in LETTERS:
        shapes = [letters.letter_glyph(rng, letter, font) for _ in range(4)]
        for shape in shapes:
            assert shape.shape == (8, 8)
            assert 0 <= shape.min() < shape.max() <= 1
            rows, columns = (np.flatnonzero(shape.max(axis=axis) > 0) for axis in (1, 0))
            assert max(np.ptp(rows), np.ptp(columns)) >= 6
        assert len({shape.tobytes() for shape in shapes}) == 4
