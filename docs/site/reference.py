"""Writes the pages of the reference from the sources: what configs can name, and what `mmacs` exports."""

import ast
import runpy
from pathlib import Path
from typing import Dict, List, Tuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

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
METHODS = '      heading_level: 2\n      members: null\n      filters: ["!^_"]\n'
GROUPS = (
    'mmacs.quantization.recipe.Recipe',
    'mmacs.coreset.selection.importance.Importance',
    'mmacs.coreset.selection.constraints.Constraints',
    'mmacs.coreset.budget.schedule.Schedule',
    'mmacs.coreset.budget.cost.Cost',
    'mmacs.coreset.settings.Images',
    'mmacs.coreset.budget.fraction.FractionSchedule',
)
SUPPORTED = """# Supported models

What tests convert and train at low bits, score, and export, by name. This page is made of the table that `mmacs models`
prints.

| model | kind | scored by | exported file | tested with |
|---|---|---|---|---|
"""
OTHERS = """
"Not tested" says no more than that. Other models, also your own, are converted layer by layer; what is not known of one
is told in one sentence, and `mmacs report quantization CONFIG` shows what becomes of its layers. What a file holds of
each detector is in [deployment](../deployment.md#what-a-file-detects).
"""
API = """# Python reference

What `mmacs` exports, but for what a config names: that is in the [config reference](config.md). These names, their
signatures and the config keys carry a promise: a change is in the [changelog](../CHANGELOG.md).
"""


def registered() -> Dict[str, List[Tuple[str, str]]]:
    """Returns the names and paths of all that is registered, by registry, read from the calls of `register_module`."""
    found = {registry: [] for registry in REGISTRIES}
    for path in sorted((ROOT / 'mmacs').rglob('*.py')):
        if 'register_module' not in (source := path.read_text(encoding='utf-8')):
            continue
        parts = path.relative_to(ROOT).with_suffix('').parts
        module, tree = '.'.join(part for part in parts if part != '__init__'), ast.parse(source)
        for node in ast.walk(tree):
            own = getattr(node, 'name', '')
            for call in getattr(node, 'decorator_list', [node.value] if isinstance(node, ast.Expr) else []):
                registry = ast.unparse(call).partition('.register_module(')[0]
                if registry not in found or not isinstance(call, ast.Call):
                    continue
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                name = next(iter(call.args), given.get('name'))
                target = definition(module, given['module'].id) if 'module' in given else f'{module}.{own}'
                found[registry].append((own if name is None else literal(name, tree), target))
    return found


def literal(node: ast.expr, tree: ast.Module) -> str:
    """Returns the value of a literal, or of the constant of the module that a name stands for."""
    if isinstance(node, ast.Name):
        assigned = (one for one in tree.body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == node.id)
        node = next(assigned).value
    return ast.literal_eval(node)


def syntax(module: str) -> ast.Module:
    """Returns the syntax tree of a module or package."""
    path = ROOT.joinpath(*module.split('.'))
    source = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    return ast.parse(source.read_text(encoding='utf-8'))


def places(tree: ast.Module) -> Dict[str, Tuple[str, ...]]:
    """Returns the names that a package imports when they are first used (`lazy_names`): tuples of them by module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and node.keys and all(map(is_module, node.keys)):
            return ast.literal_eval(node)
    return {}


def is_module(node: ast.expr) -> bool:
    """Says whether a node is the name of a module of ours, as a string."""
    return isinstance(node, ast.Constant) and str(node.value).startswith('mmacs.')


def exported() -> List[str]:
    """Returns the paths of all that `mmacs` exports, but for registries."""
    table = places(syntax('mmacs')).items()
    return [definition(module, name) for module, names in table for name in names if not name.isupper()]


def definition(module: str, name: str) -> str:
    """Returns the path of what a module of the package calls by a name: where its imports lead to."""
    tree = syntax(module)
    for other, names in places(tree).items():
        if name in names:
            return definition(other, name)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in (one.asname or one.name for one in node.names):
            return definition(node.module, name)
    return f'{module}.{name}'


def directive(path: str, name: str = '', options: str = '') -> str:
    """Returns what mkdocstrings makes the documentation of an object of, under a name of its own or that of configs."""
    heading = f'      heading: {name}\n      toc_label: {name}\n' if name else ''
    return f'\n::: {path}\n' + (f'    options:\n{heading}{options}' if heading or options else '')


def supported() -> str:
    """Returns the table of models that are supported."""
    table = runpy.run_path(str(ROOT / 'mmacs' / 'cli' / 'supported.py'))
    rows = ''
    for name, row in table['MODELS'].items():
        scorer = f'`{table["SCORERS"][row.kind]}`' if row.scored else "random alone, `preset='rs2'`"
        rows += f'| {name} | {row.kind} | {scorer} | {"yes" if row.exports else "not tested"} | `{row.config}` |\n'
    return SUPPORTED + rows + OTHERS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    text, found = CONFIG + ''.join(map(directive, GROUPS)), registered()
    for registry, entries in found.items():
        text += f'\n## {REGISTRIES[registry]}\n' + ''.join(directive(path, name) for name, path in entries)
    told = {*GROUPS, *(path for entries in found.values() for _, path in entries)}
    api = API + ''.join(directive(path, options=METHODS) for path in exported() if path not in told)
    for page, content in {'config': text, 'api': api, 'models': supported()}.items():
        files.append(File.generated(config, f'reference/{page}.md', content=content))
    return files
