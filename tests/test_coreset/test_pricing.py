"""What rounds cost, measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmacs.coreset import pricing as module
from mmacs.coreset.budget.cost import WAYS_OUT, Cost
from mmacs.coreset.budget.prediction import Costs, Extent, Plan
from mmacs.coreset.budget.schedule import Schedule
from mmacs.coreset.pricing import Pricing
from mmacs.utils import distributed
from mmacs.utils.distributed import together


class Scoring:
    """A pass over images that takes no time."""

    data, batch_size = range(8), 2

    def with_proxy(self, proxy):
        self.proxy = proxy
        return self

    def scores(self, scorer, model, positions, columns, read_teacher):
        with together():
            return dict.fromkeys(columns, np.zeros(len(positions)))


@pytest.mark.parametrize('failed', [False, True])
def test_bfloat16_is_no_alternative_where_it_fails_in_another_process(monkeypatch, failed):
    said, theirs = [], (RuntimeError, 'not implemented for BFloat16') if failed else None
    monkeypatch.setattr(distributed, 'all_gather_object', lambda own: [own, theirs])
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    settings = SimpleNamespace(scorer=None, scored_columns=['evs'])
    pricing = Pricing(settings, None, SimpleNamespace(plan=Plan(4, resolution=0.5)))
    cost = pricing._relative_cost_of_bfloat16(Scoring(), None, None, score=1.0)
    assert (cost is None) is failed
    assert said == ['Scoring in bfloat16 is no alternative: not implemented for BFloat16'] * failed


def test_ways_out_of_dear_selection_are_named_once(monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *_: said.append(text))
    progress = SimpleNamespace(selection_seconds=0.0, training_seconds=0.0, trained_images=0)
    rows = {'scored_at': np.full(1000, -1)}
    state = SimpleNamespace(progress=progress, rows=rows, plan=Plan(3), round=-1)
    extent = Extent(end=12, per_unit=100, size=100, indices=1000, images=1000)
    pricing = Pricing(SimpleNamespace(cost=Cost(), schedule=Schedule(interval=3)), extent, state)
    for _ in range(3):
        pricing._fit(Costs(score=1e-3, teacher=1e-3, step=3e-3), None, now=0)
    assert [WAYS_OUT in one for one in said] == [True, False, False] and all('selection 4.0 s' in one for one in said)
