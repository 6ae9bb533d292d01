"""What is in a figure of matplotlib, as plain lists and numbers: what is drawn where, in which colour and size."""

import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def numbers(values):
    return [round(float(value), 5) + 0.0 for value in np.ravel(np.ma.filled(values, np.nan))]


def colour(value):
    return colors.to_hex(value, keep_alpha=True)


def text(artist):
    """A text that is placed in an axes or a figure."""
    if not artist.get_text():
        return None
    where = [numbers(artist.xy), str(artist.xycoords)] if hasattr(artist, "xy") else []
    style = [
        artist.get_fontsize(),
        str(artist.get_fontweight()),
        artist.get_rotation(),
        artist.get_ha(),
        artist.get_va(),
    ]
    return [artist.get_text(), numbers(artist.get_position()), *where, colour(artist.get_color()), *style]


def line(artist):
    """A line, with its points."""
    style = [artist.get_linestyle(), artist.get_linewidth(), str(artist.get_marker())]
    return [
        artist.get_label(),
        numbers(artist.get_xdata()),
        numbers(artist.get_ydata()),
        colour(artist.get_color()),
        *style,
    ]


def patch(artist):
    """A bar, or the steps of `stairs`."""
    if isinstance(artist, Rectangle):
        shape = [*artist.get_xy(), artist.get_width(), artist.get_height()]
    else:
        shape = [*artist.get_data().values, *artist.get_data().edges]
    label = artist.get_label()
    style = [artist.get_fill(), artist.get_linewidth(), artist.get_alpha()]
    return ["" if label.startswith("_") else label, numbers(shape), colour(artist.get_facecolor()), *style]


def image(artist):
    """An image, as the means of its parts, and how values become colours."""
    values = np.ma.filled(np.ma.asarray(artist.get_array(), dtype=float), -1)
    alpha, limits = artist.get_alpha(), numbers(artist.get_clim()) if values.ndim == 2 else []
    smoothed = artist.get_interpolation() in ("auto", "antialiased")  # two versions' names of the default
    return [
        *(list(values.shape), round(values.mean(), 4), round(values[0].mean(), 4), round(values[:, 0].mean(), 4)),
        *(artist.get_cmap().name, type(artist.norm).__name__, limits, smoothed or artist.get_interpolation()),
        None if alpha is None else round(float(np.mean(alpha)), 4),
    ]


def axis(one):
    """Ticks and their texts where they are set, else what makes them; grid lines. Limits are those of the axes."""
    locator, kind = one.get_major_locator(), type(one.get_major_locator()).__name__
    fixed = kind == "FixedLocator"
    labels = [[each.get_text(), each.get_rotation(), each.get_fontsize()] for each in one.get_ticklabels() if fixed]
    return {
        "ticks": numbers(one.get_majorticklocs()) if fixed else [],
        "texts": labels[:3] + labels[-1:],
        "formatted": "" if fixed or one.get_scale() == "log" else str(one.get_major_formatter()(12345.0, 0)),
        "located": numbers(locator.tick_values(0, 61))[:6] if kind == "MaxNLocator" else [],
        "grid": [each.get_alpha() for each in one.get_gridlines()[:1] if each.get_visible()],
    }


def axes_content(axes):
    """Everything in one axes."""
    legend = axes.get_legend()
    return {
        "title": [axes.get_title(), axes.title.get_fontsize()],
        "labels": [axes.get_xlabel(), axes.get_ylabel()],
        "scales": [axes.get_xscale(), axes.get_yscale()],
        "limits": [numbers(axes.get_xlim()), numbers(axes.get_ylim())],
        "shown": [axes.axison, colour(axes.get_facecolor()), axes.get_axisbelow() is True, str(axes.get_aspect())],
        "x": axis(axes.xaxis),
        "y": axis(axes.yaxis),
        "lines": [line(each) for each in axes.lines],
        "patches": [patch(each) for each in axes.patches],
        "texts": [text(each) for each in axes.texts],
        "images": [image(each) for each in axes.images],
        "legend": legend and [[each.get_text(), each.get_fontsize()] for each in legend.get_texts()],
    }


def content(figure: Figure):
    """Everything in a figure; places of axes where no layout makes them."""
    free = figure.get_layout_engine() is None
    return {
        "size": numbers(figure.get_size_inches()),
        "axes": [axes_content(each) for each in figure.axes if each.get_label() != "<colorbar>"],
        "bars": [numbers(each.get_yticks()) for each in figure.axes if each.get_label() == "<colorbar>"],
        "places": [numbers(each.get_position().bounds) for each in figure.axes] if free else [],
        "texts": [text(each) for each in figure.texts],
        "legends": [
            [
                [each.get_text() for each in legend.get_texts()],
                legend.get_texts()[0].get_fontsize(),
                legend._ncols,
                str(legend._outside_loc),
            ]
            for legend in figure.legends
            if legend.get_texts()
        ],
    }
