"""The table of what is quantized and how, printed at the start of a run."""

from collections import Counter
from io import StringIO

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mmacs.quantization.blocks import Addition, Concatenation
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer, SharedQuantizer
from mmacs.quantization.quantizers.base import ASYMMETRIC


def layer_table(model: nn.Module) -> str:
    """Returns the table of a quantized model: layer, type, and bits, granularity and steps of its weight and its input.

    Args:
        model (nn.Module): A converted model, calibrated or not.

    Returns:
        str: Plain text of several lines, with a line that sums up what stays in full precision.
    """
    table = Table('layer', 'type', 'weight', 'step', 'input', 'step', box=None, pad_edge=False)
    kept = Counter()
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            weight = ('frozen', '') if module.frozen else _cells(module.weight_quantizer)
            first, *others = (_cells(getattr(module, kind)) for kind in module.inputs)
            table.add_row(name, type(module).original_type().__name__, *weight, *first)
            for cells in others:
                table.add_row('', '', '', '', *cells)
            if 'output_quantizer' in module._modules:
                table.add_row(f'{name}.output_quantizer', 'output', '', '', *_cells(module.output_quantizer))
        elif isinstance(module, (Addition, Concatenation)):
            for index, quantizer in enumerate(module):
                table.add_row(f'{name}.{index}', type(module).__name__.lower(), '', '', *_cells(quantizer))
        elif next(module.parameters(recurse=False), None) is not None and not isinstance(module, Quantizer):
            kept[type(module).__name__] += 1
    text = StringIO()
    Console(file=text, width=160).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if kept:
        lines.append('in full precision: ' + ', '.join(f'{count} {kind}' for kind, count in kept.most_common()))
    return '\n'.join(lines)


def _cells(quantizer: nn.Module) -> tuple:
    """Two cells, such as ``('4 bit signed per channel', '0.012 to 0.2')``."""
    if isinstance(quantizer, SharedQuantizer):
        return f'as {quantizer.source.name.removesuffix(".input_quantizer")}', ''
    if not isinstance(quantizer, Quantizer):
        return 'full precision', ''
    kind = f'{type(quantizer).__name__} {quantizer.bits} bit'
    if not quantizer.is_initialized():
        return kind, 'not calibrated'
    unit = f' per {"channel" if quantizer.num_channels > 1 else "level"}' if quantizer.num_ranges > 1 else ''
    if not quantizer.uniform:
        return kind + unit, 'own levels'
    levels = [level for level in range(quantizer.num_levels) if quantizer.initialized[level]]
    grids = [quantizer.grid(level) for level in levels]
    if quantizer.bits == 1 and grids[0].offset is not None and quantizer.level_is_signed(levels[0]):
        kind += ' of both signs'
    elif grids[0].offset is not None or quantizer.zero(levels[0]) == ASYMMETRIC:
        kind += ' asymmetric'
    else:
        kind += ' signed' if quantizer.level_is_signed(levels[0]) else ' unsigned'
    steps = torch.cat([grid.step.detach() for grid in grids])
    low, high = f'{steps.min():.3g}', f'{steps.max():.3g}'
    return kind + unit, low if low == high else f'{low} to {high}'
