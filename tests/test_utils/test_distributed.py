"""What two processes do together."""

import pytest
import torch
from torch.multiprocessing import spawn

from mmacs.utils.distributed import gather_rows, on_main, together
from mmacs.utils.errors import MmacsError


def test_alone_nothing_is_waited_for():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows
    with pytest.raises(MmacsError, match='mine'), together():
        raise MmacsError('mine')


def process(rank, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    rows = torch.arange(3) if rank == 0 else torch.tensor([7])
    assert gather_rows(rows).tolist() == [0, 1, 2, 7]
    table = gather_rows(torch.stack([rows, -rows], 1).float())
    assert table.tolist() == [[0, 0], [1, -1], [2, -2], [7, -7]] and table.dtype == torch.float32
    assert gather_rows(rows[: 1 - rank]).tolist() == [0]
    with pytest.raises(MmacsError, match='of process 1'), together():
        if rank == 1:
            raise MmacsError('of process 1')
    for error in (RuntimeError('of process 1'), KeyError('of process 1')):  # what torch raises, and a bug
        seen = KeyError if rank == 1 and isinstance(error, KeyError) else (RuntimeError, MmacsError)
        with pytest.raises(seen, match='of process 1'), together():
            if rank == 1:
                raise error
    with pytest.raises(MmacsError, match='of the main process'):
        on_main(fail)
    torch.distributed.destroy_process_group()


def fail():
    raise MmacsError('of the main process')


@pytest.mark.slow
def test_rows_and_mistakes_of_one_process_reach_the_other(tmp_path):
    spawn(process, (tmp_path,), nprocs=2)
