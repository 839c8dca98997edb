"""Measure what choosing a coreset costs: ``python tools/benchmark_selection.py [CONFIG]``.

A warm scoring round, the teacher's outputs already cached, against the same images going through the quantized model
in inference mode and nothing else; beside them the teacher's pass, what the published code of ACS does (two forward
passes over a deep copy of the data set), and a training step. From these, what whole runs take in relation to training
on all images. The clock is that of :mod:`mmacs.utils.timing`.
"""

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch

from mmacs import cli
from mmacs.utils.timing import Spread, environment, ratios, take_turns, verdict

CONFIG = 'configs/retinanet/retinanet_r18_embedded_w4a4_acs.py'
PLAIN, WARM, REFERENCE = 'forward alone', 'scoring round, warm', "teacher's outputs"
HALF, HALF_REFERENCE = f'{WARM}, half size', f'{REFERENCE}, half size'  # of the images' sides
PASSES = (WARM, REFERENCE), (HALF, HALF_REFERENCE)
RELEASED, STEP = 'two forwards and a copy', 'training'

# What we promise: a warm round in relation to the forward alone; whole runs in relation to training on all images at
# S = 0.1, R = 10; selection's share of the wall time at S = 0.3, R = 3 with `resolution=0.5, rescore=0.5`.
ROUND_BAR, TOTAL_BAR, SHARE_BAR = 1.15, 0.14, 0.15

Sides = Dict[str, Callable[[], Any]]


def build_run(args: argparse.Namespace, folder: Path) -> Any:
    """A runner of the config with a calibrated model, on part of the images and ready to train on all of them.

    Raises:
        MmacsError: If the training data are several data sets.
    """
    from mmacs.cli.quantized_run import calibrate_runner
    from mmacs.cli.runs import build_runner, load_config
    from mmacs.utils.errors import MmacsError

    args.work_dir = str(folder)
    cfg = load_config(args)
    cfg.load_from, cfg.log_level = args.checkpoint, 'WARNING'
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'datasets' in dataset:
        raise MmacsError(
            'benchmark_selection.py measures on a part of one data set: name a config without ConcatDataset'
        )
    dataset.indices = args.images
    cfg.train_dataloader.sampler.fraction = 1.0
    cfg.train_dataloader.update(num_workers=args.workers, persistent_workers=False)
    runner = build_runner(cfg, ['train_dataloader'])
    runner.load_or_resume()
    calibrate_runner(runner)
    runner.train_loop  # noqa: B018, builds it, and with it the data loader
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for group in runner.optim_wrapper.param_groups:
        group['lr'] = 0.0  # steps take as long as any and leave the weights alone
    return runner


def build_sides(runner: Any, folder: Path) -> Sides:
    """What takes turns, each going once over all images of the run.

    Raises:
        MmacsError: If the config has no CoresetHook, or its data set repeats images.
    """
    from mmacs.coreset.data import TrainingData
    from mmacs.coreset.scoring.proxy import Proxy
    from mmacs.coreset.scoring.scoring_pass import ScoringPass
    from mmacs.datasets.distinct_images import DistinctImages
    from mmacs.hooks import CoresetHook
    from mmacs.hooks.run import deterministic_pipeline, unwrapped
    from mmacs.teacher.model import make_teacher
    from mmacs.utils.errors import MmacsError

    hook = next((hook for hook in runner.hooks if isinstance(hook, CoresetHook)), None)
    if hook is None or hook.settings is None:
        raise MmacsError('benchmark_selection.py measures the CoresetHook of a config: name a *_acs.py')
    model, loader = unwrapped(runner), runner.train_dataloader
    teacher = make_teacher(model)
    settings = hook.settings.of(model)
    pipeline = settings.images.pipeline or deterministic_pipeline(runner.cfg)
    data = TrainingData.read(DistinctImages(loader.dataset, pipeline))
    if len(data) != len(loader.dataset):
        raise MmacsError('benchmark_selection.py needs images that training shows once: name a config without repeats')
    batch_size = settings.images.batch_size or loader.batch_size or loader.batch_sampler.batch_size
    sides: Sides = {
        PLAIN: lambda: forward([model], data, batch_size, loader.num_workers),
        RELEASED: lambda: forward([model, teacher], copy.deepcopy(data), batch_size, loader.num_workers),
        STEP: lambda: train(model, loader, runner.optim_wrapper),
    }
    for (warm, teacher_outputs), resolution in zip(PASSES, (1.0, 0.5)):
        scoring = ScoringPass(data, batch_size, loader.num_workers, Proxy(resolution))
        settings.scorer.check(model, settings.scored_columns)
        sides.update(scoring_sides(settings, scoring, model, teacher, folder / warm, warm, teacher_outputs))
    return sides


def scoring_sides(
    settings: Any, scoring: Any, model: Any, teacher: Any, folder: Path, warm: str, teacher_outputs: str
) -> Sides:
    """Warm rounds and, if a column needs the teacher, its outputs, written to a cache anew each time."""
    from mmacs.coreset.scoring.teacher_cache import CacheWriter

    scorer, columns, rows = settings.scorer, settings.scored_columns, None
    positions = scoring.data.by_shape
    sides: Sides = {}
    if settings.needs_teacher:

        def fill() -> Callable[..., Any]:
            with tempfile.TemporaryDirectory(dir=folder) as new, CacheWriter(new, 'key', len(scoring.data)) as writer:
                scoring.teacher_outputs(scorer, teacher, columns, positions, writer.write)
                return writer.finish().rows  # memory-mapped files stay readable without their names

        folder.mkdir()
        rows = fill()
        sides[teacher_outputs] = fill
    sides[warm] = lambda: scoring.scores(scorer, model, positions, columns, rows)
    return sides


@torch.inference_mode()
def forward(models: List[Any], data: Any, batch_size: int, num_workers: int) -> None:
    """Load and preprocess all images, as a scoring round orders them, and run models on them."""
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader

    for model in models:
        model.eval()
    sampler = data.by_shape.tolist()
    for batch in DataLoader(
        data.images, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=pseudo_collate
    ):
        prepared = models[0].data_preprocessor(batch, False)
        for model in models:
            model(prepared['inputs'], prepared['data_samples'], mode='tensor')


def train(model: Any, loader: Any, optim_wrapper: Any) -> None:
    """Train for an epoch, data loading included."""
    model.train()
    for batch in loader:
        model.train_step(batch, optim_wrapper)


def predicted(costs: Tuple[float, float, float], fraction: float, epochs: int, *plan: float) -> Any:
    """What a run takes; see :mod:`mmacs.coreset.budget.prediction`.

    Args:
        costs (Tuple[float, float, float]): Seconds of scoring some images, of the teacher's outputs and of training.
        fraction (float): Share of the images that an epoch trains on.
        epochs (int): Length of the run.
        *plan (float): Epochs between rounds, and the share of the images that a round after the first scores.
    """
    from mmacs.coreset.budget.prediction import Costs, Plan, Work, predict

    images = 10_000  # of any number, ratios are the same
    work = Work(images, round(fraction * images) * epochs, images * epochs, epochs)
    return predict(Costs(*costs), work, Plan(*plan))


def main() -> None:
    """Parse the options, measure, print."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', default=CONFIG, help='a config with a CoresetHook')
    parser.add_argument('--checkpoint', help='weights to measure with; default: those that the model starts with')
    parser.add_argument('--images', type=int, default=128, help='number of training images that each side goes over')
    parser.add_argument('--repeats', type=int, default=7, help='number of turns, after one to warm up')
    parser.add_argument('--epochs', type=int, default=120, help='of the runs whose total is predicted')
    parser.add_argument('--workers', type=int, default=0, help='of the data loaders')
    parser.add_argument('--data-root', help="folder of the data set, in place of the config's data_root")
    parser.add_argument('--cfg-options', nargs='+', action='extend', help='settings to change in the config')
    parser.set_defaults(launcher='none', local_rank=0, verbose=False)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        runner = build_run(args, Path(folder))
        images, device = len(runner.train_dataloader.dataset), next(runner.model.parameters()).device
        seconds = take_turns(build_sides(runner, Path(folder)), args.repeats, device)
    table = Table('what', 'ms per image', 'min to max', 'ratio', 'min to max', 'bar')
    for name, ratio in ratios(seconds, PLAIN).items():
        spread = Spread.of([1000 * value / images for value in seconds[name]])
        bar = verdict(ratio.median, ROUND_BAR) if name == WARM else ''
        range_of = [f'{low:.2f} to {high:.2f}' for _, low, high in (spread, ratio)]
        table.add_row(name, f'{spread.median:.2f}', range_of[0], f'{ratio.median:.2f}', range_of[1], bar)
    totals = Table('predicted run', 'total / full training', 'selection / total', 'bar')
    medians = {name: Spread.of(values).median for name, values in seconds.items()}
    exact, cheap = ((medians[warm], medians.get(teacher, 0.0), medians[STEP]) for warm, teacher in PASSES)
    for name, costs, fraction, plan in (
        ('S = 0.1, R = 10', exact, 0.1, (10,)),
        ('S = 0.3, R = 3', exact, 0.3, (3,)),
        ('S = 0.3, R = 3, resolution = rescore = 0.5', cheap, 0.3, (3, 0.5)),
    ):
        found = predicted(costs, fraction, args.epochs, *plan)
        ratio = found.total / found.full
        bar = f'total {verdict(ratio, TOTAL_BAR)}' if fraction == 0.1 else ''
        bar = f'selection {verdict(found.share, SHARE_BAR)}' if costs is cheap else bar
        totals.add_row(name, f'{ratio:.3f}', f'{found.share:.3f}', bar)
    console = Console(width=max(Console().width, 120))
    console.print(table, totals)
    console.print(f'{args.config}, {images} images, {args.workers} workers, {args.repeats} turns, {args.epochs} epochs')
    console.print(environment(device))


if __name__ == '__main__':
    cli.run(main)
