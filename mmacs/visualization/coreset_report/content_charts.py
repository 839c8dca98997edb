"""The charts of a coreset's report about what is in the chosen images: classes, objects, their sizes."""

from typing import Iterator

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmacs.visualization.charts import ALL, CHOSEN, INK, Chart
from mmacs.visualization.coreset_report.contents import Contents, class_shares, most_shifted
from mmacs.visualization.coreset_report.rounds import History

_SIZES = {'small': 0, 'medium': 32**2, 'large': 96**2}  # from this area on; COCO's limits
_PERCENT = FuncFormatter(lambda share, _: f'{100 * share:.3g}%')
_MAX_CLASSES = 30


def content_charts(contents: Contents, chosen: np.ndarray, history: History) -> Iterator[Chart]:
    """What is in the chosen images of the last round."""
    everywhere, inside = class_shares(contents, chosen)
    rows = most_shifted(everywhere, inside, _MAX_CLASSES)

    def draw_classes(figure: Figure) -> None:
        axis = figure.subplots()
        places = np.arange(len(rows))
        axis.barh(places - 0.2, everywhere[rows], 0.4, color=ALL, label='all images')
        axis.barh(places + 0.2, inside[rows], 0.4, color=CHOSEN, label='chosen')
        axis.set_yticks(places, [contents.names[row] for row in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.xaxis.set_major_formatter(_PERCENT)
        axis.set_xlabel('share of the objects' if contents.detection else 'share of the labels')
        axis.grid(axis='x')
        figure.legend(loc='outside upper left', ncols=2)

    text = 'Last round; from the most over-represented to the most under-represented class.'
    if len(rows) < len(contents.names):
        text += f' The {len(rows)} of {len(contents.names)} classes that shifted most, relative to their size.'
    yield Chart('classes', 'Classes', text, draw_classes, 1 + 0.2 * max(5, len(rows)))
    if not contents.detection:
        return

    def draw_objects(figure: Figure) -> None:
        axis = figure.subplots()
        width = 1 + int(contents.counts.max()) // 30
        edges = np.arange(0, contents.counts.max() + width + 1, width) - 0.5
        for counts, colour, label in (
            (contents.counts, ALL, 'all images'),
            (contents.counts[chosen], CHOSEN, 'chosen'),
        ):
            weights = np.full(len(counts), 1 / len(counts))
            axis.hist(counts, edges, weights=weights, color=colour, label=label, alpha=0.75)
            axis.axvline(counts.mean(), color=colour, ls='--', lw=1.2)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.set(xlabel='objects in the image (dashed: mean)', ylabel='share of the images')
        figure.legend(loc='outside upper left', ncols=2)

    def draw_sizes(figure: Figure) -> None:
        axis = figure.subplots()
        kinds = np.searchsorted([*_SIZES.values()][1:], contents.area, side='right')
        masks = (np.ones(len(kinds), dtype=bool), ALL, 'all images'), (chosen[contents.image], CHOSEN, 'chosen')
        for offset, (mask, colour, label) in zip((-0.2, 0.2), masks):
            shares = np.bincount(kinds[mask], minlength=len(_SIZES)) / max(1, np.count_nonzero(mask))
            axis.bar(np.arange(len(_SIZES)) + offset, shares, 0.4, color=colour, label=label)
        axis.set_xticks(range(len(_SIZES)), _SIZES)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.set_ylabel('share of the objects')
        axis.grid(axis='y')
        figure.legend(loc='outside upper left', ncols=2)

    def draw_spearman(figure: Figure) -> None:
        axis = figure.subplots()
        axis.axhspan(-0.1, 0.1, color=ALL, alpha=0.25, lw=0)
        axis.axhline(0, color=ALL, lw=0.8)
        for name, values in history.spearman.items():
            ink = {'color': INK, 'lw': 2} if name == 'importance' else {'lw': 1.2}
            axis.plot(range(len(values)), values, 'o-', ms=4, label=name, **ink)
        axis.set(xlabel='round', ylabel='rank correlation', ylim=(-1.03, 1.03))
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axis.grid(axis='y')
        figure.legend(loc='outside upper left', ncols=4)

    text = (
        "Spearman's rank correlation of scores with the number of objects: within 0.1 of zero (the band), a score does "
    )
    yield Chart('objects', 'Objects per image', 'Last round; crowds and ignored regions are not counted.', draw_objects)
    text_sizes = 'Last round; by area of the box: small is below 32 x 32 pixels, large from 96 x 96 on, as in COCO.'
    yield Chart('sizes', 'Object sizes', text_sizes, draw_sizes)
    yield Chart('spearman', 'Scores and crowds', f'{text}not just count objects.', draw_spearman)
