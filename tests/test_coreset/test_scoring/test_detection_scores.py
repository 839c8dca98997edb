"""What the scores of detectors take, and that looking at a few objects at a time changes no bit of them."""

import pytest
import torch

from mmacs.coreset.scoring.scorers import detection_scores
from mmacs.coreset.scoring.scorers.detection_scores import Candidates, error_vectors, overlaps_in_parts


def boxes(batch, count):
    corner = torch.rand(batch, count, 2) * 200
    return torch.cat([corner, corner + torch.rand(batch, count, 2) * 80], 2)


def crowded(batch, candidates, objects, ignored, classes=6):
    """Candidates, and boxes and labels of images of which the last have fewer objects."""
    level = torch.arange(candidates) * 3 // candidates
    key = torch.arange(candidates).repeat(batch, 1)
    found = Candidates(torch.rand(batch, candidates, classes) ** 4, boxes(batch, candidates), level, key)
    labels = torch.randint(0, classes, (batch, objects))
    labels[1:, objects // 2 :] = -1
    return found, boxes(batch, objects) * (labels >= 0)[..., None], labels, boxes(batch, ignored)


@pytest.mark.parametrize('pairs', [1, 400, 1700])
@pytest.mark.parametrize(('objects', 'ignored'), [(40, 7), (1, 0), (0, 5), (3, 1)])
def test_a_few_objects_at_a_time_give_the_same_bits(monkeypatch, pairs, objects, ignored):
    case = crowded(2, 200, objects, ignored)
    whole = error_vectors(*case, 32)
    monkeypatch.setattr(detection_scores, '_MAX_PAIRS', pairs)
    assert torch.equal(error_vectors(*case, 32), whole)


def test_parts_are_all_of_the_overlaps(monkeypatch):
    ours, theirs = boxes(2, 30), boxes(2, 11)
    ((_, whole),) = overlaps_in_parts(ours, theirs)
    monkeypatch.setattr(detection_scores, '_MAX_PAIRS', 4 * 60)
    parts = list(overlaps_in_parts(ours, theirs))
    assert [overlap.shape[2] for _, overlap in parts] == [4, 4, 3]
    assert all(torch.equal(overlap, whole[:, :, part]) for part, overlap in parts)


def test_a_crowded_image_takes_no_more_than_64_megabytes():
    case = crowded(1, 22_400, 600, 100)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        error_vectors(*case, 32)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    deltas = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    assert 2e7 < torch.tensor(deltas).cumsum(0).max() < 6.4e7
