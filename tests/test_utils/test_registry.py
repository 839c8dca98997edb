import pytest

from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import Registry


def make(value=0):
    """A class of one name, defined anew in each call, as by a cell of a notebook that runs twice."""

    class Thing:
        number = value

        def __init__(self, size=1):
            self.size = size

    return Thing


@pytest.fixture
def things():
    return Registry('thing', 'mmacs.utils')


def test_a_class_is_found_by_its_name_or_another(things):
    kind = things.register_module()(make())
    things.register_module(name='Other')(kind)
    assert things.find('Thing') is things.find('mmacs.Thing') is things.find('Other') is kind
    assert things.build(dict(type='mmacs.Other', size=3)).size == 3


def test_a_class_that_is_defined_again_takes_the_place_of_the_first(things):
    things.register_module()(make(1))
    things.register_module()(make(2))
    assert things.find('Thing').number == 2


def test_another_class_of_the_same_name_is_refused(things):
    things.register_module()(make())
    with pytest.raises(MmacsError, match='there is a thing Thing already'):
        things.register_module(name='Thing')(Registry)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='Thin'), "unknown thing 'Thin': did you mean 'Thing'"),
        (dict(type='Thing', sise=1), "unknown argument of Thing 'sise': did you mean 'size'"),
        ('Thing', "a thing must be a dict with a type, such as {'type': 'mmacs.Thing'}, got 'Thing'"),
    ],
)
def test_mistakes(things, config, message):
    things.register_module()(make())
    with pytest.raises(MmacsError, match=message):
        things.build(config)


def test_an_object_of_another_kind_is_refused(things):
    things.register_module()(make())
    with pytest.raises(MmacsError, match='Thing must inherit mmacs.utils.registry.Registry'):
        things.build(dict(type='Thing'), Registry)
