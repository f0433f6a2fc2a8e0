"""A picture of the images that validation names.

This module imports matplotlib: import it inside the stages that draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain, islice, zip_longest

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from tasks.records import CheckResult

MOST = 25
COLUMNS = 5
CELL_INCHES, CELL_HEIGHT = 1.15, 1.3  # the height in widths
MARGIN = 0.04
GREYS = 16
LIMIT_BYTES = 80_000  # with three more pictures and their text it fits into an artifact of 300 KB
QUALITIES = (130, 90, 60)  # dots an inch: the first that keeps to the limit


def offender_sheet(checks: Iterable[CheckResult], arrays: dict[str, np.ndarray]) -> bytes | None:
    """Up to 25 images that break a rule, some for each check, as a grey PNG of at most 80 kB.

    None if no failed check names rows.

    Args:
        checks: the results; `x_train`, `y_test` and the like are their subjects.
        arrays: images (image, row, column) uint8 and labels (image,), by name.
    """
    shown = list(_offenders(checks))
    if not shown:
        return None
    lines = -(-len(shown) // COLUMNS)
    figure = Figure((CELL_INCHES * COLUMNS, CELL_INCHES * CELL_HEIGHT * lines))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: each would cost as much as its image
    for number, (name, split, row) in enumerate(shown):
        image, label = arrays[f"x_{split}"][row], arrays[f"y_{split}"][row]
        line, column = divmod(number, COLUMNS)
        left, bottom = column + MARGIN, CELL_HEIGHT * (lines - line - 1) + MARGIN
        height, width = (1 - 2 * MARGIN) * np.array(image.shape) / max(image.shape)
        area = (left, left + width, bottom, bottom + height)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=area)
        axes.add_patch(Rectangle((left, bottom), width, height, fill=False, linewidth=0.5))
        caption = f"{name}\n{split} {row}, label {label}"
        axes.text(left, bottom + height + MARGIN, caption, fontsize=7)
    axes.set(xlim=(0, COLUMNS), ylim=(0, CELL_HEIGHT * lines))
    axes.set_axis_off()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    for dpi in QUALITIES:
        figure.set_dpi(dpi)
        canvas.draw()  # type: ignore[no-untyped-call]
        greys = np.asarray(canvas.buffer_rgba())[..., 0]  # type: ignore[no-untyped-call]
        file = BytesIO()
        few = Image.fromarray(greys).quantize(GREYS, dither=Image.Dither.NONE)
        few.save(file, "png", optimize=True)
        if file.tell() <= LIMIT_BYTES:
            break
    return file.getvalue()


def _offenders(checks: Iterable[CheckResult]) -> Iterator[tuple[str, str, int]]:
    """(check, split, row), by check; the checks take turns in who may name one more."""
    named = [
        [(number, check.name, check.subject.partition("_")[2], row) for row in check.rows]
        for number, check in enumerate(checks)
        if check.outcome == "failed"
    ]
    turns = (one for one in chain.from_iterable(zip_longest(*named)) if one)
    return (offender[1:] for offender in sorted(islice(turns, MOST)))
