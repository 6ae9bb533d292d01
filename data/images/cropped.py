"""Images cropped from files, such as the box of one person or object. N rows, H W pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.images.files import FileImages
from data.images.opening import header
from data.images.reading import Reading
from utils.checks import RunError, UserError, require
from utils.types import Index

PixelBox = tuple[int, int, int, int]


class CroppedImages:
    """One box of one file per row; several rows may be boxes of the same file.

    Boxes are rounded to whole pixels, half to even, as Pillow's `crop` does, and clipped to the image, so that a crop
    never has black borders.

    Args:
        files: N files.
        boxes: (N, 4) x1 y1 x2 y2 in pixels counted from 0, the second corner outside the box.

    Raises:
        ValueError: there is not one box for each file.
    """

    def __init__(self, files: FileImages, boxes: NDArray[np.float64]) -> None:
        if boxes.shape != (len(files), 4):
            raise ValueError(f"boxes {boxes.shape} for {len(files)} images; must be ({len(files)}, 4)")
        self._files = files
        self._boxes = boxes

    def __len__(self) -> int:
        return len(self._files)

    @property
    def reading(self) -> Reading:
        """The rules by which the files become pixels."""
        return self._files.reading

    def read_as(self, reading: Reading) -> CroppedImages:
        """The same boxes of files that are read by other rules. Raises: UserError where these turn the files."""
        require(
            reading.exif == "ignore",
            "--exif apply: these images are cut out of files by boxes, which are of the pixels as they are stored; "
            "take --exif ignore",
        )
        return CroppedImages(self._files.read_as(reading), self._boxes)

    def name(self, row: int) -> str:
        """The path of the file that one row is cropped from."""
        return self._files.name(row)

    def label(self, row: int) -> str:
        """The file that one row is cropped from, in a message."""
        return self._files.label(row)

    def open(self, row: int) -> Image.Image:
        """The part of the image inside the row's box, RGB.

        Raises: RunError naming file and row when the file cannot be read or the box lies outside the image.
        """
        image = self._files.open(row)
        box = inside(self._boxes[row], *image.size)
        if box is None:
            raise RunError(f"{self._files.label(row)}: {self._outside(row, image.size)}")
        return image.crop(box)

    def take(self, index: Index) -> CroppedImages:
        """The images of the rows at `index`."""
        return CroppedImages(self._files.take(index), self._boxes[index])

    def missing(self) -> Index:
        """(M,) the rows whose file does not exist."""
        return self._files.missing()

    def check(self) -> None:
        """Decode every file that has not been found good before, and compare every box with the size of its image.

        Raises: UserError naming the first image that is missing or damaged, or else the first box outside its image.
        """
        self._files.check()
        for row, text in self._boxes_outside(set()):
            raise UserError(f"{self._files.label(row)}: {text}; correct the box, or get the image anew")

    def faults(self) -> list[tuple[int, str]]:
        """Rows whose file is missing or cannot be read, or whose box is outside of it, in order, with their faults."""
        unreadable = self._files.faults()
        return sorted([*unreadable, *self._boxes_outside({row for row, _ in unreadable})])

    def _boxes_outside(self, unreadable: set[int]) -> Iterator[tuple[int, str]]:
        """Rows whose box is outside their image, and that fault; `unreadable` rows are passed over."""
        sizes: dict[str, tuple[int, int]] = {}
        for row in range(len(self)):
            path = self.name(row)
            if row in unreadable:
                continue
            if path not in sizes:
                sizes[path] = header(path)[0]
            if inside(self._boxes[row], *sizes[path]) is None:
                yield row, self._outside(row, sizes[path])

    def _outside(self, row: int, size: tuple[int, int]) -> str:
        corners = ", ".join(f"{side:g}" for side in self._boxes[row])
        return f"box ({corners}) lies outside its {size[0]} x {size[1]} pixels"


def inside(box: NDArray[np.float64], width: int, height: int) -> PixelBox | None:
    """A box (x1, y1, x2, y2) rounded to whole pixels and clipped to the image; None if nothing is left."""
    x1, y1, x2, y2 = np.rint(box).clip(0, [width, height, width, height]).astype(int).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
