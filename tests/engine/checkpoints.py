"""Small checkpoints to predict by and to export, and images of every kind of file."""

import numpy as np
import torch
from PIL import Image

from engine.core.checkpoint import save_model
from models.build import Architecture, build_model
from models.heads.base import LabelInfo
from models.peers import build_peers
from utils.types import LabelTable

CLASSES = ("cat", "dog", "person", "sofa", "train")
SIZE = 40


def checkpoint(path, *, peers=False, classes=CLASSES, model="scenenet", head="linear", size=SIZE, **settings):
    """Write a checkpoint of random weights whose scores differ from image to image; returns its path."""
    architecture = Architecture.of(model=model, head=head, weights="none")
    codes = (np.random.default_rng(0).random((30, len(classes))) > 0.5).astype(np.int8)
    build = build_peers if peers else build_model
    network = build(architecture, len(classes), 3, label_info=LabelInfo(classes, LabelTable(codes)))
    seeded = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):  # BatchNorm that moves and scales, so that leaving it out would show
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=seeded))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=seeded))
    held = {"model": model, "head": head, "weights": "none", "img_size": size, **settings}
    save_model(path, network, classes, held, epoch=7)
    return path


def pixels(seed, width=53, height=37):
    """A coloured image, smooth enough for JPEG."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def every_kind(folder):
    """Write an image file of each kind; returns their paths, sorted."""
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    pixels(0).save(folder / "colour.jpg")
    pixels(1).save(folder / "turned.jpg", exif=exif)
    pixels(2).convert("L").save(folder / "grey.jpg")
    pixels(3).convert("CMYK").save(folder / "print.jpg")
    pixels(4).convert("P").save(folder / "palette.png")
    pixels(5).convert("P").save(folder / "palette.gif", transparency=0)
    alpha = pixels(6).convert("RGBA")
    alpha.putalpha(pixels(7).convert("L"))
    alpha.save(folder / "alpha.png")
    wide = np.asarray(pixels(8).convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(folder / "sixteen.png")
    pixels(9).save(folder / "colour.webp")
    pixels(10, 1, 1).save(folder / "one.bmp")
    return sorted(folder.iterdir())


def damaged(path):
    """Write half a JPEG; returns its path."""
    pixels(0, 300, 300).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:900])
    return path
