import math

import pytest
import torch
from torch import nn

from mmacs.coreset.scoring.probabilities import disagreement, keep_probabilities, relative_entropy
from mmacs.coreset.scoring.scorers.classification import ClassificationScorer, ClassifierOutputs
from mmacs.coreset.scoring.scores import error_vector_score
from mmacs.utils.errors import MmacsError

pytest.importorskip('mmpretrain')
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

CLASSES = 5


def classifier(**changes):
    settings = dict(
        type='ImageClassifier',
        backbone=dict(type='mmacs.CIFARResNet', depth=20),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64),
        data_preprocessor=dict(num_classes=CLASSES, mean=[127.5] * 3, std=[64.0] * 3),
    )
    settings.update(changes)
    return MODELS.build(dict(settings, _scope_='mmpretrain')).eval()


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


def peaked(rows, num_classes, seed=0, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(rows, num_classes, generator=generator)).softmax(1)


def score(logits, labels, columns, teacher_outputs=None, features=None):
    outputs = ClassifierOutputs(logits, features)
    return ClassificationScorer().score(None, outputs, samples(labels), teacher_outputs or {}, columns)


def test_columns_equal_a_loop_over_images():
    torch.manual_seed(1)
    logits, features, labels = 2 * torch.randn(6, CLASSES), torch.randn(6, 3), [0, 4, 2, 2, 1, 3]
    teacher = peaked(6, CLASSES)
    teacher_outputs = {'teacher_error': torch.arange(6.0), **keep_probabilities(teacher, CLASSES)}
    scorer = ClassificationScorer()
    found = score(logits, labels, list(scorer.columns), teacher_outputs, features)
    assert set(found) == set(scorer.columns)
    for i, label in enumerate(labels):
        weights = [math.exp(value) for value in logits[i].tolist()]
        p, t = [weight / sum(weights) for weight in weights], teacher[i].tolist()
        onehot = [float(k == label) for k in range(CLASSES)]
        first, second = sorted(p)[:-3:-1]
        expected = {
            'evs': math.dist(p, onehot),
            'ds': math.dist(p, t),
            'kl': sum(a * math.log(a / b) for a, b in zip(p, t)),
            'margin': 1 - (first - second),
            'entropy': -sum(a * math.log(a) for a in p),
            'grand': math.dist(p, onehot) * math.sqrt(1 + sum(h * h for h in features[i].tolist())),
            'loss': -math.log(p[label]),
            'correct': float(p[label] == first),
            'teacher_error': float(i),
            'reducible_error': math.dist(p, onehot) - i,
        }
        for name, value in expected.items():
            assert found[name][i].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_an_image_whose_label_the_teacher_finds_wrong_has_the_largest_error_but_little_that_is_reducible():
    teacher = torch.tensor([[8.0, 0, 0], [8, 0, 0], [8, 0, 0]]).softmax(1)
    model, labels = torch.tensor([[7.0, 0, 0], [0.5, 0, 0], [7.5, 0, 0]]), [1, 0, 0]  # the first label is wrong
    teacher_outputs = {'teacher_error': error_vector_score(teacher, torch.tensor(labels))}
    found = score(model, labels, ['evs', 'reducible_error'], teacher_outputs)
    assert found['evs'].argmax() == 0
    assert found['reducible_error'].argmax() == 1 and found['reducible_error'][0] < 0.01


def test_grand_is_the_norm_of_the_gradient_at_the_last_layer():
    layer, features = nn.Linear(7, CLASSES), torch.randn(1, 7)
    nn.functional.cross_entropy(layer(features), torch.tensor([3])).backward()
    gradient = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()
    found = score(layer(features).detach(), [3], ['grand'], features=features)
    torch.testing.assert_close(found['grand'], gradient[None])


def test_scores_stay_finite_for_extreme_logits():
    logits = torch.tensor([[1e4, 0, 0], [0, 1e4, 0], [-1e4, 0, 0]])
    teacher_outputs = {'teacher_error': torch.zeros(3), **keep_probabilities(logits.flip(0).softmax(1), 3)}
    columns = [column for column in ClassificationScorer.columns if column != 'grand']
    found = ClassificationScorer().score(classifier(), logits.half(), samples([0, 0, 0]), teacher_outputs, columns)
    for name, values in found.items():
        assert values.isfinite().all() and values.dtype == torch.float32, name


def test_the_whole_pass_of_a_classifier():
    model, scorer = classifier(), ClassificationScorer()
    scorer.check(model, list(scorer.columns))
    inputs, truth = torch.randn(4, 3, 32, 32), samples([0, 1, 2, 3])
    with torch.no_grad():
        outputs = scorer.outputs(model, inputs, truth)
        assert outputs.features.shape == (4, 64)
        torch.testing.assert_close(outputs.logits, model(inputs, mode='tensor'))
        teacher_outputs = scorer.teacher_outputs(model, outputs, truth, list(scorer.columns))
        found = scorer.score(model, outputs, truth, teacher_outputs, list(scorer.columns))
        assert found['ds'].abs().max() < 1e-6 and found['kl'].max() < 1e-6  # the model is its own teacher
        torch.testing.assert_close(found['teacher_error'], found['evs'])
        torch.testing.assert_close(found['reducible_error'], torch.zeros(4))
        alone = scorer.score(model, scorer.outputs(model, inputs[2:3], truth[2:3]), truth[2:3], {}, ['evs', 'grand'])
        for name, values in alone.items():
            torch.testing.assert_close(values, found[name][2:3])


def test_logits_tapped_in_training_give_the_harvestable_columns():
    model, scorer = classifier(), ClassificationScorer()
    inputs, truth, hooked = torch.randn(4, 3, 32, 32), samples([0, 1, 2, 3]), []
    handle = scorer.hooked_module(model).register_forward_hook(
        lambda module, args, output: hooked.append(output.detach())
    )
    model.train()
    loss = model(inputs, truth, mode='loss')['loss']
    handle.remove()
    (logits,) = hooked
    found = scorer.score(model, logits, truth, {}, sorted(scorer.training_columns))
    torch.testing.assert_close(found['loss'].mean(), loss.detach())
    with pytest.raises(MmacsError, match='grand needs one vector of features per image, which LinearClsHead'):
        scorer.score(model, logits, truth, {}, ['grand'])


def test_nothing_is_tapped_where_training_sees_other_logits():
    scorer = ClassificationScorer()
    assert scorer.hooked_module(classifier(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))) is None
    assert (
        scorer.hooked_module(classifier(head=dict(type='ArcFaceClsHead', num_classes=CLASSES, in_channels=64))) is None
    )


@pytest.mark.parametrize('labels', [[1, [0, 2]], [[], [0, 2]], [1, None]])
def test_images_with_another_number_of_labels_are_refused(labels):
    truth = [DataSample() if label is None else DataSample().set_gt_label(label) for label in labels]
    with pytest.raises(MmacsError, match='exactly one label per image'):
        ClassificationScorer().score(classifier(), torch.randn(2, CLASSES), truth, {}, ['evs'])


def test_a_conformers_branches_add_up_and_other_heads_are_refused():
    logits, truth = torch.randn(2, CLASSES), samples([0, 1])
    scorer, model = ClassificationScorer(), classifier()
    whole = scorer.score(model, logits, truth, {}, ['loss'])['loss']
    torch.testing.assert_close(scorer.score(model, (logits - 1, torch.ones(2, 1)), truth, {}, ['loss'])['loss'], whole)
    for wrong in (torch.randn(2, 1), torch.randn(2, CLASSES, 4), {'task': logits}):
        with pytest.raises(MmacsError, match='logits of two or more classes'):
            scorer.score(model, wrong, truth, {}, ['loss'])


def test_mistakes_are_named_before_the_run():
    with pytest.raises(MmacsError, match='scores MMPreTrain classifiers, not Linear'):
        ClassificationScorer().check(nn.Linear(2, 2), ['evs'])
    with pytest.raises(MmacsError, match="unknown column of ClassificationScorer 'margins': did you mean 'margin'"):
        ClassificationScorer().check(classifier(), ['margins'])
    for wrong in (0, True, 2.5):
        with pytest.raises(MmacsError, match='num_probs must be a whole number, at least 1'):
            ClassificationScorer(num_probs=wrong)


@pytest.mark.parametrize(
    ('num_classes', 'num_probs', 'kept'), [(128, None, 128), (129, None, 32), (129, 200, 129), (10, 3, 3)]
)
def test_how_much_is_kept_of_the_teacher(num_classes, num_probs, kept):
    model = classifier(head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=64))
    with torch.no_grad():
        scorer, truth = ClassificationScorer(num_probs), samples([0, 1])
        outputs = scorer.outputs(model, torch.randn(2, 3, 32, 32), truth)
        teacher_outputs = scorer.teacher_outputs(model, outputs, truth, ['kl'])
    assert 'teacher_error' not in teacher_outputs
    for column in ('teacher_error', 'reducible_error'):
        assert list(scorer.teacher_outputs(model, outputs, truth, ['evs', column])) == ['teacher_error']
    assert teacher_outputs['probs'].shape == (2, kept)
    assert teacher_outputs['probs'].dtype == torch.float32
    assert ('classes' in teacher_outputs) == (kept < num_classes)
    if kept < num_classes:
        assert teacher_outputs['classes'].dtype == torch.int16
        torch.testing.assert_close(teacher_outputs['probs'].sum(1) + teacher_outputs['rest_mass'], torch.ones(2))


def test_more_classes_than_int16_holds():
    assert keep_probabilities(peaked(1, 2**15), 4)['classes'].dtype == torch.int16
    probs = torch.zeros(1, 2**15 + 1)
    probs[0, 2**15] = 1
    kept = keep_probabilities(probs, 1)
    assert kept['classes'].tolist() == [[2**15]]
    assert disagreement(probs, kept).item() == 0


def test_soft_labels_of_what_was_kept():
    logits = torch.tensor([[0.0, 3.0, -2.0, 1.0, 200.0], [4.0, 0.0, 0.0, 0.0, -1.0]])
    scorer = ClassificationScorer()
    whole = scorer.teacher_logits(keep_probabilities(logits.softmax(1), 5), 5)
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[1].div(3).softmax(0), logits[1].div(3).softmax(0))
    kept = scorer.teacher_logits(keep_probabilities(logits.softmax(1), 2), 5).softmax(1)
    torch.testing.assert_close(kept[1, 0], logits[1].softmax(0)[0])
    torch.testing.assert_close(kept.sum(1), torch.ones(2))
    assert kept[1, 2] == kept[1, 3] == kept[1, 4]  # beyond the two largest all are taken as equal


@pytest.mark.parametrize('sharpness', [0.1, 1.0, 3.0, 8.0])
def test_truncated_disagreement_errs_within_its_bounds(sharpness):
    ours, theirs = peaked(200, 300, 1, sharpness).double(), peaked(200, 300, 2, sharpness).double()
    ours[:50] = 0.9 * theirs[:50] + 0.1 * ours[:50]  # a model near its teacher
    kept = keep_probabilities(theirs, 32)
    error = (disagreement(ours, kept) ** 2 - (ours - theirs).square().sum(1)).abs()
    rest = torch.ones_like(ours).scatter(1, kept['classes'].long(), 0)
    mean = kept['rest_mass'][:, None] / (300 - 32)
    rounding = 1e-12
    assert (error <= 2 * (((ours - mean).square() * rest).sum(1) * kept['rest_spread']).sqrt() + rounding).all()
    assert (error <= 2 * kept['probs'][:, -1] * (ours * rest).sum(1) + rounding).all()


def test_truncation_is_exact_where_the_rest_is_even():
    theirs = torch.tensor([[0.5, 0.3, 0.05, 0.05, 0.05, 0.05]])
    ours = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.15, 0.2]])
    for measure in (disagreement, relative_entropy):
        whole = measure(ours, keep_probabilities(theirs, 6))
        torch.testing.assert_close(measure(ours, keep_probabilities(theirs, 2)), whole)


def test_disagreement_of_confident_models_keeps_its_digits():
    theirs = torch.full((1, 1000), 1e-9)
    theirs[0, 7] = 1 - 999e-9
    ours = theirs.clone()
    ours[0, 900] += 1e-6
    assert disagreement(ours, keep_probabilities(theirs, 32)).item() == pytest.approx(1e-6, rel=1e-3)


def test_relative_entropy_is_zero_for_equal_and_finite_for_opposite_predictions():
    probs = peaked(20, 200)
    assert relative_entropy(probs, keep_probabilities(probs, 200)).max() < 1e-6
    opposite = relative_entropy(torch.eye(3)[:1], keep_probabilities(torch.eye(3)[1:2], 3))
    assert 80 < opposite.item() < 90
