import time

import pytest
import torch

from mmacs.utils.timing import ratios, take_turns, verdict

CPU = torch.device('cpu')


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_sides_take_turns_after_one_turn_to_warm_up():
    ran = []
    seconds = take_turns({name: lambda name=name: ran.append(name) for name in 'ab'}, 2, CPU)
    assert ''.join(ran) == 'ababab'
    assert {name: len(values) for name, values in seconds.items()} == {'a': 2, 'b': 2}


def test_on_one_thread_waiting_for_other_processes_costs_nothing(one_thread):
    (waited,) = take_turns({'sleep': lambda: time.sleep(0.05)}, 1, CPU)['sleep']
    assert waited < 0.025


def test_ratios_are_taken_within_a_turn():
    slow_turn = ratios({'base': [1, 10, 1], 'other': [2, 20, 3]}, 'base')['other']
    assert slow_turn == (2, 2, 3)


def test_verdict_includes_the_bar_itself():
    assert verdict(1.15, 1.15) == '<= 1.15: met'
    assert verdict(1.16, 1.15) == '<= 1.15: missed'
