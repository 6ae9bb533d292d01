"""Every kind of file that people bring, or that a run leaves, and the commands that read it."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.data.damage.nuswide import nuswide_tree, table
from tests.data.datasets.table.forms import random_form
from tests.data.datasets.test_cub import cub_tree
from tests.data.datasets.test_l48 import l48_tree
from tests.data.datasets.test_openimages import tree as openimages_tree
from tests.data.datasets.test_visual_genome import vg_tree
from tests.data.datasets.test_wider import prepared_tree, wider_tree
from tests.data.trees import picture
from tests.faults.folders import (
    COLUMNS,
    DECISIONS,
    IMAGES,
    NAMES,
    NESTED,
    NUMBERED,
    NUMBERS,
    PAIRS,
    POLICY,
    SETTINGS,
    backbone,
    beside,
    checkpoint_of,
    coco,
    features,
    formatted,
    images,
    json_lines,
    listed_labels,
    long_tail,
    native_labels,
    ours,
    own,
    own_folder,
    own_json,
    own_safetensors,
    parquet,
    plan,
    published_labels,
    rates,
    released_state,
    several,
    voc,
    voc_class_lists,
    words,
    workbook,
    wrapped,
    yolo,
)
from tests.faults.run_files import RUN_KINDS
from tests.faults.trial import Kind

TABLE = ("--dataset", "table", "--table", "t.csv", "--path_images", ".")
SCORE = ("evaluate.py", *TABLE, "--img_size", "32", "--batch_size", "4", "--load_from")
TRAIN = ("main_BCE.py", *TABLE, "--model", "scenenet", "--img_size", "32", "--batch_size", "4", "--threads", "1")
TRAIN = (*TRAIN, "--num_workers", "0", "--epochs", "1", "--warmup_epoch", "0", "--output", "out")
ON_FEATURES = ("main_BCE.py", "--dataset", "table", "--table", "t.csv", "--batch_size", "4", "--threads", "1")
ON_FEATURES = (*ON_FEATURES, "--epochs", "1", "--warmup_epoch", "0", "--output", "out", "--features")
UNITED = ("--repeated", "union", "--group_column", "site")
DRAWN = ("--labels", "candidate", "--partial_rate", "0.3", "--label_seed", "1")
REPRODUCE = ("reproduce.py", "p.yaml", "--output", ".", "--tables_only")
CORRECT = ("audit.py", *TABLE, "--apply", "d.csv")
SET = ("--config", "s.yaml", "--print_config")
TREE, NAMED, SURE = ("--hierarchy",), ("--class_names",), ("--uncertain",)
CSL = ("--weights", "none", "--loss", "csl", "--labels", "rps", "--no-figures")
GCN = (*TRAIN, "--weights", "none", "--head", "gcn", "--word_width", "6", "--word_vectors")


def inspect(dataset: str, *more: str) -> tuple[str, ...]:
    """The command that reads a dataset without its images."""
    words = ("--no-check_images", "--samples", "0", "--output", "out", "--seed", "0")
    return "inspect_data.py", "--dataset", dataset, "--path_images", ".", *words, *more


def inspect_own(table: str, *more: str) -> tuple[str, ...]:
    """The command that reads a table, json or folder of one's own."""
    return inspect("table", "--table", table, *more)


def _quietly(build: Callable[[Path], object]) -> Callable[[Path], None]:
    """A builder that returns nothing."""
    return lambda folder: build(folder) and None


def _form(seed: int) -> Kind:
    """A table in a random form, images and all."""

    def build(folder: Path) -> None:
        form = random_form(folder, seed)
        for image in form.truth:
            file = folder / (image if Path(image).suffix else f"{image}.png")
            picture(file) if file.suffix != ".JPG" else picture(file.with_suffix(".jpg")).rename(file)

    with tempfile.TemporaryDirectory() as folder:
        form = random_form(Path(folder), seed)
    flags = [word for name, value in form.flags.items() for word in (f"--{name}", value)]
    reading = inspect_own(form.path.name, *flags)
    return Kind(f"own table, form {seed}", build, (form.path.name,), (reading,), of="own tables of twelve forms")


def _collections() -> Iterator[Kind]:
    """Tables in forms in which public collections hand them out, where the cases that write them are at hand."""
    file = Path(__file__).parents[3] / "shared" / "cases" / "tables" / "cases.py"
    spec = importlib.util.spec_from_file_location("cases", file) if file.exists() else None
    if spec is None or spec.loader is None:
        return
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    for name, write in cases.CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            flags = [word.replace(f"{folder}/", "") for word in write(Path(folder))[0]]
        words = ("--no-check_images", "--samples", "0", "--output", "out", "--seed", "0")
        files = ("t.csv", "policy.csv") if name == "chest_uncertain" else ("t.csv",)
        reading = ("inspect_data.py", "--dataset", "table", *flags, *words)
        yield Kind(f"table of {name}", _quietly(write), files, (reading,), of="tables as collections hand them out")


def _features(form: str, *files: str) -> Kind:
    """Features from another program, in one form."""
    return Kind(f"features {form}", features, files, ((*ON_FEATURES, f"x.{form}"),), of="features")


KINDS = (
    Kind("VOC xml", voc, ("VOC2007/Annotations/*.xml",), (inspect("voc07"),)),
    Kind("VOC lists of images", voc, tuple(f"**/{one}.txt" for one in ("train", "val", "test")), (inspect("voc07"),)),
    Kind("VOC lists of classes", voc_class_lists, ("VOC2007/ImageSets/Main/*_*.txt",), (inspect("voc07"),)),
    Kind("COCO json", coco, ("annotations/*.json",), (inspect("coco"),)),
    Kind("NUS-WIDE csv", _quietly(lambda folder: nuswide_tree(folder, table())), ("*.csv",), (inspect("nuswide"),)),
    Kind("NUS-WIDE arrays", formatted, ("*.npy",), (inspect("nuswide"),)),
    Kind("Visual Genome json", _quietly(vg_tree), ("*.json",), (inspect("vg"),)),
    Kind("CUB texts", _quietly(cub_tree), ("**/*.txt",), (inspect("cub"),)),
    Kind("OpenImages csv", _quietly(openimages_tree), ("**/*.csv", "*.txt"), (inspect("openimages"),)),
    Kind("WIDER json", _quietly(wider_tree), ("**/*.json",), (inspect("wider"),)),
    Kind("WIDER lists of CSRA", _quietly(prepared_tree), ("*.json",), (inspect("wider"),)),
    Kind("L48 json", _quietly(l48_tree), ("*.json", "*.csv", "*.npy"), (inspect("l48"),)),
    Kind("long-tailed lists", long_tail, ("appendix/**/*.txt",), (inspect("coco-lt"),)),
    Kind("long-tailed pickles", long_tail, ("appendix/**/*.pkl",), (inspect("coco-lt"),)),
    Kind("own table of names", own, ("t.csv",), (inspect_own("t.csv"),)),
    Kind("own table of columns", lambda folder: own(folder, COLUMNS), ("t.csv",), (inspect_own("t.csv"),)),
    Kind("own parquet", parquet, ("t.parquet",), (inspect_own("t.parquet"),)),
    Kind("own tables, several", several, ("[tuv].csv",), (inspect_own("t.csv", "u.csv", "v.csv", *UNITED),)),
    Kind("own workbook", workbook, ("t.xlsx",), (inspect_own("t.xlsx"),)),
    Kind("own JSON lines", json_lines, ("t.jsonl",), (inspect_own("t.jsonl"),)),
    Kind("own export of YOLO", yolo, ("own/data.yaml", "own/labels/**/*.txt"), (inspect_own("own"),)),
    Kind("own json", own_json, ("t.json",), (inspect_own("t.json"),)),
    Kind("own folder of xml", own_folder, ("own/**/*.xml", "own/**/*.txt"), (inspect_own("own"),)),
    Kind("label file", native_labels, ("labels.*",), (inspect_own("t.csv", *DRAWN, "--label_file", "labels.npy"),)),
    Kind(
        "published label file",
        published_labels,
        ("labels.npy",),
        (inspect_own("t.csv", *DRAWN, "--label_file", "labels.npy"),),
    ),
    Kind(
        "published list of labels",
        listed_labels,
        ("labels.txt",),
        (inspect("coco", "--labels", "given", "--label_file", "labels.txt"),),
    ),
    Kind("class rates", rates, ("rates.csv",), (inspect_own("t.csv", *DRAWN[:2], "--class_rates", "rates.csv"),)),
    Kind("class priors", rates, ("priors.csv",), ((*TRAIN, *CSL, "--prior_file", "priors.csv"),)),
    Kind("confusion", rates, ("confusion.csv",), (inspect_own("t.csv", *DRAWN[:2], "--confusion", "confusion.csv"),)),
    Kind(
        "images",
        images,
        tuple(IMAGES),
        (
            ("inspect_data.py", *TABLE, "--samples", "0", "--output", "out"),
            ("predict.py", "--load_from", "best.model", ".", "--csv", "out.csv"),
            (*TRAIN, "--weights", "none"),
        ),
    ),
    Kind(
        "own checkpoint",
        checkpoint_of(ours),
        ("x.pth",),
        ((*SCORE, "x.pth"), ("predict.py", "--load_from", "x.pth", "0.jpg", "--json", "out.json")),
    ),
    Kind("own safetensors", own_safetensors, ("x.safetensors",), ((*SCORE, "x.safetensors"),)),
    Kind("released checkpoint", checkpoint_of(released_state), ("x.pth",), ((*SCORE, "x.pth"),)),
    Kind("checkpoint of a loop", checkpoint_of(wrapped), ("x.pth",), ((*SCORE, "x.pth"),)),
    Kind("backbone", checkpoint_of(backbone), ("x.pth",), ((*TRAIN, "--weights", "x.pth"),)),
    _features("npz", "x.npz"),
    _features("npy", "x.npy", "x.ids.txt"),
    _features("safetensors", "x.safetensors"),
    Kind("word vectors", words, ("glove.txt",), ((*GCN, "glove.txt"),)),
    Kind("array of word vectors", words, ("vectors.npy",), ((*GCN, "vectors.npy"),)),
    Kind("hierarchy json", beside(COLUMNS, "h.json", NESTED), ("h.json",), (inspect_own("t.csv", *TREE, "h.json"),)),
    Kind("hierarchy csv", beside(COLUMNS, "h.csv", PAIRS), ("h.csv",), (inspect_own("t.csv", *TREE, "h.csv"),)),
    Kind("class names csv", beside(NUMBERS, "n.csv", NUMBERED), ("n.csv",), (inspect_own("t.csv", *NAMED, "n.csv"),)),
    Kind("uncertainty csv", beside(COLUMNS, "u.csv", POLICY), ("u.csv",), (inspect_own("t.csv", *SURE, "u.csv"),)),
    Kind("decisions csv", beside(COLUMNS, "d.csv", DECISIONS), ("d.csv",), (CORRECT,), of="decisions and their tables"),
    Kind(
        "corrected table", beside(COLUMNS, "d.csv", DECISIONS), ("t.csv",), (CORRECT,), of="decisions and their tables"
    ),
    Kind("plan yaml", plan, ("p.yaml",), (REPRODUCE,)),
    Kind("finished lines", plan, ("runs.jsonl",), (REPRODUCE,)),
    Kind("settings yaml", beside(NAMES, "s.yaml", SETTINGS), ("s.yaml",), (("main_BCE.py", *TABLE, *SET),)),
    *map(_form, range(12)),
    *_collections(),
    *RUN_KINDS,
)
"""Every kind of file that people bring, or that a run leaves."""
