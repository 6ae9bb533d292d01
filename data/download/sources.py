"""Where datasets are downloaded from: addresses, sizes and MD5 of the official archives, and what they leave.

MD5: VOC as in `torchvision.datasets`; COCO publishes none, these are in use by several other programs and agree. Sizes
are those that the servers name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Archive(NamedTuple):
    """A file to download."""

    address: str
    size: int
    """Bytes."""
    md5: str
    unpacked: int
    """Bytes of its content, rounded up."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.address.rsplit("/", 1)[-1]


class Source(NamedTuple):
    """What a dataset is downloaded as."""

    archives: tuple[Archive, ...]
    parts: Mapping[str, int]
    """Files of the finished dataset, or folders with their number of entries; a dataset that has all is there."""
    terms: str
    """The terms of its images in one sentence."""
    inside: str = ""
    """The folder in the archives that holds everything, and is left out."""
    elsewhere: str = ""
    """A folder in which readers look for the parts too."""


_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_VOC_TERMS = "images are of Flickr, under its terms of use: http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
_COCO_TERMS = "annotations are CC BY 4.0, images of Flickr under its terms of use: https://cocodataset.org/#termsofuse"

SOURCES: Mapping[str, Source] = {
    "voc07": Source(
        (
            Archive(
                f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
                460_032_000,
                "c52e279531787c972589f7e41ab4ae64",
                470_000_000,
            ),
            Archive(
                f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", 451_020_800, "b6e924de25625d8de591ea690078ad9f", 460_000_000
            ),
        ),
        {"VOC2007/JPEGImages": 9_963, "VOC2007/Annotations": 9_963, "VOC2007/ImageSets/Main/test.txt": 1},
        _VOC_TERMS,
        inside="VOCdevkit",
    ),
    "voc12": Source(
        (
            Archive(
                f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "6cd6e144f989b92b3379bac3b3de84fd",
                2_050_000_000,
            ),
        ),
        {"VOC2012/JPEGImages": 17_125, "VOC2012/Annotations": 17_125, "VOC2012/ImageSets/Main/val.txt": 1},
        _VOC_TERMS,
        inside="VOCdevkit",
    ),
    "coco": Source(
        (
            Archive(
                f"{_COCO}/annotations/annotations_trainval2014.zip",
                252_872_794,
                "0a379cfc70b0e71301e0f377548639bd",
                850_000_000,
            ),
            Archive(f"{_COCO}/zips/val2014.zip", 6_645_013_297, "a3d79f5ed8d289b7a7554ce06a5782b3", 6_750_000_000),
            Archive(f"{_COCO}/zips/train2014.zip", 13_510_573_713, "0da8c0bd3d6becc4dcb32757491aca88", 13_700_000_000),
        ),
        {
            "annotations/instances_train2014.json": 1,
            "annotations/instances_val2014.json": 1,
            "train2014": 82_783,
            "val2014": 40_504,
        },
        _COCO_TERMS,
        elsewhere="images",
    ),
    "coco17": Source(
        (
            Archive(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                252_907_541,
                "f4bbac642086de4f52a3fdda2de5fa2c",
                850_000_000,
            ),
            Archive(f"{_COCO}/zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80", 830_000_000),
            Archive(f"{_COCO}/zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2", 19_600_000_000),
        ),
        {
            "annotations/instances_train2017.json": 1,
            "annotations/instances_val2017.json": 1,
            "train2017": 118_287,
            "val2017": 5_000,
        },
        _COCO_TERMS,
        elsewhere="images",
    ),
}
"""The datasets that can be downloaded, by the names of `--dataset`."""
