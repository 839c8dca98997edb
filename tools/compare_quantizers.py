"""Every quantizer from one full-precision checkpoint: calibration alone (PTQ) beside training (QAT), in a table.

``python tools/compare_quantizers.py configs/retinanet_r18_bccd_w4a4.py --bits 4 2``. Safe to run again: finished cells
are not repeated, a killed one goes on from its last epoch.
"""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, List

from mmacs import cli

_LSQ, _LSQ_MSE = dict(type='LSQ'), dict(type='LSQ', init='mse')
# Quantizers of weights and activations. PACT's paper takes DoReFa for weights, that of LSQ+ takes LSQ.
METHODS = {
    'LSQ': (_LSQ, _LSQ),
    'LSQ-MSE': (_LSQ_MSE, _LSQ_MSE),
    'LSQ+': (_LSQ, dict(type='LSQPlus')),
    'TQT': (dict(type='TQT'), dict(type='TQT')),
    'PACT': (dict(type='DoReFa'), dict(type='PACT')),
    'DoReFa': (dict(type='DoReFa'), dict(type='DoReFa')),
    'OCTAV': (dict(type='OCTAV'), dict(type='OCTAV')),
    'DQ': (dict(type='DQWeight'), dict(type='DQActivation')),
    'min-max': (dict(type='MinMax'), dict(type='MinMax')),
    'EMA': (dict(type='EMAMinMax'), dict(type='EMAMinMax')),
    'percentile': (dict(type='Percentile'), dict(type='Percentile')),
}


def cell_config(cfg: Any, method: str, bits: int, folder: Path) -> Any:
    """The config of one cell of the table: a method at a bit-width."""
    cell = copy.deepcopy(cfg)
    weight, activation = METHODS[method]
    cell.model.recipe = dict(preset='w4a4', weight=dict(weight, bits=bits), activation=dict(activation, bits=bits))
    cell.work_dir = str(folder)
    cell.default_hooks.checkpoint.max_keep_ckpts = 1
    cell.visualizer.name = f'{method} {bits}'  # visualizers live as long as the process
    return cell


def evaluate_calibrated(cfg: Any) -> float:
    """The metric of the full-precision checkpoint after calibration alone."""
    from mmacs.validation import calibrate_runner, load_quantized

    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    return first_metric(runner.val())


def evaluate_full_precision(cfg: Any) -> float:
    """The metric of the checkpoint as it is."""
    from mmacs.quantization import disabled
    from mmacs.validation import calibrate_runner, load_quantized

    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    with disabled(runner.model):
        return first_metric(runner.val())


def train(cfg: Any) -> float:
    """The metric of the last epoch of training."""
    from mmengine.runner import find_latest_checkpoint

    from mmacs.commands import build_runner

    latest = find_latest_checkpoint(cfg.work_dir)
    if latest is not None:
        cfg.resume, cfg.load_from = True, latest
    runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
    runner.train()
    return first_metric(runner.val())


def first_metric(metrics: Dict[str, float]) -> float:
    """The first of an evaluator's metrics, which is AP or top-1 accuracy; 0 where nothing at all is detected."""
    return float(next(iter(metrics.values()), 0.0))


def fill(cfg: Any, folder: Path, stages: Dict[str, Callable[[Any], float]]) -> Dict[str, Any]:
    """Compute what is missing of one cell and read the rest.

    Raises:
        MmacsError: If the folder holds results of other settings.
    """
    from mmacs.errors import MmacsError
    from mmacs.files import atomic_path

    file = folder / 'result.json'
    settings = {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}
    under = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    result = json.loads(file.read_text()) if file.exists() else {'settings': under}
    if result['settings'] != under:
        raise MmacsError(f'{file} was computed under other settings: choose another --work-dir, or delete {folder}')
    for stage, compute in stages.items():
        if stage not in result:
            result[stage] = compute(copy.deepcopy(cfg))
            with atomic_path(file) as path:
                path.write_text(json.dumps(result) + '\n')
    return result


def render(results: Dict[str, Dict[str, Dict[str, float]]], bits: List[int], full_precision: float) -> str:
    """The table in Markdown: a row per method, PTQ and QAT per bit-width.

    Args:
        results (dict): ``results[method][str(bits)]`` holds ``ptq`` and ``qat``.
        bits (List[int]): Bit-widths, in the order of columns.
        full_precision (float): The metric of the full-precision checkpoint.
    """
    columns = [f'W{b}A{b} {stage}' for b in bits for stage in ('PTQ', 'QAT')]
    lines = ['| method | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    lines.append(f'| full precision | {full_precision:.3f}' + ' |' * len(columns))
    for method, cells in results.items():
        values = [cells.get(str(b), {}).get(stage) for b in bits for stage in ('ptq', 'qat')]
        lines.append(f'| {method} | ' + ' | '.join('' if v is None else f'{v:.3f}' for v in values) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Fill the table cell by cell, and print it after each."""
    from mmacs import commands
    from mmacs.errors import MmacsError, unknown_name
    from mmacs.files import atomic_path

    parser = commands.common_parser(__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='+', default=list(METHODS), metavar='METHOD', help=f'of {list(METHODS)}')
    parser.add_argument('--bits', nargs='+', type=int, default=[4, 2], help='bit-widths of weights and activations')
    args = parser.parse_args()
    for method in args.methods:
        if method not in METHODS:
            raise unknown_name('method', method, METHODS)
    cfg = commands.load_config(args)
    if cfg.launcher != 'none':
        raise MmacsError('compare_quantizers.py trains one cell after the other in one process: leave --launcher out')
    folder = Path(cfg.work_dir) if args.work_dir else Path('work_dirs') / f'compare_{Path(args.config).stem}'
    baseline = folder / 'full_precision'
    full_precision = fill(cell_config(cfg, 'LSQ', 8, baseline), baseline, {'ap': evaluate_full_precision})['ap']
    results: Dict[str, Dict[str, Dict[str, float]]] = {}
    for bits in args.bits:
        for method in args.methods:
            cell = folder / (re.sub(r'\W+', '_', method.replace('+', '_plus')) + f'_w{bits}a{bits}')
            stages = {'ptq': evaluate_calibrated, 'qat': train}
            results.setdefault(method, {})[str(bits)] = fill(cell_config(cfg, method, bits, cell), cell, stages)
            table = render(results, args.bits, full_precision)
            with atomic_path(folder / 'table.md') as path:
                path.write_text(table + '\n')
            print(f'\n{table}\n', flush=True)


if __name__ == '__main__':
    cli.run(main)
