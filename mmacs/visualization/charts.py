"""Charts of a page, which take on its colours."""

import io
import re
from contextlib import ContextDecorator
from typing import Callable, NamedTuple

import matplotlib
from matplotlib.figure import Figure

ALL, CHOSEN, OTHER = '#8a94a0', '#e8772e', '#3f8fd2'  # these show on white and on black
PALETTE = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps['tab10'].colors]
INK = '#2b2f36'
# Colours of a chart that stands alone; on a page they are variables of its style sheet.
_VARIABLES = {'#ffffff': 'var(--card)', INK: 'var(--ink)', '#d9dde2': 'var(--line)'}
_GROUND, _, _LINE = _VARIABLES
_STYLE = {
    **{key: _GROUND for key in ('figure.facecolor', 'axes.facecolor', 'savefig.facecolor')},
    **{key: INK for key in ('text.color', 'axes.labelcolor', 'xtick.color', 'ytick.color')},
    **{'axes.edgecolor': _LINE, 'grid.color': _LINE, 'grid.linewidth': 0.6, 'axes.axisbelow': True},
    **{'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9, 'legend.frameon': False},
    'text.parse_math': False,  # names of classes and metrics may hold dollar signs
    'axes.prop_cycle': matplotlib.cycler(color=[OTHER, *PALETTE[2:]]),
}


def plain_text() -> ContextDecorator:
    """Returns a context, or decorator, in which matplotlib takes text as it is: names may hold dollar signs."""
    return matplotlib.rc_context({'text.parse_math': False})


class Chart(NamedTuple):
    """A chart: its file's stem, its heading and explanation on the page, and what draws it."""

    name: str
    title: str
    text: str
    draw: Callable[[Figure], None]
    height: float = 2.9  # inches; all are 5 wide


def to_svg(chart: Chart) -> str:
    """Returns a chart on white as an SVG file, the same bytes each time."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': chart.name}):
        figure = Figure(figsize=(5, chart.height), layout='constrained')
        chart.draw(figure)
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    return buffer.getvalue()


def inline(svg: str) -> str:
    """Returns what :func:`to_svg` gave as part of a page: without preamble and metadata, in the page's colours."""
    svg = re.sub(r'<metadata>.*?</metadata>|<style .*?</style>', '', svg[svg.index('<svg') :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', '<g>', svg)  # names that all charts have
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
