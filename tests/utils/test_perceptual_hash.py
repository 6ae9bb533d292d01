"""Hashes of what an image looks like, against plain loops, and the search for near ones."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dct

from utils import perceptual_hash as room
from utils.perceptual_hash import BITS, SIDE, differing_bits, nearest_within, perceptual_hash

RNG = np.random.default_rng(0)


def grey(seed):
    """Smooth grey levels (64, 64)."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 11), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def bits_of(hashes):
    return np.unpackbits(hashes.view(np.uint8))


def test_bits_say_which_of_the_lowest_frequencies_are_above_their_median():
    levels = grey(1).astype(np.float64)
    step = np.arange(SIDE)
    wave = np.array([np.cos(np.pi * (2 * step + 1) * k / (2 * SIDE)) for k in range(16)])  # the DCT by its definition
    spectrum = np.array([(levels * np.outer(wave[j], wave[k])).sum() for j in range(16) for k in range(16)])[1:]
    found = bits_of(perceptual_hash(grey(1)))
    assert found.shape == (256,)
    assert found[-1] == 0
    assert found.sum() == 127  # half of 255
    np.testing.assert_array_equal(found[:-1], spectrum > np.median(spectrum))
    assert dct(levels[0])[0] == pytest.approx(2 * levels[0].sum())


def test_a_copy_that_was_scaled_and_saved_again_is_near_and_another_image_is_not():
    image = Image.fromarray(grey(2)).resize((400, 300))
    file = io.BytesIO()
    image.resize((130, 100)).save(file, "JPEG", quality=30)
    copy = np.asarray(Image.open(file).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    whole = perceptual_hash(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    hashes = np.stack([perceptual_hash(copy), *(perceptual_hash(grey(seed)) for seed in range(3, 20))])
    found = differing_bits(hashes, whole)
    assert found[0] <= 20
    assert found[1:].min() > 80
    assert found.tolist() == [int((bits_of(each) != bits_of(whole)).sum()) for each in hashes]


def flipped(hashes, bits):
    """A hash with these bits changed."""
    found = bits_of(hashes)
    found[list(bits)] ^= 1
    return np.packbits(found).view(np.uint16)


def by_hand(hashes, others, radius):
    """The nearest of others to each hash, one pair at a time: (row, of, bits)."""
    found = []
    for row, one in enumerate(hashes):
        bits = [int((bits_of(one) != bits_of(other)).sum()) for other in others]
        if bits and min(bits) <= radius:
            found.append((row, bits.index(min(bits)), min(bits)))
    return found


@pytest.mark.parametrize("radius", [0, 3, 30, 31])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_the_nearest_is_found_as_by_comparing_every_pair(monkeypatch, radius, block):
    monkeypatch.setattr(room, "_BLOCK", block)
    others = np.stack([perceptual_hash(grey(seed)) for seed in (0, 1, 2, 1, 3)])
    changes = [(), (5,), *(RNG.choice(BITS, count, replace=False) for count in (3, 4, 29, 30, 31, 32, 33))]
    hashes = np.stack([flipped(others[number % 5], change) for number, change in enumerate(changes)])
    found = nearest_within(hashes, others, radius)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == by_hand(hashes, others, radius)
    assert 3 not in found.of  # equal to the one before it


def test_bits_that_are_spread_over_all_parts_are_found_up_to_the_last():
    other = perceptual_hash(grey(4))
    spread = [*range(0, 256, 16), *range(1, 240, 16)]
    assert len(spread) == room.RADIUS
    found = nearest_within(flipped(other, spread)[None], other[None])
    assert [part.tolist() for part in found] == [[0], [0], [31]]
    assert len(nearest_within(flipped(other, [*spread, 2])[None], other[None]).row) == 0


def test_many_equal_hashes_are_one_and_the_first_is_named():
    blank = np.stack([perceptual_hash(np.zeros((SIDE, SIDE), dtype=np.uint8))] * 300)
    found = nearest_within(blank, blank)
    assert (found.row.tolist(), set(found.of.tolist()), set(found.bits.tolist())) == (list(range(300)), {0}, {0})


@pytest.mark.parametrize(("one", "other"), [(0, 3), (3, 0), (0, 0)])
def test_of_no_images_none_is_near(one, other):
    hashes = np.zeros((3, 16), dtype=np.uint16)
    assert [part.tolist() for part in nearest_within(hashes[:one], hashes[:other])] == [[], [], []]


@pytest.mark.parametrize("radius", [-1, 32])
def test_a_radius_for_which_parts_are_no_proof_is_refused(radius):
    with pytest.raises(ValueError, match=rf"radius {radius}: must be in 0 \.\. 31"):
        nearest_within(np.zeros((1, 16), np.uint16), np.zeros((1, 16), np.uint16), radius)
