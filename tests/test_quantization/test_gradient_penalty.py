"""The L1 norm of gradients, and that a network trained with it bears rounding."""

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.gradient_penalty import gradient_l1


def test_the_norms_are_those_written_out_and_so_is_their_gradient():
    w, x = torch.randn(3, 4, requires_grad=True), torch.randn(4)
    error = w @ x - 1
    of_w, of_nothing = gradient_l1((error**2).sum(), [[w], []])
    # dL/dw = 2 error x^T, so the norm is 2 |error|_1 |x|_1 and its gradient 2 sign(error) |x|_1 x^T
    torch.testing.assert_close(of_w, 2 * error.abs().sum() * x.abs().sum())
    (gradient,) = torch.autograd.grad(of_w, w)
    torch.testing.assert_close(gradient, 2 * error.sign()[:, None] * x.abs().sum() * x[None])
    assert of_nothing == 0


def test_the_gradient_of_the_norm_of_a_network_by_finite_differences():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(2, (8,))
    weight = net[2].weight

    def norm():
        hidden = net[1](net[0](x))
        return sum(gradient_l1(F.cross_entropy(net[2](hidden), y), [[net[0].weight, weight], [hidden]]))

    (gradient,) = torch.autograd.grad(norm(), weight)
    for place in ((0, 0), (1, 3)):
        sides = []
        for shift in (1e-3, -1e-3):
            with torch.no_grad():
                weight[place] += shift
            sides.append(norm().item())
            with torch.no_grad():
                weight[place] -= shift
        # the norm is a float32, as log and loss are
        torch.testing.assert_close(gradient[place].item(), (sides[0] - sides[1]) / 2e-3, atol=1e-3, rtol=1e-3)


def test_a_scale_changes_nothing_but_what_half_precision_can_hold():
    w = torch.full((4,), 1e-4, dtype=torch.float16, requires_grad=True)
    loss = (w.float() * 1e-8).sum()  # gradients below the smallest of half precision
    (lost,), (kept,) = gradient_l1(loss, [[w]]), gradient_l1(loss, [[w]], scale=2.0**16)
    assert lost == 0
    torch.testing.assert_close(kept, torch.tensor(4e-8), rtol=0.01, atol=0)


def trained(seed, penalty):
    """A network that tells three noisy classes, what it saw, and data that it did not see."""
    torch.manual_seed(seed)
    classes = torch.randn(8, 3)

    def data(count):
        x = torch.randn(count, 8)
        return x, (torch.tanh(x @ classes) + 0.3 * torch.randn(count, 3)).argmax(1)

    (x, y), held_out = data(512), data(2048)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        first = net[:2](x)
        second = net[2:4](first)
        loss = F.cross_entropy(net[4](second), y)
        if penalty:
            weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
            loss = loss + penalty * sum(gradient_l1(loss, [weights, [first, second]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, x, held_out


@torch.no_grad()
def test_rounding_after_training_moves_the_loss_less_at_every_bit_width():
    moved, right = {}, {}
    for penalty in (0.0, 0.01):
        for seed in range(2):
            with torch.enable_grad():
                net, x, (unseen, y) = trained(seed, penalty)
            right[penalty] = right.get(penalty, 0) + (net(unseen).argmax(1) == y).float().mean().item() / 2
            for bits in (8, 6, 4):
                setting = dict(bits=bits, type='MinMax')
                rules = [dict(name='*', weight=setting, activation=setting)]
                rounded = quantize_model(copy.deepcopy(net), dict(preset='w8a8', rules=rules)).eval()
                calibrate(rounded, [x])
                losses = [F.cross_entropy(one(unseen), y, reduction='none') for one in (net, rounded)]
                moved.setdefault((penalty, bits), []).append((losses[1] - losses[0]).abs().mean().item())
    assert right[0.01] >= right[0.0] - 0.01  # not bought by a worse network
    for bits in (8, 6, 4):
        assert max(moved[0.01, bits]) < 0.5 * min(moved[0.0, bits]), moved
