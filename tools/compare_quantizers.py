"""Every quantizer from one full-precision checkpoint: calibration alone (PTQ) beside training (QAT), in a table.

``python tools/compare_quantizers.py configs/retinanet/retinanet_r18_bccd_w4a4.py --bits 4 2``. Safe to run again:
finished cells are not repeated, a killed one goes on from its last epoch.
"""

import re
from pathlib import Path
from typing import Any, Dict, List

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
    from mmacs.cli import comparison

    cell = comparison.cell_config(cfg, f'{method} {bits}', folder)
    weight, activation = METHODS[method]
    cell.model.recipe = dict(preset='w4a4', weight=dict(weight, bits=bits), activation=dict(activation, bits=bits))
    return cell


def evaluate_calibrated(cfg: Any) -> float:
    """The metric of the full-precision checkpoint after calibration alone."""
    from mmacs.cli.comparison import first_metric
    from mmacs.cli.quantized_run import calibrate_runner, load_quantized

    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    return first_metric(runner.val())


def evaluate_full_precision(cfg: Any) -> float:
    """The metric of the checkpoint as it is."""
    from mmacs.cli.comparison import first_metric
    from mmacs.cli.quantized_run import calibrate_runner, load_quantized
    from mmacs.quantization import disabled

    runner = load_quantized(cfg, None)
    calibrate_runner(runner)
    with disabled(runner.model):
        return first_metric(runner.val())


def evaluate_trained(cfg: Any) -> float:
    """The metric of the last epoch of training."""
    from mmacs.cli.comparison import first_metric, train

    return first_metric(train(cfg))


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
    from mmacs.cli.commands import common_parser
    from mmacs.cli.comparison import fill, prepare, read_data, require_known
    from mmacs.utils.files import write_whole

    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='+', default=list(METHODS), metavar='METHOD', help=f'of {list(METHODS)}')
    parser.add_argument('--bits', nargs='+', type=int, default=[4, 2], help='bit-widths of weights and activations')
    args = parser.parse_args()
    require_known(args.methods, METHODS)
    cfg, folder = prepare(args, 'compare')
    data, baseline = read_data(cfg), folder / 'full_precision'
    whole = {'ap': evaluate_full_precision}
    full_precision = fill(cell_config(cfg, 'LSQ', 8, baseline), baseline, whole, data)['ap']
    results: Dict[str, Dict[str, Dict[str, float]]] = {}
    for bits in args.bits:
        for method in args.methods:
            cell = folder / (re.sub(r'\W+', '_', method.replace('+', '_plus')) + f'_w{bits}a{bits}')
            stages = {'ptq': evaluate_calibrated, 'qat': evaluate_trained}
            found = fill(cell_config(cfg, method, bits, cell), cell, stages, data)
            results.setdefault(method, {})[str(bits)] = found
            table = render(results, args.bits, full_precision)
            write_whole(folder / 'table.md', (table + '\n').encode())
            print(f'\n{table}\n', flush=True)


if __name__ == '__main__':
    cli.run(main)
