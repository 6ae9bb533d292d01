"""Images of which each channel is a file of its own, as microscopes write them. N rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.images.files import FileImages
from data.images.reading import Reading
from utils.checks import RunError
from utils.types import Index


class ChannelImages:
    """Three grey images per row: red, green and blue.

    Args:
        channels: the files of each channel, N each.

    Raises:
        ValueError: there are not three channels of the same length.
    """

    def __init__(self, channels: Sequence[FileImages]) -> None:
        if len(channels) != 3 or len({len(files) for files in channels}) != 1:
            raise ValueError(f"channels of {[len(files) for files in channels]} images; three of one length are needed")
        self._channels = tuple(channels)

    def __len__(self) -> int:
        return len(self._channels[0])

    @property
    def reading(self) -> Reading:
        """The rules by which the files become pixels."""
        return self._channels[0].reading

    def read_as(self, reading: Reading) -> ChannelImages:
        """The same images, read by other rules."""
        return ChannelImages([files.read_as(reading) for files in self._channels])

    def name(self, row: int) -> str:
        """The path of the first channel of one row."""
        return self._channels[0].name(row)

    def label(self, row: int) -> str:
        """The first channel of one row, in a message."""
        return self._channels[0].label(row)

    def open(self, row: int) -> Image.Image:
        """The image of one row, RGB. Raises: RunError naming the file that cannot be read or has another size."""
        greys = [files.open(row).convert("L") for files in self._channels]
        for files, grey in zip(self._channels, greys, strict=True):
            if grey.size != greys[0].size:
                raise RunError(f"{files.label(row)}: {self._of_another_size(grey.size, greys[0].size)}")
        return Image.merge("RGB", greys)

    def take(self, index: Index) -> ChannelImages:
        """The images of the rows at `index`."""
        return ChannelImages([files.take(index) for files in self._channels])

    def missing(self) -> Index:
        """(M,) the rows of which the file of a channel does not exist."""
        return np.unique(np.concatenate([files.missing() for files in self._channels]))

    def faults(self) -> list[tuple[int, str]]:
        """Rows of which a channel is missing or cannot be read, in order, with the fault of the first such channel."""
        found: dict[int, str] = {}
        for files in self._channels:
            for row, text in files.faults():
                found.setdefault(row, text)
        return sorted(found.items())

    def check(self) -> None:
        """Decode every file. Raises: UserError naming the first that is missing or damaged, channel by channel."""
        for files in self._channels:
            files.check()

    @staticmethod
    def _of_another_size(size: tuple[int, int], first: tuple[int, int]) -> str:
        return f"is {size[0]} x {size[1]} pixels, another channel of it {first[0]} x {first[1]}; get both anew"
