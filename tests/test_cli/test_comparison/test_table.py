from mmacs.cli.comparison.table import render
from mmacs.evaluation.comparison import summarise
from mmacs.visualization.comparison import draw_comparison
from tests.test_evaluation.test_comparison import row


def table(rows):
    lines = render(summarise(rows), rows).splitlines()
    heads, _, *body = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines if line.startswith('|')]
    return [dict(zip(heads, cells, strict=True)) for cells in body], '\n'.join(lines)


def test_the_table_says_metrics_differences_and_where_the_time_went():
    rows = [row('', 0, 72.5, stage='ptq', fraction=None, epochs=0)]
    rows += [row('rs2', seed, 80.0 + seed, selection_seconds=0.0) for seed in (0, 1, 2)]
    rows += [row('mmacs', seed, value, selection_seconds=5.0) for seed, value in enumerate((81.0, 81.5, 83.0))]
    rows += [row('rs2', 0, 80.5, as_long_as='mmacs', epochs=15, images=150)]
    lines, text = table(rows)
    assert [line['method'] for line in lines] == ['', 'rs2', 'mmacs', 'rs2, as long as mmacs']
    assert lines[0] | {'stage': 'ptq', 'AP': '72.50', 'n': '1', 'images': '', 'total s': ''} == lines[0]
    assert lines[2]['AP'] == '81.83 ± 1.04'
    assert lines[2]['to rs2, equal images'] == '+0.83 ± 0.17 (n 3, t 5.0)'
    assert lines[2]['to rs2, equal time'] == '+0.50 (n 1)'
    assert (lines[2]['training s'], lines[2]['selection s'], lines[2]['total s']) == ('10', '5', '15')
    assert lines[3]['images'] == '150'
    assert 'Seconds are of a, 1 thread.' in text
    assert 'tuned' not in text


def test_seconds_of_several_machines_and_runs_that_were_tuned_on_are_told():
    rows = [row('rs2', 0, tuned=True), row('rs2', 1, machine='b', threads=4), row('rs2', 2)]
    lines, text = table(rows)
    assert [line['method'] for line in lines] == ['rs2 (tuned on)', 'rs2']
    assert 'several machines and do not compare: 2 runs on a, 1 thread; 1 runs on b, 4 threads' in text
    assert 'they prove nothing' in text
    assert 'No run is done yet' in render([], [])


def test_all_that_a_comparison_can_hold_is_drawn(tmp_path):
    rows = [row('', stage='fp', recipe='', fraction=None), row('', stage='ptq', fraction=None), row('full'), row('$x')]
    rows += [row('rs2', seed, recipe='w2a2') for seed in (0, 1)] + [row('rs2', 0, tuned=True)]
    for number, some in enumerate((rows, rows[:2], rows[-1:])):
        draw_comparison(summarise(some), tmp_path / f'{number}.png')
        assert (tmp_path / f'{number}.png').stat().st_size > 0
