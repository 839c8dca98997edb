"""What the heads of a model were built for, by the names that MMDetection and MMPreTrain give."""

from typing import Dict

from torch import nn

# They tell objects from background, count stuff too, or tell persons apart.
_OTHERS = ('rpn_head', 'semantic_head', 'panoptic', 'segm_head', 'reid')


def class_counts(model: nn.Module) -> Dict[str, int]:
    """Returns the number of classes of each head that tells classes of objects or images apart, by name.

    Heads of proposals, of semantic and panoptic segmentation, those that ignore classes, and losses are left out.

    Args:
        model (nn.Module): A detector or classifier, not wrapped for distributed training.
    """
    counts = {}
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        parts = name.split('.')
        if (
            type(count) is int
            and count > 0
            and any('head' in part for part in parts)
            and not any(part.startswith(_OTHERS) or 'loss' in part for part in parts)
            and not getattr(module, 'class_agnostic', False)
        ):
            counts[name] = count
    return counts
