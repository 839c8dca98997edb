"""What a plain install brings, and what it lets configs and MMDetection's own tools do."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mmdet
import pytest
import yaml

from mmacs.utils import compat
from mmacs.version import __version__

from .conftest import REPO, SHIPPED
from .test_bootstrap import bootstrap

tomllib = pytest.importorskip('tomllib')  # Python 3.11
PROJECT = tomllib.loads((REPO / 'pyproject.toml').read_text(encoding='utf-8'))['project']
SOURCES = ('mmacs', 'configs', 'tools', 'model-index.yml', 'setup.py', 'pyproject.toml')
SOURCES += ('MANIFEST.in', 'README.md', 'LICENSE')


def python(*arguments, path=None, cwd=None) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, with ``path`` alone on ``PYTHONPATH``."""
    env = {**os.environ, 'PYTHONPATH': str(path or ''), 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run([sys.executable, *map(str, arguments)], env=env, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """A wheel, built from a copy of the sources without network."""
    sources, folder = tmp_path_factory.mktemp('sources'), tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, sources / name, ignore=shutil.ignore_patterns('.mim', '__pycache__'))
        else:
            shutil.copy(REPO / name, sources / name)
    stale = sources / 'build' / 'lib' / 'mmacs' / 'gone.py'  # of an earlier build
    stale.parent.mkdir(parents=True)
    stale.touch()
    done = python('-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', folder, sources)
    assert done.returncode == 0, done.stderr
    return next(folder.glob('mmacs-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    """The folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp('site')
    done = python('-m', 'pip', 'install', '--no-deps', '--no-index', '--target', folder, wheel)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_what_users_need_and_nothing_else(wheel):
    assert wheel.name == f'mmacs-{__version__}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f'mmacs-{__version__}.dist-info/METADATA').decode()
        scripts = archive.read(f'mmacs-{__version__}.dist-info/entry_points.txt').decode()
    expected = {f'mmacs/.mim/{path.relative_to(REPO)}' for path in (REPO / 'configs').rglob('*.*')}
    expected = {name for name in expected if '__pycache__' not in name}
    expected |= {'mmacs/.mim/tools/train.py', 'mmacs/.mim/model-index.yml', 'mmacs/py.typed'}
    expected |= {
        str(path.relative_to(REPO))
        for suffix in ('j2', 'js', 'css', 'cpp')
        for path in (REPO / 'mmacs').rglob(f'*.{suffix}')
    }
    assert expected <= names
    assert 'mmacs = mmacs.cli:main' in scripts and f'mmacs-{__version__}.dist-info/licenses/LICENSE' in names
    assert not [name for name in names if re.search(r'(^|/)tests/|\.pyc$|gone\.py$|bootstrap\.log', name)]
    required = re.findall(r'^Requires-Dist: ([\w-]+)(?!.*extra)', metadata, re.MULTILINE)
    assert not [name for name in required if re.search(r'mm(engine|cv|det|pretrain)', name)]
    assert 'Requires-Dist: mmengine>=0.10.7; extra == "openmmlab"' in metadata


@pytest.mark.slow
def test_mmdetections_own_tool_trains_a_variant_of_three_lines(installed, tiny_coco, tmp_path):
    variant = "_base_ = 'mmacs::retinanet/retinanet_r18_bccd_w4a4_acs.py'\n\nmodel = dict(recipe=dict(preset='w2a2'))\n"
    (tmp_path / 'variant.py').write_text(variant)
    dataset = {'data_root': str(tiny_coco), 'ann_file': 'annotations.json', 'data_prefix': {'img': 'images'}}
    dataset['metainfo'] = {'classes': ('a', 'b', 'c')}
    loader = {'batch_size': 4, 'num_workers': 0, 'persistent_workers': False, 'dataset': dataset}
    (tmp_path / 'run.py').write_text(
        f"_base_ = './variant.py'\nload_from = None\ntrain_dataloader = {loader}\nval_dataloader = {loader}\n"
        f'val_evaluator = dict(ann_file={str(tiny_coco / "annotations.json")!r})\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
        'default_hooks = dict(coreset=dict(cost=dict(force=True)))\n'
    )
    tool = SHIPPED.parent / 'tools' / 'train.py'
    assert tool.is_relative_to(Path(mmdet.__file__).parent)
    done = python(tool, 'run.py', path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'work_dirs' / 'run' / 'epoch_1.pth').is_file()
    assert len(list((tmp_path / 'work_dirs' / 'run' / 'coreset').glob('round_*.npz'))) == 1


CHECK = """
import sys
from pathlib import Path
import torch  # as the tools of all libraries do
from mmengine.config import Config
assert 'mmacs.registry' not in sys.modules

def stranded(part, scope):
    # Names of other libraries that would be looked up in mmacs.
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from stranded(item, scope)
    elif isinstance(part, dict):
        scope = part.get('_scope_') or scope
        kind = part.get('type', 'mmacs.')
        if scope == 'mmacs' and isinstance(kind, str) and not kind.startswith('mmacs.') and kind not in root:
            yield kind
        for item in part.values():
            yield from stranded(item, scope)

import mmengine.dataset, mmengine.hooks, mmengine.optim, mmengine.registry, mmengine.runner, mmengine.visualization
root = {name for registry in vars(mmengine.registry).values() if isinstance(registry, mmengine.registry.Registry)
        for name in registry.module_dict}
folder = Path(sys.argv[1])
names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob('*/*.py')) if path.parent.name != '_base_']
assert len(names) > 40
if sys.argv[2] == 'ends':
    folders = [name.split('/')[0] for name in names]
    names = [one for one in names if names.index(one) in (folders.index(one.split('/')[0]),
             len(folders) - 1 - folders[::-1].index(one.split('/')[0]))]
for name in names:
    Path('variant.py').write_text(f"_base_ = 'mmacs::{name}'\\n\\nrandomness = dict(seed=7)\\n")
    cfg = Config.fromfile('variant.py', import_custom_modules=False)
    assert cfg.randomness.seed == 7
    used = {key: value for key, value in cfg.items() if not key.endswith('_pipeline')}  # mere variables
    found = sorted(set(stranded(used, cfg.default_scope)))
    assert not found, (name, found)
"""


@pytest.mark.slow
@pytest.mark.parametrize('which', ['ends', pytest.param('all', marks=pytest.mark.thorough)])
def test_each_config_can_be_inherited_before_anything_imported_mmacs(which, installed, tmp_path):
    """By default the first and the last of each folder, whose configs share what they inherit."""
    done = python('-c', CHECK, installed / 'mmacs' / '.mim' / 'configs', which, path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_importing_mmacs_is_enough_where_torch_announces_nothing(installed, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_DEVICE_BACKEND_AUTOLOAD', '0')
    (tmp_path / 'variant.py').write_text("_base_ = 'mmacs::retinanet/retinanet_r18_w4a4_acs.py'\n")
    read = "import mmacs; from mmengine.config import Config; print(Config.fromfile('variant.py').model.model)"
    done = python('-c', read, path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith('RetinaNet')


def test_versions_agree():
    assert 'version' in PROJECT['dynamic']
    citation = yaml.safe_load((REPO / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == __version__
    assert citation['license'] == PROJECT['license']
    assert f'## [{__version__}]' in (REPO / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_index_and_metafiles_name_each_config_once():
    index = yaml.safe_load((REPO / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    assert index == sorted(str(path.relative_to(REPO)) for path in (REPO / 'configs').glob('*/metafile.yml'))
    named = []
    for file in index:
        metafile = yaml.safe_load((REPO / file).read_text(encoding='utf-8'))
        collections = {collection['Name']: collection for collection in metafile['Collections']}
        assert all((REPO / collection['README']).is_file() for collection in collections.values())
        readme = (REPO / file).with_name('README.md').read_text(encoding='utf-8')
        for model in metafile['Models']:
            assert model['In Collection'] in collections
            assert Path(model['Config']).stem == model['Name']
            assert f'({Path(model["Config"]).name})' in readme
            named.append(model['Config'])
    shipped = [str(path.relative_to(REPO)) for path in (REPO / 'configs').glob('*/*.py')]
    assert sorted(named) == sorted(shipped)


def test_the_readmes_of_the_configs_link_to_files_that_exist():
    for readme in (REPO / 'configs').rglob('README.md'):
        for link in re.findall(r'\]\(([^)#:]+)(?:#[\w-]*)?\)', readme.read_text(encoding='utf-8')):
            assert (readme.parent / link).exists(), (readme, link)


def test_what_is_supported_is_said_alike_everywhere():
    oldest = {name: '.'.join(map(str, release)) for name, release in compat._OLDEST.items()}
    readme = (REPO / 'README.md').read_text(encoding='utf-8')
    assert f'torch>={oldest["torch"]}' in PROJECT['dependencies']
    brought = [f'{name}>={release}' for name, release in oldest.items() if name != 'torch']
    assert sorted(PROJECT['optional-dependencies']['openmmlab']) == sorted(brought)
    assert all(f'{name} >= {release}' in readme for name, release in oldest.items())

    versions = [f'3.{minor}' for minor in range(bootstrap.OLDEST[1], bootstrap.NEWEST[1] + 1)]
    prefix = 'Programming Language :: Python :: 3.'
    assert [name[-len('3.10') :] for name in PROJECT['classifiers'] if name.startswith(prefix)] == versions
    assert PROJECT['requires-python'] == f'>={versions[0]}'
    assert f'Python {versions[0]} to {versions[-1]}' in readme
