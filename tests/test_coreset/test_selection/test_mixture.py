"""The share of wrong labels is found from the teacher's errors, and is none where errors are one heap."""

import numpy as np
import pytest

from mmacs.coreset.selection.mixture import wrong_share

IMAGES = 5000


def classifier(wrong: float, seed: int, sharpness: float = 30.0):
    """|| p_T - y ||_2 of a sure teacher of ten classes, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(10), IMAGES) * rng.beta(1, sharpness, IMAGES)[:, None]
    probs[:, 0] += 1 - probs.sum(1)  # the right class is the first
    labels = np.where(rng.random(IMAGES) < wrong, rng.integers(1, 10, IMAGES), 0)
    return np.linalg.norm(probs - np.eye(10)[labels], axis=1), labels > 0


def fallible(wrong: float, seed: int, distance: float = 5.0, sharpness: float = 3.0, classes: int = 10):
    """The same of softmax outputs, right on 99.9 % of the images by default: errors of many orders of magnitude."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(IMAGES, classes))
    logits[:, 0] += distance
    probs = np.exp(sharpness * logits)
    probs /= probs.sum(1, keepdims=True)
    labels = np.where(rng.random(IMAGES) < wrong, rng.integers(1, classes, IMAGES), 0)
    return np.linalg.norm(probs - np.eye(classes)[labels], axis=1), labels > 0


def skewed(wrong: float, seed: int):
    """Losses of right labels spread by a gamma distribution, five times those of wrong ones."""
    rng = np.random.default_rng(seed)
    bad = rng.random(IMAGES) < wrong
    return rng.gamma(8, 1, IMAGES) * np.where(bad, 5, 1), bad


def detector(wrong: float, seed: int):
    """Losses without an upper bound: log-normal, and five times those where boxes have wrong classes."""
    rng = np.random.default_rng(seed)
    bad = rng.random(IMAGES) < wrong
    return rng.lognormal(0, 0.3, IMAGES) * np.where(bad, 5, 1), bad


@pytest.mark.parametrize('wrong', [0.05, 0.2, 0.4])
@pytest.mark.parametrize('errors', [classifier, fallible, detector, skewed])
def test_the_share_of_wrong_labels_is_found(errors, wrong):
    found, bad = errors(wrong, seed=0)
    assert wrong_share(found) == pytest.approx(bad.mean(), rel=0.1, abs=0.01)
    assert wrong_share(100 * found) == pytest.approx(wrong_share(found), abs=1e-3)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('sharpness', [2.0, 5.0, 30.0])
def test_right_labels_are_left_alone_however_hard_some_images_are(seed, sharpness):
    assert wrong_share(classifier(0.0, seed, sharpness)[0]) < 0.01
    assert wrong_share(fallible(0.0, seed, sharpness=sharpness / 3)[0]) < 0.01
    assert wrong_share(fallible(0.0, seed, 5.0, sharpness / 3, 100)[0]) < 0.01
    assert wrong_share(detector(0.0, seed)[0]) < 0.01
    assert wrong_share(skewed(0.0, seed)[0]) < 0.01
    assert wrong_share(np.random.default_rng(seed).exponential(size=IMAGES)) < 0.01


@pytest.mark.parametrize('errors', [np.zeros(10), np.ones(10), np.ones(1), np.array([0.0, 1.0]), np.eye(1, 50)[0]])
def test_few_or_equal_errors_say_nothing_or_little(errors):
    assert 0 <= wrong_share(errors) <= 0.5


def test_more_wrong_labels_than_right_ones_are_not_believed():
    assert wrong_share(classifier(0.8, seed=0)[0]) == 0
