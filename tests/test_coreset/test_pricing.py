"""What rounds cost, measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmacs.coreset import pricing as module
from mmacs.coreset.budget.prediction import Plan
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
