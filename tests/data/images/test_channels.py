import numpy as np
import pytest
from PIL import Image

from data.images.channels import ChannelImages
from data.images.files import FileImages
from utils.checks import RunError, UserError


def channels(folder, rows=3, size=(8, 6)):
    """Files `<row>_<channel>.png` of random grey images, and their pixels (N, H, W, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, size[1], size[0], 3), dtype=np.uint8)
    for row in range(rows):
        for channel in range(3):
            Image.fromarray(pixels[row, :, :, channel]).save(folder / f"{row}_{channel}.png")
    files = [FileImages([folder / f"{row}_{channel}.png" for row in range(rows)]) for channel in range(3)]
    return ChannelImages(files), pixels


def test_three_files_are_the_channels_of_one_image(tmp_path):
    images, pixels = channels(tmp_path)
    assert len(images) == 3
    for row in range(3):
        np.testing.assert_array_equal(np.asarray(images.open(row)), pixels[row])
    taken = images.take(np.array([2, 0]))
    np.testing.assert_array_equal(np.asarray(taken.open(0)), pixels[2])
    assert images.name(1) == str(tmp_path / "1_0.png")
    assert "1_0.png (row 1)" in images.label(1)
    images.check()
    assert images.faults() == []
    assert images.missing().tolist() == []


def test_a_channel_that_is_missing_or_damaged_or_of_another_size(tmp_path):
    images, _ = channels(tmp_path, rows=4)
    (tmp_path / "1_2.png").unlink()
    (tmp_path / "3_1.png").write_bytes(b"nothing")
    Image.new("L", (5, 5)).save(tmp_path / "2_1.png")
    assert images.missing().tolist() == [1]
    assert [row for row, _ in images.faults()] == [1, 3]
    with pytest.raises(UserError, match=r"3_1\.png .* is damaged"):
        images.check()
    with pytest.raises(RunError, match=r"2_1\.png .*: is 5 x 5 pixels, another channel of it 8 x 6"):
        images.open(2)
    with pytest.raises(RunError, match=r"1_2\.png"):
        images.open(1)


def test_there_are_three_channels_of_one_length(tmp_path):
    files = FileImages([tmp_path / "a.png"])
    for wrong in ([files], [files] * 2, [files, files, FileImages([])]):
        with pytest.raises(ValueError, match="three of one length"):
            ChannelImages(wrong)
