"""Classes of heads, data sets and metrics, compared before a run starts."""

import json
from copy import deepcopy
from types import SimpleNamespace

import pytest
from mmdet.registry import DATASETS, METRICS
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.runner import BaseLoop
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from mmacs.adapters.heads import class_counts
from mmacs.cli.runs import check_loader
from mmacs.coreset.sampler import CoresetSampler
from mmacs.hooks.data_check import DataCheck, check_classes, check_run
from mmacs.hooks.run import require_coreset_sampler, require_whole_evaluation
from mmacs.utils.errors import MmacsError


def head(count, **more):
    module = nn.Identity()
    module.num_classes = count
    for name, value in more.items():
        setattr(module, name, value)
    return module


def two_stage(count):
    """The modules of a Cascade Mask R-CNN by name."""
    model = nn.Module()
    model.rpn_head, model.roi_head = head(1), nn.Module()
    model.roi_head.bbox_head = nn.ModuleList([head(count), head(count, loss_cls=head(1203))])
    model.roi_head.mask_head = head(count)
    model.roi_head.semantic_head = head(183)
    return model


class Listed(BaseDataset):
    """Labels of whole images."""

    def __init__(self, classes=None, labels=(0, 1)):
        self.labels = labels
        super().__init__(metainfo=None if classes is None else dict(classes=classes), serialize_data=False)

    def load_data_list(self):
        return [dict(gt_label=label) for label in self.labels]


def coco(folder, classes=('a', 'b', 'c')):
    return DATASETS.build(
        dict(
            type='CocoDataset', data_root=str(folder), ann_file='annotations.json', data_prefix=dict(img='images'),
            metainfo=dict(classes=classes), test_mode=True,
        )
    )  # fmt: skip


class Loop(BaseLoop):
    """What a check asks of a loop."""

    def __init__(self, dataset, *metrics):
        self.dataset, self.evaluator = dataset, SimpleNamespace(metrics=metrics)

    @property
    def dataloader(self):
        return SimpleNamespace(dataset=self.dataset)

    def run(self):
        pass


def run(model, train=None, val=None, **more):
    return SimpleNamespace(model=model, _train_loop=train, _val_loop=val, _test_loop=None, **more)


def test_all_heads_that_tell_classes_apart_are_found():
    assert class_counts(two_stage(5)) == {
        'roi_head.bbox_head.0': 5,
        'roi_head.bbox_head.1': 5,
        'roi_head.mask_head': 5,
    }
    model = nn.Module()
    model.backbone, model.head = head(1000), head(10)
    assert class_counts(model) == {'head': 10}
    model.mask_head = head(80, class_agnostic=True)
    model.teacher = nn.Module()
    model.teacher.bbox_head = head(3)
    assert class_counts(model) == {'head': 10, 'teacher.bbox_head': 3}


def test_a_head_of_another_number_of_classes():
    model = two_stage(2)
    check_classes(model, Listed(('a', 'b')), 'train_dataloader')
    model.roi_head.mask_head.num_classes = 3
    with pytest.raises(
        MmacsError, match='model.roi_head.mask_head has num_classes=3, and the data of val_dataloader has 2'
    ):
        check_classes(model, Listed(('a', 'b')), 'val_dataloader')


def test_heads_of_panoptic_models_count_things():
    dataset = Listed(('a', 'b', 'sky'))
    dataset._metainfo['thing_classes'] = ('a', 'b')
    check_classes(two_stage(2), dataset, 'train_dataloader')
    with pytest.raises(MmacsError, match=r'data of train_dataloader has 2 classes \(a, b\)'):
        check_classes(two_stage(3), dataset, 'train_dataloader')


def test_parts_of_a_concatenation_that_ignores_its_classes():
    parts = [Listed(('a', 'b')), Listed(('a', 'bee'))]
    with pytest.raises(MmacsError, match="part 1 of train_dataloader has the class 'b', and part 2 has 'bee'"):
        check_classes(two_stage(2), ConcatDataset(parts, ignore_keys='classes'), 'train_dataloader')


def test_other_splits():
    check_run(run(two_stage(2), Loop(Listed(('a', 'b'))), Loop(Listed(('a', 'b')))))
    with pytest.raises(
        MmacsError, match='train_dataloader and val_dataloader have the same classes in different orders'
    ):
        check_run(run(two_stage(2), Loop(Listed(('a', 'b'))), Loop(Listed(('b', 'a')))))


@pytest.mark.parametrize(
    ('edit', 'reason'),
    [
        (lambda data: data['categories'][1].update(name='bee'), "the class 'b' of val_dataloader is not among .*'bee'"),
        (lambda data: data['categories'].reverse(), 'in different orders'),
        (lambda data: data.pop('annotations'), 'the ann_file of val_evaluator has no "annotations"'),
        (
            lambda data: [one.update(id=f'x{one["id"]}') for one in data['images']] and data.update(annotations=[]),
            'list',
        ),
    ],
)
def test_a_metric_of_another_file(tiny_coco, tmp_path, edit, reason):
    other = tmp_path / 'other.json'

    def metric(content, **more):
        other.write_text(json.dumps(content))
        return METRICS.build(dict(type='CocoMetric', ann_file=str(other), **more))

    content = json.loads((tiny_coco / 'annotations.json').read_text())
    dataset = coco(tiny_coco)
    check_run(run(two_stage(3), val=Loop(dataset, metric(content))))
    changed = deepcopy(content)
    edit(changed)
    with pytest.raises(MmacsError, match=reason):
        check_run(run(two_stage(3), val=Loop(dataset, metric(changed))))


def test_a_metric_that_judges_by_other_objects_is_said(tiny_coco, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmacs.hooks.data_check.say', said.append)
    dataset, content = coco(tiny_coco), json.loads((tiny_coco / 'annotations.json').read_text())

    def check(file, **more):
        metric = METRICS.build(dict(type='CocoMetric', ann_file=str(file), **more))
        check_run(run(two_stage(3), val=Loop(dataset, metric)))

    check(tiny_coco / 'annotations.json')
    assert said == []
    (tmp_path / 'other.json').write_text(json.dumps(dict(content, annotations=[])))
    check(tmp_path / 'other.json')
    assert 'there is nothing to evaluate' in said[0] and 'other.json, and val_dataloader reads' in said[1]
    (tmp_path / 'copy.json').write_text(json.dumps(content))
    check(tmp_path / 'copy.json', backend_args=dict(backend='local'))  # as storages give it, under another name
    assert len(said) == 2


def test_images_of_other_sizes_are_counted_in_the_log(tiny_coco):
    content = json.loads((tiny_coco / 'annotations.json').read_text())
    for image in content['images'][:3]:
        image['width'] += 1
    (tiny_coco / 'annotations.json').write_text(json.dumps(content))
    dataset = coco(tiny_coco)
    dataset.pipeline.transforms = [lambda info: dict(ori_shape=(64, 96))]
    lines = []
    runner = run(two_stage(3), val=Loop(dataset), logger=SimpleNamespace(warning=lines.append))
    hook = DataCheck()
    for _ in range(2):
        for index in range(12):
            dataset[index]
        hook.after_val_epoch(runner)
    expected = sum((image['height'], image['width']) != (64, 96) for image in content['images'])
    assert lines == [f'{expected} of 12 images of val_dataloader had another size than their annotations say.']


def test_classes_that_a_checkpoint_was_trained_on():
    lines = []
    tested = run(two_stage(2), val=Loop(Listed(('a', 'b'))), logger=SimpleNamespace(warning=lines.append))
    trained = run(two_stage(2), train=Loop(Listed(('a', 'b'))), logger=tested.logger)
    for runner, classes in ((tested, ('a', 'b')), (trained, ('b', 'a')), (tested, ('a', 'bee'))):
        DataCheck().after_load_checkpoint(runner, dict(meta=dict(dataset_meta=dict(classes=classes))))
    DataCheck().after_load_checkpoint(tested, dict(meta=dict(dataset_meta=None)))
    assert lines == ['The checkpoint was trained on other classes (a, bee) than those of val_dataloader (a, b).']
    with pytest.raises(MmacsError, match='the checkpoint was trained on and val_dataloader have the same classes in'):
        DataCheck().after_load_checkpoint(tested, dict(meta=dict(dataset_meta=dict(classes=('b', 'a')))))


def test_folders_of_other_splits(tmp_path):
    for split, names in dict(train=('cat', 'dog'), val=('cat', 'emu')).items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / '1.png').touch()
    loops = [
        Loop(DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path / split), classes=['a', 'b'])))
        for split in ('train', 'val')
    ]
    check_run(run(two_stage(2), loops[0], loops[0]))
    with pytest.raises(MmacsError, match="the folders of train_dataloader has the class 'dog'"):
        check_run(run(two_stage(2), *loops))


def test_masks_that_the_metric_needs(tiny_coco):
    metric = METRICS.build(dict(type='CocoMetric', ann_file=str(tiny_coco / 'annotations.json'), metric='segm'))
    with pytest.raises(
        MmacsError, match='the ann_file of val_evaluator has no segmentation of annotation 1 of image 1'
    ):
        check_run(run(two_stage(3), val=Loop(coco(tiny_coco), metric)))


def test_labels_without_names(tmp_path):
    (tmp_path / 'list.txt').write_text('a.png 0\nb.png 4\n')
    dataset = DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), ann_file='list.txt'))
    model = nn.Module()
    model.head = head(5)
    check_classes(model, dataset, 'train_dataloader')
    model.data_preprocessor = nn.Module()
    model.data_preprocessor.num_classes, model.data_preprocessor.to_onehot = 9, False
    check_classes(model, dataset, 'train_dataloader')  # it is not used
    model.data_preprocessor.to_onehot = True
    with pytest.raises(
        MmacsError, match='encodes labels of num_classes=9, and model.head has num_classes=5: set data_p'
    ):
        check_classes(model, dataset, 'train_dataloader')
    del model.data_preprocessor
    model.head.num_classes = 4
    with pytest.raises(MmacsError, match='num_classes=4, and the data of train_dataloader the label 4'):
        check_classes(model, dataset, 'train_dataloader')


class Stream(BaseLoop):
    """A loop of a user's own over a data loader, or over several."""

    def __init__(self, **loaders):
        vars(self).update(_runner=None, **loaders)

    dataloader = None

    def run(self):
        pass


def test_no_coreset_stands_for_the_data_that_a_metric_is_of():
    images = list(range(8))
    loader = DataLoader(images, batch_sampler=BatchSampler(CoresetSampler(images, 0.5), 2, False))
    check_run(run(head(2), val=Stream(dataloader=DataLoader(images))))
    check_run(run(head(2), train=Stream(dataloader=loader), val=Stream(dataloaders=[loader])))
    with pytest.raises(MmacsError, match='val_dataloader.sampler is mmacs.CoresetSampler, which is for training'):
        require_whole_evaluation(run(None, val=Stream(dataloader=loader)))
    with pytest.raises(MmacsError, match='CoresetSampler.* and the config has SequentialSampler there'):
        require_coreset_sampler(SimpleNamespace(train_dataloader=DataLoader(images)))
    with pytest.raises(MmacsError, match="val_dataloader.sampler must be a dict with a type, .*, got 'Default'"):
        check_loader('val_dataloader', dict(dataset={}, sampler='Default'))
