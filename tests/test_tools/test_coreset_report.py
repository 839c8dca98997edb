import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmacs.visualization import coreset

from ..conftest import REPO, run_config
from ..test_visualization.test_coreset import write_rounds

IDS = [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]  # of the tiny data set's images that have objects
VOID = {'meta', 'img', 'br', 'source'}


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


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr(coreset, '_PICTURES', 2)


@pytest.fixture
def detection_run(tiny_coco, tmp_path):
    """Work dir of a run on the tiny COCO data set, with rounds of random scores."""
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    run_config('retinanet_r18_w4a4_acs.py', tiny_coco, work_dir).dump(work_dir / 'detector.py')
    noisy = np.arange(10) < 3
    write_rounds(
        work_dir,
        IDS,
        score_kl=np.linspace(0, 1, 10, dtype=np.float32),
        suspicion=noisy.astype(np.float32),
        noisy=noisy,
        trimmed=np.arange(10) < 2,
    )
    summary = dict(fraction=0.5, images=5, training_seconds=10.0, selection_seconds=6.0)
    (work_dir / 'coreset' / 'summary.json').write_text(json.dumps(summary))
    return work_dir


@pytest.fixture
def classification_run(tmp_path):
    """Work dir of a run on the embedded classification set, of 60 tiles, that has not finished."""
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    cfg = Config.fromfile(REPO / 'configs' / 'resnet20_embedded_w4a4_acs.py')
    data = dict(data_root=str(tmp_path / 'tiles'), spec=dict(num_train=60, num_test=10))
    cfg.train_dataloader.dataset.update(data)
    cfg.dump(work_dir / 'classifier.py')
    write_rounds(work_dir, range(60), count=1, columns=())
    return work_dir


def test_the_page_of_a_detector_holds_everything_itself(command, detection_run):
    (detection_run / 'detector.py').rename(detection_run / 'a<b>&c.py')
    assert command('coreset_report.py', detection_run) == (0, '')
    folder = detection_run / 'coreset_report'
    text = (folder / 'index.html').read_text()
    page = Page(text)
    assert 'Coreset of a&lt;b&gt;&amp;c' in text
    assert page.sources and all(source.startswith('data:image/png;base64,') for source in page.sources)
    assert not re.search(r'<script|@import|url\(', text)
    assert {'Score evs', 'Score kl', 'Importance', 'Objects per image', 'Scores and crowds'} < set(page.heads)
    assert [re.search(head, text) is not None for head in ('Most imp', 'Least imp', 'Suspected')] == [True] * 3
    assert '38% of the time' in text and '20% less' in text  # 6 of 16 s; 16 against 10 / 0.5 s
    assert '100% of the trimmed images are among them, and 67% of them are trimmed' in text
    for name in ('cost', 'classes', 'churn', 'most_02', 'suspect_01'):
        with Image.open(folder / f'{name}.png') as picture:
            assert len(picture.convert('RGB').getcolors(10**6)) > 2


def test_a_classifier_has_labels_but_no_objects(command, classification_run):
    assert command('coreset_report.py', classification_run) == (0, '')
    text = (classification_run / 'coreset_report' / 'index.html').read_text()
    heads = Page(text).heads
    assert 'Classes' in heads and 'Importance' in heads
    assert not {'Objects per image', 'Object sizes', 'Churn', 'Suspected label errors'} & set(heads)
    assert 'The run has not finished' in text
    assert 'no objects' not in text


def test_only_a_whole_report_replaces_the_old_one(command, detection_run, tmp_path):
    (tmp_path / 'coco').rename(tmp_path / 'elsewhere')
    status, message = command('coreset_report.py', detection_run)
    assert status == 1 and '--data-root' in message
    folder = detection_run / 'coreset_report'
    folder.mkdir()
    (folder / 'index.html').touch()
    images = list((tmp_path / 'elsewhere' / 'images').iterdir())
    whole = [path.read_bytes() for path in images]
    for path in images:
        path.write_bytes(b'')
    options = [detection_run, '--data-root', tmp_path / 'elsewhere']
    status, message = command('coreset_report.py', *options)
    assert status == 1 and 'cannot read image' in message
    assert [path.name for path in folder.iterdir()] == ['index.html']
    (folder / 'most_99.png').touch()
    for path, content in zip(images, whole):
        path.write_bytes(content)
    assert command('coreset_report.py', *options) == (0, '')
    assert not (folder / 'most_99.png').exists()
    assert [path.name for path in detection_run.glob('.coreset_report*')] == []


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (
            lambda run: [path.unlink() for path in run.glob('coreset/*.npz')],
            'a run with mmacs.CoresetHook in its config',
        ),
        (lambda run: (run / 'detector.py').unlink(), 'holds no config'),
        (lambda run: write_rounds(run, IDS[1:]), 'the data set has changed: 9 images'),
        (lambda run: write_rounds(run, range(101, 111)), 'the data set has changed: what was image 10'),
    ],
)
def test_mistakes_are_answered_with_one_sentence(command, detection_run, break_it, message):
    break_it(detection_run)
    status, printed = command('coreset_report.py', detection_run)
    assert status == 1 and message in printed
    assert not (detection_run / 'coreset_report').exists()
