"""Sections of text, tables and pictures, as Markdown for Prefect or as one HTML page.

Both need nothing from the network: pictures are data: URIs, the style is in the page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

LEAST_SPAN = 0.002  # of accuracies in a trend: noise does not fill the height
LONG = 28  # characters of a cell that is wrapped, but not word by word
HIGHLIGHTED = ("failed", "skipped")
MOST_BESIDE = 5  # columns of a table that stands beside something else


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header."""

    header: Sequence[object]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Tiles:
    """The few figures that matter most: label, value, note."""

    figures: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words."""

    text: str
    content: bytes
    kind: Literal["png", "svg+xml"] = "png"

    @property
    def uri(self) -> str:
        """The picture itself as a data: URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Section:
    """A title, a sentence or two, and what belongs under them."""

    title: str
    text: str = ""
    parts: Sequence[Table | Tiles | Picture] = ()


def markdown(title: str, sections: Iterable[Section]) -> str:
    """The sections as GitHub's Markdown."""
    blocks = [f"# {_in_markdown(title)}"]
    for section in sections:
        blocks += [f"## {_in_markdown(section.title)}"] if section.title else []
        blocks += [_in_markdown(section.text)] if section.text else []
        blocks += [_markdown_part(part) for part in section.parts]
    return "\n\n".join(blocks) + "\n"


def html_page(title: str, sections: Iterable[Section]) -> str:
    """The sections as one page that stands alone."""
    body = "\n".join(_html_section(section) for section in sections)
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def trend(accuracies: Sequence[float]) -> bytes:
    """A dot for each accuracy, the oldest on the left and the latest labelled, as an SVG."""
    width, height, top, bottom, left, right = 640, 150, 18, 112, 64, 572
    low, high = min(accuracies), max(accuracies)
    span, middle = max(high - low, LEAST_SPAN), (low + high) / 2

    def y(value: float) -> float:
        return (top + bottom) / 2 - (value - middle) / span * (bottom - top)

    step = (right - left) / max(1, len(accuracies) - 1)
    points = [(left + step * number, y(value)) for number, value in enumerate(accuracies)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    end = points[-1]
    scale = "".join(
        f'<path d="M{left - 8} {y(value):.1f}H{right}" stroke="#d8dee4"/>'
        f'<text x="{left - 14}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4f}</text>'
        for value in sorted({low, high})
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072b2"/>' for x, y in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13" fill="#6e7781">'
        f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>{scale}'
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>{dots}'
        f'<circle cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="5" fill="#d55e00"/>'
        f'<text x="{end[0] + 10:.1f}" y="{end[1] + 4:.1f}" font-weight="bold" fill="#1f2328">'
        f"{accuracies[-1]:.4f}</text>"
        f'<text x="{left}" y="{height - 10}">earlier runs</text>'
        f'<text x="{right}" y="{height - 10}" text-anchor="end">this run</text></svg>'
    ).encode()


def _markdown_part(part: Table | Tiles | Picture) -> str:
    if isinstance(part, Picture):
        text = _in_markdown(part.text)
        return f"![{text}]({part.uri})\n\n*{text}*"  # what stands in brackets is not shown
    if isinstance(part, Tiles):
        part = Table(("figure", "value", "note"), part.figures)
    if not any(part.header):
        return "\n".join(
            f"- **{_in_markdown(str(name))}**: {_in_markdown(str(value))}"
            for name, value in part.rows
        )
    lines = [part.header, ["---"] * len(part.header), *part.rows]
    return "\n".join(f"| {' | '.join(_in_markdown(str(c)) for c in line)} |" for line in lines)


def _in_markdown(text: str) -> str:
    """Text that neither ends a cell nor is taken for a tag."""
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _html_section(section: Section) -> str:
    title = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    parts = "\n".join(_html_part(part) for part in section.parts)
    return f'<section>{title}{text}\n<div class="parts">{parts}</div></section>'


def _html_part(part: Table | Tiles | Picture) -> str:
    if isinstance(part, Picture):
        text = escape(part.text)
        return (
            f'<figure><img src="{part.uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )
    if isinstance(part, Tiles):
        tiles = "".join(
            f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
            for label, value, note in part.figures
        )
        return f'<dl class="tiles">{tiles}</dl>'
    names = "".join(f"<th>{escape(str(cell))}</th>" for cell in part.header)
    head = f"<thead><tr>{names}</tr></thead>" if any(part.header) else ""
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in part.rows)
    kind = "scroll wide" if len(part.header) > MOST_BESIDE else "scroll"
    return f'<div class="{kind}" tabindex="0"><table>{head}<tbody>{rows}</tbody></table></div>'


def _html_cell(cell: object) -> str:
    text = str(cell)
    word = text.partition(":")[0]
    kind = word if word in HIGHLIGHTED else "long" if len(text) > LONG else ""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


STYLE = """
:root { --page: #f6f8fa; --card: #fff; --ink: #1f2328; --muted: #59636e; --line: #d8dee4;
  --bad: #b23b00; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --ink: #e6edf3;
  --muted: #9198a1; --line: #30363d; --bad: #ff9e64; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: 0 0 .75rem; color: var(--muted); max-width: 48rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem; margin: 0 0 1rem; }
.parts { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.parts > * { min-width: 0; margin: 0; }
.parts > figure { max-width: 46rem; }
.parts > figure:first-child:nth-last-child(3) { grid-row: span 2; }
.wide, .tiles { grid-column: 1 / -1; }
.tiles { display: grid; gap: .5rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tiles dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.tiles dd + dd { color: var(--muted); font-size: .85rem; font-weight: 400; }
.scroll { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); color: var(--muted); font-weight: 600; }
td.long { min-width: 8rem; overflow-wrap: anywhere; }
td.failed { color: var(--bad); font-weight: 600; }
td.skipped { color: var(--muted); }
@media (max-width: 30rem) { th, td { padding: .25rem .35rem; } }
img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { color: var(--muted); font-size: .85rem; padding-top: .35rem; }
"""
