import json

import numpy as np
import pytest
from mmdet.registry import DATASETS

from mmacs.coreset.ground_truth import GroundTruth
from mmacs.coreset.round_record import remove_rounds
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.contents import Contents, class_shares, most_shifted, read_contents
from mmacs.visualization.coreset_report.rounds import (
    History,
    cut,
    read_image_ids,
    read_metric,
    read_round,
    read_seconds,
    round_files,
)


def write_round(work_dir, number, chosen, importance, ids, positions=None, **extra):
    """Write one round file and the images' ids as the hook does; returns the round's path."""
    path = work_dir / 'coreset' / f'round_{number:03d}.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    positions = np.arange(len(importance)) if positions is None else np.asarray(positions)
    arrays = dict(
        epoch=2 * number,
        iteration=20 * number,
        beta=1 / (1 + number),
        seconds=1.5 + number,
        indices=np.asarray(chosen, dtype=np.int64),
        positions=positions,
        importance=np.asarray(importance, dtype=np.float64),
        digest=f'digest{number}',
    )
    np.savez_compressed(path, **{**arrays, **extra})
    np.savez_compressed(path.with_name('images.npz'), image_ids=np.asarray(ids))
    return path


def write_rounds(work_dir, ids, count=3, share=0.5, columns=('evs', 'ds'), importance=None, **extra):
    """Write rounds that each choose the top share by importance, by default at random."""
    rng = np.random.default_rng(0)
    for number in range(count):
        scores = {f'score_{name}': rng.random(len(ids)).astype(np.float32) for name in columns}
        order = rng.random(len(ids)) if importance is None else importance
        chosen = np.sort(np.argsort(-order)[: round(share * len(ids))])
        write_round(work_dir, number, chosen, order, ids, **scores, **extra)


def contents(counts):
    counts = np.asarray(counts)
    image = np.repeat(np.arange(len(counts)), counts)
    return Contents(True, image, np.zeros_like(image), np.ones(len(image)), ['a'], counts)


def history(work_dir, num_images, chosen, **extra):
    for number, indices in enumerate(chosen):
        write_round(work_dir, number, indices, np.arange(num_images), range(num_images), **extra)
    records = [read_round(path, num_images, num_images) for path in round_files(work_dir)]
    return History.of(records, contents(range(num_images)))


def test_churn_overlap_and_ages_are_those_of_the_sets(tmp_path):
    noisy = np.array([True, False, False, True, False, False])
    found = history(tmp_path, 6, [[0, 1, 2], [1, 2, 3], [1, 2, 3]], noisy=noisy)
    first, second, third = found.rounds
    assert (first['new'], first['churn'], first['overlap']) == (None, None, None)
    assert (second['new'], second['churn'], second['overlap']) == (1, pytest.approx(0.5), pytest.approx(2 / 3))
    assert (third['new'], third['churn'], third['overlap']) == (0, 0, 1)
    assert [facts['at'] for facts in found.rounds] == [0, 2, 4]
    assert [facts['noisy'] for facts in found.rounds] == pytest.approx([1 / 3] * 3)
    assert found.times.tolist() == [1, 3, 3, 2, 0, 0]
    assert found.newest.tolist() == [0, 2, 2, 2, -1, -1]
    assert found.spearman['importance'] == pytest.approx([1.0] * 3)


def test_an_image_that_is_repeated_is_one_image(tmp_path):
    write_round(tmp_path, 0, [0, 3, 4], [0.3, 0.2, 0.1], 'abc', positions=[0, 1, 2, 0, 1, 2])
    record = read_round(round_files(tmp_path)[0], 6, 3)
    assert record['chosen'].tolist() == [True, True, False]
    assert cut(record) == 0.2


def test_a_score_without_spread_has_no_correlation(tmp_path):
    found = history(tmp_path, 4, [[0, 1]], score_evs=np.ones(4, dtype=np.float32))
    assert np.isnan(found.spearman['evs'][0])


def test_images_that_were_no_candidates_have_no_importance_and_others_must(tmp_path):
    importance, candidates = np.array([np.nan, 0.1, 0.3, 0.2]), np.array([False, True, True, True])
    write_round(tmp_path, 0, [2, 3], importance, range(4), candidates=candidates, score_evs=importance)
    record = read_round(round_files(tmp_path)[0], 4, 4)
    assert cut(record) == 0.2
    assert History.of([record], contents([9, 1, 3, 2])).spearman == {'evs': [1.0], 'importance': [1.0]}
    write_round(tmp_path, 0, [2, 3], importance, range(4), candidates=~candidates)
    with pytest.raises(MmacsError, match='it holds NaN or Inf'):
        read_round(round_files(tmp_path)[0], 4, 4)


def test_rounds_are_in_order_of_their_numbers(tmp_path):
    for number in (1000, 2, 999):
        write_round(tmp_path, number, [0], [1.0], ['x'])
    assert [path.stem for path in round_files(tmp_path)] == ['round_002', 'round_999', 'round_1000']


def test_shares_count_objects_of_chosen_images():
    found = Contents(True, np.array([0, 0, 0, 1]), np.array([0, 0, 2, 2]), np.ones(4), list('abc'), np.array([3, 1, 0]))
    everywhere, inside = class_shares(found, np.array([True, False, True]))
    assert everywhere.tolist() == [0.5, 0, 0.5]
    assert inside == pytest.approx([2 / 3, 0, 1 / 3])
    nothing = class_shares(found, np.array([False, False, True]))[1]
    assert nothing.tolist() == [0, 0, 0]


def test_classes_that_shifted_most_go_from_over_to_under():
    everywhere = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    inside = np.array([0.4, 0.1, 0.4, 0.1, 0.0])
    assert most_shifted(everywhere, inside, 2).tolist() == [2, 1]
    assert sorted(most_shifted(everywhere, inside, 9)) == [0, 1, 2, 3, 4]


def test_contents_leave_out_what_is_ignored(tiny_coco):
    annotations = json.loads((tiny_coco / 'annotations.json').read_text())
    annotations['annotations'][0]['iscrowd'] = 1
    (tiny_coco / 'annotations.json').write_text(json.dumps(annotations))
    config = dict(type='CocoDataset', data_root=str(tiny_coco), ann_file='annotations.json', pipeline=[])
    config.update(data_prefix=dict(img='images'), metainfo=dict(classes=('a', 'b', 'c')))
    found = read_contents(GroundTruth.of(DistinctImages(DATASETS.build(config), []), ('a', 'b')))
    assert found.detection and found.names == ['a', 'b', '2']
    assert found.counts.tolist() == [0, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3]
    assert found.area.tolist() == [one['area'] for one in annotations['annotations'][1:]]


def test_the_metric_is_that_of_validation_and_the_newest_of_each_epoch(tmp_path):
    lines = [
        dict(loss=1.0, data_time=0.1, step=1),
        {'coreset/beta': 0.5, 'step': 0},
        {'bbox_mAP': 0.1, 'bbox_mAP_50': 0.3, 'data_time': 0.1, 'time': 0.2, 'step': 2},
    ]
    for run, changes in (('1', {}), ('2', dict(bbox_mAP=0.2))):
        path = tmp_path / run / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(json.dumps({**line, **changes}) for line in lines))
    assert read_metric(tmp_path) == ('bbox_mAP', {2: 0.2})


def test_what_a_run_gave_after_a_later_one_started_is_forgotten(tmp_path):
    for run, steps in (('1', [2, 4, 6, 8]), ('2', [5, 7])):
        path = tmp_path / run / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        lines = ({'bbox_mAP': int(run) + step / 10, 'data_time': 0.1, 'time': 0.2, 'step': step} for step in steps)
        path.write_text('\n'.join(map(json.dumps, lines)))
    assert read_metric(tmp_path)[1] == {2: 1.2, 4: 1.4, 5: 2.5, 7: 2.7}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), 'is damaged'),
        (
            lambda path: np.savez(path, epoch=0, iteration=0, beta=0, seconds=0, digest='', indices=[0], positions=[0]),
            'no importance',
        ),
        (lambda path: None, '2 images (2 with repeats) when round_000.npz was written, 3 (3) now'),
    ],
)
def test_unfit_round_files_are_named(tmp_path, change, message):
    path = write_round(tmp_path, 0, [0], [1.0, 0.5], ['x', 'y'])
    change(path)
    with pytest.raises(MmacsError) as error:
        read_round(path, 3, 3)
    assert message in str(error.value)


def flip(path):
    content = bytearray(path.read_bytes())
    content[120] ^= 1
    path.write_bytes(content)


def in_the_way(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    'change',
    [
        flip,
        in_the_way,
        lambda path: path.write_bytes(b''),
        lambda path: path.write_text('text'),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        dict(importance=np.array([1.0, np.nan])),
        dict(score_evs=np.array([1, 'a'], dtype=object)),
        dict(importance=np.ones((2, 1))),
        dict(score_evs=np.ones(3)),
        dict(score_evs=np.array(['a', 'b'])),
        dict(noisy=np.ones(2)),
        dict(trimmed=np.ones(1, dtype=bool)),
        dict(indices=np.array([0.0])),
        dict(indices=np.array([-1])),
        dict(indices=np.array([2])),
        dict(indices=np.array([], dtype=np.int64)),
        dict(positions=np.array([0, 5])),
        dict(positions=np.array([[0, 1]])),
        dict(epoch=1.5),
        dict(iteration=[1, 2]),
        dict(beta=np.nan),
        dict(seconds='long'),
        dict(digest=5),
        {'score_a/../../b': np.ones(2)},
    ],
)
def test_damaged_round_files_are_named(tmp_path, change):
    path = write_round(tmp_path, 0, [0], [1.0, 0.5], ['x', 'y'])
    if isinstance(change, dict):
        write_round(tmp_path, 0, **{'chosen': [0], 'importance': [1.0, 0.5], 'ids': ['x', 'y'], **change})
    else:
        change(path)
    with pytest.raises(MmacsError, match=r'^\S+/round_000\.npz is damaged: .*; delete it to have the report without'):
        read_round(path, 2, 2)


def test_other_files_beside_the_rounds_are_none_of_them(tmp_path):
    path = write_round(tmp_path, 3, [0], [1.0, 0.5], ['x', 'y'])
    for name in ('round_abc.npz', 'round_003 (copy).npz', 'round_-1.npz', '.round_004.12.npz'):
        (path.parent / name).touch()
    assert round_files(tmp_path) == [path]
    remove_rounds(path.parent, after=3)
    assert path.exists() and (path.parent / 'round_abc.npz').exists()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"bbox_mAP": 0.1, "data_time": 0.1, "step": 2}\n{"bb', None),  # of a run that was killed
        (b'{"bb\n{"bbox_mAP": 0.1, "data_time": 0.1, "step": 2}\n', 'is damaged in line 1'),
        (b'{"bbox_mAP": 0.1, "data_time": 0.1, "step": 2}\n[1]\n', 'is damaged in line 2'),
        (b'{"bbox_mAP": "high", "data_time": 0.1, "step": 2}\n', "bbox_mAP is 'high' at step 2"),
        (b'{"bbox_mAP": 0.1, "data_time": 0.1}\n', 'bbox_mAP is 0.1 at step None'),
        (b'\xff\xfe', 'cannot be read'),
        (b'[' * 100_000 + b'\n', 'is damaged in line 1'),
    ],
)
def test_damaged_scalars_are_named(tmp_path, content, message):
    path = tmp_path / '1' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if message is None:
        assert read_metric(tmp_path) == ('bbox_mAP', {2: 0.1})
    else:
        with pytest.raises(MmacsError, match=f'scalars.json .*{message}.*delete it to have the report without it'):
            read_metric(tmp_path)


@pytest.mark.parametrize('content', ['', '{"tra', '[]', '{}', '{"training_seconds": -1, "selection_seconds": 1}', '5'])
def test_a_damaged_summary_is_named(tmp_path, content):
    (tmp_path / 'coreset').mkdir()
    assert read_seconds(tmp_path) == {}
    (tmp_path / 'coreset' / 'summary.json').write_text(content)
    with pytest.raises(MmacsError, match='summary.json is damaged .*delete it to have the report without it'):
        read_seconds(tmp_path)


def test_ids_are_those_of_the_run_or_of_the_round_itself(tmp_path):
    path = write_round(tmp_path, 0, [0], [1.0, 0.5], ['x', 'y'])
    assert read_image_ids(path, 2).tolist() == ['x', 'y']
    write_round(tmp_path, 0, [0], [1.0, 0.5], ['other', 'run'], image_ids=np.asarray(['x', 'y']))
    assert read_image_ids(path, 2).tolist() == ['x', 'y']  # as rounds were written once
    write_round(tmp_path, 0, [0], [1.0, 0.5], ['x', 'y', 'z'])
    with pytest.raises(MmacsError, match='images.npz is not about the 2 images of round_000.npz'):
        read_image_ids(path, 2)
    path.with_name('images.npz').write_bytes(b'PK')
    with pytest.raises(MmacsError, match='images.npz is damaged'):
        read_image_ids(path, 2)
    path.with_name('images.npz').unlink()
    with pytest.raises(MmacsError, match='images.npz is missing'):
        read_image_ids(path, 2)
