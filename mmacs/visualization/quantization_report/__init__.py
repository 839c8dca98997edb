"""The report of a quantized model: its values as JSON, a picture of all layers, and a page to look into each."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from mmacs.quantization.analysis.report import images_of, report_summary
from mmacs.utils.files import write_whole
from mmacs.visualization.pages import render
from mmacs.visualization.quantization import draw_report

_HERE = Path(__file__).parent


def write_report(report: Dict[str, Any], folder: Path) -> Path:
    """Write ``report.json``, ``report.png`` and ``index.html``, a page that holds everything itself.

    Args:
        report (dict): From :func:`mmacs.evaluation.layers.measure_layers`.
        folder (Path): Where to write.

    Returns:
        Path: The page.

    Raises:
        MmacsError: If they can't be written.
    """
    write_whole(folder / 'report.json', json.dumps(report, indent=1).encode())
    draw_report(report, folder / 'report.png')
    write_whole(folder / 'index.html', page_of(report).encode())
    return folder / 'index.html'


def page_of(report: Dict[str, Any]) -> str:
    """Returns the page of a report."""
    measured = report['sensitivity']
    return render(
        _HERE / 'page.html.j2',
        [_HERE / 'layers.css', _HERE / 'layers.js'],
        {'layers': [{'name': layer['name'], 'quantizers': _quantizers(layer)} for layer in report['layers']]},
        report=report,
        drops_on=images_of(report, 'sensitivity') if measured else '',
        facts=_facts(report),
        summary=report_summary(report),
        heads=_heads(measured),
        rows=[_row(layer, bool(measured)) for layer in report['layers']],
    )


def _facts(report: Dict[str, Any]) -> List[Tuple[str, str]]:
    return [
        ('model', report['model']),
        ('config', report['config'] or '–'),
        ('checkpoint', report['checkpoint'] or 'the weights at the end of the run'),
        ('measured on', images_of(report)),
        ('input of the first', ' x '.join(map(str, report['input_shape']))),
    ]


def _heads(sensitivity: Dict[str, Any]) -> List[str]:
    per_kind = ('bits', 'step', 'clipped %', 'levels used %', 'SQNR dB')
    heads = [f'{kind} {part}' for kind in ('weight', 'input') for part in per_kind]
    return [*heads, 'MACs, millions', *([f'drop of {sensitivity["metric"]} alone'] if sensitivity else [])]


def _row(layer: Dict[str, Any], with_drop: bool) -> Dict[str, Any]:
    """Returns a line of the table: the layer's name, and cells of a text and the value to sort by."""
    cells = [*_cells(layer['weight']), *_cells((layer['inputs'] or layer['outputs'] or [None])[0])]
    cells.append((f'{layer["macs"] / 1e6:.1f}', layer['macs']))
    if with_drop:
        cells.append(('', '') if layer['drop'] is None else (f'{layer["drop"]:.3f}', layer['drop']))
    return {'name': layer['name'], 'cells': cells}


def _cells(found: Optional[Dict[str, Any]]) -> List[Tuple[str, Any]]:
    if found is None:
        return [('', '')] * 5
    low, high = found['step'] or (None, None)
    step = '' if low is None else ' to '.join(dict.fromkeys((f'{low:.2g}', f'{high:.2g}')))
    used = 100 * found['levels'] / 2 ** found['bits']
    clipped, ratio = found['clipped'], found['sqnr_db']
    return [
        (f'{found["bits"]}, {found["granularity"]}', found['bits']),
        (step, '' if low is None else low),
        ('', '') if clipped is None else (f'{100 * clipped:.2f}', clipped),
        (f'{used:.0f}', used),
        ('', '') if ratio is None else (f'{ratio:.1f}', ratio),
    ]


def _quantizers(layer: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Returns what is told of each quantizer of a layer when it is clicked."""
    kinds = [('weight', layer['weight']), *(('input', one) for one in layer['inputs'])]
    kinds += [('output', one) for one in layer['outputs']]
    return [
        {
            'kind': kind,
            'name': found['name'],
            'text': f'{found["type"]}, {found["bits"]} bits, a range per {found["granularity"]}',
            'histogram': found.get('histogram'),
        }
        for kind, found in kinds
        if found is not None
    ]
