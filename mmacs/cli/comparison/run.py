"""Fills a comparison: what is done is skipped, the rest runs side by side, and the table is written after each run."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import torch
from mmengine.device import get_device

import mmacs
from mmacs.cli.comparison.cells import Cell, base_config, cell_config, cells_of
from mmacs.cli.comparison.data import read_data
from mmacs.cli.comparison.grid import Grid
from mmacs.cli.comparison.identity import settings_of
from mmacs.cli.comparison.measure import first_metric
from mmacs.cli.comparison.rows import add_row, read_rows
from mmacs.cli.comparison.side_by_side import Command, run_side_by_side
from mmacs.cli.comparison.table import render
from mmacs.cli.comparison.worker import read_result, write_task
from mmacs.evaluation.comparison import Row, summarise
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole
from mmacs.utils.lock import hold_work_dir
from mmacs.utils.timing import machine
from mmacs.visualization.comparison import draw_comparison


class Identity(NamedTuple):
    """The hash of all that a run depends on, and its epochs where they are not the config's."""

    settings: str
    epochs: Optional[int]


class Comparison:
    """A grid with what is done of it.

    Args:
        file (str): The grid's YAML file.
        grid (Grid): What it says.
        csv (Path): File of raw rows.
        folder (Path): Folder of runs, table and plots.

    Raises:
        MmacsError: If a file cannot be read, data or a checkpoint is missing, or a setting is wrong.
    """

    def __init__(self, file: str, grid: Grid, csv: Path, folder: Path) -> None:
        self.file, self.grid, self.csv, self.folder = file, grid, csv, folder
        self.cells = cells_of(grid)
        self._base = base_config(grid)
        self._all = read_rows(csv)
        self._data = read_data(self._base)
        self._known: Dict[Cell, Identity] = {}
        self._failed: Dict[Cell, str] = {}

    # ---------------------------------------------------------------- what is done
    @property
    def rows(self) -> Dict[Cell, Row]:
        """The row of each run that is done, in the order of the grid."""
        by_settings = {row.settings: row for row in self._all}
        found: Dict[Cell, Row] = {}
        for cell in self.cells:
            identity = self._identity(cell, found)
            if identity is not None and identity.settings in by_settings:
                row = by_settings[identity.settings]
                found[cell] = dataclasses.replace(row, tuned=row.tuned or self._is_tuned(cell))
        return found

    def _is_tuned(self, cell: Cell) -> bool:
        names = ('stage', 'recipe', 'method', 'fraction', 'seed')
        return self.grid.is_tuned(**{name: getattr(cell, name) for name in names})

    def _identity(self, cell: Cell, rows: Mapping[Cell, Row]) -> Optional[Identity]:
        """Returns None where the epochs of a run hang on others that are not done."""
        epochs = None
        if cell.as_long_as:
            epochs = self._epochs(cell, rows)
            if epochs is None:
                return None
        known = self._known.get(cell)
        if known is None or known.epochs != epochs:
            cfg = cell_config(self.grid, self._base, cell, epochs)
            known = self._known[cell] = Identity(settings_of(cfg, cell, self._data), epochs)
        return known

    def _epochs(self, cell: Cell, rows: Mapping[Cell, Row]) -> Optional[int]:
        """Epochs that take a run as long as the other method took with the same seed.

        Where both train alike, the seconds of each say for how many images of training selection stands, whatever else
        the machine did meanwhile. Otherwise the seconds of both are compared, which must be of one machine.
        """
        ours = rows.get(dataclasses.replace(cell, as_long_as=''))
        theirs = rows.get(dataclasses.replace(cell, as_long_as='', method=cell.as_long_as))
        if ours is None or theirs is None:
            return None
        if not self._changes_training(cell.method) and not self._changes_training(cell.as_long_as):
            return max(1, round(ours.epochs * theirs.images_in_its_time / ours.images_in_its_time))
        if (ours.machine, ours.threads) != (theirs.machine, theirs.threads):
            return None
        return max(1, round(ours.epochs * theirs.seconds / ours.seconds))

    def _changes_training(self, method: str) -> bool:
        """Returns whether a method may have other steps than its grid, as with distillation."""
        return bool(self.grid.methods[method].get('cfg_options'))

    # ---------------------------------------------------------------- to fill the rest
    def fill(self, places: Sequence[Mapping[str, str]]) -> None:
        """Run what is missing.

        Args:
            places (Sequence[Mapping[str, str]]): Environment variables of each process at a time.

        Raises:
            MmacsError: If runs failed, in the end, or another command fills the same folder.
        """
        hold_work_dir(self.folder)
        for cell in self.cells:
            self._take(cell)
        done = self.rows
        self._say_what_is_done(done)
        self.write()
        waiting = run_side_by_side([cell for cell in self.cells if cell not in done], places, self._start, self._ended)
        for cell in waiting:
            self._failed[cell] = self._why_it_waits(cell)
        if self._failed:
            reasons = '; '.join(f'{cell.name}: {reason}' for cell, reason in self._failed.items())
            raise MmacsError(
                f'{len(self._failed)} of {len(self.cells)} runs are missing: {reasons}. The command makes them if it '
                f'is run again'
            )

    def _say_what_is_done(self, done: Mapping[Cell, Row]) -> None:
        text = f'{len(done)} of {len(self.cells)} runs are done'
        here = machine(torch.device(get_device()))
        elsewhere = sorted({row.machine for row in done.values()} - {here})
        if elsewhere:
            count = sum(row.machine != here for row in done.values())
            text += f', {count} of them on another machine ({", ".join(elsewhere)}): their seconds are of that one'
        others = len({row.settings for row in self._all} - {row.settings for row in done.values()})
        if others:
            text += (
                f'; {others} further rows of {self.csv} are of other settings, data or versions and stay as they are'
            )
        print(f'{text}.', flush=True)

    def _folder_of(self, cell: Cell, settings: str) -> Path:
        return self.folder / f'{cell.slug}_{settings[:8]}'

    def _start(self, cell: Cell) -> Optional[Command]:
        identity = self._identity(cell, self.rows if cell.as_long_as else {})
        if identity is None:
            return None
        folder = self._folder_of(cell, identity.settings)
        task: Dict[str, Any] = dict(grid=self.file, cell=cell, data=self._data, **identity._asdict())
        write_task(folder, task)
        return Command([sys.executable, '-m', 'mmacs.cli.comparison.worker', str(folder)], folder / 'output.log')

    def _ended(self, cell: Cell, status: int) -> None:
        row = self._take(cell) if status == 0 else None
        if row is None:
            folder = self._folder_of(cell, self._known[cell].settings)
            self._failed[cell] = _reason(folder / 'output.log', status)
            print(f'{cell.name}: failed, {self._failed[cell]}', flush=True)
            return
        left = len(self.cells) - len(self.rows)
        print(f'{cell.name}: {row.metric} {row.value:.4g}, {row.seconds:.0f} s, {left} to go', flush=True)
        self.write()

    def _take(self, cell: Cell) -> Optional[Row]:
        """Add the row of a run that has ended, also of one that an earlier command began; None if it has not."""
        identity = self._identity(cell, self.rows if cell.as_long_as else {})
        if identity is None or any(row.settings == identity.settings for row in self._all):
            return None
        result = read_result(self._folder_of(cell, identity.settings), identity.settings)
        if result is None:
            return None
        metric, value = first_metric(result['metrics'])
        row = Row(
            grid=self.grid.name,
            **dataclasses.asdict(cell),
            metric=metric,
            value=value,
            tuned=self._is_tuned(cell),
            **result,
        )
        self._all = add_row(self.csv, row)
        return row

    def _why_it_waits(self, cell: Cell) -> str:
        done = self.rows
        pair = [dataclasses.replace(cell, as_long_as='', method=name) for name in (cell.method, cell.as_long_as)]
        missing = [other.name for other in pair if other not in done]
        if missing:
            return f'waits for {" and ".join(missing)}'
        return f'the seconds of {pair[0].name} and {pair[1].name} are of different machines'

    # ---------------------------------------------------------------- what it says
    def write(self) -> str:
        """Write ``table.md`` and ``comparison.png``; returns the table."""
        return write_report(list(self.rows.values()), self.folder)


def write_report(rows: List[Row], folder: Path) -> str:
    """Write ``table.md``, and ``comparison.png`` if anything was trained, into a folder; returns the table."""
    records = summarise(rows)
    table = render(records, rows)
    write_whole(folder / 'table.md', table.encode())
    if any(row.stage == 'qat' for row in rows):
        draw_comparison(records, folder / 'comparison.png')
    return table


def latest_rows(csv: Path, grid: Grid) -> List[Row]:
    """Returns the rows of a grid's runs as the file has them, whatever their settings; of equal runs the last one.

    Raises:
        MmacsError: If the file holds none.
    """
    rows = {(row.key._replace(tuned=False), row.seed): row for row in read_rows(csv)}
    found = []
    for cell in cells_of(grid):
        for (key, seed), row in rows.items():
            if (*key[:5], seed) == (cell.stage, cell.recipe, cell.method, cell.fraction, cell.as_long_as, cell.seed):
                tuned = row.tuned or grid.is_tuned(
                    stage=cell.stage, recipe=cell.recipe, method=cell.method, fraction=cell.fraction, seed=seed
                )
                found.append(dataclasses.replace(row, tuned=tuned))
    if not found:
        raise MmacsError(f'{csv} has no rows of this grid: run the command without --report first')
    return found


def _reason(log: Path, status: int) -> str:
    """Why a process failed, in the words of its log."""
    try:
        lines = log.read_text(errors='replace').splitlines()
    except OSError:
        lines = []
    said = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    if said:
        return said[-1]
    ended = f'it was ended by signal {-status}' if status < 0 else f'its exit status is {status}'
    return f'{ended}, see {log}'


def require_gpus(gpus: Sequence[int]) -> None:
    """Require that GPUs are there; runs would go to the processor without a word.

    Raises:
        MmacsError: If one is not.
    """
    count = torch.cuda.device_count()
    for gpu in gpus:
        if not 0 <= gpu < count:
            raise MmacsError(f'--gpus {gpu}: this machine has {count} GPUs, which are counted from 0')


def places_of(jobs: Optional[int], threads: Optional[int], gpus: Sequence[int]) -> List[Dict[str, str]]:
    """Returns the environment variables of each process at a time.

    Args:
        jobs (int, optional): Processes at a time; None: one for each GPU that is named, at least one.
        threads (int, optional): Threads of each on the processor; None leaves that to the environment.
        gpus (Sequence[int]): GPUs to share out; none leaves that to the environment.
    """
    variables: Dict[str, str] = {}
    if threads is not None:
        variables = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), str(threads))
    package = str(Path(mmacs.__file__).parents[1])  # also where it is not installed
    variables['PYTHONPATH'] = os.pathsep.join(filter(None, [package, os.environ.get('PYTHONPATH')]))
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')  # torch counts from 0 among these
    names = [visible.split(',')[gpu] if visible else str(gpu) for gpu in gpus]
    count = jobs or max(1, len(gpus))
    return [
        {**variables, **({'CUDA_VISIBLE_DEVICES': names[place % len(names)]} if names else {})}
        for place in range(count)
    ]
