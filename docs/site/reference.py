"""Writes the pages of the reference from the sources: what configs can name, and what `mmacs` exports."""

import ast
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
REGISTRIES = {
    'HOOKS': 'Hooks',
    'DATA_SAMPLERS': 'Samplers',
    'MODELS': 'Models',
    'QUANTIZERS': 'Quantizers',
    'SCORERS': 'Scorers',
    'SELECTORS': 'Selectors',
    'OPTIM_WRAPPER_CONSTRUCTORS': 'Optimizer constructors',
    'OPTIM_WRAPPERS': 'Optimizer wrappers',
    'DATASETS': 'Data sets',
}
CONFIG = """# Config reference

Everything that a config can name as `type='mmacs.NAME'`, with all settings. This page is made from the signatures and
docstrings of the classes that are registered.

## Groups of settings

What a recipe holds is also told, with examples, in [recipes](../guides/recipes.md#keys-of-a-recipe); how images are
chosen, in [selection](../guides/selection.md).
"""
METHODS = '    options:\n      heading_level: 2\n      members: null\n      filters: ["!^_"]\n'
GROUPS = (
    'mmacs.quantization.recipe.Recipe',
    'mmacs.coreset.selection.importance.Importance',
    'mmacs.coreset.selection.constraints.Constraints',
    'mmacs.coreset.budget.schedule.Schedule',
    'mmacs.coreset.budget.cost.Cost',
    'mmacs.coreset.settings.Images',
    'mmacs.coreset.budget.fraction.FractionSchedule',
)
API = """# Python reference

What `mmacs` exports, but for what a config names: that is in the [config reference](config.md). These names, their
signatures and the config keys carry a promise: a change is in the [changelog](../CHANGELOG.md).
"""


def registered():
    """Returns the paths of all classes that are registered, by registry, read from the decorators."""
    found = {name: [] for name in REGISTRIES}
    for path in sorted((ROOT / 'mmacs').rglob('*.py')):
        if 'register_module' not in (source := path.read_text(encoding='utf-8')):
            continue
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for node in ast.parse(source).body:
            for decorator in getattr(node, 'decorator_list', ()):
                registry = ast.unparse(decorator).partition('.register_module(')[0]
                if isinstance(node, ast.ClassDef) and registry in found:
                    found[registry].append(f'{module}.{node.name}')
    return found


def syntax(module):
    """Returns the syntax tree of a module or package."""
    path = ROOT.joinpath(*module.split('.'))
    source = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    return ast.parse(source.read_text(encoding='utf-8'))


def places(tree):
    """Returns the names that a package imports when they are first used: a dict of modules."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_PLACES':
            return ast.literal_eval(node.value)
    return {}


def exported():
    """Returns the paths of all that `mmacs` exports, but for registries."""
    table = places(syntax('mmacs')).items()
    return [definition(module, name) for module, names in table for name in names if not name.isupper()]


def definition(module, name):
    """Returns the path of what a module of the package calls by a name: where its imports lead to."""
    tree = syntax(module)
    for other, names in places(tree).items():
        if name in names:
            return definition(other, name)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in (one.asname or one.name for one in node.names):
            return definition(node.module, name)
    return f'{module}.{name}'


def directives(paths, options=''):
    """Returns what mkdocstrings makes the documentation of objects of."""
    return ''.join(f'\n::: {path}\n{options}' for path in paths)


def on_files(files, config):
    """Adds the pages."""
    text, classes = CONFIG + directives(GROUPS), registered()
    for registry, paths in classes.items():
        text += f'\n## {REGISTRIES[registry]}\n' + directives(paths)
    told = {*GROUPS, *(path for paths in classes.values() for path in paths)}
    api = API + directives([path for path in exported() if path not in told], METHODS)
    pages = {'reference/config.md': text, 'reference/api.md': api}
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files
