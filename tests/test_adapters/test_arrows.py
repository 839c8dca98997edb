"""Which way imports point between the adapters and what they serve."""

import ast

import pytest

from tests.conftest import REPO

LIBRARIES = {'mmcv', 'mmdet', 'mmpretrain', 'torchvision'}
PACKAGE = REPO / 'mmacs'


def imported(file):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{name.name}' for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize('room', ['coreset', 'distillation'])
def test_mathematics_asks_adapters_and_imports_no_library_of_models(room):
    files = sorted((PACKAGE / room).rglob('*.py'))
    assert len(files) > 3
    found = {(file.name, name) for file in files for name in imported(file) if name.split('.')[0] in LIBRARIES}
    assert not found


def test_adapters_import_quantization_and_utils_alone_of_mmacs():
    allowed = {'adapters', 'quantization', 'utils'}
    for file in (PACKAGE / 'adapters').rglob('*.py'):
        for name in imported(file):
            root, _, rest = name.partition('.')
            assert root != 'mmacs' or rest.split('.')[0] in allowed, (file, name)


def test_each_library_has_a_room_of_its_own_and_the_interface_needs_none():
    files = sorted((PACKAGE / 'adapters').rglob('*.py'))
    rooms = {file: file.relative_to(PACKAGE / 'adapters').parts[0].removesuffix('.py') for file in files}
    assert {'mmdet', 'mmpretrain', 'base', 'kinds', 'transforms'} <= set(rooms.values())
    for file, room in rooms.items():
        own = {room, 'mmcv', 'mmengine'} if room in LIBRARIES else set()
        for name in imported(file):
            library = name.split('.')[0]
            assert library not in LIBRARIES | {'mmengine'} or library in own, (file, name)
            if name.startswith('mmacs.adapters.') and name.split('.')[2] in LIBRARIES:
                assert name.split('.')[2] == room, (file, name)
