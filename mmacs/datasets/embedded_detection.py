"""The embedded detection set as an MMDetection data set."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmdet.datasets import CocoDataset

from mmacs.datasets.generated import generate_once, parse_spec
from mmacs.datasets.shape_scenes import CLASSES, VERSION, DetectionSpec, write_detection
from mmacs.registry import DATASETS


@DATASETS.register_module()
class EmbeddedDetection(CocoDataset):
    """Procedurally drawn scenes of five shapes in COCO format, written to ``data_root`` on first use.

    Args:
        *args: As in :class:`mmdet.datasets.CocoDataset`.
        data_root (str): The folder of the data set. Its layout is ``train/``, ``val/`` and
            ``annotations/instances_{train,val}.json``.
        spec (dict, optional): Fields of :class:`~mmacs.datasets.shape_scenes.DetectionSpec` that differ from their
            defaults. Every data set with the same ``data_root`` needs the same.
        **kwargs: As in :class:`mmdet.datasets.CocoDataset`.

    Raises:
        MmacsError: If ``spec`` is not understood, or ``data_root`` holds something else, or is damaged.
    """

    METAINFO = {
        'classes': CLASSES,
        'palette': [(220, 20, 60), (0, 120, 220), (250, 170, 30), (0, 170, 100), (160, 60, 210)],
    }

    def __init__(
        self,
        *args: Any,
        data_root: str = 'data/embedded_detection',
        spec: Optional[Dict[str, Any]] = None,
        **kwargs: Any,
    ) -> None:
        self.spec = parse_spec(DetectionSpec, spec)
        super().__init__(*args, data_root=data_root, **kwargs)

    def load_data_list(self) -> List[dict]:
        """Draw the data set unless it exists, then load the annotations.

        Returns:
            List[dict]: One record per image, as in :class:`mmdet.datasets.CocoDataset`.
        """
        recipe = {'generator': 'embedded_detection', 'version': VERSION, **asdict(self.spec)}
        generate_once(Path(self.data_root), recipe, lambda folder: write_detection(folder, self.spec))
        return super().load_data_list()
