"""A model's quantization report: one record per layer and totals, as plain values, and as tables for the terminal."""

from dataclasses import asdict
from typing import Any, Dict, List, Optional, Sequence

from rich.table import Table
from torch import nn

from mmacs.quantization.analysis.cost import bit_operations, model_bytes
from mmacs.quantization.analysis.sensitivity import quantizers_by_layer
from mmacs.quantization.analysis.statistics import QuantizerStatistics
from mmacs.quantization.quantizers import SharedQuantizer
from mmacs.quantization.recipe import FULL_PRECISION_BITS

FULL_PRECISION_BIT_OPERATIONS = FULL_PRECISION_BITS**2  # per multiply-accumulate


def make_report(
    model: nn.Module, statistics: Sequence[QuantizerStatistics], macs: Dict[str, int], drops: Dict[str, float]
) -> Dict[str, Any]:
    """Put together what was measured.

    Args:
        model (nn.Module): The converted model.
        statistics (Sequence[QuantizerStatistics]): See :func:`~.statistics.measure`.
        macs (Dict[str, int]): Multiply-accumulates for one image, see :func:`~.cost.count_macs`.
        drops (Dict[str, float]): Drop of the metric by layer, of those that were measured.

    Returns:
        dict: ``layers``, a list with ``name``, ``macs``, ``bit_operations``, ``weight``, ``inputs`` and ``outputs``
        (see :class:`~.statistics.QuantizerStatistics`), ``follows``, the names of quantizers of its inputs that other
        layers hold, and ``drop`` of each quantized layer; ``complaints``, sentences
        about quantizers through which nothing gets; ``totals``, with sizes in bytes.
    """
    operations = bit_operations(model, macs)
    by_name = {found.name: found for found in statistics}
    layers, complaints = [], []
    for layer, found in quantizers_by_layer(model).items():
        names = [name for name, child in model.get_submodule(layer).named_children() if child in set(found)]
        here = [by_name[f'{layer}.{name}'] for name in names]
        complaints += [f'{each.name}: {each.complaint}' for each in here if each.complaint]
        layers.append(
            {
                'name': layer,
                'macs': macs.get(layer, 0),
                'bit_operations': operations.get(layer, 0),
                'weight': next((asdict(each) for each in here if each.kind == 'weight'), None),
                'inputs': [asdict(each) for each in here if each.kind == 'activation' and not _is_output(each)],
                'outputs': [asdict(each) for each in here if _is_output(each)],
                'follows': _followed(model.get_submodule(layer)),
                'drop': drops.get(layer),
            }
        )
    quantized_bytes, full_bytes = model_bytes(model)
    totals = {
        'bytes': quantized_bytes,
        'bytes_full_precision': full_bytes,
        'macs': sum(macs.values()),
        'bit_operations': sum(operations.values()),
        'bit_operations_full_precision': sum(macs.values()) * FULL_PRECISION_BIT_OPERATIONS,
    }
    return {'layers': layers, 'complaints': complaints, 'totals': totals}


def _is_output(found: QuantizerStatistics) -> bool:
    return found.name.endswith('.output_quantizer')


def _followed(layer: nn.Module) -> List[str]:
    return [child.source.name for child in layer.children() if isinstance(child, SharedQuantizer)]


def report_table(report: Dict[str, Any]) -> Table:
    """Table of a report's layers; a layer with several inputs has a line for each of them."""
    with_drops = bool(report['sensitivity'])
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('layer', overflow='fold')
    for kind in ('weight', 'input'):
        table.add_column(f'{kind}\nbits, per')
        for heading in ('\nstep', '\nclipped', '\nlevels', '\nSQNR dB'):
            table.add_column(heading, justify='right', no_wrap=True)
    table.add_column('MACs\nmillions', justify='right')
    if with_drops:
        table.add_column('drop\nalone', justify='right')
    for layer in report['layers']:
        for number, found in enumerate([*(layer['inputs'] or [None]), *layer['outputs']]):
            first = number == 0
            name = layer['name'] if first else f'  {found["name"].rpartition(".")[2]}'
            cells = [name, *_cells(layer['weight'] if first else None), *_cells(found)]
            if found is None and layer['follows']:
                cells[-5] = 'as ' + layer['follows'][0]
            cells.append(f'{layer["macs"] / 1e6:.1f}' if first else '')
            if with_drops:
                cells.append(f'{layer["drop"]:.3f}' if first and layer['drop'] is not None else '')
            table.add_row(*cells)
    return table


def _cells(found: Optional[Dict[str, Any]]) -> List[str]:
    if found is None:  # in full precision
        return [''] * 5
    step = '' if found['step'] is None else ' to '.join(dict.fromkeys(f'{value:.2g}' for value in found['step']))
    ratio = '' if found['sqnr_db'] is None else f'{found["sqnr_db"]:.1f}'
    clipped = '' if found['clipped'] is None else f'{found["clipped"]:.1%}'
    levels = f'{found["levels"]:.{1 if found["num_ranges"] > 1 else 0}f}'
    return [f'{found["bits"]}, {found["granularity"]}', step, clipped, f'{levels}/{2 ** found["bits"]}', ratio]


def images_of(report: Dict[str, Any], part: str = '') -> str:
    """Returns on which images a report, or a part of it, was measured: ``'256 validation images'``."""
    count = report[part]['images'] if part else report['images']
    return f'{count} {_split_of(report)} images'


def _split_of(report: Dict[str, Any]) -> str:
    return report.get('split', 'validation')


def report_summary(report: Dict[str, Any]) -> List[str]:
    """Returns the lines on a report's totals and complaints."""
    totals = report['totals']
    shape = ' x '.join(map(str, report['input_shape']))
    size, full_size = totals['bytes'], totals['bytes_full_precision']
    operations, full_operations = totals['bit_operations'], totals['bit_operations_full_precision']
    lines = [
        f'model size: {size / 1e6:.2f} MB, {full_size / size:.1f} times smaller than {full_size / 1e6:.2f} MB in full '
        f'precision',
        f'bit operations for the first {_split_of(report)} image, an input of {shape}: {operations / 1e9:.2f} G, '
        f'{full_operations / operations:.1f} times fewer than {full_operations / 1e9:.2f} G in full precision '
        f'({totals["macs"] / 1e6:.0f} M multiply-accumulates)',
    ]
    if report['sensitivity']:
        found = report['sensitivity']
        lines.append(
            f'{found["metric"]} on {images_of(report, "sensitivity")}: {found["quantized"]:.3f} quantized, '
            f'{found["full_precision"]:.3f} in full precision'
        )
    return lines + [f'NOTHING GETS THROUGH {complaint}' for complaint in report['complaints']]
