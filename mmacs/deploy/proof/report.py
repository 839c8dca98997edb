"""The proof as a table for the terminal, a JSON file, and a page."""

import json
import os
import platform
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from jinja2 import Environment
from rich.table import Table
from rich.text import Text

from mmacs.deploy.proof.outputs import LOWEST
from mmacs.deploy.proof.weights import weights_of
from mmacs.deploy.runtimes import TITLES
from mmacs.utils.files import write_whole
from mmacs.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

_COLOURS = {'yes': 'green', 'no': 'red'}


class Row(NamedTuple):
    """A line of the table: what was looked at, what was found, what is wanted, and whether that is so.

    None as ``passed``: there was nothing to compare.
    """

    what: str
    found: str
    wanted: str = ''
    passed: Optional[bool] = True

    @property
    def mark(self) -> str:
        """Returns whether it is as wanted, in words."""
        if self.passed is None:
            return 'nothing compared'
        return '' if not self.wanted else 'yes' if self.passed else 'no'


def machine() -> Dict[str, str]:
    """Returns date, version and machine, for a report."""
    return {
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'mmacs': __version__,
        'machine': _processor(),
        'cores': str(os.cpu_count()),
    }


def rows_of(report: Dict[str, Any]) -> List[Row]:
    """Returns the lines that sum up a report."""
    return [*_rows(report)]


def table_of(report: Dict[str, Any]) -> Table:
    """Returns the lines as a table for the terminal."""
    table = Table(title=f'{Path(report["file"]).name}: proof on {report["images"]} images', title_justify='left')
    for heading in ('compared', 'found', 'wanted', 'reached'):
        table.add_column(heading, overflow='fold')
    for row in rows_of(report):
        table.add_row(row.what, row.found, row.wanted, Text(row.mark, _COLOURS.get(row.mark, 'yellow')))
    return table


def write_report(report: Dict[str, Any], file: Path) -> None:
    """Write ``model.report.json`` and ``model.report.html`` beside ``model.onnx``.

    Args:
        report (dict): Plain values.
        file (Path): The exported file.
    """
    data, page = report_files(file)
    write_whole(data, json.dumps(report, indent=1).encode())
    write_whole(page, page_of(report).encode())


def report_files(file: Path) -> Tuple[Path, Path]:
    """Returns the places of the report beside an exported file: that of its values, and that of its page."""
    data, page = (file.with_name(f'{file.stem}.report.{kind}') for kind in ('json', 'html'))
    return data, page


def page_of(report: Dict[str, Any]) -> str:
    """Returns the page, HTML that needs nothing else."""
    template = (files(__package__) / 'page.html.j2').read_text(encoding='utf-8')
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = {backend: f'{TITLES[backend]} {one["version"]}' for backend, one in report['runtimes'].items()}
    return environment.from_string(template).render(
        report=report, rows=rows_of(report), names=names, shown=_shown, name=Path(report['file']).name
    )


def float_size(model: 'ModelProto') -> int:
    """Returns the bytes of a file with its weights in float32, and all else as it is."""
    stored = weights_of(model)
    return model.ByteSize() + sum(4 * one.values - one.bytes for one in stored)


def megabytes(count: int) -> str:
    """Returns a number of bytes in words."""
    return f'{count / 1e6:.2f} MB'


def _rows(report: Dict[str, Any]) -> Iterator[Row]:
    bars = report['bars']
    kinds = ', '.join(f'{one["weights"]} {kind}' for kind, one in report['weights'].items())
    wrong = report['float_weights']
    if 'qonnx' in report['runtimes']:
        yield Row('weights', f'{kinds}, whose bits are in Quant nodes')
    else:
        yield Row('weights', kinds, 'integers where a quantizer is', not wrong)
    simulation = report['simulation']
    apart = f'at most {bars["levels_apart"]} level apart'
    yield Row(
        'reference against the simulation, each layer on its own',
        _integers(simulation['integers']),
        apart,
        simulation['integers']['apart'] <= bars['levels_apart'],
    )
    yield _whole('reference against the simulation, as a whole', simulation['outputs'])
    rounding = report['rounding']
    yield Row('what rounding of biases changes, each layer on its own', _integers(rounding['integers']))
    yield _whole('what rounding of biases changes, as a whole', rounding['outputs'])
    for backend, one in report['runtimes'].items():
        name = TITLES[backend] if 'layers' in one else f'{TITLES[backend]}, on the first batch,'
        wanted = f'{100 * bars["all_integers"]:.2f} % of all, {100 * bars["each_layer"]:.1f} % of each layer, {apart}'
        passed = not any(failure.startswith(f'{backend}:') for failure in report['failures'])
        yield Row(f'{name} against the reference, each layer on its own', _integers(one['integers']), wanted, passed)
        yield _whole(f'{name} against the reference, as a whole', one['outputs'])
        if 'layers' in one:
            yield Row(f'{name}: layers in integers', '{integer} of {layers}'.format(**one['layers']))
    sizes = report['sizes']
    if sizes.get('float32'):
        smaller = f', {sizes["float32"] / sizes["file"]:.2f} times smaller than in float32'
        yield Row('size', megabytes(sizes['file']) + (smaller if sizes['float32'] > sizes['file'] else ''))
    for row in report.get('evaluation', {}).get('rows', ()):
        yield Row(
            f'{report["evaluation"]["metric"]} of {TITLES.get(row["of"], row["of"])}',
            f'{row["value"]:.4f} (simulation {report["evaluation"]["simulation"]:.4f})',
            f'within {report["evaluation"]["bar"]:.3g}',
            None if row['passed'] and says_nothing(report['evaluation']) else row['passed'],
        )


def says_nothing(evaluation: Dict[str, Any]) -> bool:
    """Returns whether a metric of zero was compared, which a file that finds nothing right has as well."""
    return evaluation['simulation'] <= 0


def _whole(what: str, outputs: Dict[str, Any]) -> Row:
    return Row(what, _outputs(outputs), passed=None if outputs.get('detections') == 0 else True)


def _integers(one: Dict[str, Any]) -> str:
    text = f'{_share(one["equal"])} of {one["integers"]:,} equal, {one["apart"]} apart at most'
    return text if one['equal'] == 1 else f'{text}; {_share(one["worst_equal"])} in {one["worst_layer"]}'


def _share(share: float) -> str:
    """A share in percent, with as many nines as it has."""
    return '100 %' if share == 1 else f'{min(share, 0.999999999) * 100:.5f} %'


def _outputs(one: Dict[str, Any]) -> str:
    """Outputs in words: detections, classes, or tensors."""
    if one.get('detections') == 0:
        return f'no detections with a score of {LOWEST} or more'
    if 'detections' in one:
        text = f'{one["matched"]} of {one["detections"]} detections found'
        if one['matched']:
            kinds = ('median', 'largest')
            boxes, scores = ([one[f'{part}_difference_{kind}'] for kind in kinds] for part in ('box', 'score'))
            text += f'; boxes differ by {boxes[0]:.2g} pixels in the median ({boxes[1]:.2g} at most), '
            text += f'scores by {scores[0]:.2g} ({scores[1]:.2g} at most)'
        return text
    if 'same_class' in one:
        largest = one['score_difference_largest']
        return (
            f'{one["same_class"]} of {one["images"]} images of the same class; scores differ by {largest:.2g} at most'
        )
    largest = max((value for name, value in one.items() if name.endswith('_largest')), default=0.0)
    return f'outputs differ by {largest:.2g} at most'


def _shown(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
