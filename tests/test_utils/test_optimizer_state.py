import copy

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, MultiStepLR, OneCycleLR, OptimWrapper, OptimWrapperDict, ReduceOnPlateauLR

from mmacs.utils.errors import MmacsError
from mmacs.utils.optimizer_state import require_sound_states


def trained(kind, **settings):
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = kind([dict(params=[parameter], weight_decay=0.1)], lr=0.1, **settings)
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    return optimizer


OPTIMIZERS = {
    'SGD': lambda: trained(torch.optim.SGD, momentum=0.9),
    'AdamW': lambda: trained(torch.optim.AdamW, amsgrad=True),
    'RMSprop': lambda: trained(torch.optim.RMSprop, momentum=0.9, centered=True),
    'Adadelta': lambda: trained(torch.optim.Adadelta),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_what_optimizers_and_schedules_write_is_taken(name):
    optimizer = OPTIMIZERS[name]()
    schedules = [
        CosineAnnealingLR(optimizer, T_max=5),
        MultiStepLR(optimizer, milestones=[2, 3]),
        OneCycleLR(optimizer, eta_max=0.1, total_steps=10),
        ReduceOnPlateauLR(optimizer),
    ]
    optimizer.load_state_dict(optimizer.state_dict())
    for schedule in schedules:
        schedule.load_state_dict(schedule.state_dict())
    require_sound_states(OptimWrapper(optimizer), schedules)
    require_sound_states(OptimWrapperDict(one=OptimWrapper(optimizer)), dict(one=schedules))
    require_sound_states(OptimWrapper(optimizer), None)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state['param_groups'][0].update(lr='a\x1b[2K'), r"the optimizer has lr 'a\\x1b\[2K'"),
        (lambda state: state['param_groups'][0].update(lr=float('nan')), 'the optimizer has lr nan'),
        (lambda state: state['param_groups'][0].update(betas=0.9), 'the optimizer has betas 0.9'),
        (lambda state: state['param_groups'][0].update(betas=(0.9, 'a')), 'the optimizer has betas'),
        (
            lambda state: state['state'][0].update(exp_avg=torch.zeros(5)),
            r'parameter of \(2, 3\), has exp_avg of \(5,\)',
        ),
        (lambda state: state['state'][0].update(exp_avg=5), 'has exp_avg 5'),
    ],
)
def test_a_state_that_training_would_stumble_over_is_refused(change, message):
    optimizer = OPTIMIZERS['AdamW']()
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    optimizer.load_state_dict(state)
    with pytest.raises(MmacsError, match=f'cannot resume: in the checkpoint .*{message}'):
        require_sound_states(OptimWrapper(optimizer), [])


@pytest.mark.parametrize('change', [dict(step=5), dict(last_step=float('nan'))])
def test_a_schedule_keeps_its_methods(change):
    schedule = CosineAnnealingLR(OPTIMIZERS['SGD'](), T_max=5)
    schedule.load_state_dict(change)
    with pytest.raises(MmacsError, match='the schedule CosineAnnealingLR has'):
        require_sound_states(None, [schedule])
