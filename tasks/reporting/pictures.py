"""The pictures of a report: pure functions from numbers to the bytes of a PNG.

White cards that are readable on light and dark pages. Blue is what is right or as expected,
vermilion what is not (Okabe and Ito's palette for all kinds of colour vision).

This module imports matplotlib (0.5 s): import it inside the stages that draw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Float32, Int, UInt8

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its fonts and folders

from matplotlib.axes import Axes  # noqa: E402 - after the line above
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap, LogNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import AxesImage  # noqa: E402
from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402
from PIL import Image  # noqa: E402

from tasks.records import ConfidenceBin, EpochMetrics  # noqa: E402

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
MOST_ROWS, LEAST_COLUMNS = 20, 10  # of a sheet: a row is a class
MOST_NUMBERED = 20  # classes whose counts are written into the confusion matrix
THUMBNAIL_PIXELS = 40  # larger images are thinned out for a gallery
COLUMNS = 5  # of a gallery
CELL_HEIGHT, MARGIN = 1.34, 0.04  # of a gallery's cells, in their width

Picture = UInt8[np.ndarray, "row column"]


def samples(by_class: Sequence[Sequence[Picture]]) -> bytes:
    """A row of images for each class; at most 20 classes."""
    shown = [[_thumbnail(image) for image in images] for images in by_class[:MOST_ROWS]]
    first = next(images[0] for images in shown if images)
    height, width = first.shape[0] + 2, first.shape[1] + 2
    columns = max(LEAST_COLUMNS, *map(len, shown), 1)
    sheet = np.full((len(shown) * height, columns * width), 255, np.uint8)
    for row, images in enumerate(shown):
        for column, image in enumerate(images):
            top, left = row * height + 1, column * width + 1
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    side = 0.85 * WIDTH / columns * height / width
    figure = _figure(min(side * len(shown), 1.5 * WIDTH) + 0.5)
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks((np.arange(len(shown)) + 0.5) * height - 0.5, map(str, range(len(shown))))
    axes.set_xticks([])
    left_out = f" (the first {MOST_ROWS} of {len(by_class)})" if len(by_class) > MOST_ROWS else ""
    axes.set_ylabel(f"class{left_out}", color=MUTED)
    _plain(axes, "left", "bottom")
    return _png(figure)


def balance(train: Int[np.ndarray, " class"], test: Int[np.ndarray, " class"]) -> bytes:
    """How many images each class has, in both splits."""
    figure = _figure(2.7)
    panels = figure.subplots(1, 2)
    for axes, counts, split in zip(panels, (train, test), ("training", "test"), strict=True):
        axes.bar(range(len(counts)), counts, color=BLUE, width=0.8)
        axes.axhline(counts.mean(), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(f"{counts.sum():,} {split} images")
        axes.set_xlabel("class (dashed: the mean)")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        _plain(axes)
    return _png(figure)


def preprocessing(raw: Picture, ready: Float32[np.ndarray, " pixel"]) -> bytes:
    """One image as loaded, 0 … 255, and as the network reads it, a flat vector in [0, 1]."""
    figure = _figure(2.9)
    panels = figure.add_gridspec(2, 2, width_ratios=[1, 2.1], height_ratios=[1, 1.5])
    left = figure.add_subplot(panels[:, 0])
    image = left.imshow(raw, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    left.set_title(f"as loaded: {raw.shape} {raw.dtype}")
    _scale(figure, image, left, [0, 128, 255])
    strip = figure.add_subplot(panels[0, 1])
    image = strip.imshow(
        ready[np.newaxis],
        aspect="auto",
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(-0.5, len(ready) - 0.5, 0, 1),
    )
    strip.set_title(f"as trained: {ready.shape} {ready.dtype}")
    _scale(figure, image, strip, [0, 0.5, 1])
    strip.set_yticks([])
    strip.tick_params(labelbottom=False)
    values = figure.add_subplot(panels[1, 1], sharex=strip)
    values.fill_between(range(len(ready)), ready, step="mid", color=BLUE, linewidth=0)
    values.set_xlabel("pixel, row by row")
    values.set_ylim(0, 1.02)
    for axes in (left, strip, values):
        _plain(axes)
    return _png(figure)


def curves(history: Sequence[EpochMetrics], test_accuracy_fraction: float) -> bytes:
    """Loss and accuracy by epoch, over the training images as they were met."""
    figure = _figure(2.7)
    loss, accuracy = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    style = {"color": BLUE, "linewidth": 1.8, "marker": "o" if len(history) <= 60 else ""}  # noqa: PLR2004
    loss.plot(epochs, [epoch.loss for epoch in history], markersize=3.5, **style)
    loss.set_title("training loss")
    fractions = [epoch.accuracy_fraction for epoch in history]
    accuracy.plot(epochs, fractions, markersize=3.5, label="training", **style)
    accuracy.axhline(
        test_accuracy_fraction,
        color=VERMILION,
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        label=f"test, at the end: {test_accuracy_fraction:.4f}",
    )
    accuracy.set_title("accuracy")
    accuracy.legend(framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=INK)
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.grid(color=FAINT, linewidth=0.6)
        _plain(axes)
    return _png(figure)


def confusion(counts: Int[np.ndarray, "class predicted"]) -> bytes:
    """Counts by true and predicted class; the mistakes have a colour scale of their own."""
    classes = len(counts)
    right = np.eye(classes, dtype=bool)
    mistakes = np.ma.masked_where(right | (counts == 0), counts)
    figure = _figure(5.6)
    axes = figure.add_subplot()
    axes.imshow(np.ma.masked_where(~right, counts > 0), cmap="Blues", vmin=-4, vmax=8)
    if mistakes.count():
        scale = LogNorm(1, max(2, mistakes.max()))
        image = axes.imshow(mistakes, cmap=CONFUSED, norm=scale)
        steps = [step * 10**power for power in range(9) for step in (1, 2, 5)]
        _scale(figure, image, axes, [step for step in steps if step <= max(2, mistakes.max())])
    if classes <= MOST_NUMBERED:
        dark = max(2, mistakes.max() if mistakes.count() else 0) ** 0.7  # of the way, in logarithms
        for row, column in zip(*np.nonzero(counts), strict=True):
            count = counts[row, column]
            colour = "white" if row != column and count > dark else INK
            size = 9 if classes <= 12 else 6  # noqa: PLR2004 - what fits
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size
            )
    axes.set_xlabel("predicted class (coloured: mistakes, on a logarithmic scale)")
    axes.set_ylabel("true class")
    step = max(1, classes // MOST_NUMBERED)
    axes.set_xticks(range(0, classes, step))
    axes.set_yticks(range(0, classes, step))
    axes.set_xticks(np.arange(-0.5, classes), minor=True)
    axes.set_yticks(np.arange(-0.5, classes), minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.6 if step == 1 else 0.2)
    axes.tick_params(which="minor", length=0)
    _plain(axes, "left", "bottom")
    return _png(figure)


def reliability(bins: Sequence[ConfidenceBin], calibration_error: float) -> bytes:
    """Accuracy by confidence, and how many images have which confidence."""
    figure = _figure(4.6)
    above, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    width = 1 / len(bins)
    filled = [(number, each) for number, each in enumerate(bins) if each.images]
    centres = [(number + 0.5) * width for number, _ in filled]
    accuracies = [each.accuracy_fraction for _, each in filled]
    confidences = [each.confidence for _, each in filled]
    above.bar(centres, accuracies, width * 0.94, color=BLUE, label="accuracy")
    above.scatter(
        confidences, confidences, 26, color=VERMILION, marker="D", zorder=3, label="mean confidence"
    )
    above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
    above.set_title(f"expected calibration error {calibration_error:.4f}")
    above.set_ylim(0, 1.04)
    above.legend(framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=INK, loc="upper left")
    below.bar(centres, [each.images for _, each in filled], width * 0.94, color=MUTED)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.set_ylabel("images")
    below.set_xlabel("probability of the predicted class")
    below.set_xlim(0, 1)
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (above, below):
        _plain(axes)
    return _png(figure)


def gallery(
    images: Sequence[Picture],
    captions: Sequence[str],
    if_none: str = "",
    limit_bytes: int = LIMIT_BYTES,
) -> bytes:
    """Images with a caption of one or two lines each. `if_none` stands for none."""
    if not images:
        figure = _figure(1.0)
        figure.text(0.5, 0.5, if_none, ha="center", va="center", color=MUTED, fontsize=11)
        return _png(figure)
    rows = math.ceil(len(images) / COLUMNS)
    cell = WIDTH / COLUMNS
    longest = max(len(line) for caption in captions for line in caption.splitlines())
    font_size = min(9.0, cell * POINTS / (CHARACTER_WIDTH * longest))
    figure = Figure((WIDTH, cell * CELL_HEIGHT * rows))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: each would cost more than its image
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, COLUMNS)
        height, width = (1 - 2 * MARGIN) * np.array(image.shape) / max(image.shape)
        left, bottom = column + (1 - width) / 2, CELL_HEIGHT * (rows - row - 1) + MARGIN
        area = (left, left + width, bottom, bottom + height)
        axes.imshow(
            _thumbnail(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=area
        )
        frame = Rectangle((left, bottom), width, height, fill=False, color=FAINT, linewidth=0.5)
        axes.add_patch(frame)
        place = (column + 0.5, bottom + height + MARGIN)
        axes.text(*place, caption, ha="center", fontsize=font_size, color=INK)
    axes.set(xlim=(0, COLUMNS), ylim=(0, CELL_HEIGHT * rows))
    axes.set_axis_off()
    return _png(figure, limit_bytes)


def _figure(height: float) -> Figure:
    return Figure((WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _scale(figure: Figure, image: AxesImage, axes: Axes, ticks: Sequence[float | int]) -> None:
    bar = figure.colorbar(image, ax=axes, ticks=ticks, shrink=0.7, format="{x:g}")
    bar.ax.minorticks_off()
    bar.ax.tick_params(colors=MUTED, labelsize=9, length=0)
    bar.outline.set_visible(False)


def _thumbnail(image: Picture) -> UInt8[np.ndarray, "fewer_rows fewer_columns"]:
    step = math.ceil(max(image.shape) / THUMBNAIL_PIXELS)
    return image[::step, ::step]


def _plain(axes: Axes, *also_hidden: str) -> None:
    """The look that all panels share."""
    for side in ("top", "right", *also_hidden):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    axes.title.set(fontsize=10, color=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9.5, color=MUTED)


def _png(figure: Figure, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """As many dots an inch, and colours, as the limit leaves room for."""
    canvas = FigureCanvasAgg(figure)
    for dpi, colours in QUALITIES:
        figure.set_dpi(dpi)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        few = Image.fromarray(drawn).quantize(colours, dither=Image.Dither.NONE)
        content = BytesIO()
        few.save(content, "png", optimize=True)
        if content.tell() <= limit_bytes:
            break
    return content.getvalue()
