import logging
import os
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from mmengine.visualization import LocalVisBackend

from mmacs.cli.surroundings import surroundings
from mmacs.utils.errors import MmacsError


def raise_in(work_dir, error):
    with surroundings(work_dir):
        raise error


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (
            OSError(28, 'No space left on device'),
            'cannot write {dir} .No space left on device; .* free.: free some space',
        ),
        (OSError(28, 'No space left on device', '{dir}/a.log'), 'cannot write {dir}/a.log .No space left on device'),
        (OSError(30, 'Read-only file system', '/home/x'), 'cannot write /home/x .*make it writable'),
        (OSError(27, 'File too large'), 'cannot write {dir} .File too large.: raise the limit'),
        (PermissionError(13, 'Permission denied', '{dir}/1/vis_data'), 'cannot write {dir}/1/vis_data .*--work-dir'),
        (FileExistsError(17, 'File exists', '{dir}'), 'cannot write {dir} .*something else is in its place'),
        (
            RuntimeError(
                'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that workers are '
                'out of shared memory. Please try to raise your shared memory limit.'
            ),
            'out of shared memory .*num_workers=0 .* --shm-size',
        ),
        (
            RuntimeError('unable to write to file </torch_7_8_9>: No space left on device (28)'),
            'out of shared memory .*num_workers=0',
        ),
    ],
)
def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path, error, message):
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(dir=tmp_path)
    with pytest.raises(MmacsError, match=message.format(dir=tmp_path)):
        raise_in(tmp_path, error)


def test_the_file_that_was_open_is_named(tmp_path):
    backend = LocalVisBackend(str(tmp_path))
    backend.add_scalars({'loss': 1.0, 'step': 1})
    backend._scalar_save_file = '/dev/full'
    with pytest.raises(MmacsError, match='cannot write /dev/full .No space left'), surroundings(tmp_path):
        backend.add_scalars({'loss': 1.0, 'step': 2})


@pytest.mark.parametrize(
    'error',
    [PermissionError(13, 'Permission denied', '/data/1.png'), OSError('odd'), RuntimeError('a bug'), KeyError(1)],
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        raise_in(tmp_path, error)
    assert caught.value is error


def test_a_worker_that_has_no_shared_memory_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    def refuse(obj):
        raise RuntimeError(
            'unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)'
        )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            monkeypatch.setattr(ForkingPickler, 'dumps', refuse)  # in the worker alone
            return index

    with pytest.raises(MmacsError, match='out of shared memory .*num_workers=0'), surroundings(tmp_path):
        list(torch.utils.data.DataLoader(Images(), num_workers=1, multiprocessing_context='fork'))


def test_a_batch_that_cannot_be_handed_over_is_an_error_and_no_endless_wait(tmp_path):
    loader = torch.utils.data.DataLoader(
        range(4), num_workers=1, collate_fn=lambda batch: lambda: batch, multiprocessing_context='fork'
    )
    with pytest.raises(MmacsError, match='cannot hand over what the pipeline gives'), surroundings(tmp_path):
        list(loader)


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path):
    before, logger = logging.Handler.handleError, logging.getLogger('full')
    handler = logging.FileHandler('/dev/full')
    logger.addHandler(handler)
    try:
        with pytest.raises(MmacsError, match='cannot write /dev/full .No space left'), surroundings(tmp_path):
            logger.warning('a line')
    finally:
        logger.removeHandler(handler)
        os.dup2(os.open(os.devnull, os.O_WRONLY), handler.stream.fileno())
        handler.close()
    assert logging.Handler.handleError is before
    assert Path('/dev/full').exists()
