"""A classifier of two convolutions on random images, and runs of it that take a tenth of a second."""

from typing import Any, Dict, List, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmacs.quantization import calibrate, quantize_model


class Toy(BaseModel):
    """Images (N, 3, 8, 8) to logits (N, 4); weights and images are those of a seed."""

    def __init__(self, recipe=None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)
        self.third = nn.Conv2d(8, 16, 3)
        self.head = nn.Linear(16, 4)
        if recipe is not None:
            quantize_model(self, recipe)
            calibrate(self, [torch.stack([image['inputs'] for image in images()])])
            self.train()

    def forward(self, inputs: Tensor, labels: Tensor = None, mode: str = 'tensor') -> Any:
        """Losses, predictions or logits."""
        x = F.relu(self.norm(self.first(inputs)))
        x = F.relu(self.third(F.relu(self.second(x))))
        logits = self.head(x.flatten(2).mean(2))
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, labels))
        return logits if mode == 'tensor' else list(logits.argmax(1) == labels)


class Accuracy(BaseMetric):
    """Share of right predictions, or what the test says of each epoch."""

    def __init__(self, told: Sequence[float] = ()) -> None:
        super().__init__()
        self.told = list(told)

    def process(self, data_batch: Any, data_samples: Sequence[Tensor]) -> None:
        """Keep whether each is right."""
        self.results += [float(right) for right in data_samples]

    def compute_metrics(self, results: List[float]) -> Dict[str, float]:
        """The next of what is told, or the mean."""
        return dict(top1=self.told.pop(0) if self.told else sum(results) / len(results))


def images(count: int = 16) -> List[Dict[str, Tensor]]:
    """Random images with labels."""
    draw = torch.Generator().manual_seed(1)
    return [
        dict(inputs=torch.randn(3, 8, 8, generator=draw), labels=torch.randint(4, (), generator=draw))
        for _ in range(count)
    ]


class FromTheSeed(Hook):
    """Has each epoch start from a random state of its own, as `mmacs.QuantizationHook` does in whole runs."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed."""
        torch.manual_seed(runner.epoch)


def run(work_dir: Any, hooks: Sequence[Hook], recipe: Any = None, epochs: int = 1, **changes: Any) -> Runner:
    """A runner over four batches per epoch that has trained."""
    runner = build(work_dir, hooks, recipe, epochs, **changes)
    runner.train()
    return runner


def build(work_dir: Any, hooks: Sequence[Hook], recipe: Any = None, epochs: int = 1, **changes: Any) -> Runner:
    """A runner that is about to train; ``told`` are the accuracies that its validations give."""
    told = changes.pop('told', None)
    loader = dict(batch_size=4, num_workers=0, dataset=images(), collate_fn=dict(type='default_collate'))
    validated = dict(
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type=Accuracy, told=told or ()),
        val_cfg=dict(),
    )
    settings = dict(
        model=Toy(recipe),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        randomness=dict(seed=0),
        default_scope='mmengine',
        experiment_name=str(work_dir).replace('/', '_') + str(changes.get('resume')),
        **(validated if told is not None else {}),
    )
    return Runner(**{**settings, **changes}, custom_hooks=[FromTheSeed(), *hooks])


def assert_same_end(one: Runner, other: Runner) -> None:
    """Two runs end with the same weights, bit for bit."""
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
