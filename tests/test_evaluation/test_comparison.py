from dataclasses import replace

import pytest

from mmacs.evaluation.comparison import Row, summarise


def row(method='rs2', seed=0, value=0.5, **changes):
    """A row of a comparison; its metrics are those given, or the value alone."""
    made = Row(
        grid='grid',
        stage='qat',
        recipe='w4a4',
        method=method,
        fraction=1.0 if method == 'full' else 0.1,
        as_long_as='',
        seed=seed,
        epochs=10,
        images=100,
        metric='AP',
        value=value,
        metrics={'AP': value},
        training_seconds=10.0,
        selection_seconds=0.0,
        coresets='',
        version='0',
        machine='a',
        threads=1,
        date='2026-01-01',
        settings=f'{method}{seed}{changes}',
    )
    return replace(made, **changes)


def by_label(records):
    return {record.key.label: record for record in records}


def test_a_line_holds_means_over_seeds_and_ratios_to_full_data_of_the_same_seeds():
    rows = [row('full', 0, 0.4, training_seconds=100.0), row('full', 1, 0.2, training_seconds=300.0)]
    rows += [row('acs', 0, 0.3, training_seconds=30.0, selection_seconds=10.0)]
    full, acs = summarise(rows)
    assert full.metrics['AP'] == pytest.approx((0.3, 0.1414), abs=1e-4)
    assert full.seeds == [0, 1]
    assert full.of_full == (1.0, 1.0)
    assert acs.metrics['AP'] == (0.3, None)
    assert acs.of_full == pytest.approx((0.75, 0.4))


def test_differences_are_to_repeated_random_of_the_same_fraction_and_recipe_at_equal_images_and_at_equal_time():
    rows = [row('rs2', seed, 0.5 + 0.01 * seed) for seed in (0, 1, 2)]
    rows += [row('mmacs', seed, 0.6 + 0.02 * seed) for seed in (0, 1, 2)]
    rows += [row('rs2', seed, 0.7, as_long_as='mmacs') for seed in (0, 1)]
    rows += [row('rs2', 0, 0.0, recipe='w2a2'), row('rs2', 0, 0.0, fraction=0.3)]  # others
    lines = by_label(summarise(rows)[:3])
    assert lines['mmacs'].equal_images.mean == pytest.approx(0.11)
    assert lines['mmacs'].equal_images.pairs == 3
    assert lines['mmacs'].equal_time.mean == pytest.approx(-0.09)
    assert lines['mmacs'].equal_time.pairs == 2
    assert lines['rs2'].equal_images is lines['rs2, as long as mmacs'].equal_images is None


def test_runs_that_something_was_tuned_on_are_lines_of_their_own_and_in_no_difference():
    rows = [row('rs2', seed, 0.5, tuned=seed == 0) for seed in (0, 1)]
    rows += [row('mmacs', 0, 0.9, tuned=True), row('mmacs', 1, 0.6)]
    records = summarise(rows)
    assert [(r.key.method, r.key.tuned, r.seeds) for r in records] == [
        ('rs2', True, [0]),
        ('rs2', False, [1]),
        ('mmacs', True, [0]),
        ('mmacs', False, [1]),
    ]
    assert records[2].equal_images is None
    assert records[3].equal_images.mean == pytest.approx(0.1)


def test_where_nothing_is_detected_a_metric_is_0_or_minus_1():
    nothing = row('rs2', 0, 0.0, metric='', metrics={})
    some = row('rs2', 1, 0.1, metrics={'AP': 0.1, 'AP_l': -1.0})
    (line,) = summarise([nothing, some])
    assert line.metric == 'AP'
    assert line.value.mean == pytest.approx(0.05)
    assert line.metrics['AP_l'] == (-1.0, 0.0)
    (line,) = summarise([nothing])
    assert line.value == (0.0, None)


def test_full_data_that_detects_nothing_has_no_ratio():
    records = summarise([row('full', 0, 0.0), row('rs2', 0, 0.1, training_seconds=5.0)])
    assert [record.of_full for record in records] == [(None, 1.0), (None, 0.5)]
