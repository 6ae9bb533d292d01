"""Small valid folders with files that people bring: annotations, labels, images, checkpoints."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.reader import load_table
from data.datasets.voc import VOC_CLASSES
from data.files.cache import Cache
from data.labels.files import write_native, write_published
from data.labels.regime import Regime, observe
from engine.core.checkpoint import FORMAT
from engine.core.identity import default_identity, identity_of
from engine.core.settings import parse_settings
from engine.reproduction.lines import FinishedLine, LineFile
from engine.training.config import run_command
from models.build import Architecture, build_model
from tests.data.damage.longtail import longtail_tree
from tests.data.trees import class_lists, coco_json, coco_tree, picture, voc_tree, voc_xml
from tests.faults.formats import saved_array
from tests.models.released.released_files import fc_all

COLOURS = ("red", "green", "blue")
NAMES = "image,labels,split\n" + "".join(
    f"{n}.jpg,{';'.join(COLOURS[n % 3 : n % 3 + 1 + n % 2])},{'train' if n < 6 else 'test'}\n" for n in range(9)
)
COLUMNS = "image,red,green,blue,split\n" + "".join(
    f"{n}.jpg,{n % 2},{(n // 2) % 2},{-1 if n == 3 else int(n % 3 == 0)},{'train' if n < 6 else 'test'}\n"
    for n in range(9)
)

PAIRS = "class,parent\nred,warm\nwarm,colour\ngreen,cold\nblue,cold\ncold,colour\nred,blue\n"
NUMBERS = NAMES.replace("red", "11").replace("green", "12").replace("blue", "13")
NUMBERED = "id,name\n11,red\n12,green\n13,blue\n14,never seen\n"
DECISIONS = "image,class,given,new\n0.jpg,red,absent,present\n1.jpg,red,present,unknown\n6.jpg,blue,,absent\n"
POLICY = "class,uncertain\nred,present\nblue,absent\n"
SETTINGS = "epochs: 1\nbatch_size: 4\nlr: 0.01\nlabels: given\nseed: 3\nval_frac: 0.0\n"
PLAN = """title: Mutated
flags: --dataset digits
seeds: [1, 2]
tuning: {seed: 3, epoch: own}
regimes: {a: --partial_rate 0.4}
rows:
- {name: BCE, command: main_BCE.py, published: {a: {mAP: 70}}, source: x, tolerance: 1}
- {name: AN, command: main_BCE.py --loss an, try: {lr: [1, 2]}, seeds: [4], remark: none}
"""
NESTED = json.dumps(
    {
        "LabelName": "colour",
        "Subcategory": [
            {"LabelName": "green", "Subcategory": [{"LabelName": "red"}], "Part": [{"LabelName": "leaf"}]},
            {"LabelName": "blue", "Subcategory": [{"LabelName": "red"}]},
        ],
    }
)


def own(folder: Path, text: str = NAMES, images: str = ".jpg") -> None:
    """A table and its images."""
    (folder / "t.csv").write_text(text.replace(".jpg", images))
    for n in range(9):
        picture(folder / f"{n}{images}", colour=COLOURS[n % 3])


def voc(folder: Path) -> None:
    """VOC 2007 with annotations and lists, of which one of the two is read."""
    images = [
        (f"{n:06d}", ("train", "val", "test")[n % 3], [(VOC_CLASSES[n], int(n % 5 == 0), (1, 2, 30, 20))])
        for n in range(12)
    ]
    root = voc_tree(folder, 2007, images)
    objects = {one: (name, difficult) for one, _, [(name, difficult, _)] in images}

    def codes(image: str) -> list[int]:
        shown, difficult = objects[image]
        return [(-1 if difficult else 1) if name == shown else 0 for name in VOC_CLASSES]

    class_lists(root, VOC_CLASSES, codes)


def voc_class_lists(folder: Path) -> None:
    """VOC 2007 of which only the lists are there."""
    voc(folder)
    shutil.rmtree(folder / "VOC2007" / "Annotations")


def coco(folder: Path) -> None:
    """COCO 2014."""
    classes = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    boxes = [(1, 1, 0, [1, 2, 3, 4]), (2, 3, 0, [0, 0, 5, 5]), (2, 1, 1)]
    train = coco_json([(1, "a_1.jpg"), (2, "a_2.jpg"), (3, "a_3.jpg")], boxes, classes)
    val = coco_json([(7, "v_7.jpg"), (8, "v_8.jpg")], [(7, 1, 0, [1, 2, 3, 4]), (8, 2, 0)], classes)
    coco_tree(folder, 2014, train, val)


def own_json(folder: Path) -> None:
    """A COCO-style file of one's own."""
    boxes = [(n, 1 + n % 2, 0, [1, 2, 3, 4]) for n in range(6)]
    (folder / "t.json").write_text(json.dumps(coco_json([(n, f"{n}.jpg") for n in range(6)], boxes, [1, 2])))


def own_folder(folder: Path) -> None:
    """A folder of VOC annotations with lists and classes."""
    lists = folder / "own" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "own" / "Annotations").mkdir()
    for n in range(8):
        content = voc_xml([(COLOURS[n % 3], int(n % 4 == 0), (1, 2, 9, 9)), (COLOURS[(n + 1) % 3], 0)])
        (folder / "own" / "Annotations" / f"{n}.xml").write_text(content)
        picture(folder / "own" / "JPEGImages" / f"{n}.jpg")
    (lists / "train.txt").write_text("0\n1\n2\n3\n4\n")
    (lists / "test.txt").write_text("5\n6\n7\n")
    (folder / "own" / "classes.txt").write_text("red\ngreen\nblue\n")


def several(folder: Path) -> None:
    """Three tables in forms of their own, which share images."""
    rows = [line.split(",")[:2] for line in NAMES.splitlines()[1:]]
    lines = [f"{image};{name}\n" for image, names in rows for name in names.split(";")[:1]]
    codes = [f"{image},{n % 2},{(n + 1) % 2},p{n // 2}\n" for n, (image, _) in enumerate(rows[2:])]
    (folder / "t.csv").write_text(NAMES)
    (folder / "u.csv").write_text("file,boat,fish,site\n" + "".join(codes))
    (folder / "v.csv").write_text("photo;LabelName\n" + "".join(lines))


def parquet(folder: Path) -> None:
    """A table in parquet."""
    import pyarrow as pa
    from pyarrow import parquet as files

    rows = [line.split(",") for line in NAMES.splitlines()]
    files.write_table(
        pa.table({name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])}), folder / "t.parquet"
    )


def workbook(folder: Path) -> None:
    """A table in a workbook."""
    from openpyxl import Workbook

    book = Workbook()
    for line in NAMES.splitlines():
        book.active.append(line.split(","))
    book.save(folder / "t.xlsx")


def json_lines(folder: Path) -> None:
    """A record a line."""
    rows = [line.split(",") for line in NAMES.splitlines()]
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    lines = [json.dumps({**record, "labels": record["labels"].split(";")}) for record in records]
    (folder / "t.jsonl").write_text("\n".join(lines) + "\n")


def yolo(folder: Path) -> None:
    """An export of YOLO: images, labels, names."""
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(COLOURS))
    text = f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}"
    (folder / "own").mkdir()
    (folder / "own" / "data.yaml").write_text(text)
    for n in range(9):
        split = ("train", "val", "test")[n % 3]
        picture(folder / "own" / "images" / split / f"{n}.jpg")
        labels = folder / "own" / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{n}.txt").write_text(f"{n % 3} .5 .5 .2 .2\n{(n + 1) % 3} 0.4 0.4 0.1 0.1\n")


def beside(table: str, name: str, content: str) -> Callable[[Path], None]:
    """A builder of a table and a file beside it."""

    def build(folder: Path) -> None:
        own(folder, table)
        (folder / name).write_text(content)

    return build


def plan(folder: Path) -> None:
    """A plan and its finished lines."""
    (folder / "p.yaml").write_text(PLAN)
    words = ["--dataset", "digits", "--partial_rate", "0.4"]
    for loss, seed, more in (
        ("bce", 1, []),
        ("an", 3, ["--lr", "1"]),
        ("an", 3, ["--lr", "2"]),
        ("an", 4, ["--lr", "1"]),
    ):
        settings = parse_settings(run_command(loss), [*words, "--seed", str(seed), *more])
        figures = {"mAP": 0.5, "validation mAP": 0.4, "epoch": 2.0, "best on test mAP": 0.6}
        line = FinishedLine(
            loss, seed, identity_of(settings.values), figures, {"test_mAP": [0.4, 0.5]}, "x", {}, 2.0, {}
        )
        LineFile(folder / "runs.jsonl").add(line, default_identity(settings.table))


def long_tail(folder: Path) -> None:
    """COCO-LT, with what stands beside its lists."""
    longtail_tree(folder, "coco-lt", checks=True)


def formatted(folder: Path) -> None:
    """The arrays of NUS-WIDE as their scripts write them."""
    labels = np.zeros((4, 81))
    labels[np.arange(4), np.arange(4)] = 1
    for phase, names in (("train", ["c/3.jpg", "c/1.jpg", "c/20.jpg", "c/9.jpg"]), ("val", ["c/7.jpg", "c/5.jpg"])):
        np.save(folder / f"formatted_{phase}_images.npy", np.array(names))
        np.save(folder / f"formatted_{phase}_labels.npy", labels[: len(names)])
        np.save(folder / f"formatted_{phase}_labels_obs.npy", labels[: len(names)])


def native_labels(folder: Path, write: Callable[..., None] = write_native) -> None:
    """A table of one's own, and a label file for its training set."""
    own(folder, COLUMNS.replace("-1", "0"))
    source = DatasetSource(folder, folder, 0, Cache(folder / "cache"), False, TableConfig(table=(folder / "t.csv",)))
    train, regime = load_table(source).train, Regime(labels="candidate", partial_rate=0.3, label_seed=1)
    write(folder / "labels.npy", observe(train, regime), train, "table", regime)


def published_labels(folder: Path) -> None:
    """The same, with the label file as published code writes it."""
    native_labels(folder, write_published)


def listed_labels(folder: Path) -> None:
    """COCO 2014, and a published list of labels for its training set."""
    coco(folder)
    (folder / "labels.txt").write_text("a_1.jpg,0\na_2.jpg, 0 2\n")


def rates(folder: Path) -> None:
    """Rates of classes, and which class brings which."""
    own(folder, COLUMNS.replace("-1", "0"))
    (folder / "rates.csv").write_text("class,rate\nred,0.1\ngreen,0.5\nblue,0\n")
    (folder / "priors.csv").write_text("class,prior\nred,0.1\ngreen,0.5\nblue,0\n")
    (folder / "confusion.csv").write_text("class,red,green,blue\nred,0,0.2,0.1\ngreen,0.5,0,0\nblue,0,1,0\n")


def words(folder: Path) -> None:
    """Word vectors as GloVe's, and as an array."""
    own(folder)
    rng = np.random.default_rng(0)
    (folder / "glove.txt").write_text(
        "".join(f"{one} {' '.join(f'{x:.4f}' for x in rng.normal(size=6))}\n" for one in ("the", *COLOURS))
    )
    (folder / "vectors.npy").write_bytes(saved_array(rng.normal(size=(3, 6))))


def images(folder: Path) -> None:
    """An image of every kind, each under the table's name for it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a boat"
    whole = Image.fromarray(pixels)
    for name, more in IMAGES.items():
        made = more.pop("made", whole) if "made" in more else whole
        made.save(folder / name, **({"exif": exif} if name == "exif.jpg" else {}), **more)
    rows = "".join(f"{name},{COLOURS[n % 3]},{('train', 'test')[n % 2]}\n" for n, name in enumerate(IMAGES))
    (folder / "t.csv").write_text("image,labels,split\n" + rows)
    torch.save(ours(), folder / "best.model")


def _grey(mode: str) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 60_000, (24, 32))
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32, "L": np.uint8}
    return Image.fromarray(values.astype(kinds[mode]))


IMAGES: dict[str, dict] = {
    "plain.jpg": {},
    "progressive.jpg": {"progressive": True},
    "exif.jpg": {},
    "plain.png": {},
    "deep.png": {"made": _grey("I;16")},
    "plain.tif": {},
    "packed.tif": {"compression": "tiff_lzw"},
    "deep.tif": {"made": _grey("F")},
    "plain.bmp": {},
    "plain.gif": {},
    "plain.webp": {},
}
"""Files of images, and how they are saved."""


def ours() -> dict[str, Any]:
    """What `best.pth` of a run holds."""
    return {
        "format": FORMAT,
        "model": build_model(Architecture.of(model="scenenet", weights="none"), 3, seed=0).state_dict(),
        "classes": ["blue", "green", "red"],
        "settings": {"model": "scenenet", "weights": "none", "dataset": "table", "img_size": 32},
        "epoch": 1,
        "peers": False,
    }


def released_state() -> dict[str, torch.Tensor]:
    """The tensors of a released file, which share one memory so that the file is small."""
    with torch.device("meta"):
        shapes = {key: (tuple(value.shape), value.dtype) for key, value in fc_all(classes=3).state.items()}
    shared = torch.zeros(max(math.prod(shape) for shape, _ in shapes.values()))
    return {
        key: shared[: math.prod(shape)].view(shape) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        for key, (shape, dtype) in shapes.items()
    }


def checkpoint_of(content: Callable[[], Any]) -> Callable[[Path], None]:
    """A builder of a table and the checkpoint `x.pth`."""

    def build(folder: Path) -> None:
        own(folder)
        torch.save(content(), folder / "x.pth")

    return build


def own_safetensors(folder: Path) -> None:
    """A checkpoint of ours as safetensors."""
    own(folder)
    content = ours()
    texts = {name: json.dumps(content[name]) for name in ("classes", "settings", "epoch", "peers")}
    (folder / "x.safetensors").write_bytes(safetensors.torch.save(dict(content["model"]), {"format": FORMAT, **texts}))


def wrapped() -> dict:
    """A released file with averaged weights and what loops leave beside them."""
    state = released_state()
    names = {f"module.{key}": value for key, value in state.items()}
    return {
        "epoch": 3,
        "arch": "resnet",
        "state_dict": names,
        "state_dict_ema": dict(names),
        "meta": {"CLASSES": COLOURS},
        "optimizer": {"lr": 0.1},
    }


def features(folder: Path) -> None:
    """A table whose images are not there, and features of them in every form."""
    (folder / "t.csv").write_text(NAMES)
    values = np.random.default_rng(0).standard_normal((9, 4, 2, 2)).astype(np.float32)
    ids = [f"{n}.jpg" for n in range(9)]
    np.savez(folder / "x.npz", features=values, ids=np.array(ids))
    np.save(folder / "x.npy", values.astype(np.float16))
    (folder / "x.ids.txt").write_text("".join(f"{one}\n" for one in ids))
    safetensors.torch.save_file(
        {"features": torch.from_numpy(values).bfloat16()}, folder / "x.safetensors", {"ids": json.dumps(ids)}
    )


def backbone() -> dict:
    """The tensors of a backbone, for `--weights`."""
    return {"model": build_model(Architecture.of(model="scenenet", weights="none"), 3, seed=0).state_dict()}
