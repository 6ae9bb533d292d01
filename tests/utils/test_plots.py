import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from utils import plots
from utils.plots import (
    keep_within,
    plain_name,
    plot_bars,
    plot_counts,
    plot_curves,
    plot_heat_map,
    plot_shares,
    plot_tail,
)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved."""
    held = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: held.append(figure))
    return held


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ((2.0, 20.5), "log"),
        ((2.0, 20.0), "linear"),
        ((0.01, 0.2), "log"),
        ((0.0, 5.0), "linear"),
        ((-1.0, 5.0), "linear"),
        ((), "linear"),
    ],
)
def test_losses_that_differ_more_than_tenfold_are_drawn_on_a_logarithmic_scale(figures, losses, scale):
    plot_curves({"a": [{"epoch": n, "loss": loss} for n, loss in enumerate(losses)]}, None)
    assert figures[0].axes[0].get_yscale() == scale


@pytest.mark.parametrize(("count", "named"), [(81, 81), (82, 0)])
def test_the_classes_of_the_tail_are_named_where_there_is_space(figures, count, named):
    names = ["n" * 16, "n" * 17, *(f"class {k}" for k in range(2, count))]
    plot_tail(names, np.arange(count)[::-1], np.full(count, 0.5), {"a": np.arange(count)}, None)
    upper, lower = figures[0].axes
    texts = [each.get_text() for each in lower.get_xticklabels()]
    assert (len(texts), texts[:2]) == (named, ["n" * 16, "n" * 15 + "\u2026"][:named])
    assert tuple(upper.get_gridspec().get_height_ratios()) == (2, 1)
    (legend,) = figures[0].legends
    assert (legend.columnspacing, legend.handlelength) == (1.2, 1.2)


def test_the_numbers_beside_a_heat_map_are_small(figures):
    plot_heat_map(["a", "b"], np.eye(2), None, title="t")
    assert {each.get_fontsize() for each in figures[0].axes[1].get_yticklabels()} == {7}


def test_a_single_image_counts_as_all(figures):
    plot_counts({"one": np.array([0, 1])}, None, xlabel="labels")
    assert figures[0].axes[0].patches[0].get_data().values.tolist() == [0, 100]


def test_names_are_one_short_line():
    assert plain_name("x" * 28) == "x" * 28
    assert plain_name("x" * 29) == "x" * 27 + "\u2026"
    assert plain_name(" a\n b\t$c ", 6) == r"a b \$c"
    assert plain_name("abcd", 3) == "ab\u2026"


def test_letters_without_a_font_are_drawn_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_heat_map(["\U0001fbff\u7ea2", "b"], np.eye(2), tmp_path / "h.png", title="t")


def test_curves_are_drawn_for_whatever_columns_there_are(tmp_path):
    rows = [{"epoch": n, "loss": 1.0 / n, "validation_mAP": n / 10} for n in (1, 2, 3)]
    plot_curves({"one": rows, "two": [{"epoch": 1, "loss": 2.0, "test_mAP": 0.5}], "none": []}, tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").size[0] > 500


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def area(path, colour):
    """How many pixels have a colour, written #rrggbb."""
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(pixels(path) - wanted).max(axis=2) < 12).sum())


@pytest.mark.parametrize("count, log", [(1, True), (40, False), (41, True), (81, False), (600, True)])
def test_bars_of_any_number_of_classes_fit_a_page(tmp_path, count, log):
    values = np.arange(count)[::-1] * 3
    plot_bars([f"class {k}" for k in range(count)], {"train": values, "test": values // 9}, tmp_path / "b.png", log=log)
    width, height = Image.open(tmp_path / "b.png").size
    assert 700 < width < 1700
    assert 100 < height < 1700


def test_bars_are_as_long_as_their_values(tmp_path):
    for name, values in (("equal", [90, 90]), ("half", [90, 45])):
        plot_bars(["a", "b"], {"train": np.array(values)}, tmp_path / f"{name}.png", log=False)
    longer, shorter = (area(tmp_path / f"{name}.png", "#4c72b0") for name in ("equal", "half"))
    assert shorter / longer == pytest.approx(0.75, abs=0.03)


def test_shares_are_bars_of_a_fixed_scale_and_nothing_where_there_is_none(tmp_path):
    blues = {}
    for name, values in (("whole", [1.0, 1.0]), ("half", [1.0, 0.5]), ("none", [1.0, np.nan]), ("low", [0.5, 0.5])):
        plot_shares(["a", "b"], {"run": np.array(values)}, tmp_path / f"{name}.png", xlabel="hits (%)")
        blues[name] = area(tmp_path / f"{name}.png", "#4c72b0")
    assert blues["half"] / blues["whole"] == pytest.approx(0.75, abs=0.03)
    assert blues["none"] / blues["whole"] == pytest.approx(0.5, abs=0.03)
    assert blues["low"] / blues["whole"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("count", [1, 41, pytest.param(200, marks=pytest.mark.slow)])
def test_shares_of_any_number_of_classes_and_runs_fit_a_page(tmp_path, count):
    series = {f"a run with a rather long name {k}": np.linspace(1, 0, count) for k in range(5)}
    plot_shares([f"class {k}" for k in range(count)], series, tmp_path / "s.png", xlabel="hits (%)")
    width, height = Image.open(tmp_path / "s.png").size
    assert 700 < width < 1700
    assert 100 < height < 3500


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    names = ["$\\frac{1$", "100 % & _x^", "two\nlines"]
    plot_bars(names, {"train": np.array([3, 2, 1])}, tmp_path / "b.png", log=True)
    plot_heat_map(names, np.eye(3), tmp_path / "h.png", title="t")


@pytest.mark.slow
def test_a_heat_map_grows_with_its_classes_and_is_darker_where_shares_are_higher(tmp_path):
    for name, share in (("low", 0.02), ("high", 0.9)):
        plot_heat_map([f"class {k}" for k in range(20)], np.full((20, 20), share), tmp_path / f"{name}.png", title="t")
    plot_heat_map([f"class {k}" for k in range(80)], np.full((80, 80), 0.5), tmp_path / "large.png", title="t")
    low, high = (pixels(tmp_path / f"{name}.png").mean() for name in ("low", "high"))
    assert high < low - 30
    small, large = (Image.open(tmp_path / f"{name}.png").height for name in ("low", "large"))
    assert large > 2 * small


def test_counts_are_drawn_as_shares(tmp_path):
    few, many = np.array([0, 1, 1]), np.array([0, 1000, 1000])
    for name, values in (("few", few), ("many", many)):
        plot_counts({"train": values, "empty": values[:0]}, tmp_path / f"{name}.png", xlabel="labels")
    np.testing.assert_array_equal(pixels(tmp_path / "few.png"), pixels(tmp_path / "many.png"))


THREE = {"head": np.array([2, 0]), "middle": np.array([1]), "tail": np.array([3])}
BLUE, ORANGE, GREEN = "#4c72b0", "#dd8452", "#55a868"


def tail(path, counts=(100, 30, 200, 4), precision=(0.5, 0.5, 0.5, 0.5), groups=THREE):
    plot_tail([f"class {k}" for k in range(len(counts))], np.array(counts), np.array(precision), groups, path)
    return pixels(path)


def left_edge(image, colour):
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    upper = image[40 : len(image) // 2]  # its bars, below the legend
    return np.flatnonzero((np.abs(upper - wanted).max(axis=2) < 12).sum(axis=0) > 60)[0]


def test_the_tail_is_drawn_with_its_most_frequent_class_first(tmp_path):
    one = tail(tmp_path / "one.png")
    assert left_edge(one, BLUE) < left_edge(one, ORANGE) < left_edge(one, GREEN)
    turned = tail(tmp_path / "turned.png", counts=(30, 100, 4, 200), groups={**THREE, "head": np.array([2, 0])})
    assert left_edge(turned, GREEN) < left_edge(turned, ORANGE) < left_edge(turned, BLUE)


def test_bars_of_the_tail_are_as_high_as_the_precision(tmp_path):
    low, high = (0.2, 0.5, 0.2, 0.5), (0.6, 0.5, 0.6, 0.5)
    for name, precision in (("low", low), ("high", high), ("none", (np.nan, 0.5, np.nan, 0.5))):
        tail(tmp_path / f"{name}.png", precision=precision)
    blues = {name: area(tmp_path / f"{name}.png", BLUE) for name in ("low", "high", "none")}
    assert blues["high"] - blues["none"] > 2.5 * (blues["low"] - blues["none"]) > 1000


@pytest.mark.parametrize("count", [1, 81, pytest.param(600, marks=pytest.mark.slow)])
def test_the_tail_of_any_number_of_classes_fits_a_page(tmp_path, count):
    half = count // 2
    groups = {"head": np.arange(half), "middle": np.array([], dtype=np.int64), "tail": np.arange(half, count)}
    tail(tmp_path / "t.png", np.arange(count)[::-1], np.linspace(1, 0, count), groups)
    width, height = Image.open(tmp_path / "t.png").size
    assert 600 < width < 5000
    assert 400 < height < 900


RUN = [{"epoch": n, "loss": 1.0 / n, "validation_mAP": 0.9 + n / 100, "test_mAP": 0.5} for n in range(1, 11)]


def drawn_curves(figures, *runs):
    plot_curves({f"run {k}": rows for k, rows in enumerate(runs)}, "c.png")
    return figures[-1].axes


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
def test_curves_have_whole_epochs_and_say_what_their_axes_are(figures, epochs):
    losses, scores = drawn_curves(figures, RUN[:epochs])
    for axes in (losses, scores):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == [round(tick) for tick in ticks]
        assert {1, epochs} <= set(ticks) or epochs == 10
        assert low > 0
        assert axes.get_xlabel() == "epoch"
    assert (losses.get_ylabel(), scores.get_ylabel()) == ("training loss", "mAP (%)")
    far = [{"epoch": 1, "loss": 200.0}]
    assert drawn_curves(figures, RUN, far)[0].get_ylabel() == "training loss (logarithmic scale)"


@pytest.mark.parametrize("value", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_axes_of_curves_end_where_their_values_must(figures, value):
    rows = [{"epoch": n, "loss": 0.0 if n > 1 else 0.01, "test_mAP": value} for n in (1, 2)]
    losses, scores = drawn_curves(figures, rows)
    low, high = scores.get_ylim()
    assert 0 <= low < high <= 100
    assert low <= 100 * value <= high
    assert losses.get_ylim()[0] == 0


def test_losses_below_zero_are_seen(figures):
    losses, _ = drawn_curves(figures, [{"epoch": n, "loss": -n} for n in (1, 2)])
    assert losses.get_ylim()[0] < -2


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ((1.0, 99.0), (0, 100)),
        ((40.0, 60.0), (39, 61)),
        ((-5.0, 99.0), (-10.2, 104.2)),
        ((0.0, 101.0), (-5.05, 106.05)),
    ],
)
def test_axes_are_cut_unless_values_lie_beyond(axis, values, limits):
    axes = Figure().subplots()
    axes.plot(*((values, (1, 2)) if axis == "x" else ((1, 2), values)))
    keep_within(axes, axis, 0, 100)
    found = axes.get_xlim() if axis == "x" else axes.get_ylim()
    assert found == pytest.approx(limits)
    other = axes.get_ylim() if axis == "x" else axes.get_xlim()
    assert other == pytest.approx((0.95, 2.05))


def test_shares_and_counts_end_at_100_percent(figures):
    plot_shares(["a", "b"], {"x": np.array([1.0, 0.5])}, "s.png", xlabel="hits (%)")
    assert figures[0].axes[0].get_xlim() == (0, 100)
    plot_counts({"a": np.array([0, 5])}, "c.png", xlabel="labels")
    assert figures[1].axes[0].get_ylim() == (0, 100)
    plot_counts({"a": np.array([5, 5])}, "c.png", xlabel="labels")
    assert figures[2].axes[0].get_ylim() == pytest.approx((0, 52.5))
