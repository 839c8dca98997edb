import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from PIL import Image

from mmacs.coreset.ground_truth import write_ground_truth
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run_record import write_run
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.export import export_images
from mmacs.visualization.coreset_report.page import write_report
from mmacs.visualization.coreset_report.predictions import write_predictions
from mmacs.visualization.coreset_report.read import read_rounds
from mmacs.visualization.coreset_report.shown import choose_shown
from tests.conftest import REPO, page_data, run_config, write_coco
from tests.test_visualization.test_coreset_report import write_rounds

IDS = [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]  # of the tiny data set's images that have objects
VOID = {'meta', 'img', 'br', 'source', 'input'}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects where pictures and other resources come from."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.heads = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ('src', 'srcset', 'href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('h2', 'h3'):
            self.heads.append(data)


CLASSES = ('<script>alert(1)</script>', '--><svg onload=alert(1)>', 'a]]>\x1b[2K{{ 7 }}$x')


def record_run(run, cfg, classes):
    """What a run writes of itself and its images."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    write_run(run / 'coreset' / 'run.json', cfg)
    write_ground_truth(run / 'coreset' / 'ground_truth.npz', DistinctImages(dataset, []), classes, 'a')


def write_detection_run(folder):
    """Data set and work dir, ``coco`` and ``run``, of a finished run of a detector; scores are random."""
    write_coco(folder / 'coco', [(64, 96), (96, 64), (64, 64)] * 4, [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3])
    run = folder / 'run'
    run.mkdir()
    run_config('retinanet_r18_w4a4_acs.py', folder / 'coco', run).dump(run / 'a<b>&c.py')
    cfg = Config.fromfile(run / 'a<b>&c.py')
    (run / 'newer.py').write_text('raise SystemExit("executed")')
    cfg.default_hooks.coreset.selector = dict(type='<b>mmacs.TopK')
    record_run(run, cfg, CLASSES)
    noisy = np.arange(10) < 3
    scores = dict(score_kl=np.linspace(0, 1, 10, dtype=np.float32), suspicion=noisy.astype(np.float32))
    scores['importance'] = np.linspace(1, 0, 10)  # the first two are the most important, and trimmed
    scores['importance'][9] = scores['score_kl'][9] = scores['suspicion'][9] = np.nan  # no candidate
    candidates = np.arange(10) < 9
    write_rounds(run, IDS, **scores, noisy=noisy, trimmed=np.arange(10) < 2, candidates=candidates)
    summary = dict(fraction=0.5, images=5, training_seconds=10.0, selection_seconds=6.0)
    (run / 'coreset' / 'summary.json').write_text(json.dumps(summary))
    scalars = run / '1' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text('{"<i>AP": 0.5, "data_time": 0.1, "step": 2}\n{"<i>AP": 0.6, "data_')  # and then it was killed
    found = np.array([[5, 5, 30, 30, 1, 0.9], [1, 1, 9, 9, 0, 0.2]], dtype=np.float32)
    write_predictions(
        run / 'coreset' / 'predictions.npz', {'quantized': {0: found, 3: found[:0]}, 'teacher': {0: found}}
    )
    return run


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    """Work dir of a detector's run with its report, which took the place of an older one."""
    run = write_detection_run(tmp_path_factory.mktemp('detection'))
    (run / 'coreset_report').mkdir()
    (run / 'coreset_report' / 'most_99.png').touch()
    assert write_report(run) == run / 'coreset_report' / 'index.html'
    return run


def test_the_page_of_a_detector_holds_everything_itself(reported):
    text = (reported / 'coreset_report' / 'index.html').read_text()
    page = Page(text)
    assert 'Coreset of a&lt;b&gt;&amp;c' in text
    assert page.sources and all(source.startswith('#') for source in page.sources)
    *_, script = re.findall(r'<script>(.*?)</script>', text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    shown = re.sub(
        '<script>.*?</script>|<script type="application/json" id="data">|&lt;.*?&gt;', '', text, flags=re.DOTALL
    )
    assert not re.search(r'<script|<svg onload|<b>|<i>|@import|url\((?!#)|[\x00-\x08\x1b]', shown)
    assert '&lt;script&gt;' in text and r'\x1b[2K{{ 7 }}$x' in text and '&lt;i&gt;AP' in text
    assert {'Score evs', 'Score kl', 'Importance', 'Objects per image', 'Scores and crowds'} < set(page.heads)
    assert '38% of the time' in text and '20% less' in text  # 6 of 16 s; 16 against 10 / 0.5 s
    assert '100% of the trimmed images are among them, and 67% of those that could be chosen are trimmed' in text
    assert 'raise SystemExit' not in text and 'DenseDetectionScorer' in text  # its own config
    suspects = text[text.index('id="suspected"') : text.index('id="rounds"')]
    assert re.findall(r'<td class="text">(\d+)</td>', suspects) == [str(rank) for rank in range(1, 10)]
    assert suspects.count('trimmed, chosen, label noise injected') == 2
    assert suspects.index('001.png') < suspects.index('005.png')


def test_the_page_tells_of_each_image_what_rounds_and_models_knew(reported):
    data = page_data(reported / 'coreset_report' / 'index.html')
    assert data['rounds'] == [0, 1, 2] and data['before'][2] == 'in round 2, before epoch 5'
    first, second, *_ = data['images']
    assert (first['id'], first['name'], first['chosen'], first['times']) == ('1', '001.png', [True] * 3, 3)
    assert first['scores'][2][data['columns'].index('importance')] == 1
    assert data['images'][9]['scores'][2][data['columns'].index('importance')] is None  # no candidate
    assert first['found']['quantized'][0] == [5, 5, 30, 30, 1, 0.9] and 'found' in second and second['found'] == {}
    picture = base64.b64decode(first['picture'].removeprefix('data:image/webp;base64,'))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (first['width'], first['height']) == (96, 64)


def test_a_page_of_few_images_shows_the_ends_and_a_sample_between_them():
    importance = np.linspace(0, 1, 1000)
    shown = choose_shown({'importance': importance, 'suspicion': importance % 0.5}, 40)
    assert len(shown) == 40 and (np.diff(shown) > 0).all()
    assert {*range(10), *range(990, 1000), 499, 498} <= {*shown.tolist()}
    assert len({position // 100 for position in shown.tolist()}) == 10


def test_exports_are_what_other_tools_read(reported, command, tmp_path):
    files = {}
    for form, kind in (('list', 'chosen'), ('csv', 'suspected'), ('coco', 'chosen'), ('fiftyone', 'suspected')):
        files[form] = tmp_path / form
        assert command('coreset_report.py', reported, '--export', form, '--of', kind, '--out', files[form]) == (0, '')
    images = (reported.parent / 'coco' / 'images').resolve()
    listed = files['list'].read_text().splitlines()
    assert listed == [str(images / f'{number:03d}.png') for number in IDS[:5]]
    with files['csv'].open(newline='') as file:
        rows = [*csv.DictReader(file)]
    assert [row['id'] for row in rows] == ['1', '2'] and {row['trimmed'] for row in rows} == {'1'}
    assert float(rows[0]['importance']) == 1 and rows[0]['rounds_chosen'] == '3'
    # MMDetection trains on the COCO file as it is: the same images and boxes, by the same classes
    settings = dict(type='CocoDataset', ann_file=str(files['coco']), data_prefix=dict(img='images'), pipeline=[])
    settings['metainfo'] = dict(classes=CLASSES)
    chosen = DATASETS.build(settings)
    config = Config.fromfile(reported / 'a<b>&c.py')
    whole = DATASETS.build(config.train_dataloader.dataset)
    assert [chosen.get_data_info(place)['img_path'] for place in range(len(chosen))] == listed
    assert [chosen.get_data_info(place)['img_id'] for place in range(5)] == IDS[:5]
    for place in range(5):
        ours, theirs = chosen.get_data_info(place)['instances'], whole.get_data_info(place)['instances']
        assert [one['bbox'] for one in ours] == [one['bbox'] for one in theirs]
        assert [one['bbox_label'] for one in ours] == [one['bbox_label'] for one in theirs]
    samples = json.loads(files['fiftyone'].read_text())['samples']
    assert [sample['tags'] for sample in samples] == [['chosen', 'trimmed', 'noisy']] * 2
    found = samples[0]['quantized']['detections'][0]
    assert found['bounding_box'] == pytest.approx([5 / 96, 5 / 64, 25 / 96, 25 / 64]) and found['_cls'] == 'Detection'


def test_images_of_joined_data_sets_that_share_ids_stay_apart_in_a_coco_file(reported, tmp_path):
    rounds = read_rounds(reported)
    truth = rounds.run.truth._replace(ids=np.zeros_like(rounds.run.truth.ids))
    rounds = rounds._replace(run=rounds.run._replace(truth=truth))
    found = json.loads(export_images(rounds, reported, 'coco', out=tmp_path / 'coco.json').read_text())
    ids = [image['id'] for image in found['images']]
    assert len({*ids}) == len(ids) == 5 and {one['image_id'] for one in found['annotations']} == {*ids}


def test_charts_take_on_the_page_s_colours_and_stand_alone_in_their_own(reported):
    text = (reported / 'coreset_report' / 'index.html').read_text()
    declared = set(re.findall(r'(--\w+):', text))
    assert set(re.findall(r'var\((--\w+)\)', text)) == declared
    for name in ('cost', 'classes', 'churn'):
        alone = (reported / 'coreset_report' / f'{name}.svg').read_text()
        assert 'var(' not in alone and alone.count('<path') > 10


def test_only_a_whole_report_replaces_the_old_one(reported):
    page = reported / 'coreset_report' / 'index.html'
    assert not page.with_name('most_99.png').exists()
    before = page.read_bytes()
    data = (reported.parent / 'coco').rename(reported.parent / 'elsewhere')
    with pytest.raises(MmacsError, match='cannot read image .*001.png: name the folder of the data with --data-root'):
        write_report(reported)
    write_report(reported, str(data))
    before = page.read_bytes()
    for path in (data / 'images').iterdir():
        path.write_bytes(b'')
    with pytest.raises(MmacsError, match='cannot read image'):
        write_report(reported, str(data))
    assert page.read_bytes() == before
    assert list(reported.glob('.coreset_report*')) == []


def test_a_classifier_has_labels_but_no_objects(command, tmp_path):
    run = tmp_path / 'run'
    cfg = Config.fromfile(REPO / 'configs' / 'cifar_resnet' / 'resnet20_embedded_w4a4_acs.py')
    cfg.train_dataloader.dataset.update(data_root=str(tmp_path / 'tiles'), spec=dict(num_train=60, num_test=10))
    cfg.dump(tmp_path / 'classifier.py')
    write_rounds(run, range(60), count=1, columns=())
    record_run(run, cfg, ['cat', 'dog'])
    for options in ((), ('--config', tmp_path / 'classifier.py')):
        assert command('coreset_report.py', run, *options) == (0, '')
        text = (run / 'coreset_report' / 'index.html').read_text()
        heads = Page(text).heads
        assert 'Classes' in heads and 'Importance' in heads
        assert not {'Objects per image', 'Object sizes', 'Churn', 'Suspected label errors'} & set(heads)
        assert 'The run has not finished' in text
        assert 'Coreset of resnet20_embedded_w4a4_acs' in text  # as the run told, not as the config is called
        assert 'no objects' not in text
        images = page_data(run / 'coreset_report' / 'index.html')['images']
        assert len(images) == 60 and all(len(image['truth']) == 1 for image in images)
        assert ('picture' in images[0]) == bool(options)
        assert ('say --config CONFIG to see them' in text) != bool(options)


def test_a_run_of_an_earlier_version_needs_its_config(command, tmp_path):
    run = write_detection_run(tmp_path)
    (run / 'coreset' / 'run.json').unlink()
    status, printed = command('coreset_report.py', run)
    assert status == 1 and 'run.json is missing' in printed and 'say --config CONFIG' in printed
    (tmp_path / 'faulty.py').write_text('a = 1\nb = c\n')
    status, printed = command('coreset_report.py', run, '--config', tmp_path / 'faulty.py')
    assert status == 1 and "faulty.py: name 'c' is not defined (line 2)" in printed
    (tmp_path / 'coco').rename(tmp_path / 'elsewhere')
    assert (
        command('coreset_report.py', run, '--config', run / 'a<b>&c.py', '--data-root', tmp_path / 'elsewhere')[0] == 0
    )


def change(run, name, **arrays):
    """Write other arrays into one of a run's files; None leaves one out."""
    path = run / 'coreset' / name
    with np.load(path) as found:
        kept = {**found, **arrays}
    np.savez(path, **{key: value for key, value in kept.items() if value is not None})


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (lambda run: (run / 'coreset' / 'predictions.npz').write_bytes(b'PK'), 'predictions.npz is damaged'),
        (lambda run: change(run, 'predictions.npz', quantized_positions=np.array([0, 99])), 'about other images'),
        (lambda run: change(run, 'predictions.npz', teacher_ends=np.array([7])), 'predictions.npz is damaged'),
        (
            lambda run: [path.unlink() for path in run.glob('coreset/*.npz')],
            'a run with mmacs.CoresetHook in its config',
        ),
        (lambda run: write_rounds(run, IDS[1:]), 'the data set has changed: 9 images'),
        (lambda run: write_rounds(run, range(101, 111)), 'the data set has changed: what was image 101'),
        (lambda run: (run / 'coreset' / 'run.json').write_text('[' * 10**5), 'run.json: it is nested'),
        (lambda run: (run / 'coreset' / 'run.json').write_text('{"name": 5}'), 'its name is missing or of another'),
        (lambda run: (run / 'coreset' / 'ground_truth.npz').write_bytes(b'PK'), 'ground_truth.npz is damaged'),
        (lambda run: (run / 'coreset' / 'run.json').write_text('[]'), 'run.json is not a JSON object'),
        (lambda run: change(run, 'ground_truth.npz', boxes=None), 'ground_truth.npz is damaged'),
        (lambda run: change(run, 'ground_truth.npz', boxes=np.zeros((3, 4))), 'different lengths'),
        (lambda run: change(run, 'ground_truth.npz', labels=np.full(24, 2**60)), 'a label or a box is none'),
        (lambda run: change(run, 'ground_truth.npz', ends=np.arange(10)[::-1]), 'objects belong to no image'),
        (lambda run: change(run, 'ground_truth.npz', paths=np.full(10, 'http://x')), 'paths are of the type'),
        (lambda run: change(run, 'ground_truth.npz', paths=np.full(10, b'http://x')), 'cannot read image http://x'),
    ],
)
def test_mistakes_are_answered_with_one_sentence(command, tmp_path, break_it, message):
    run = write_detection_run(tmp_path)
    break_it(run)
    status, printed = command('coreset_report.py', run)
    assert status == 1 and message in printed
    assert not (run / 'coreset_report').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--images', 0], '--images must be at least 1'),
        (['--predict'], 'say --config CONFIG'),
        (['--export', 'csv', '--round', 3], 'there is no round 3: '),
        (['--export', 'list', '--data-root', 'nowhere'], 'cannot read image nowhere'),
    ],
)
def test_options_that_lead_nowhere_are_told(reported, command, options, message):
    (reported.parent / 'coco').exists() or (reported.parent / 'elsewhere').rename(reported.parent / 'coco')
    status, printed = command('coreset_report.py', reported, *options)
    assert status == 1 and message in printed
