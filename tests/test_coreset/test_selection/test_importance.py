import numpy as np
import pytest

from mmacs.coreset import Importance
from mmacs.utils.errors import MmacsError

EVS, DS = np.array([0.0, 1.0, 2.0]), np.array([5e6, 1e6, 3e6])
PAPER = dict(evs='beta', ds='1 - beta')


def test_columns_are_mixed_after_normalisation():
    columns = dict(evs=EVS, ds=DS)
    ranks = np.array([1, 3, 5]) / 6, np.array([5, 1, 3]) / 6
    assert Importance(PAPER)(columns, 0.75) == pytest.approx(0.75 * ranks[0] + 0.25 * ranks[1])
    assert Importance(PAPER, normalisation='none')(columns, 1).tolist() == EVS.tolist()
    assert Importance(PAPER, normalisation='none')(columns, 0).tolist() == DS.tolist()


def test_a_further_column_is_one_more_weight():
    columns = dict(evs=EVS, ds=DS, kl=np.array([1.0, 1.0, 3.0]))
    mixed = Importance(dict(**PAPER, kl=2.0), normalisation='none')(columns, 0.5)
    assert mixed.tolist() == (0.5 * EVS + 0.5 * DS + 2 * columns['kl']).tolist()


def test_spaces_say_nothing_and_it_says_what_it_is():
    assert Importance({'ds': '1-beta'}, normalisation='none')(dict(ds=DS), 0.25).tolist() == (0.75 * DS).tolist()
    mixture = Importance({'evs': ' beta', 'ds': '1-beta', 'kl': 0.5, 'loss': 1.0})
    assert str(mixture) == "beta evs + (1 - beta) ds + 0.5 kl + loss, beta 'cosine', normalisation 'rank'"
    assert str(Importance({'ds': 1})) == "ds, normalisation 'rank'"
    assert mixture.uses_beta and not Importance({'ds': 1}).uses_beta


@pytest.mark.parametrize('normalisation', ['rank', 'minmax', 'none'])
def test_a_column_that_is_the_same_for_all_images_adds_nothing(normalisation):
    columns = dict(evs=np.full(3, 1e20), ds=np.array([0.1, 0.3, 0.2]))
    alone = Importance({'ds': 0.5}, normalisation=normalisation)(columns, 0.5)
    assert Importance(PAPER, normalisation=normalisation)(columns, 0.5).tolist() == alone.tolist()
    assert Importance({'evs': 1.0}, normalisation=normalisation)(columns, 0.5).tolist() == [0, 0, 0]


def test_scores_that_are_not_finite_stop_the_run():
    with pytest.raises(MmacsError, match='1 ds scores are not finite, the first is that of image 2'):
        Importance(PAPER)(dict(evs=np.zeros(3), ds=np.array([0, 1, np.nan])), 0.5)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(weights={}), 'weights must be a dict of columns, such as'),
        (dict(weights='evs'), "got 'evs'; on the command line write weights.evs=beta"),
        (dict(weights=dict(evs='alpha')), "the weight of evs must be a number, 'beta' or '1 - beta', got 'alpha'"),
        (dict(weights=dict(evs=float('nan'))), 'the weight of evs must be a number'),
        (dict(weights=dict(evs=True)), 'the weight of evs must be a number'),
        (dict(weights=PAPER, normalisation='ranks'), "did you mean 'rank'"),
        (dict(weights=PAPER, beta='cosin'), "did you mean 'cosine'"),
        (dict(weights=PAPER, beta=1.5), 'a constant beta must be from 0 to 1'),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(MmacsError, match=message):
        Importance(**arguments)
