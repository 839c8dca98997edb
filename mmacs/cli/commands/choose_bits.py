"""Choose the bit-width of each layer under a budget, which counts weights.

A layer's inputs get the bits of its weight where the recipe gives both the same, and keep theirs where it gives others
(w4a8, w4a32).
"""

import argparse
import json
from pathlib import Path

from mmacs.cli.options import add_run_options
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument('checkpoint', help='full-precision checkpoint, against which drops are measured')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument('--mean-bits', type=float, help='largest mean bit-width of the quantized weights')
    budget.add_argument('--size-mb', type=float, help='largest size of the whole model in MB (10^6 bytes)')
    parser.add_argument(
        '--candidates', type=int, nargs='+', default=[2, 3, 4, 8], help='bit-widths to choose from; default: 2 3 4 8'
    )
    parser.add_argument('--images', type=int, default=256, help='validation images to measure on; default: 256')
    parser.add_argument(
        '--all-layers',
        action='store_true',
        help='choose also for the layers that see the image or predict, which otherwise stay as in the recipe',
    )
    parser.add_argument('--out', required=True, help='JSON file for the recipe; measurements are kept beside it')


def main(args: argparse.Namespace) -> None:
    """Measure each layer at each bit-width, choose, write the recipe."""
    from mmacs.cli import runs
    from mmacs.cli.quantized_run import calibrate_runner, conditions, load_quantized
    from mmacs.cli.tables import table_console
    from mmacs.evaluation.validation import Validation
    from mmacs.hooks.run import unwrapped
    from mmacs.quantization import disabled, quantizers
    from mmacs.quantization.analysis.bit_widths import (
        bit_costs,
        choice_table,
        choose,
        recipe_with_bits,
        size_costs,
        smooth_drops,
    )
    from mmacs.quantization.analysis.sensitivity import Record, layers_to_choose, measure_drops
    from mmacs.quantization.quantizers.base import check_bits
    from mmacs.utils.checks import is_number
    from mmacs.utils.files import write_whole
    from mmacs.utils.progress import phase

    candidates = sorted(set(args.candidates))
    for bits in candidates:
        check_bits(bits)
    cfg = runs.load_config(args)
    runner = load_quantized(cfg, args.checkpoint)
    model = unwrapped(runner)
    if any(quantizer.is_initialized() for _, quantizer in quantizers(model)):
        raise MmacsError('choose_bits measures drops against full precision: name the full-precision checkpoint')
    layers = layers_to_choose(model, args.all_layers)
    if not layers:
        raise MmacsError('no quantized weight is left to choose bits for: say --all-layers, or change the recipe')
    contributions = bit_costs if args.mean_bits is not None else size_costs
    limit = args.size_mb if args.mean_bits is None else args.mean_bits
    if not is_number(limit) or limit <= 0:
        raise MmacsError(f'the budget must be a number above 0, got {limit}')
    costs, fixed_cost = contributions(model, list(layers), candidates)
    free = {layer: dict.fromkeys(candidates, 0.0) for layer in layers}
    choose(costs, free, fixed_cost, limit)  # refuses a budget that can't be met before anything is measured

    out = Path(args.out)
    validation = Validation(runner, args.images)
    under = {**conditions(runner, args.images), 'data': validation.digest()}
    record = Record(out.with_name(f'{out.name}.sensitivity.json'), under)
    work = [(bits, record.missing(layers, bits)) for bits in candidates]
    count = sum(len(missing) for _, missing in work)
    if count:
        if record.full_precision is None:
            with disabled(model):
                record.full_precision = validation.score()
            record.metric = validation.metric
        validation.metric = record.metric
        calibrate_runner(runner)  # also of what is not chosen, so that nothing is missed below
        measuring = measure_drops(model, layers, record, work, validation.score, lambda: calibrate_runner(runner))
        with phase('sensitivity', count, 'evaluations') as under_way:
            for _ in under_way.each(measuring):
                pass

    drops = {
        layer: dict(zip(candidates, smooth_drops([record.drops[layer][bits] for bits in candidates])))
        for layer in layers
    }
    chosen = choose(costs, drops, fixed_cost, limit)
    recipe = recipe_with_bits(model.recipe, chosen, layers)
    write_whole(out, json.dumps(recipe, indent=1).encode())
    console = table_console(140)
    console.print(choice_table(model, chosen, record.drops))
    total = fixed_cost + sum(costs[layer][bits] for layer, bits in chosen.items())
    unit = 'MB' if args.mean_bits is None else 'bits per quantized weight'
    predicted = sum(drops[layer][bits] for layer, bits in chosen.items())
    console.print(f'{total:.3f} {unit}, of {limit:g} allowed', highlight=False)
    console.print(
        f'predicted drop of {record.metric}, as the sum over the layers: {predicted:.4f} from '
        f'{record.full_precision:.4f} in full precision',
        highlight=False,
    )
    console.print(
        f'wrote {out}: say --cfg-options model.recipe={out}, in training, testing and resuming alike', highlight=False
    )
