"""What quantization does to each layer of a run's model, measured on validation or test images."""

from typing import Any, Dict

from mmengine.runner import Runner

from mmacs.evaluation.validation import Validation
from mmacs.hooks.run import unwrapped
from mmacs.quantization import disabled
from mmacs.quantization.analysis.cost import count_macs
from mmacs.quantization.analysis.report import make_report
from mmacs.quantization.analysis.sensitivity import only, quantizers_by_layer
from mmacs.quantization.analysis.statistics import measure
from mmacs.utils.progress import phase


def measure_layers(runner: Runner, num_images: int = 256, num_sensitivity: int = 0) -> Dict[str, Any]:
    """Returns a quantization report, as values that JSON can hold.

    Args:
        runner (Runner): The run, whose model is quantized, calibrated and loaded. It is left in eval mode.
        num_images (int): Validation images to measure on, test images where the config has no others. Defaults to 256.
        num_sensitivity (int): Validation images on which the metric is measured with each layer alone quantized; 0
            leaves that out.

    Returns:
        dict: What :func:`~mmacs.quantization.analysis.report.make_report` gives, and ``config``, ``checkpoint``
        (file), ``model`` (class), ``images``, ``split`` (``'validation'`` or ``'test'``), ``input_shape`` and
        ``sensitivity``: empty, or ``metric``, ``images``, ``full_precision`` and ``quantized``.

    Raises:
        MmacsError: If a number is out of range, or there is nothing to measure with.
    """
    model = unwrapped(runner)
    tests_alone = not runner.cfg.get('val_dataloader') and bool(runner.cfg.get('test_dataloader'))
    split = 'test' if tests_alone else 'val'
    validation = Validation(runner, num_images, split)
    macs = count_macs(model, validation.forward_one)
    with phase('statistics of all layers', len(validation.loader), 'batches') as under_way:
        statistics = measure(model, under_way.each(validation.loader), validation.forward)
    sensitivity, drops = {}, {}
    if num_sensitivity:
        part = Validation(runner, num_sensitivity, split)
        layers = quantizers_by_layer(model)
        with phase('sensitivity', 2 + len(layers), 'evaluations') as under_way:
            with disabled(model):
                full = part.score()
            under_way.advance()
            sensitivity = {'metric': part.metric, 'images': part.num_images, 'full_precision': full}
            sensitivity['quantized'] = part.score()
            under_way.advance()
            for layer in under_way.each(layers):
                with only(model, [layer]):
                    drops[layer] = full - part.score()
    return {
        'config': runner.cfg.filename or '',
        'checkpoint': runner.cfg.get('load_from') or '',
        'model': type(model).__name__,
        'images': validation.num_images,
        'split': 'test' if tests_alone else 'validation',
        'input_shape': validation.input_shape(),
        'sensitivity': sensitivity,
        **make_report(model, statistics, macs, drops),
    }
