"""The pictures of a report: pure functions from numbers to the bytes of a PNG.

White cards that are readable on light and dark pages. Blue is what is right or as expected,
vermilion what is not (Okabe and Ito's palette for all kinds of colour vision).

This module imports matplotlib (0.5 s): import it inside the stages that draw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float32, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from PIL import Image

from tasks.records import CheckResult, ConfidenceBin, EpochMetrics

LIMIT_BYTES = 40_000  # six of them and their text fit into an artifact of 300 KB
# Dots an inch and colours: the first that keep to the limit.
QUALITIES = ((160, 64), (132, 64), (100, 32), (76, 32), (58, 16), (48, 4))
WIDTH = 6.0  # inches
POINTS, CHARACTER_WIDTH = 72, 0.62  # an inch, and about of a font's size

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
BLUE, VERMILION = "#0072b2", "#d55e00"
CONFUSED = LinearSegmentedColormap.from_list(
    "confused", ["#fdece0", "#f4bd98", VERMILION, "#8a3600"]
)
DASHED = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}
TICKS = {"color": MUTED, "labelsize": 9, "major.size": 0, "minor.size": 0}
LOOK: dict[str, dict[str, Any]] = {  # of all panels, by group of Matplotlib's settings
    "axes": {"edgecolor": FAINT, "labelcolor": MUTED, "labelsize": 9.5, "titlesize": 10},
    "axes.spines": {"right": False, "top": False},
    "figure.constrained_layout": {"use": True, "w_pad": 0.1, "h_pad": 0.1},
    "grid": {"color": FAINT, "linewidth": 0.6},
    "image": {"cmap": "gray", "interpolation": "nearest"},
    "legend": {"edgecolor": "none", "fontsize": 9, "framealpha": 0.85},
    "text": {"color": INK, "parse_math": False},  # names of classes are no formulas
    "xtick": TICKS,
    "ytick": TICKS,
}
# Matplotlib's defaults are part of it: a picture's key does not count the user's own style.
STYLE: dict[Any, Any] = {
    **{name: value for name, value in mpl.rcParamsDefault.items() if "backend" not in name},
    **{f"{group}.{name}": value for group in LOOK for name, value in LOOK[group].items()},
}
MOST_ROWS, LEAST_COLUMNS = 20, 10  # of a sheet: a row is a class
MOST_NUMBERED = 20  # classes whose counts are written into the confusion matrix
MOST_MARKED = 60  # epochs that each get a dot
MOST_OFFENDERS = 25
THUMBNAIL_PIXELS = 40  # larger images are thinned out for a gallery
LONGEST_NAME = 16  # of a class: longer ones are cut
LEVEL_NAME = 3  # longer ones stand upright below an axis
LONGEST_LINE = 18  # of a caption
COLUMNS = 5  # of a gallery
LINE_HEIGHT, MARGIN = 0.17, 0.04  # of captions in a gallery, in the width of its cells

Picture = UInt8[np.ndarray, "row column *channel"]

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its fonts


def drawable(class_names: Sequence[str]) -> list[str]:
    """Short names of the classes for pictures, in one line each; an undrawable one is a number."""
    font = get_font(findfont(FontProperties()))
    glyphs = font.get_charmap()
    drawn = []
    for number, name in enumerate(class_names):
        line = " ".join(name.split())
        short = f"{line[: LONGEST_NAME - 1]}…" if len(line) > LONGEST_NAME else line
        drawn.append(short if short and all(ord(c) in glyphs for c in short) else f"class {number}")
    return drawn


def caption(first: str, second: str, below: str) -> str:
    """Two lines for a gallery, broken where they are about as long; three, if one is too long."""
    upper, lower = f"{first} {second}", f"{second} {below}"
    if len(upper) <= LONGEST_LINE:
        return f"{upper}\n{below}"
    return f"{first}\n{lower}" if len(lower) <= LONGEST_LINE else f"{first}\n{second}\n{below}"


def samples(by_class: Sequence[Sequence[Picture]], names: Sequence[str]) -> bytes:
    """A row of images for each class; at most 20 classes. `names` are `drawable`, by class."""
    shown = [[_framed(_thumbnail(image)) for image in images] for images in by_class[:MOST_ROWS]]
    blank = np.full_like(next(images[0] for images in shown if images), 255)
    height, width = blank.shape[:2]
    columns = max(LEAST_COLUMNS, *map(len, shown))
    rows = [np.hstack([*images, *[blank] * (columns - len(images))]) for images in shown]
    sheet = np.vstack(rows)
    side = 0.85 * WIDTH / columns * height / width
    figure = _figure(min(side * len(shown), 1.5 * WIDTH) + 0.5)
    axes = figure.add_subplot(frameon=False)
    axes.imshow(sheet, vmin=0, vmax=255)
    axes.set_yticks((np.arange(len(shown)) + 0.5) * height - 0.5, names[: len(shown)])
    axes.set_xticks([])
    left_out = f" (the first {MOST_ROWS} of {len(by_class)})" if len(by_class) > MOST_ROWS else ""
    axes.set_ylabel(f"class{left_out}")
    return _png(figure)


def balance(
    train: Int[np.ndarray, " class"], test: Int[np.ndarray, " class"], names: Sequence[str]
) -> bytes:
    """How many images each class has, in both splits. `names` are `drawable`, by class."""
    figure = _figure(2.7)
    panels = figure.subplots(1, 2)
    for axes, counts, split in zip(panels, (train, test), ("training", "test"), strict=True):
        axes.bar(range(len(counts)), counts, color=BLUE, width=0.8)
        axes.axhline(counts.mean(), **DASHED)
        axes.set(title=f"{counts.sum():,} {split} images", xlabel="class (dashed: the mean)")
        if names == [str(number) for number in range(len(names))]:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        else:
            _name_ticks(axes.xaxis, names)
    return _png(figure)


def preprocessing(raw: Picture, ready: Float32[np.ndarray, " pixel"]) -> bytes:
    """One image as loaded, 0 … 255, and as the network reads it, a flat vector in [0, 1]."""
    figure = _figure(2.9)
    panels = figure.add_gridspec(2, 2, width_ratios=[1, 2.1], height_ratios=[1, 1.5])
    left = figure.add_subplot(panels[:, 0])
    left.set_title(f"as loaded: {raw.shape} {raw.dtype}")
    image = left.imshow(raw, vmin=0, vmax=255)
    if raw.ndim == 2:  # noqa: PLR2004 - a scale of greys says nothing of colours
        _scale(image, left, ticks=[0, 128, 255])
    strip = figure.add_subplot(panels[0, 1])
    extent = (-0.5, len(ready) - 0.5, 0, 1)
    image = strip.imshow(ready[np.newaxis], aspect="auto", vmin=0, vmax=1, extent=extent)
    _scale(image, strip, [0, 0.5, 1])
    strip.set(title=f"as trained: {ready.shape} {ready.dtype}", yticks=[])
    strip.tick_params(labelbottom=False)
    values = figure.add_subplot(panels[1, 1], sharex=strip)
    values.fill_between(range(len(ready)), ready, step="mid", color=BLUE, linewidth=0)
    values.set(xlabel="pixel, row by row", ylim=(0, 1.02))
    return _png(figure)


def curves(history: Sequence[EpochMetrics], test_accuracy_fraction: float) -> bytes:
    """Loss and accuracy by epoch: of the training images as they were met, of those held out."""
    figure = _figure(2.7)
    loss, accuracy = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    marker = "o" if len(history) <= MOST_MARKED else ""
    style = {"color": BLUE, "linewidth": 1.8, "marker": marker, "markersize": 3.5}
    loss.plot(epochs, [epoch.loss for epoch in history], label="training", **style)
    fractions = [epoch.accuracy_fraction for epoch in history]
    accuracy.plot(epochs, fractions, label="training", **style)
    of_loss = "training loss"
    if all(epoch.validation_loss is not None for epoch in history):
        of_loss = "loss"
        held_out = {**style, "color": MUTED, "label": "held out"}
        loss.plot(epochs, [epoch.validation_loss for epoch in history], **held_out)
        fractions = [epoch.validation_accuracy_fraction or 0 for epoch in history]
        accuracy.plot(epochs, fractions, **held_out)
        loss.legend()
    test = {"color": VERMILION, "label": f"test, at the end: {test_accuracy_fraction:.4f}"}
    accuracy.axhline(test_accuracy_fraction, **{**DASHED, "linewidth": 1.4, **test})
    accuracy.legend()
    for axes, title in ((loss, of_loss), (accuracy, "accuracy")):
        axes.set(title=title, xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.grid()
    return _png(figure)


def confusion(counts: Int[np.ndarray, "class predicted"], names: Sequence[str]) -> bytes:
    """Counts by true and predicted class; the mistakes have a colour scale of their own.

    `names` are `drawable`, by class.
    """
    classes = len(counts)
    right = np.eye(classes, dtype=bool)
    mistakes = np.ma.masked_where(right | (counts == 0), counts)
    most = counts[~right].max(initial=2)
    figure = _figure(5.6)
    axes = figure.add_subplot(frameon=False)
    axes.imshow(np.ma.masked_where(~right, counts > 0), cmap="Blues", vmin=-4, vmax=8)
    if mistakes.count():
        image = axes.imshow(mistakes, cmap=CONFUSED, norm=LogNorm(1, most))
        _scale(image, axes, LogLocator(subs=(1, 2, 5)))
    if classes <= MOST_NUMBERED:
        style: Any = {"ha": "center", "va": "center", "fontsize": min(9, 108 / classes)}
        for row, column in zip(*np.nonzero(counts), strict=True):
            count = counts[row, column]
            dark = row != column and count > most**0.7  # of the way, in logarithms
            axes.text(column, row, f"{count}", color="white" if dark else INK, **style)
    for axis in (axes.xaxis, axes.yaxis):
        step = _name_ticks(axis, names)
        axis.set_ticks(np.arange(-0.5, classes), minor=True)
    axes.set_xlabel("predicted class (coloured: mistakes, on a logarithmic scale)")
    axes.set_ylabel("true class")
    axes.grid(which="minor", linewidth=0.6 if step == 1 else 0.2)
    return _png(figure)


def reliability(bins: Sequence[ConfidenceBin], calibration_error: float) -> bytes:
    """Accuracy by confidence, and how many images have which confidence."""
    figure = _figure(4.6)
    above, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    figures = [(each.confidence, each.accuracy_fraction, each.images) for each in bins]
    confidence, accuracy, images = np.array(figures).T
    filled, width = images > 0, 0.94 / len(bins)
    centres = (np.arange(len(bins))[filled] + 0.5) / len(bins)
    above.bar(centres, accuracy[filled], width, color=BLUE, label="accuracy")
    means, dots = confidence[filled], {"color": VERMILION, "marker": "D", "zorder": 3}
    above.scatter(means, means, 26, label="mean confidence", **dots)
    above.plot([0, 1], [0, 1], label="calibrated", **DASHED)
    above.set(title=f"expected calibration error {calibration_error:.4f}", ylim=(0, 1.04))
    above.legend(loc="upper left")
    below.bar(centres, images[filled], width, color=MUTED)
    below.set(yscale="log", ylim=(0.7, None), ylabel="images")
    below.set(xlim=(0, 1), xlabel="probability of the predicted class")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _png(figure)


def gallery(images: Sequence[Picture], captions: Sequence[str], if_none: str = "") -> bytes:
    """Images with a caption of some lines each. `if_none` stands for none."""
    if not images:
        figure = _figure(1.0)
        figure.text(0.5, 0.5, if_none, ha="center", va="center", color=MUTED, fontsize=11)
        return _png(figure)
    rows = math.ceil(len(images) / COLUMNS)
    cell = WIDTH / COLUMNS
    lines = [line for caption in captions for line in caption.splitlines()]
    longest, most = max(map(len, lines)), max(len(caption.splitlines()) for caption in captions)
    cell_height = 1 + LINE_HEIGHT * most
    font_size = min(9.0, cell * POINTS / (CHARACTER_WIDTH * longest))
    figure = _figure(cell * cell_height * rows)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: each would cost more than its image
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, COLUMNS)
        height, width = (1 - 2 * MARGIN) * np.array(image.shape[:2]) / max(image.shape[:2])
        left, bottom = column + (1 - width) / 2, cell_height * (rows - row - 1) + MARGIN
        area = (left, left + width, bottom, bottom + height)
        axes.imshow(_thumbnail(image), vmin=0, vmax=255, extent=area)
        frame = Rectangle((left, bottom), width, height, fill=False, color=FAINT, linewidth=0.5)
        axes.add_patch(frame)
        place = (column + 0.5, bottom + height + MARGIN)
        axes.text(*place, caption, ha="center", fontsize=font_size)
    axes.set(xlim=(0, COLUMNS), ylim=(0, cell_height * rows))
    axes.set_axis_off()
    return _png(figure)


def offender_sheet(
    checks: Iterable[CheckResult], arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> bytes | None:
    """Up to 25 images that break a rule, some for each check; None if no failed check names any.

    `arrays`: images (image, row, column) uint8 and labels (image,), by the checks' subjects.
    """
    names = drawable(class_names)
    shown = _offenders(checks)
    if not shown:
        return None
    return gallery(
        [np.asarray(arrays[f"x_{split}"][row]) for _, split, row in shown],
        [
            f"{check}\n{split} {row}, label {names[arrays[f'y_{split}'][row]]}"
            for check, split, row in shown
        ],
    )


def _offenders(checks: Iterable[CheckResult]) -> list[tuple[str, str, int]]:
    """(check, split, row), by check; the checks take turns in who may name one more."""
    named = [
        (turn, number, check.name, check.subject.partition("_")[2], row)
        for number, check in enumerate(checks)
        for turn, row in enumerate(check.rows if check.outcome == "failed" else ())
    ]
    shown = sorted(sorted(named)[:MOST_OFFENDERS], key=itemgetter(1))
    return [offender[2:] for offender in shown]


def _name_ticks(axis: XAxis | YAxis, names: Sequence[str]) -> int:
    """A tick for each class, or each so many; returns how many."""
    step = max(1, len(names) // MOST_NUMBERED)
    upright = isinstance(axis, XAxis) and max(map(len, names)) > LEVEL_NAME
    axis.set_ticks(range(0, len(names), step), names[::step], rotation=90 if upright else 0)
    return step


def _figure(height: float) -> Figure:
    mpl.rcParams.update(STYLE)
    return Figure((WIDTH, height))


def _scale(image: AxesImage, axes: Axes, ticks: Any) -> None:
    bar = axes.figure.colorbar(image, ax=axes, ticks=ticks, shrink=0.7, format="{x:g}")
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def _framed(image: np.ndarray) -> np.ndarray:
    """In a white frame, one pixel wide."""
    frame = [(1, 1), (1, 1), (0, 0)][: image.ndim]
    return np.pad(image, frame, constant_values=255)


def _thumbnail(image: Picture) -> UInt8[np.ndarray, "fewer_rows fewer_columns *channel"]:
    step = math.ceil(max(image.shape[:2]) / THUMBNAIL_PIXELS)
    return image[::step, ::step]


def _png(figure: Figure) -> bytes:
    """As many dots an inch, and colours, as the limit leaves room for."""
    canvas = FigureCanvasAgg(figure)
    for dpi, colours in QUALITIES:
        figure.set_dpi(dpi)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        few = Image.fromarray(drawn).quantize(colours, dither=Image.Dither.NONE)
        content = BytesIO()
        few.save(content, "png", optimize=True)
        if content.tell() <= LIMIT_BYTES:
            break
    return content.getvalue()
