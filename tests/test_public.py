"""What mmacs promises: its public names with their signatures. A change here belongs into the CHANGELOG."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mmacs
import mmacs.coreset

SIGNATURES = {
    'CoresetSampler': '(dataset, fraction=1.0, shuffle=True, redraw=True, seed=None)',
    'Importance': "(weights, beta='cosine', normalisation='rank')",
    'Scorer': '()',
    'Selection': '(indices, probabilities=None)',
    'Selector': '()',
    'beta': '(schedule, epoch, max_epochs)',
    'coreset_size': '(fraction, num_images)',
    'digest': '(indices)',
    'disagreement_score': '(probs, teacher_probs)',
    'error_vector_score': '(probs, labels)',
    'normalise': '(scores, how, groups=None)',
    'top_k': '(scores, size, rng=None)',
    'ActivationDensityHook': '(tolerance=0.01, min_bits=1, freeze_epoch=None)',
    'AdaptiveBitsHook': '(cost_weight=1.0, target=0.0, lr=0.2, interval=10, min_bits=2, max_bits=8, max_crossings=10, '
    'freeze_epoch=None)',
    'BatchNormReestimationHook': '(num_images=512)',
    'BitGradientHook': '(mean_bits=None, size_mb=None, candidates=(2, 3, 4, 8), interval=1, freeze_epoch=None)',
    'CoresetHook': '(scorer=None, importance=None, selector=None, constraints=None, schedule=None, cost=None, '
    "scoring=None, unbiased=None, cache_dir=None, preset='mmacs', report=False, **others)",
    'DistillationHook': "(weight=0.5, temperature=1.0, form='cross_entropy', box_weight=1.0, layers=None, "
    'layer_weight=1.0, teacher=None, from_cache=False)',
    'DynamicThresholdsHook': '()',
    'GradientL1Hook': '(weight=0.001, activation=0.001)',
    'ProgressiveBitsHook': '(epochs=None, first_bits=8, decorrelate=True)',
    'QuantizationHook': '(num_images=64, batch_size=8, check_interval=50, start_anew=None, report=False)',
    'SwitchableBitsHook': '(bits=None, weight=0.5, temperature=1.0)',
    'WeightUpdateSkippingHook': '(metric=None, tolerance=0.005, window=2)',
    'Quantizer': "(bits=4, signed=None, kind='activation', num_channels=1, num_levels=1, power_of_two=False)",
    'Recipe': "(recipe='w4a4')",
    'calibrate': '(model, batches, forward=None)',
    'disabled': '(model)',
    'fold_batch_norm': '(model)',
    'freeze': '(model)',
    'layer_table': '(model)',
    'load': '(file)',
    'quantize_model': "(model, recipe='w4a4')",
    'quantizers': '(model)',
    'reestimate_batch_norm': '(model, batches, forward=None)',
    'set_bits': '(model, bits)',
}


def plain(signature: inspect.Signature) -> str:
    """A signature without annotations."""
    parameters = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_public_names_and_their_signatures():
    found = {name: getattr(mmacs, name) for name in mmacs.__all__}
    others = {'__version__', 'MmacsError', 'QUANTIZERS', 'SCORERS', 'SELECTORS'}
    assert {name: plain(inspect.signature(value)) for name, value in found.items() if name not in others} == SIGNATURES
    assert issubclass(found['MmacsError'], ValueError)


def test_what_the_coreset_package_promised_is_there():
    promised = {'CoresetSampler', 'Importance', 'beta', 'coreset_size', 'digest', 'disagreement_score'}
    promised |= {'error_vector_score', 'normalise', 'top_k'}
    assert promised <= set(mmacs.coreset.__all__)
    assert all(getattr(mmacs.coreset, name) is getattr(mmacs, name) for name in promised)


@pytest.mark.parametrize('package', ['', 'coreset'])
def test_type_checkers_see_the_names_that_are_imported_late(package):
    tree = ast.parse((Path(mmacs.__file__).parent / package / '__init__.py').read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    module = mmacs.coreset if package else mmacs
    assert seen == set(module.__all__) - {'__version__'}


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'mmacs' has no attribute 'quantise_model'"):
        mmacs.quantise_model  # noqa: B018


def test_importing_mmacs_imports_no_framework():
    code = "import sys, mmacs; print([name for name in ('torch', 'mmengine', 'numpy') if name in sys.modules])"
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == '[]'
