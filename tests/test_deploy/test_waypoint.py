"""Tensors from which a proof has two computations go on alike."""

import torch
from torch import nn

from mmacs.deploy.modules.waypoint import Waypoint, at_waypoints


def test_another_module_goes_on_from_what_the_first_passed():
    first, second = (nn.Sequential(nn.Identity(), Waypoint('proposals')) for _ in range(2))
    x, y, known = torch.ones(2), torch.zeros(2), {}
    with at_waypoints(first, known):
        assert first(x) is x
    with at_waypoints(second, known):
        assert second(y) is x
    assert list(known) == ['waypoint/proposals'] and second(y) is y and first(y) is y
