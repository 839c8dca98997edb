"""Each library has a room of its own among the adapters; ``tests/test_architecture.py`` holds the other arrows."""

import ast

from tests.conftest import REPO

LIBRARIES = {'mmengine', 'mmdet', 'mmpretrain', 'torchvision'}
FRAMEWORKS = {*LIBRARIES, 'mmcv'}
OPERATIONS = {'region_ops': {'torchvision'}}  # what torch lacks, for all rooms
ADAPTERS = REPO / 'mmacs' / 'adapters'


def imported(file):
    """Names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_its_own_library_alone_and_the_interface_none():
    rooms = {file: file.relative_to(ADAPTERS).parts[0].removesuffix('.py') for file in ADAPTERS.rglob('*.py')}
    assert {'mmdet', 'mmpretrain', 'base', 'kinds', 'transforms'} <= set(rooms.values())
    wrong = []
    for file, room in rooms.items():
        allowed = {room, 'mmcv', 'mmengine'} if room in LIBRARIES else {room, *OPERATIONS.get(room, ())}
        for name in imported(file):
            library = name.split('.')[2] if name.startswith('mmacs.adapters.') else name.split('.')[0]
            if library in FRAMEWORKS and library not in allowed:
                wrong.append((str(file), name))
    assert wrong == []
