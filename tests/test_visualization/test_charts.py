"""Names of classes and metrics in charts and pictures are text."""

import pytest

from mmacs.utils.errors import printable
from mmacs.visualization.charts import Chart, inline, to_svg

NAMES = ('$\\frac{$', 'US$ and C$', '<b>&"bold"</b>', 'two\nlines\tand a tab', '\x1b[31mred\x00', 'long ' * 1000)


@pytest.mark.parametrize('name', NAMES)
def test_any_name_is_drawn_as_text(name):
    def draw(figure):
        figure.subplots().set_yticks([0], [printable(name, 60)])

    svg = to_svg(Chart('classes', 'Classes', '', draw))
    assert '<b>' not in svg and '<svg' in inline(svg)
