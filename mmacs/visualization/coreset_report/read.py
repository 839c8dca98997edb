"""All that a report takes from a work dir: the run, its rounds one at a time, and what is kept of all of them."""

from pathlib import Path
from typing import List, NamedTuple, Optional

from mmengine.config import Config

from mmacs.visualization.coreset_report.contents import Contents, read_contents
from mmacs.visualization.coreset_report.rounds import History, Record, read_image_ids, read_round, round_files
from mmacs.visualization.coreset_report.run import Run, read_run, require_same_images, run_of_config, told_by

PREDICTIONS = 'predictions.npz'  # beside the rounds


class Rounds(NamedTuple):
    """The rounds of a run.

    Attributes:
        files (List[Path]): Their files in order.
        run (Run): The run and its images.
        contents (Contents): What is in the images.
        history (History): What is kept of all rounds.
        last (dict): The last round, with the images' ids as ``image_ids``.
    """

    files: List[Path]
    run: Run
    contents: Contents
    history: History
    last: Record

    def read(self, number: int) -> Record:
        """Returns a round by its number.

        Raises:
            MmacsError: If there is none of that number, or it is damaged.
        """
        return read_round(self.files[number], int(self.run.truth.num_indices), len(self.run.truth.ends))


def read_rounds(work_dir: Path, data_root: Optional[str] = None, config: Optional[Config] = None) -> Rounds:
    """Read what a run left, see :func:`~.page.write_report`.

    Raises:
        MmacsError: If there are no rounds or no data, or the data set is not that of the run.
    """
    files = round_files(work_dir)
    run = read_run(work_dir, data_root) if config is None else told_by(run_of_config(config, data_root), work_dir)
    num_indices, num_images = int(run.truth.num_indices), len(run.truth.ends)
    contents = read_contents(run.truth)
    records = (read_round(path, num_indices, num_images) for path in files)
    history = History.of(records, contents, run.about['unit'])
    last = read_round(files[-1], num_indices, num_images)
    last['image_ids'] = read_image_ids(files[-1], num_images)
    require_same_images(run.truth, last['image_ids'])
    return Rounds(files, run, contents, history, last)
