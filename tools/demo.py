"""The main job on the embedded data set: full precision, W4A4 on an adaptive coreset, its file, then all side by side.

Safe to run again: finished stages are not repeated, a killed one goes on from its last epoch.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any, Dict, Optional

from mmacs.cli.screen import leave_out_chatter, short_screen

leave_out_chatter()  # before the libraries below are imported

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from mmacs import cli  # noqa: E402
from mmacs.cli.coreset_reports import both_models  # noqa: E402
from mmacs.cli.exporting import export_run, require_passed  # noqa: E402
from mmacs.cli.surroundings import surroundings  # noqa: E402
from mmacs.datasets.data_paths import move_data_root  # noqa: E402
from mmacs.datasets.distinct_images import DistinctImages  # noqa: E402
from mmacs.utils.checkpoints import latest_checkpoint  # noqa: E402
from mmacs.utils.files import write_whole  # noqa: E402
from mmacs.visualization import draw_detections, draw_extremes  # noqa: E402

CONFIGS = Path(__file__).parents[1] / 'configs' / 'retinanet'
FULL_PRECISION = 'retinanet_r18_embedded.py'
QUANTIZED = 'retinanet_r18_embedded_w4a4_acs.py'


def load(config: str, work_dir: Path, data_root: Optional[str]) -> Config:
    """A config of the demo with its folders."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.visualizer.name = work_dir.name  # visualizers live as long as the process: each stage has its own
    if data_root is not None:
        move_data_root(cfg, data_root)
    return cfg


def train(cfg: Config, start_from: Optional[Path] = None) -> Dict[str, Any]:
    """Train and evaluate, or take up where an earlier run stopped; a finished stage is not repeated.

    Returns:
        dict: ``checkpoint``, ``ap`` (COCO AP on the validation split, last epoch) and ``seconds`` (of this call).
    """
    result_file = Path(cfg.work_dir) / 'result.json'  # written when the stage is complete
    if not result_file.exists():
        start = time.perf_counter()
        latest = latest_checkpoint(cfg.work_dir)
        cfg.resume = latest is not None
        cfg.load_from = latest or (str(start_from) if start_from else None)
        with surroundings(cfg.work_dir):
            with short_screen():
                runner = Runner.from_cfg(cfg)
            runner.train()
        if 'val/coco/bbox_mAP' not in runner.message_hub.log_scalars:  # it was killed after its last epoch
            runner.val()
        result = {
            'checkpoint': latest_checkpoint(cfg.work_dir),
            'ap': runner.message_hub.get_scalar('val/coco/bbox_mAP').current(),
            'seconds': time.perf_counter() - start,
        }
        write_whole(result_file, (json.dumps(result, indent=2) + '\n').encode())
    return json.loads(result_file.read_text())


def draw(cfg: Config, checkpoint: str, folder: Path) -> None:
    """Draw some detections of both models on the validation split, and images that the last round took or left out."""
    cfg.load_from, cfg.resume = checkpoint, False
    with short_screen():
        runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    val_set = runner.build_dataloader(cfg.val_dataloader).dataset
    draw_detections(both_models(runner.model, folder), val_set, folder / 'detections.png')
    train_set = runner.build_dataloader(cfg.train_dataloader).dataset
    last_round = max((folder / 'coreset').glob('round_*.npz'))
    draw_extremes(last_round, DistinctImages(train_set, []), folder / 'importance.png')


def export(cfg: Config, checkpoint: str, out: Path) -> Dict[str, Any]:
    """Export the quantized model, unless that is done, and return the report of the proof."""
    report_file = out.with_suffix('.report.json')
    if not (out.exists() and report_file.exists()):
        require_passed(export_run(cfg, checkpoint, out, evaluate=True, measure_speed=True, force=True))
    return json.loads(report_file.read_text())


def on_one_thread(report: Dict[str, Any], what: str) -> float:
    """Milliseconds of one forward on one thread, of what the report measured."""
    return next(row['milliseconds'] for row in report['benchmark']['rows'] if row['what'] == what)


def summarise(folder: Path, full_precision: Dict[str, Any], quantized: Dict[str, Any], report: Dict[str, Any]) -> None:
    """Print AP, where the time went and where things are; write the same to ``summary.json``."""
    coreset = json.loads((folder / 'w4a4_acs' / 'coreset' / 'summary.json').read_text())
    places = {
        'checkpoint': quantized['checkpoint'],
        'full-precision checkpoint': full_precision['checkpoint'],
        'logs': str(folder / 'w4a4_acs' / '<time>' / '<time>.log'),
        'detections': str(folder / 'w4a4_acs' / 'detections.png'),
        'most and least important images': str(folder / 'w4a4_acs' / 'importance.png'),
        'scores and coreset of each round': str(folder / 'w4a4_acs' / 'coreset'),
        'exported file': report['file'],
        'what is proven of it': str(Path(report['file']).with_suffix('.report.html')),
    }
    sizes = {name: f'{size / 1e6:.2f} MB' for name, size in report['sizes'].items()}
    aps = {row['of']: f'{row["value"]:.3f}' for row in report['evaluation']['rows']}
    table = Table('', 'full precision', 'W4A4 on a coreset', 'its file', title='RetinaNet-R18 on the embedded data set')
    table.add_row('COCO AP', f'{full_precision["ap"]:.3f}', f'{quantized["ap"]:.3f}', aps['onnxruntime'])
    table.add_row('images per epoch', 'all', f'{coreset["images"]} ({coreset["fraction"]:.0%})', '')
    table.add_row('seconds in all', f'{full_precision["seconds"]:.0f}', f'{quantized["seconds"]:.0f}', '')
    table.add_row('  training', '', f'{coreset["training_seconds"]:.0f}', '')
    table.add_row('  selection', '', f'{coreset["selection_seconds"]:.0f}', '')
    table.add_row('size', sizes['float32'], '', sizes['file'])
    for runtime in ('ONNX Runtime', 'OpenVINO'):
        speeds = [f'{on_one_thread(report, f"{what} in {runtime}"):.1f}' for what in ('float32', 'exported')]
        table.add_row(f'ms an image, {runtime}, one thread', speeds[0], '', speeds[1])
    console = Console(width=120)
    console.print()
    console.print(table)
    for name, place in places.items():
        console.print(f'{name}: {place}', highlight=False)
    exported = {'ap': report['evaluation']['rows'], 'sizes': report['sizes'], 'speeds': report['benchmark']['rows']}
    summary = {'full_precision': full_precision, 'w4a4_acs': {**quantized, **coreset}, 'exported': exported}
    summary['files'] = places
    write_whole(folder / 'summary.json', (json.dumps(summary, indent=2) + '\n').encode())


def main() -> None:
    """Run the stages one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder for everything that is made')
    parser.add_argument('--data-root', help='folder for the data set that is drawn')
    args = parser.parse_args()
    folder = Path(args.work_dir)
    logging.getLogger('matplotlib').setLevel(logging.WARNING)
    full_precision = train(load(FULL_PRECISION, folder / 'full_precision', args.data_root))
    quantized_config = load(QUANTIZED, folder / 'w4a4_acs', args.data_root)
    quantized = train(quantized_config, Path(full_precision['checkpoint']))
    if not (folder / 'w4a4_acs' / 'importance.png').exists():
        draw(load(QUANTIZED, folder / 'w4a4_acs', args.data_root), quantized['checkpoint'], folder / 'w4a4_acs')
    export_config = load(QUANTIZED, folder / 'w4a4_acs', args.data_root)
    report = export(export_config, quantized['checkpoint'], folder / 'w4a4_acs' / 'model.onnx')
    summarise(folder, full_precision, quantized, report)


if __name__ == '__main__':
    cli.run(main)
