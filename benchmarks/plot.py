"""Plots as SVG, which need nothing to be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Line", "bars", "lines", "svg", "text"]

WIDTH = 760
LEFT = 190
HEIGHT = 190
"""Of one panel of lines."""

COLOURS = {
    "official": "#8250df",
    "thread": "#0969da",
    "process": "#1b7c83",
    "serve": "#bf8700",
    "typescript": "#cf222e",
}
GREY = "#57606a"

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #78828c; }
.title { font-weight: 600; }
.axis { stroke: #8c959f; stroke-opacity: .5; }
"""


@dataclass(frozen=True)
class Bar:
    name: str
    title: str
    value: float
    text: str


@dataclass(frozen=True)
class Line:
    name: str
    title: str
    points: Sequence[tuple[float, float]]


def svg(height: float, label: str, body: Sequence[str], style: str = "") -> str:
    """A whole document of the usual width."""
    lines = "\n".join(body)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" \
role="img" aria-label="{label}">
<style>
{STYLE}{style}</style>
{lines}
</svg>
"""


def text(x: float, y: float, content: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{attribute}>{content}</text>'


def bars(panels: Mapping[str, Sequence[Bar]], label: str) -> str:
    """A panel below the other, with a bar for each value."""
    body, y, row = [], 24, 24
    for title, each in panels.items():
        body.append(f'<text x="0" y="{y}" class="title">{title}</text>')
        y += 12
        scale = (WIDTH - LEFT - 120) / max(bar.value for bar in each)
        for bar in each:
            length = bar.value * scale
            body.append(
                f'<text x="0" y="{y + 14}">{bar.title}</text>'
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{row - 6}" '
                f'fill="{COLOURS.get(bar.name, GREY)}"/>'
                f'<text x="{LEFT + length + 8:.1f}" y="{y + 14}">{bar.text}</text>'
            )
            y += row
        y += 28
    return svg(y - 16, label, body)


def lines(panels: Mapping[str, Sequence[Line]], label: str) -> str:
    """A panel below the other, over a logarithmic axis."""
    body, y, left, right = [], 24, 50, 190
    for title, each in panels.items():
        body.append(f'<text x="0" y="{y}" class="title">{title}</text>')
        xs = sorted({x for line in each for x, _ in line.points})
        top = nice(max(value for line in each for _, value in line.points))
        start, span = math.log(xs[0]), math.log(xs[-1] / xs[0]) or 1.0
        floor = y + HEIGHT - 30

        def across(x: float, start: float = start, span: float = span) -> float:
            return left + (math.log(x) - start) / span * (WIDTH - left - right)

        def up(value: float, floor: float = floor, top: float = top) -> float:
            return floor - value / top * (HEIGHT - 50)

        for share in (0.0, 0.5, 1.0):
            at = up(top * share)
            body.append(
                f'<line x1="{left}" x2="{WIDTH - right}" y1="{at:.1f}" '
                f'y2="{at:.1f}" class="axis"/>'
                f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">'
                f"{top * share:g}</text>"
            )
        for x in xs:
            body.append(
                f'<text x="{across(x):.1f}" y="{floor + 18}" text-anchor="middle">'
                f"{x:,g}</text>"
            )
        for number, line in enumerate(each):
            colour = COLOURS.get(line.name, GREY)
            points = " ".join(f"{across(x):.1f},{up(v):.1f}" for x, v in line.points)
            key = up(top) + 6 + 20 * number
            body.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" '
                f'stroke-width="2"/>'
                f'<rect x="{WIDTH - right + 20}" y="{key - 6:.1f}" width="14" '
                f'height="4" fill="{colour}"/>'
                f'<text x="{WIDTH - right + 40}" y="{key:.1f}">{line.title}</text>'
            )
        y += HEIGHT + 24
    return svg(y - 10, label, body)


def nice(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value)
