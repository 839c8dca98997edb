"""Every quantizer from one full-precision checkpoint: calibration alone (PTQ) beside training (QAT), in a table.

``python tools/compare_quantizers.py configs/retinanet/retinanet_r18_bccd_w4a4.py --bits 4 2``, or calibration alone of
another detector, ``... configs/yolox/yolox_nano_coco_mini_w8a8.py --bits w8a8 w4a8 --stages ptq``. Safe to run again:
finished cells are not repeated, a killed one goes on from its last epoch.
"""

import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple

from mmacs import cli
from mmacs.utils.errors import MmacsError

_LSQ, _PAPER = dict(type='LSQ'), dict(type='LSQ', init='mean')
# Quantizers of weights and activations. PACT's paper takes DoReFa for weights, that of LSQ+ takes LSQ.
METHODS = {
    'LSQ': (_LSQ, _LSQ),
    'LSQ-paper': (_PAPER, _PAPER),  # its start: at 8 bits far from the least error, and symmetric
    'LSQ-channels': (_LSQ, dict(type='LSQ', per_channel=True)),  # before depthwise convolutions
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


def bits_of(text: str) -> Tuple[int, int]:
    """Bits of weights and activations: both ``4``, or ``w4a8``.

    Raises:
        MmacsError: If it is neither.
    """
    match = re.fullmatch(r'(\d+)|w(\d+)a(\d+)', text)
    if match is None:
        raise MmacsError(f'--bits takes numbers such as 4, for weights and activations, or w4a8, got {text!r}')
    return (int(match[1]), int(match[1])) if match[1] else (int(match[2]), int(match[3]))


def cell_config(cfg: Any, method: str, bits: str, folder: Path) -> Any:
    """The config of one cell of the table: a method at a bit-width."""
    from mmacs.cli import comparison

    cell = comparison.cell_config(cfg, f'{method} {bits}', folder)
    changed = (dict(quantizer, bits=number) for quantizer, number in zip(METHODS[method], bits_of(bits)))
    cell.model.recipe = dict(preset='w4a4', **dict(zip(('weight', 'activation'), changed)))
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


STAGES = {'ptq': evaluate_calibrated, 'qat': evaluate_trained}


def render(
    results: Dict[str, Dict[str, Dict[str, float]]], bits: List[str], full_precision: float, stages: Iterable[str]
) -> str:
    """The table in Markdown: a row per method, PTQ and QAT per bit-width.

    Args:
        results (dict): ``results[method][bits]`` holds the metric by stage.
        bits (List[str]): Bit-widths, in the order of columns.
        full_precision (float): The metric of the full-precision checkpoint.
        stages (Iterable[str]): ``'ptq'``, ``'qat'`` or both.
    """
    columns = [f'W{bits_of(b)[0]}A{bits_of(b)[1]} {stage.upper()}' for b in bits for stage in stages]
    lines = ['| method | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    lines.append(f'| full precision | {full_precision:.3f}' + ' |' * len(columns))
    for method, cells in results.items():
        values = [cells.get(b, {}).get(stage) for b in bits for stage in stages]
        lines.append(f'| {method} | ' + ' | '.join('' if v is None else f'{v:.3f}' for v in values) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Fill the table cell by cell, and print it after each."""
    from mmacs.cli.commands import common_parser
    from mmacs.cli.comparison import fill, prepare, read_data, require_known
    from mmacs.utils.files import write_whole

    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument('--methods', nargs='+', default=list(METHODS), metavar='METHOD', help=f'of {list(METHODS)}')
    parser.add_argument('--bits', nargs='+', default=['4', '2'], help='of weights and activations: 4, or w4a8')
    parser.add_argument('--stages', nargs='+', choices=list(STAGES), default=list(STAGES), help='what to measure')
    args = parser.parse_args()
    require_known(args.methods, METHODS)
    for bits in args.bits:
        bits_of(bits)
    cfg, folder = prepare(args, 'compare')
    data, baseline = read_data(cfg), folder / 'full_precision'
    whole = {'ap': evaluate_full_precision}
    full_precision = fill(cell_config(cfg, 'LSQ', '8', baseline), baseline, whole, data)['ap']
    results: Dict[str, Dict[str, Dict[str, float]]] = {}
    for bits in args.bits:
        for method in args.methods:
            weight_bits, activation_bits = bits_of(bits)
            name = re.sub(r'\W+', '_', method.replace('+', '_plus'))
            cell = folder / f'{name}_w{weight_bits}a{activation_bits}'
            stages = {stage: STAGES[stage] for stage in args.stages}
            results.setdefault(method, {})[bits] = fill(cell_config(cfg, method, bits, cell), cell, stages, data)
            table = render(results, args.bits, full_precision, args.stages)
            write_whole(folder / 'table.md', (table + '\n').encode())
            print(f'\n{table}\n', flush=True)


if __name__ == '__main__':
    cli.run(main)
