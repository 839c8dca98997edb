"""Ways to choose the coreset, from one config: accuracy and seconds, selection included, in a table and a plot.

``python tools/compare_coresets.py configs/retinanet/retinanet_r18_bccd_w4a4_acs.py --fractions 0.1 0.3``. Epochs,
schedule and images per epoch are the same for all methods at a fraction, and the final epoch counts, never the best.
Safe to run again: finished cells are not repeated, a killed one goes on from its last epoch.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from mmacs import cli


def _balanced(selector: Dict[str, Any]) -> Dict[str, Any]:
    return dict(type='mmacs.ClassBalanced', selector=selector)


_ACS, _REDUCIBLE = (dict({error: 'beta'}, ds='1 - beta') for error in ('evs', 'reducible_error'))
# ranks lie in (0, 1): the odds of the first image are about 7 times those of the last
_DRAWN = dict(type='mmacs.GumbelTopK', temperature=0.5)
# Rows without selection: changes of the sampler. 'RS2' is repeated random, the baseline that methods have to beat.
BASELINES: Dict[str, Dict[str, Any]] = {'full': dict(fraction=1.0), 'static': dict(redraw=False), 'RS2': {}}
# Changes of the CoresetHook; weights are named even where they are the scorer's own, since those may change. A share
# of the run's epochs stands for the epochs of `warmup` and `full_data_last`.
SELECTIONS: Dict[str, Dict[str, Any]] = {
    'EVS': dict(importance=dict(weights=dict(evs=1.0))),
    'DS': dict(importance=dict(weights=dict(ds=1.0))),
    'ACS': dict(importance=dict(weights=_ACS, beta='cosine')),  # the paper
    'ACS-code': dict(importance=dict(weights=_ACS, beta='half_cosine')),  # its released code
    'EL2N': dict(importance=dict(weights=dict(evs=1.0)), schedule=dict(warmup=0.15, rounds=1)),
    # strata of raw errors, since those of ranks are all alike; the share that is cut is ours
    'CCS': dict(
        importance=dict(weights=dict(evs=1.0), normalisation='none'),
        selector=dict(type='mmacs.Stratified', hard_cut=0.1),
    ),
    'InfoBatch': dict(  # scores nothing by itself after the first round: losses are those of training
        importance=dict(weights=dict(loss=1.0), normalisation='none'),
        selector=dict(type='mmacs.SoftPruning'),
        schedule=dict(interval=1, full_data_last=0.125),
        cost=dict(harvest=True, rescore=0.0),
        unbiased=True,
    ),
}
CLASSIFICATION: Dict[str, Dict[str, Any]] = {
    # these two as above, with the classes balanced; ranks, which detectors have by default, classifiers have to ask for
    'CCS': dict(SELECTIONS['CCS'], selector=_balanced(SELECTIONS['CCS']['selector'])),
    'mmacs': dict(importance=dict(weights=_ACS, normalisation='rank'), selector=_balanced(_DRAWN)),
    'GraNd': dict(importance=dict(weights=dict(grand=1.0)), schedule=dict(rounds=1)),
    # errors order images of equal counts
    'forgetting': dict(importance=dict(weights=dict(forgetting=1.0, evs=0.1)), schedule=dict(interval=1)),
    'margin': dict(importance=dict(weights=dict(margin=1.0))),
    'entropy': dict(importance=dict(weights=dict(entropy=1.0))),
    # nearest to the median importance; the paper's distances are those to the class centre in feature space
    'moderate': dict(importance=dict(weights=_ACS), selector=_balanced(dict(type='mmacs.Moderate'))),
}
DETECTION: Dict[str, Dict[str, Any]] = {
    'reducible': dict(importance=dict(weights=_REDUCIBLE)),  # the default
    'mmacs': dict(importance=dict(weights=_REDUCIBLE), selector=_DRAWN),
    'gap': dict(importance=dict(weights=dict(metric_gap=1.0))),
    'GraNd': dict(importance=dict(weights=dict(grad=1.0)), schedule=dict(rounds=1)),
    'AFSS': dict(
        importance=dict(weights=dict(sufficiency=1.0), normalisation='none'),
        selector=dict(type='mmacs.Tiers'),
        constraints=dict(max_gap=2),
        schedule=dict(interval=5),
    ),
}
# What rows take from the config's own CoresetHook, and the interval. All else is a row's: the highest scores where it
# names no selector, of classifiers those of each class.
SHARED = ('type', 'scorer', 'cache_dir', 'scoring')
DEFAULT = ('full', 'static', 'RS2', 'EVS', 'DS', 'ACS', 'reducible', 'gap', 'mmacs')

Cell = Tuple[str, float, int]  # method, fraction, seed
Results = Dict[Tuple[str, float], Dict[int, Dict[str, Any]]]  # [method, fraction][seed]


def methods_for(cfg: Any) -> Dict[str, Dict[str, Any]]:
    """Names of the rows that a config can have, with their changes.

    Raises:
        MmacsError: If the config has no CoresetHook to change, that has wrong settings, or counts iterations.
    """
    from mmacs.registry import HOOKS
    from mmacs.utils.errors import MmacsError

    if 'coreset' not in cfg.default_hooks or not cfg.train_cfg.get('by_epoch', True):
        raise MmacsError('compare_coresets.py changes the CoresetHook of an epoch-based config: name a *_acs.py')
    HOOKS.build(cfg.default_hooks.coreset)  # names its mistakes; a row's own settings take the place of most
    classifier = cfg.default_hooks.coreset.scorer.type.endswith('ClassificationScorer')
    return {**BASELINES, **SELECTIONS, **(CLASSIFICATION if classifier else DETECTION)}


def cell_config(cfg: Any, method: str, fraction: float, seed: int, folder: Path) -> Any:
    """The config of one cell: a method at a fraction with a seed."""
    from mmacs.cli import comparison

    cell = comparison.cell_config(cfg, folder.name, folder)
    cell.experiment_name = folder.name
    cell.randomness = dict(cell.get('randomness', {}), seed=seed)
    epochs = cell.train_cfg.max_epochs
    cell.train_cfg.val_begin = epochs + 1  # metrics are taken once, at the end
    cell.train_dataloader.sampler.fraction = fraction
    changes = methods_for(cfg)[method]
    if method in BASELINES:
        cell.train_dataloader.sampler.update(changes)
        del cell.default_hooks['coreset']
        return cell
    hook = cell.default_hooks.coreset
    balanced = hook.scorer.type.endswith('ClassificationScorer')
    interval = {name: value for name, value in hook.get('schedule', {}).items() if name == 'interval'}
    for name in set(hook) - set(SHARED):
        del hook[name]
    hook.selector = dict(type='mmacs.ClassBalanced' if balanced else 'mmacs.TopK')
    if balanced:
        changes = dict(changes, importance=dict(dict(normalisation='none'), **changes['importance']))
    hook.update(changes)
    hook.schedule = {**interval, **_whole_epochs(changes.get('schedule', {}), epochs)}
    hook.cost = {**changes.get('cost', {}), 'force': True}  # what a method costs is what the table shows
    return cell


def _whole_epochs(schedule: Dict[str, Any], epochs: int) -> Dict[str, Any]:
    """A row's schedule, in which shares of the run have become epochs."""
    shares = ('warmup', 'full_data_last')
    return {n: max(1, round(value * epochs)) if n in shares else value for n, value in schedule.items()}


def run(cfg: Any) -> Dict[str, Any]:
    """Train one cell: the metrics of its last epoch, the seconds that it took, and what it chose."""
    from mmacs.cli.comparison import TrainingTime, train

    clock = TrainingTime()
    metrics = train(cfg, clock)
    seconds = {'training_seconds': clock.seconds, 'selection_seconds': 0.0}
    digests = []
    if 'coreset' in cfg.default_hooks:
        folder = Path(cfg.work_dir) / 'coreset'
        summary = json.loads((folder / 'summary.json').read_text())  # it knows what of an epoch is selection
        seconds = {name: summary[name] for name in seconds}
        for file in sorted(folder.glob('round_*.npz')):
            with np.load(file) as record:
                digests.append(str(record['digest']))
    return {'metrics': metrics, **seconds, 'seed': cfg.randomness.seed, 'digests': digests}


def order_of(methods: List[str], fractions: List[float], seeds: List[int], by: str) -> List[Cell]:
    """All cells: seed by seed (``'seed'``), or all seeds of a row before the next row (``'method'``)."""
    rows = [(m, f) for f in fractions for m in methods if m != 'full']
    rows = [('full', 1.0)] * ('full' in methods) + rows
    if by == 'seed':
        return [(*row, seed) for seed in seeds for row in rows]
    return [(*row, seed) for row in rows for seed in seeds]


def summarise(results: Results) -> List[Dict[str, Any]]:
    """One record per row of the table.

    Returns:
        List[dict]: ``method``, ``fraction``, ``seeds``, ``metrics`` (per name ``mean`` and ``std``, the latter None for
        one seed), mean ``training_seconds``, ``selection_seconds`` and ``seconds`` (their sum), and, where there are
        seeds in common, ``of_full``: mean first metric (None where that of full data is 0) and mean seconds over those
        of full data, same seeds.
    """
    missing = _missing_values(results)
    records = []
    for (method, fraction), runs in results.items():
        record = {
            'method': method,
            'fraction': fraction,
            'seeds': list(runs),
            'metrics': {
                name: _spread([run['metrics'].get(name, value) for run in runs.values()])
                for name, value in missing.items()
            },
        }
        for name in ('training_seconds', 'selection_seconds'):
            record[name] = float(np.mean([run[name] for run in runs.values()]))
        record['seconds'] = record['training_seconds'] + record['selection_seconds']
        record['of_full'] = _relative(runs, results.get(('full', 1.0), {}))
        records.append(record)
    return records


def _missing_values(results: Results) -> Dict[str, float]:
    """All metrics, with what stands for each where nothing at all is detected, of which MMDetection gives none.

    It is 0, or COCO's -1 where there is nothing to detect, such as no objects of a size.
    """
    cells = [run['metrics'] for runs in results.values() for run in runs.values()]
    names = dict.fromkeys(name for metrics in cells for name in metrics)
    return {name: -1.0 if any(metrics.get(name) == -1 for metrics in cells) else 0.0 for name in names}


def _spread(values: List[float]) -> Dict[str, Optional[float]]:
    return {'mean': float(np.mean(values)), 'std': float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _relative(runs: Dict[int, Dict[str, Any]], full: Dict[int, Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    from mmacs.cli.comparison import first_metric

    def mean(of: Dict[int, Dict[str, Any]]) -> List[float]:
        cells = [of[seed] for seed in common]
        pairs = [(first_metric(c['metrics']), c['training_seconds'] + c['selection_seconds']) for c in cells]
        return np.mean(pairs, axis=0).tolist()

    common = [seed for seed in runs if seed in full]
    if not common:
        return None
    (metric, seconds), (full_metric, full_seconds) = mean(runs), mean(full)
    return {'metric': metric / full_metric if full_metric else None, 'seconds': seconds / full_seconds}


def render(records: List[Dict[str, Any]]) -> str:
    """The table in Markdown: all metrics, the first with its standard deviation over seeds, and where the time went."""
    heads = [name.split('/')[-1].removeprefix('bbox_') for name in records[0]['metrics']]
    columns = ['method', 'images', *heads, 'n', 'training s', 'selection s', 'total s']
    columns += [f'{heads[0] if heads else "metric"} / full', 'total / full']
    lines = ['| ' + ' | '.join(columns) + ' |', '|---' * len(columns) + '|']
    for record in records:
        cells = [record['method'], f'{record["fraction"]:.0%}']
        cells += [_cell(spread, number == 0) for number, spread in enumerate(record['metrics'].values())]
        cells.append(str(len(record['seeds'])))
        cells += [f'{record[name]:.0f}' for name in ('training_seconds', 'selection_seconds', 'seconds')]
        relative = record['of_full']
        ratios = [relative['metric'], relative['seconds']] if relative else [None, None]
        cells += ['' if ratio is None else f'{ratio:.3f}' for ratio in ratios]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _cell(spread: Dict[str, Any], with_std: bool) -> str:
    """Shares with three decimals, percentages with two."""
    digits = 3 if abs(spread['mean']) <= 1 else 2
    text = f'{spread["mean"]:.{digits}f}'
    return f'{text} ± {spread["std"]:.{digits}f}' if with_std and spread['std'] is not None else text


def write(folder: Path, config: str, results: Results) -> None:
    """Write ``table.md``, ``table.json`` and ``comparison.png``, and print the table."""
    from mmacs.utils.files import write_whole
    from mmacs.visualization.comparison import draw_comparison

    records = summarise(results)
    table = render(records)
    for name, text in (('table.md', table), ('table.json', json.dumps({'config': config, 'rows': records}, indent=2))):
        write_whole(folder / name, (text + '\n').encode())
    draw_comparison(records, folder / 'comparison.png')
    print(f'\n{table}\n', flush=True)


def main() -> None:
    """Fill the table cell by cell, and write it after each."""
    from mmacs.cli.commands import common_parser
    from mmacs.cli.comparison import fill, prepare, read_data, require_known

    known = list(dict.fromkeys([*BASELINES, *SELECTIONS, *CLASSIFICATION, *DETECTION]))
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='+', metavar='METHOD', help=f'of {known}; default: {list(DEFAULT)}')
    parser.add_argument('--fractions', nargs='+', type=float, default=[0.1, 0.3, 0.5], help='share of images per epoch')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1], help='a training each')
    parser.add_argument('--order', choices=['seed', 'method'], default='seed', help='what is completed first')
    args = parser.parse_args()
    cfg, folder = prepare(args, 'coresets')
    available = methods_for(cfg)
    methods = args.methods or [method for method in DEFAULT if method in available]
    require_known(methods, available)
    data = read_data(cfg)
    results: Results = {}
    for method, fraction, seed in order_of(methods, args.fractions, args.seeds, args.order):
        cell = folder / f'{method}_{fraction:g}_seed{seed}'
        result = fill(cell_config(cfg, method, fraction, seed, cell), cell, {'run': run}, data)['run']
        results.setdefault((method, fraction), {})[seed] = result
        write(folder, args.config, results)


if __name__ == '__main__':
    cli.run(main)
