"""The charts of a coreset's report: what it cost, the scores, how the coreset changed."""

from typing import Dict, Iterator, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import binom

from mmacs.visualization.charts import ALL, CHOSEN, OTHER, Chart
from mmacs.visualization.coreset_report.rounds import History, Record, columns, cut


def cost_chart(history: History, seconds: Dict[str, float]) -> Chart:
    """Seconds of training and of each round in one bar."""
    rounds = [facts['seconds'] for facts in history.rounds]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.barh(0, seconds.get('training', 0), color=ALL, label='training')
        start = seconds.get('training', 0)
        for number, length in enumerate(rounds):
            gap = dict(edgecolor=axis.get_facecolor(), lw=0.8)  # between rounds: it shows how many there were
            label = '' if number else 'selection, round by round'
            axis.barh(0, length, left=start, color=CHOSEN, label=label, **gap)
            start += length
        axis.set(yticks=[], xlabel='seconds', xlim=(0, start))
        axis.spines['left'].set_visible(False)
        figure.legend(loc='outside upper left', ncols=2)

    known = 'Training and selection' if seconds else 'Selection so far; training is known once the run has finished'
    return Chart('cost', 'Where the time went', f'{known}, on the same clock.', draw, 1.4)


def score_chart(name: str, shown: Dict[int, Record], meaning: str = '') -> Chart:
    """Distribution of one column, with what it means: all images against the chosen ones, a panel per round."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (number, record) in zip(panels, shown.items()):
            values = columns(record)[name]
            finite = np.isfinite(values)
            edges = np.histogram_bin_edges(values[finite], bins=40)
            axis.hist(values[finite], edges, color=ALL, label='all images')
            axis.hist(values[finite & record['chosen']], edges, color=CHOSEN, label='chosen')
            if name == 'importance':
                axis.axvline(cut(record), color=OTHER, ls='--', lw=1.2, label='cut of a plain top-k')
            axis.set_ylabel(f'round {number}', rotation=0, ha='right', va='center', labelpad=12)
            axis.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        panels[-1].set_xlabel(name)
        figure.align_ylabels(panels)
        figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=3)

    title = 'Importance' if name == 'importance' else f'Score {name}'
    text = f'{meaning[:1].upper()}{meaning[1:]}. ' if meaning else ''
    text += 'All images and, in front of them, the chosen ones.'
    if name == 'importance':
        text += ' Where they are not those right of the cut, something else decided: constraints, chance, trimming.'
    return Chart(f'score_{name}' if name != 'importance' else name, title, text, draw, 1 + 0.75 * len(shown))


def course_charts(history: History, metric: Tuple[str, Dict[int, float]], unit: str, end: int) -> Iterator[Chart]:
    """What changes over the run: beta, the metric, churn."""
    at = [facts['at'] for facts in history.rounds]

    def over_time(axis: Axes, label: str) -> None:
        for where in at:
            axis.axvline(where, color=CHOSEN, lw=0.8, alpha=0.6)
        axis.set(xlabel=f'{unit}s trained', ylabel=label, xlim=(0, end))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.grid(axis='y')

    betas = [facts['beta'] for facts in history.rounds]

    def draw_beta(figure: Figure) -> None:
        axis = figure.subplots()
        axis.step([*at, end], [*betas, betas[-1]], where='post', color=OTHER)
        axis.plot(at, betas, 'o', color=CHOSEN, clip_on=False)
        over_time(axis, 'beta')
        axis.set_ylim(-0.03, 1.03)

    yield Chart('beta', 'Beta', 'Each line is a round; its beta weighs the scores until the next.', draw_beta)
    name, values = metric
    if values:

        def draw_metric(figure: Figure) -> None:
            axis = figure.subplots()
            axis.plot(values.keys(), values.values(), 'o-', color=OTHER, ms=4, clip_on=False)
            over_time(axis, name)

        yield Chart('metric', 'Validation', 'Each vertical line is a selection round.', draw_metric)
    if len(at) > 1:

        def draw_churn(figure: Figure) -> None:
            axis = figure.subplots()
            churn = [facts['churn'] for facts in history.rounds]
            axis.plot(at[1:], churn[1:], 'o-', color=OTHER, ms=4)
            share = history.times.sum() / (len(at) * len(history.times))
            axis.axhline(1 - share / (2 - share), color=ALL, ls='--', lw=1, label='if each round drew at random')
            over_time(axis, 'churn')
            axis.set_ylim(0, 1.03)
            figure.legend(loc='outside upper left')

        text = '1 - Jaccard index with the round before: 0 is the same coreset again, 1 an entirely new one.'
        yield Chart('churn', 'Churn', text, draw_churn)


def usage_charts(history: History) -> Iterator[Chart]:
    """How often, and how long ago, images were chosen."""
    count, num_images = len(history.rounds), len(history.times)

    def draw_times(figure: Figure) -> None:
        axis = figure.subplots()
        axis.bar(range(count + 1), np.bincount(history.times, minlength=count + 1), color=CHOSEN, label='images')
        by_chance = num_images * binom.pmf(range(count + 1), count, history.times.sum() / (count * num_images))
        axis.plot(range(count + 1), by_chance, 'o--', color=OTHER, ms=4, lw=1, label='if each round drew at random')
        axis.set(xlabel='rounds that chose the image', ylabel='images')
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        figure.legend(loc='outside upper left', ncols=2)

    def draw_ages(figure: Figure) -> None:
        axis = figure.subplots()
        ages = np.bincount(count - 1 - history.newest, minlength=count + 1)
        axis.bar(range(count + 1), ages, color=[*[CHOSEN] * count, ALL])
        ticks = list(range(0, count, 1 + count // 10))
        axis.set_xticks([*ticks, count], [*ticks, 'never'])
        axis.set(xlabel='rounds since the image was chosen', ylabel='images')

    yield Chart('times', 'How often images were chosen', 'Over all rounds.', draw_times)
    yield Chart('ages', 'Age', 'Rounds since each image was last in the coreset, as of the last round.', draw_ages)
