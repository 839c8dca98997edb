"""The time left that is logged includes coming rounds."""

from types import SimpleNamespace

from mmengine.hooks import Hook, IterTimerHook, LoggerHook
from mmengine.logging import MessageHub
from mmengine.runner import get_priority

from mmacs.hooks.time_left_hook import TimeLeftHook, add_to_time_left


def a_run(*hooks):
    runner = SimpleNamespace(hooks=list(hooks), message_hub=MessageHub('time left'), iter=0, max_iters=10)
    runner.register_hook = runner.hooks.append
    return runner


def test_rounds_to_come_are_added_after_each_iteration_to_what_iterations_take():
    timer = IterTimerHook()
    runner, rounds = a_run(timer), [300.0, 300.0, 100.0]
    add_to_time_left(runner, lambda: rounds[runner.iter])
    timer.time_sec_tot, timer.start_iter = 0, 0
    timer.before_train_epoch(runner)
    for runner.iter in range(3):
        timer.after_train_iter(runner, runner.iter)
        iterations = runner.message_hub.get_info('eta')
        runner.hooks[1].after_train_iter(runner, runner.iter)
        assert iterations < 50
        assert runner.message_hub.get_info('eta') == iterations + rounds[runner.iter]
    assert get_priority(timer.priority) < get_priority(runner.hooks[1].priority) < get_priority(LoggerHook.priority)


def test_a_second_run_of_a_runner_has_its_own_rounds_and_a_run_without_timer_no_time():
    runner = a_run(Hook())
    add_to_time_left(runner, lambda: 1.0)
    add_to_time_left(runner, lambda: 2.0)
    (added,) = [hook for hook in runner.hooks if isinstance(hook, TimeLeftHook)]
    assert added.coming() == 2.0
    added.after_train_iter(runner, 0)
    assert 'eta' not in runner.message_hub.runtime_info
    runner.hooks.append(IterTimerHook())  # one that a config calls later, and that has told nothing yet
    added.after_train_iter(runner, 0)
    assert 'eta' not in runner.message_hub.runtime_info
