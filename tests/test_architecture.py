"""The rooms of the house and the arrows between them: who may import whom."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Tuple

import mmacs

ROOT = Path(mmacs.__file__).parent
# Each room may import those before it, and what stands beside it in its own line only if that is said below.
FLOORS = (
    ('version', 'utils'),
    ('registry',),
    ('quantization',),
    ('adapters',),
    ('teacher',),
    ('datasets', 'models'),
    ('coreset', 'distillation', 'deploy'),
    ('hooks',),
    ('evaluation',),
    ('visualization',),
    ('cli',),
    ('__main__',),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FRAMEWORKS = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'torchvision')


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it, but for those that only type checkers see."""
    tree = ast.parse(path.read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            yield node.module


def arrows() -> Iterator[Tuple[str, str, str]]:
    """File, its room, and each module that it imports."""
    for path in sorted(ROOT.rglob('*.py')):
        parts = path.relative_to(ROOT).parts
        if '.mim' not in parts and parts != ('__init__.py',):
            for module in imports(path):
                yield str(path.relative_to(ROOT)), parts[0].removesuffix('.py'), module


def test_every_room_has_a_floor():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert rooms - {'__init__'} == set(FLOOR)


def test_rooms_import_from_lower_floors_alone():
    upward = [
        (file, module)
        for file, room, module in arrows()
        if module.startswith('mmacs.') and (other := module.split('.')[1]) != room and not FLOOR[other] < FLOOR[room]
    ]
    assert upward == []


def test_within_the_coreset_selection_and_scoring_know_nothing_of_who_conducts_them():
    lower = {'selection': (), 'budget': ('selection',), 'scoring': ('selection', 'data')}
    wrong = []
    for file, room, module in arrows():
        inner = Path(file).parts[1].removesuffix('.py') if room == 'coreset' and len(Path(file).parts) > 1 else ''
        if inner in lower and module.startswith('mmacs.coreset.'):
            other = module.split('.')[2]
            if other != inner and other not in lower[inner]:
                wrong.append((file, module))
    assert wrong == []


def test_frameworks_are_known_to_those_who_may_know_them():
    """Heads, blocks and layers of the frameworks are the adapters' business."""
    wrong = [
        (file, module)
        for file, room, module in arrows()
        if room in ('utils', 'quantization', 'teacher', 'coreset', 'distillation', 'deploy', 'hooks')
        and module.split('.')[0] in ('mmcv', 'mmdet', 'mmpretrain', 'torchvision')
    ]
    assert wrong == []


def test_the_mathematics_needs_no_framework():
    modules = (
        'mmacs.quantization',
        'mmacs.quantization.analysis.sensitivity',
        'mmacs.coreset.selection.policy',
        'mmacs.coreset.scoring.scores',
        'mmacs.coreset.scoring.probabilities',
        'mmacs.coreset.budget.cost',
        'mmacs.coreset.scoring.scorers.detection_scores',
        'mmacs.distillation.losses',
        'mmacs.adapters.kinds',
        'mmacs.evaluation.comparison',
    )
    blocked = '; '.join(f'sys.modules[{name!r}] = None' for name in FRAMEWORKS)
    imports = f'import sys; {blocked}; import {", ".join(modules)}'
    subprocess.run([sys.executable, '-c', imports], check=True, env=os.environ)
