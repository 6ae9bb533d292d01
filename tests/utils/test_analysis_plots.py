import pytest
from PIL import Image

from tests.utils.test_plots import area, pixels
from utils import analysis_plots
from utils.analysis_plots import Line, plot_lines, plot_memorisation

RED, GREEN, GREY = "#c44e52", "#55a868", "#d0d0d0"
TEXTS = {"title": "t", "xlabel": "epoch", "ylabel": "labels (%)"}


def test_each_line_is_drawn_in_its_colour(tmp_path):
    points = [(1, 10.0), (2, 40.0), (3, 20.0)]
    plot_lines([Line("a", points, RED), Line("b", [(2, 90.0)], GREEN, dashed=True)], tmp_path / "l.png", **TEXTS)
    assert area(tmp_path / "l.png", RED) > 100
    assert Image.open(tmp_path / "l.png").width > 500


def test_a_difference_that_means_nothing_does_not_fill_the_figure(tmp_path):
    def rows_of(height):
        plot_lines([Line("a", [(0, 50.0), (1, 50.0 + height)], RED)], tmp_path / "l.png", **TEXTS)
        found = (
            (abs(pixels(tmp_path / "l.png") - [0xC4, 0x4E, 0x52]).max(axis=2) < 12)[:, :350].any(axis=1).nonzero()[0]
        )
        return found.max() - found.min()

    assert rows_of(0.1) < 0.2 * rows_of(30)


@pytest.mark.parametrize("ticks", [["0", "0.1"], ["a rather long value " * 3] * 2, [r"$\frac{1$", "100 % & _x^"]])
def test_values_of_any_kind_stand_below(tmp_path, ticks):
    plot_lines([Line("a", [(0, 10.0), (1, 40.0)], RED)], tmp_path / "l.png", ticks=ticks, **TEXTS)
    assert area(tmp_path / "l.png", RED) > 100


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_bars_of_memorisation_are_as_long_as_the_shares(tmp_path, share):
    plot_memorisation([Line("TP", [(1, 1.0), (2, 0.5)], RED)], {"TP": share}, tmp_path / "m.png")
    early, later = area(tmp_path / "m.png", "#4c72b0"), area(tmp_path / "m.png", GREY)
    assert early / (early + later) == pytest.approx(share, abs=0.05)
    assert area(tmp_path / "m.png", RED) > 50


def test_long_texts_are_cut(monkeypatch):
    figures = []
    monkeypatch.setattr(analysis_plots, "save_figure", lambda figure, path: figures.append(figure))
    lines = [Line("l" * count, [(0, 1.0), (1, 2.0)], RED) for count in (60, 61)]
    for count in (80, 81):
        plot_lines(lines, None, **TEXTS | {"title": "t" * count})
    assert [figure.axes[0].get_title() for figure in figures] == ["t" * 80, "t" * 79 + "\u2026"]
    assert [line.get_label() for line in figures[0].axes[0].lines] == ["l" * 60, "l" * 59 + "\u2026"]


@pytest.mark.parametrize(("height", "shown"), [(1.0, 2.0), (2.0, 2.2), (4.0, 4.4)])
def test_the_axis_of_percentages_is_two_points_high_at_least_around_the_lines(height, shown, monkeypatch):
    figures = []
    monkeypatch.setattr(analysis_plots, "save_figure", lambda figure, path: figures.append(figure))
    plot_lines([Line("a", [(0, 30.0), (1, 30.0 + height)], RED)], None, **TEXTS)
    low, high = figures[0].axes[0].get_ylim()
    assert (high - low, (high + low) / 2) == pytest.approx((shown, 30 + height / 2))
