"""Figures contain what they did when somebody last looked at them: `tests/fixtures/figures.json.xz`.

`python -m tests.utils.test_kept_figures` writes it anew, and the figures as PNG files to look at into a folder.
"""

import json
import lzma
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.figure_content import content
from utils import analysis_plots, image_plots, plots
from utils.analysis_plots import Line, plot_lines, plot_memorisation
from utils.image_plots import Card, Example, Mark, ModelView

KEPT = Path(__file__).parents[1] / "fixtures" / "figures.json.xz"
RUNS = {
    "one": [{"epoch": n, "loss": 1 / n, "validation_mAP": n / 10, "test_mAP": n / 11} for n in (1, 2, 3)],
    "two": [{"epoch": 1, "loss": 30.0}, {"epoch": 2, "loss": 0.5, "test_mAP": 0.5}],
    "none": [],
}
NEAR = {"one": RUNS["one"], "two": [{"epoch": 1, "loss": 3.3}]}
PICTURE = Image.fromarray((np.arange(20 * 16 * 3).reshape(16, 20, 3) % 251).astype(np.uint8))
VIEW = ModelView(("cat", "dog"), (0.9, 0.25), ("found", "rejected"), np.array([[-1, 0], [2, 4]], np.float32))
BLANK = VIEW._replace(labels=("owl",), scores=(0.5,), kinds=("missed",), cam=-np.ones((2, 2), np.float32))
MARKS = {"seen": Mark("+", "#123456", "seen"), "unused": Mark("-", "#ff00ff", "unused")}
GROUPS = {"head": np.array([2, 0]), "middle": np.array([1]), "tail": np.array([3])}
POINTS = [(1, 10.0), (2, 40.0), (3, 20.0)]
TEXTS = {"title": "a $title", "xlabel": "epoch", "ylabel": "labels (%)"}


def some(count):
    return [f"class {k}" for k in range(count)]


def bars(count, log, series=2):
    values = (np.arange(count)[::-1] * 37).astype(np.int64)
    every = {f"part {k}": values // (k + 1) for k in range(series)}
    return lambda path: plots.plot_bars(some(count), every, path, log=log)


def shares(count):
    values = {"a": np.linspace(1, 0, count), "b": np.where(np.arange(count) == 1, np.nan, 0.5)}
    return lambda path: plots.plot_shares(some(count), values, path, xlabel="hits (%)")


def tail(counts, precision, groups=None):
    values = np.array(counts), np.array(precision), GROUPS if groups is None else groups
    return lambda path: plots.plot_tail(some(len(counts)), *values, path)


def sheet(sizes, labels, **style):
    cards = [Card(PICTURE.resize(size), each, f"{size}.png") for size, each in zip(sizes, labels, strict=True)]
    return lambda path: image_plots.plot_contact_sheet(cards, path, **style)


def lines(*each, **more):
    return lambda path: plot_lines(each, path, **TEXTS, **more)


MANY = [(f"class {k}" * 4, kind) for k, kind in enumerate(["right", "wrong", "hidden", "unknown"] * 3)]
FIGURES = {
    "curves": lambda path: plots.plot_curves(RUNS, path),
    "curves, near": lambda path: plots.plot_curves(NEAR, path),
    "examples": lambda path: image_plots.plot_examples(
        [Example(PICTURE, ("a", "b"), [VIEW, BLANK]), Example(PICTURE, (), [BLANK, VIEW])], ["m", "n"], path
    ),
    **{f"bars {count} {log}": bars(count, log) for count in (1, 41, 81) for log in (False, True)},
    **{f"bars {count}": bars(count, False) for count in (40, 80)},
    "bars of nothing": lambda path: plots.plot_bars(["a"], {"x": np.array([0])}, path, log=False),
    **{f"bars of {series}": bars(2, False, series) for series in (1, 3, 4, 7)},
    **{f"shares {count}": shares(count) for count in (3, 81)},
    "tail": tail((100, 30, 200, 4), (0.5, 0.25, 0.75, np.nan)),
    "tail of 40": tail(range(40), np.linspace(0, 1, 40), {"a": np.arange(40)}),
    "tail of 81": tail(range(81), np.linspace(0, 1, 81), {"a": np.arange(80), "b": np.array([80])}),
    "tail of 300": tail(range(300), np.linspace(0, 1, 300), {"a": np.arange(300)}),
    "tail of nothing": tail((0,), (np.nan,), {"a": np.array([0])}),
    "heat map": lambda path: plots.plot_heat_map(some(3), np.arange(9).reshape(3, 3) / 9, path, title="t"),
    "heat map of 30": lambda path: plots.plot_heat_map(some(30), np.full((30, 30), 0.5), path, title="t"),
    "counts": lambda path: plots.plot_counts(
        {"train": np.array([1, 2, 5]), "none": np.zeros(2, np.int64)}, path, xlabel="labels"
    ),
    "sheet": sheet([(30, 20), (20, 30), (5, 300), (300, 5), (10, 10)], [MANY[:3], [], MANY[:10], MANY[:11], MANY[:1]]),
    "sheet of other marks": sheet([(30, 20)], [[("M" * 40, "seen")]], marks=MARKS, columns=1),
    "lines": lines(Line("a $b", POINTS, "#c44e52"), Line("c", [(2, 90.0)], "#55a868", dashed=True)),
    "lines, level": lines(Line("a", [(0, 50.0), (1, 50.5)], "#c44e52")),
    "lines, hardly level": lines(Line("a", [(0, 50.0), (1, 52.0)], "#c44e52")),
    "lines, none": lines(),
    "lines, values": lines(Line("a", [(0, 1.0), (1, 9.0)], "#c44e52"), ticks=["x" * 35, "y" * 35]),
    "lines, long values": lines(Line("a", [(0, 1.0), (1, 9.0)], "#c44e52"), ticks=["x" * 35, "y" * 36]),
    "memorisation": lambda path: plot_memorisation(
        [Line("TP", [(1, 1.0), (2, 0.5)], "#c44e52")], {"TP": 0.155, "FN": 0.15, "TN": 1.0}, path
    ),
}


def drawn(name, monkeypatch):
    """The content of a figure that is not saved."""
    figures = []
    for module in (plots, analysis_plots, image_plots):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    FIGURES[name](Path("none.png"))
    return json.loads(json.dumps(content(*figures)))


def differences(found, kept, place=""):
    """The places where two contents differ by more than rounding."""
    if isinstance(kept, dict) or isinstance(found, dict):
        keys = sorted({*kept, *found})
        return [each for key in keys for each in differences(found.get(key), kept.get(key), f"{place}.{key}")]
    if isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        return [
            each for n, pair in enumerate(zip(found, kept, strict=True)) for each in differences(*pair, f"{place}[{n}]")
        ]
    if isinstance(kept, float) and isinstance(found, float):
        same = math.isclose(found, kept, rel_tol=1e-3, abs_tol=1e-3) or (math.isnan(found) and math.isnan(kept))
        return [] if same else [f"{place}: {found} instead of {kept}"]
    return [] if found == kept else [f"{place}: {found!r} instead of {kept!r}"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_contains_what_it_did(name, monkeypatch):
    kept = json.loads(lzma.decompress(KEPT.read_bytes()))
    assert kept.keys() == FIGURES.keys()
    assert differences(drawn(name, monkeypatch), kept[name]) == []


def test_figures_are_saved_as_png_of_110_dots_per_inch(tmp_path):
    plots.plot_counts({"train": np.array([1, 2])}, tmp_path / "counts.png", xlabel="labels")
    with Image.open(tmp_path / "counts.png") as image:
        assert (image.format, image.size) == ("PNG", (880, 440))


def write(folder: Path) -> None:
    """Keep the content of all figures as they are now."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw(folder / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        every = {name: drawn(name, patch) for name in FIGURES}
    KEPT.write_bytes(lzma.compress(json.dumps(every).encode()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
