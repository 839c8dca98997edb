"""Runs the code blocks of the README and of the pages in ``docs``, or holds them to say why they are not run.

What stands in a comment above a block says how: ``file: NAME`` writes it to a file first, ``run: thorough`` runs it
under ``pytest -m thorough``, ``run by: TEST`` names the test that does, and ``not run: REASON`` the reason why none
does. A page says ``commands not run: REASON`` for all of its commands.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import List, NamedTuple

import pytest
import torch
import yaml
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

from mmacs import SCORERS, Recipe, calibrate
from mmacs.cli.dispatch import COMMANDS
from mmacs.registry import HOOKS, MODELS
from tests.conftest import REPO

PAGES = {str(path.relative_to(REPO)): path for path in [REPO / 'README.md', *sorted((REPO / 'docs').rglob('*.md'))]}
CONFIGS = {str(path.relative_to(REPO)): path for path in sorted((REPO / 'configs').rglob('*.md'))}
OF_A_MODEL = ('docs/deployment.md', 'docs/guides/recipes.md')  # whose Python supposes that there is a trained model
FOLLOWED_BY = {'docs/tutorials/detector.md': 'docs/tutorials/export.md'}  # a page that goes on with the other's files
MARK = r'^<!-- (file|run|run by|not run): ([^\n]*) -->\n'
BLOCK = re.compile(rf'(?:{MARK})?^( *)```(\w*)\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
SETTINGS = ('model', 'train_dataloader', 'default_hooks', 'optim_wrapper')
PLAIN = ('text', '')


class Block(NamedTuple):
    """A code block with its mark."""

    place: str
    mark: str
    value: str
    language: str
    text: str

    @property
    def is_config(self) -> bool:
        if self.language != 'python':
            return False
        tree = ast.parse(self.text).body
        names = {ast.unparse(node.targets[0]) for node in tree if isinstance(node, ast.Assign)}
        return '_base_' in names or (bool(names) and len(names) == len(tree) and names <= set(SETTINGS))


def blocks(path: Path) -> List[Block]:
    text = path.read_text(encoding='utf-8')
    reason = re.search(r'^<!-- commands not run: (.*) -->$', text, re.MULTILINE)
    found = []
    for match in BLOCK.finditer(text):
        mark, value, _, language, content = match.groups()
        if mark is None and language == 'bash' and reason:
            mark, value = 'not run', reason[1]
        line = text[: match.start(4)].count('\n') + 1
        found.append(Block(f'{path.name}:{line}', mark or '', value or '', language, content))
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a project as the pages suppose it: a config with a plugin, and the tools of mmacs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known, modules = dict(SCORERS.classes), set(sys.modules)
    (tmp_path / 'my_plugin.py').write_text('')
    (tmp_path / 'my_retinanet.py').write_text(
        "_base_ = 'mmacs::retinanet/retinanet_r18_embedded.py'\n"
        "custom_imports = dict(imports=['mmacs', 'my_plugin'], allow_failed_imports=False)\n"
    )
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(REPO / name)
    yield tmp_path
    SCORERS._classes.clear()
    SCORERS._classes.update(known)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], '__file__', None) or '').startswith(str(tmp_path)):
            del sys.modules[name]


def check_config(file: Path) -> Config:
    """Reads a config, and its settings of mmacs."""
    cfg = Config.fromfile(file)
    if './my_retinanet.py' in file.read_text():
        assert {'mmacs', 'my_plugin'} <= set(cfg.custom_imports.imports)
    if cfg.get('model', {}).get('type') == 'mmacs.QuantizedModel':
        Recipe(cfg.model.recipe)
    for hook in cfg.get('default_hooks', {}).values():
        if hook['type'].startswith('mmacs.'):
            HOOKS.build(hook)
    return cfg


def run_block(block: Block, folder: Path, names: dict) -> None:
    """Runs one block that is no command."""
    if block.mark == 'file':
        (folder / block.value).write_text(block.text)
    if block.is_config:
        file = folder / (block.value if block.mark == 'file' else 'block.py')
        own = '' if '_base_' in block.text else "_base_ = 'mmacs::retinanet/retinanet_r18_embedded_w4a4_acs.py'\n"
        file.write_text(own + block.text)
        names['cfg'] = check_config(file)
    elif block.language == 'python' and block.mark != 'file':
        exec(compile(block.text, block.place, 'exec'), names)
        for value in names.values():
            if isinstance(value, dict) and str(value.get('type', '')).endswith('Hook'):
                HOOKS.build(value)
    elif block.language in ('yaml', 'json'):
        {'yaml': yaml.safe_load, 'json': json.loads}[block.language](block.text)


@pytest.mark.parametrize('page', PAGES)
def test_python_and_configs_run(page, place):
    names = {'__name__': 'page'}
    for block in blocks(PAGES[page]):
        assert block.language in (*PLAIN, 'python', 'bash', 'yaml', 'json'), block.place
        if block.mark in ('', 'file') and block.language != 'bash':
            run_block(block, place, names)


def test_yolo_labels_become_those_of_coco(tmp_path):
    names = {}
    (block,) = (block for block in blocks(REPO / 'docs/guides/migration.md') if 'def yolo_to_coco' in block.text)
    run_block(block, tmp_path, names)
    for folder in ('images/val', 'labels/val'):
        (tmp_path / folder).mkdir(parents=True)
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (200, 100)).save(tmp_path / 'images/val' / name)
    (tmp_path / 'labels/val/b.txt').write_text('0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.2 0.4\n')
    names['yolo_to_coco'](tmp_path, 'val', ['cat', 'dog'])
    coco = COCO(str(tmp_path / 'val.json'))
    assert not coco.getAnnIds(imgIds=[1]) and coco.imgs[2]['file_name'] == 'b.png'
    cat, dog = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert coco.cats[cat['category_id']]['name'] == 'cat' and coco.cats[dog['category_id']]['name'] == 'dog'
    assert cat['bbox'] == pytest.approx([80, 30, 40, 40]) and dog['bbox'] == pytest.approx([0, 0, 40, 40])


def test_every_command_is_run_or_says_why_not():
    for path in PAGES.values():
        for block in blocks(path):
            if block.mark == 'run':
                assert block.value == 'thorough', block.place
            elif block.mark == 'run by':
                assert path.name in (REPO / block.value).read_text(), block.place
            elif block.language == 'bash':
                assert block.mark == 'not run' and len(block.value) > 10, block.place


def test_commands_name_tools_options_and_configs_that_exist():
    sources = ''.join(path.read_text() for path in (REPO / 'mmacs' / 'cli').rglob('*.py'))
    checked = 0
    for path in [*PAGES.values(), *CONFIGS.values()]:
        for block in blocks(path):
            if block.language != 'bash':
                continue
            for line in block.text.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                for number, word in enumerate(words):
                    if re.fullmatch(r'tools/\w+\.py', word):
                        tool = (REPO / word).read_text() + sources
                        options = [other.partition('=')[0] for other in words[number + 1 :] if other.startswith('--')]
                        unknown = [option for option in options if f"'{option}'" not in tool]
                        assert not unknown, (block.place, word, unknown)
                        checked += 1
                    if word == 'mmacs':
                        assert ' '.join(words[number + 1 : number + 3]).startswith(COMMANDS), (block.place, line)
                    if re.fullmatch(r'configs/[a-z0-9_/]+\.(py|yml)', word):
                        assert (REPO / word).is_file(), (block.place, word)
    assert checked > 50


def trained(folder: Path) -> dict:
    """A quantized model, its config, checkpoint and packed form, and a picture, under the names that pages use."""
    from mmacs.deploy import pack  # needs the extra `deploy`

    config = str(REPO / 'configs' / 'retinanet' / 'retinanet_r18_embedded_w4a4.py')
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    model.dataset_meta = dict(classes=tuple('abcde'))
    calibrate(model, [torch.randn(2, 3, 160, 160)], lambda images: model(images, mode='tensor'))
    checkpoint = str(folder / 'checkpoint.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), checkpoint)
    pack(model, str(folder / 'model.mmacs'))
    Image.new('RGB', (160, 160), 'grey').save(folder / 'picture.jpg')
    return dict(config=config, cfg=cfg, model=model.eval(), checkpoint=checkpoint)


def notebook_cells() -> list:
    """The code cells of the notebook of the quick start."""
    cells = json.loads((REPO / 'docs' / 'quick_start.ipynb').read_text(encoding='utf-8'))['cells']
    return [cell for cell in cells if cell['cell_type'] == 'code']


def test_the_notebook_is_kept_without_outputs():
    cells = notebook_cells()
    assert len(cells) > 5 and not any(cell['outputs'] or cell['execution_count'] for cell in cells)


@pytest.mark.thorough
def test_the_notebook_runs(place):
    names = {'__name__': 'notebook'}
    for cell in notebook_cells():
        exec(''.join(cell['source']), names)
    assert names['full_precision'] > 0.05 and names['quantized'] > 0.5 * names['full_precision']


WHOLE = [page for page, path in PAGES.items() if any(one.value == 'thorough' for one in blocks(path))]


@pytest.mark.thorough
@pytest.mark.parametrize('page', [page for page in WHOLE if page not in FOLLOWED_BY.values()])
def test_whole_pages_run(page, place):
    names = {'__name__': 'page', **(trained(place) if page in OF_A_MODEL else {})}
    env = {**os.environ, 'PYTHONPATH': f'{REPO}:{place}', 'CUDA_VISIBLE_DEVICES': ''}
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'
    for path in [PAGES[name] for name in (page, FOLLOWED_BY.get(page)) if name]:
        for block in blocks(path):
            if block.mark in ('not run', 'run by'):
                continue
            if block.language == 'bash':
                done = subprocess.run(['bash', '-ec', block.text], cwd=place, env=env, capture_output=True, text=True)
                assert done.returncode == 0, (block.place, done.stdout[-2000:], done.stderr[-2000:])
            else:
                run_block(block, place, names)
