"""Examples and contact sheets: what stands where, in which colour, on a page of which size."""

import numpy as np
import pytest
from PIL import Image

from tests.utils.test_plots import area
from utils import image_plots as room
from utils.image_plots import (
    MARKS,
    PREDICTED,
    Card,
    Example,
    Mark,
    ModelView,
    end_of_name,
    heat,
    plot_contact_sheet,
    plot_examples,
    text_width,
)


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved."""
    held = []
    monkeypatch.setattr(room, "save_figure", lambda figure, path: held.append(figure))
    return held


def test_heat_is_the_positive_part_scaled_to_one():
    cam = np.array([[-1.0, 0.0], [2.0, 4.0]], dtype=np.float32)
    warmth = heat(cam, (2, 2))
    np.testing.assert_allclose(warmth, [[0, 0], [0.5, 1.0]])
    assert heat(-np.ones((2, 2), np.float32), (8, 6)).max() == 0
    assert heat(cam, (8, 6)).shape == (6, 8)


@pytest.mark.parametrize("top", [1e-6, 0.5, 1.0, 7.0])
def test_heat_reaches_from_none_to_one_whatever_the_map_holds(top):
    cam = np.array([[0.0, top / 4, -top], [top, top / 2, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(heat(cam, (3, 2)), [[0, 0.25, 0], [1, 0.5, 0]], rtol=1e-6)


IMAGE = Image.new("RGB", (20, 16), (90, 90, 90))
HOT = np.ones((2, 2), np.float32)
VIEW = ModelView(("cat", "dog", "a horse of a colour that nobody knows"), (0.9, 0.25, 0.2), ("found",) * 3, HOT)


def example(**changes):
    return Example(IMAGE, ("cat",), [VIEW._replace(**changes)])


def texts(figure):
    """Texts with their places, in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    return {
        each.get_text(): (each.get_position()[0] * width, (1 - each.get_position()[1]) * height, each.get_color())
        for each in figure.texts
    }


def boxes(figure):
    """Places of all axes in inches: left, top, width, height."""
    width, height = figure.get_size_inches()
    bounds = [axes.get_position().bounds for axes in figure.axes]
    return [(x * width, (1 - y - h) * height, w * width, h * height) for x, y, w, h in bounds]


@pytest.mark.parametrize(
    ("images", "models", "across", "down"),
    [
        *((1, 1, 1, 1), (2, 1, 2, 1), (3, 1, 3, 1), (4, 1, 2, 2), (5, 1, 3, 2), (8, 1, 2, 4), (9, 1, 3, 3)),
        *((4, 2, 2, 2), (4, 3, 1, 4), (8, 3, 2, 4), (9, 2, 3, 3), (40, 2, 10, 4)),
    ],
)
def test_examples_stand_at_most_four_above_each_other_below_1080_pixels(figures, images, models, across, down):
    every = [Example(IMAGE, ("cat",), [VIEW._replace(kinds=tuple(PREDICTED)[:3])] * models) for _ in range(images)]
    plot_examples(every, [f"m{k}" for k in range(models)], "x.png")
    found = boxes(figures[0])
    assert len(found) == images * (1 + models)
    assert len({round(top, 3) for _, top, _, _ in found}) == down
    assert len({round(left, 3) for left, _, _, _ in found}) == across * (1 + models)
    width, height = figures[0].get_size_inches()
    assert height * 110 <= 1080
    assert all(left >= 0 and left + wide <= width and top + high <= height for left, top, wide, high in found)
    headings = [each for each in figures[0].texts if each.get_fontweight() == "bold"]
    assert [each.get_text() for each in headings] == across * ["truth", *(f"m{k}" for k in range(models))]


def test_a_page_with_every_kind_of_mark_is_not_higher_either(figures):
    kinds = [tuple(PREDICTED)[start : start + 3] for start in (0, 2)]
    plot_examples([example(kinds=kind) for kind in kinds] * 4, ["m"], "x.png")
    assert 110 * figures[0].get_figheight() <= 1080


def test_the_map_names_its_class_and_labels_have_the_marks_of_their_kinds(figures):
    kinds = ("missed", "rejected", "wrong")
    plot_examples([example(kinds=kinds)], ["m"], "x.png")
    found = texts(figures[0])
    lines = ["map: cat", "\u25cb cat 0.90", "\u2013 dog 0.25", "\u2717 a horse of a col\u2026 0.20"]
    places = [found[line] for line in lines]
    assert [place[2] for place in places] == ["black", *(PREDICTED[kind].colour for kind in kinds)]
    assert np.diff([place[1] for place in places]) == pytest.approx([0.14] * 3)
    ((left, top, _, high),) = boxes(figures[0])[1:]
    assert {round(place[0] - left, 6) for place in places} == {0}
    assert places[0][1] > top + high
    legend = [
        text for text in found if text.startswith(tuple(mark.sign + " " + mark.meaning for mark in PREDICTED.values()))
    ]
    assert legend == [f"{PREDICTED[kind].sign} {PREDICTED[kind].meaning}" for kind in ("rejected", "wrong", "missed")]
    assert "bright: where the model sees the class that is named below the image" in found


def test_right_is_green_and_wrong_is_red_whatever_was_said():
    colours = {kind: mark.colour for kind, mark in PREDICTED.items()}
    assert colours["found"] == colours["rejected"] == "#2e7d32"
    assert colours["wrong"] == colours["missed"] == "#c62828"
    assert len({mark.sign for mark in PREDICTED.values()}) == 5


@pytest.mark.parametrize(
    ("truth", "lines"),
    [
        ((), ["no label"]),
        (("a", "b", "c", "d"), ["a", "b", "c", "d"]),
        (("a", "b", "c", "d", "e"), ["a", "b", "c", "and 2 more"]),
    ],
)
def test_true_labels_that_do_not_fit_are_counted(figures, truth, lines):
    plot_examples([Example(IMAGE, truth, [VIEW])], ["m"], "x.png")
    found = texts(figures[0])
    assert [found[line][0] for line in lines] == [0.1] * len(lines)
    assert "e" not in found


@pytest.mark.parametrize(
    ("size", "box"), [((162, 130), (1.62, 1.3)), ((30, 500), (0.162, 1.3)), ((500, 3), (1.62, 0.13))]
)
def test_images_of_any_shape_stand_on_their_texts(figures, size, box):
    plot_examples([Example(Image.new("RGB", size), (), [VIEW])], ["m"], "x.png")
    for left, top, wide, high in boxes(figures[0]):
        assert (wide, high) == pytest.approx(box)
        assert top + high == pytest.approx(texts(figures[0])["map: cat"][1] - 0.7 * 0.14)
        assert left in (pytest.approx(0.1), pytest.approx(1.85))


def test_the_heat_of_a_map_is_seen(tmp_path):
    for name, cam in (("cold", 0 * HOT), ("hot", HOT)):
        plot_examples([example(cam=cam)], ["m"], tmp_path / f"{name}.png")
    cold, hot = (np.asarray(Image.open(tmp_path / f"{name}.png"), dtype=int) for name in ("cold", "hot"))
    assert np.abs(cold - hot).max() > 50


def test_a_legend_goes_on_in_the_next_line_where_it_does_not_fit():
    places = room._key_places(["a" * 20] * 5, 4.0)
    wide = text_width("a" * 20, 8)
    assert 2 < 3.9 / wide < 4
    assert [line for _, line in places] == [0, 0, 1, 1, 2]
    assert [left for left, _ in places] == pytest.approx([0.1, 0.35 + wide, 0.1, 0.35 + wide, 0.1])
    assert room._key_places(["a" * 500], 4.0) == [(0.1, 0)]
    assert room._key_places([], 4.0) == []


def test_the_width_of_a_line_is_that_which_it_has_when_drawn(recwarn):
    assert text_width("MM", 20) == pytest.approx(2 * text_width("MM", 10), rel=1e-2)
    assert text_width("MMMM", 8) == pytest.approx(0.37, abs=0.03)
    assert text_width("  ", 8) == 0
    assert text_width("\u7ea2", 8) > 0.03
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "longest", "end"),
    [
        ("a/b.png", 7, "a/b.png"),
        ("a/b.png", 6, "\u2026b.png"),
        (" a\n$b ", 9, r"a \$b"),
        ("x" * 41, 40, "\u2026" + "x" * 39),
    ],
)
def test_of_a_long_name_the_end_is_shown(name, longest, end):
    assert end_of_name(name, longest) == end


def test_cards_of_a_row_have_their_names_images_and_labels_on_common_lines(figures):
    sizes = [(30, 20), (20, 30), (30, 30), (40, 10), (10, 10)]
    cards = [Card(Image.new("RGB", size), [(f"c{k}", "right")], f"{k}.png") for k, size in enumerate(sizes)]
    plot_contact_sheet(cards, "x.png")
    found, images = texts(figures[0]), boxes(figures[0])
    names, labels = ([found[text.format(k)] for k in range(5)] for text in ("{}.png", "\u2713 c{}"))
    for places in (names, labels):
        assert [place[0] for place in places] == pytest.approx([0.1, 2.7, 5.3, 7.9, 0.1])
        assert len({round(place[1], 6) for place in places[:4]}) == 1
        assert places[4][1] > places[0][1]
    assert len({round(top, 6) for _, top, _, _ in images[:4]}) == 1
    assert images[0][1] > names[0][1]
    lowest = max(top + high for _, top, _, high in images[:4])
    assert labels[0][1] == pytest.approx(lowest + 0.05 + 0.08)
    assert names[4][1] > labels[0][1] + 0.16


def test_cards_without_names_leave_no_line_for_them(figures):
    for name in ("", "a.png"):
        plot_contact_sheet([Card(IMAGE, [], name)], "x.png")
    without, named = (figure.get_figheight() for figure in figures)
    assert named - without == pytest.approx(0.16)


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    names = ["$\\frac{1$", "100 % & _x^", "two\nlines"]
    plot_contact_sheet([Card(IMAGE, [(name, "right") for name in names], names[0])], tmp_path / "s.png")
    plot_examples([Example(IMAGE, tuple(names), [VIEW._replace(labels=tuple(names))])], [names[0]], tmp_path / "e.png")


def test_labels_of_a_contact_sheet_have_the_colour_of_their_kind(tmp_path):
    image = Image.new("RGB", (30, 20), (255, 255, 255))
    for kind in MARKS:
        plot_contact_sheet([Card(image, [("MMMM", kind)])], tmp_path / f"{kind}.png")
        for other, mark in MARKS.items():
            assert (area(tmp_path / f"{kind}.png", mark.colour) > 30) == (other == kind)


@pytest.mark.parametrize("sizes", [[(500, 3)], [(3, 500)] * 5, [(1, 1), (4000, 30)]])
def test_a_contact_sheet_shows_images_of_any_shape_with_any_number_of_labels(tmp_path, sizes):
    labels = [[(f"class {k}", "wrong") for k in range(n * 40)] for n in range(len(sizes))]
    cards = [Card(Image.new("RGB", size, (0, 0, 255)), each) for size, each in zip(sizes, labels, strict=True)]
    plot_contact_sheet(cards, tmp_path / "s.png")
    assert area(tmp_path / "s.png", "#0000ff") > 1000 * len(sizes)
    assert Image.open(tmp_path / "s.png").height < 450 * (1 + len(sizes) // 4)


def test_a_contact_sheet_takes_other_marks_and_longer_labels_in_one_column(tmp_path):
    marks = {"seen": Mark("+", "#123456", "seen"), "unused": Mark("-", "#ff00ff", "unused")}
    image = Image.new("RGB", (30, 20), (255, 255, 255))
    for columns in (1, 2):
        cards = [Card(image, [("M" * 40, "seen")])]
        plot_contact_sheet(cards, tmp_path / f"{columns}.png", marks=marks, columns=columns)
        assert area(tmp_path / f"{columns}.png", "#ff00ff") == 0
    one, two = (area(tmp_path / f"{columns}.png", "#123456") for columns in (1, 2))
    assert one > 1.5 * two
