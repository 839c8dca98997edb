"""The report of a coreset with what the models of its run find: model, weights and data of a config."""

from collections import Counter
from pathlib import Path
from typing import Dict, Optional

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmacs.datasets.data_paths import move_data_root
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run import deterministic_pipeline
from mmacs.hooks.run_record import coreset_hook_config
from mmacs.quantization import quantizers
from mmacs.quantization.recipe import FULL_PRECISION_BITS
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.page import write_predicted_report
from mmacs.visualization.coreset_report.predictions import read_teacher
from mmacs.visualization.coreset_report.rounds import round_files
from mmacs.visualization.pictures import draw_detections, draw_extremes


def predicted_report(
    work_dir: Path,
    checkpoint: str,
    data_root: Optional[str],
    config: Config,
    num_images: int,
    pictures: Optional[Path] = None,
) -> Path:
    """Write a report with what the models find.

    Args:
        work_dir (Path): Of the run.
        checkpoint (str): The run's weights; empty for the newest checkpoint in the work dir.
        data_root (str, optional): Folder of the data set; None is where the config says.
        config (Config): The run's config, which the user trusts; changed in place.
        num_images (int): How many images to show.
        pictures (Path, optional): Folder for ``detections.png``, what the models of a detector find in validation
            images, and ``importance.png``, images that the last round took or left out; None draws none.

    Returns:
        Path: The page.

    Raises:
        MmacsError: If there is no checkpoint, or it doesn't fit.
    """
    checkpoint = checkpoint or latest_checkpoint(work_dir) or ''
    if not checkpoint:
        raise MmacsError(f'{work_dir} holds no checkpoint: name one after --predict')
    if data_root is not None:
        move_data_root(config, data_root)
    init_default_scope(config.get('default_scope', 'mmengine'))
    settings = {'data_preprocessor': config.data_preprocessor} if config.get('data_preprocessor') else {}
    model = MODELS.build({**settings, **config.model})
    try:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise MmacsError(f'the checkpoint {checkpoint} does not fit the config: {error}') from error
    dataset = DATASETS.build(config.train_dataloader.dataset)
    scoring = coreset_hook_config(config).get('scoring') or {}
    images = DistinctImages(dataset, scoring.get('pipeline') or deterministic_pipeline(config))
    model = model.to(get_device())
    page = write_predicted_report(work_dir, model, images, config, num_images)
    if pictures is not None:
        draw_extremes(round_files(work_dir)[-1], images, pictures / 'importance.png')
        val_set = DATASETS.build(config.val_dataloader.dataset)
        draw_detections(both_models(model, work_dir), val_set, pictures / 'detections.png')
    return page


def both_models(model: nn.Module, work_dir: Path) -> Dict[str, nn.Module]:
    """Returns the model of a run and the teacher in its work dir, if there is one, by what pictures call them."""
    teacher = read_teacher(model, work_dir)
    if teacher is None:
        return {'model': model}
    bits = [_usual_bits(model, kind) for kind in ('weight', 'activation')]
    return {'full precision': teacher, 'quantized, W{}A{}'.format(*bits): model}


def _usual_bits(model: nn.Module, kind: str) -> int:
    """Returns the bit-width that most quantizers of a kind have, 32 if there are none."""
    counts = Counter(quantizer.bits for _, quantizer in quantizers(model) if quantizer.kind == kind)
    return counts.most_common(1)[0][0] if counts else FULL_PRECISION_BITS
