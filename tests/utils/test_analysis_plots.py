import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.utils.test_plots import area, pixels
from utils import analysis_plots
from utils.analysis_plots import Line, Ranked, plot_gains, plot_lines, plot_memorisation, plot_rankings

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


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved."""
    saved = []
    monkeypatch.setattr(analysis_plots, "save_figure", lambda figure, path: saved.append(figure))
    return saved


def test_gains_have_their_numbers_and_are_blue_above_zero(figures):
    values = np.array([[0.04, -6.0, np.nan], [6.0, 1.0, -1.0]])
    plot_gains(["X", "Y"], ["a", "b", "c"], values, None, title="t")
    (axes,) = figures[0].axes
    texts = {tuple(map(int, text.xy)): (text.get_text(), text.get_color()) for text in axes.texts}
    assert texts == {
        (0, 0): ("+0.0", "black"),
        (1, 0): ("-6.0", "white"),
        (0, 1): ("+6.0", "white"),
        (1, 1): ("+1.0", "black"),
        (2, 1): ("-1.0", "black"),
    }
    colours = axes.images[0].to_rgba(np.array([-6.0, 0.0, 6.0]))
    assert colours[0][0] > colours[0][2]  # red
    assert colours[2][2] > colours[2][0]  # blue
    assert colours[1][:3] == pytest.approx([0.97] * 3, abs=0.01)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["X", "Y"]


@pytest.mark.parametrize("columns", [1, 15])
def test_the_title_of_gains_is_within_the_picture(figures, columns):
    title = "VOC 2007, train to val, on frozen feature maps: mAP, points above the baseline of each regime"
    plot_gains(["X"], ["a"] * columns, np.zeros((1, columns)), None, title=title)
    (figure,) = figures
    box = figure._suptitle.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert figure.get_suptitle().replace("\n", " ") == title
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_small_gains_stay_pale(figures):
    plot_gains(["X", "Y"], ["a", "b"], np.array([[0.1, -0.2], [0.0, 0.1]]), None, title="t")
    shade = figures[0].axes[0].images[0].norm
    assert (shade.vmin, shade.vmax) == (-1.0, 1.0)


def test_rankings_have_a_panel_each_with_the_first_on_top(figures):
    first = [Ranked("X", 75.0, 0.5, False), Ranked("BCE", 70.0, 1.0, True)]
    plot_rankings({"a": first, "b": first[:1], "c": first, "d": first[1:]}, None, figure="mAP")
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels[:4]] == ["a", "b", "c", "d"]
    assert [axes.get_visible() for axes in panels] == [True] * 4 + [False] * 2
    bars = panels[0].containers
    assert [(bar[0].get_xdata()[0], bar[0].get_ydata()[0], bar[0].get_color()) for bar in bars] == [
        (75.0, 0, "#4c72b0"),
        (70.0, 1, "#dd8452"),
    ]
    assert bars[1][2][0].get_segments()[0][:, 0].tolist() == [69.0, 71.0]
    low, high = panels[0].get_ylim()
    assert low > high
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["X", "BCE"]
    assert "mAP (%)" in figures[0].get_supxlabel()
