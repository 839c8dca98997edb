"""The formulas of distillation."""

import pytest
import torch
from torch.testing import assert_close

from mmacs.distillation.losses import (
    FORMS,
    Predictions,
    confidence,
    detection_losses,
    kl_divergence,
    relative_error,
    soft_cross_entropy,
)


@pytest.fixture
def logits():
    return torch.randn(5, 4), 2 * torch.randn(5, 4)


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_soft_cross_entropy_is_the_written_out_formula(logits, temperature):
    ours, theirs = logits
    q, p = torch.softmax(ours / temperature, 1), torch.softmax(theirs / temperature, 1)
    assert_close(soft_cross_entropy(ours, theirs, temperature), temperature**2 * -(p * q.log()).sum(1))
    assert_close(kl_divergence(ours, theirs, temperature), temperature**2 * (p * (p / q).log()).sum(1))


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_independent_classes_add_up_as_bernoullis(logits, temperature):
    ours, theirs = logits
    q, p = torch.sigmoid(ours / temperature), torch.sigmoid(theirs / temperature)
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    assert_close(kl_divergence(ours, theirs, temperature, sigmoid=True), temperature**2 * expected)


@pytest.mark.parametrize('sigmoid', [False, True])
def test_agreement_has_no_divergence_and_no_gradient(logits, sigmoid):
    theirs = logits[1]
    ours = theirs.clone().requires_grad_()
    value = kl_divergence(ours, theirs, 2.0, sigmoid).sum()
    value.backward()
    assert value == 0
    assert_close(ours.grad, torch.zeros_like(ours), rtol=0, atol=1e-6)


@pytest.mark.parametrize('sigmoid', [False, True])
def test_both_forms_have_the_same_gradient_and_none_for_the_teacher(logits, sigmoid):
    gradients = []
    for form in FORMS.values():
        ours, theirs = (values.clone().requires_grad_() for values in logits)
        form(ours, theirs, 2.0, sigmoid).sum().backward()
        assert theirs.grad is None
        gradients.append(ours.grad)
    assert gradients[0].abs().min() > 0
    assert_close(*gradients)


def test_the_temperature_does_not_change_the_size_of_small_gradients():
    """At high temperatures the gradient is ``(z - v) / K`` for logits of mean zero, whatever T (section 2.1)."""
    ours, theirs = torch.randn(2, 3, 8)
    ours, theirs = (values - values.mean(1, keepdim=True) for values in (ours, theirs))
    ours.requires_grad_()
    soft_cross_entropy(ours, theirs, 1000.0).sum().backward()
    assert_close(ours.grad, (ours.detach() - theirs) / 8, rtol=0, atol=1e-3)


def test_half_precision_is_computed_in_single_precision(logits):
    ours, theirs = (values.bfloat16() for values in logits)
    assert_close(kl_divergence(ours, theirs), kl_divergence(ours.float(), theirs.float()))


def dense(num_background, object_logit=2.0, background_logit=-5.0, moved=0.0, sigmoid=True):
    """One object and much background, 3 classes."""
    logits = torch.full((1 + num_background, 3), background_logit)
    logits[0, 1] = object_logit + moved
    return Predictions(logits, torch.ones(len(logits), 4) * (1 + moved), sigmoid)


def test_detection_losses_are_the_written_out_formula():
    shape, more = (6, 3), dict(sigmoid=True)
    ours, theirs = (
        [Predictions(torch.randn(shape), torch.randn(6, 4), quality=torch.randn(6), **more) for _ in range(2)]
        for _ in range(2)
    )
    numerators, masses = torch.zeros(2), torch.zeros(2)
    for own, other in zip(ours, theirs):
        c_q, c_t = (p.logits.sigmoid().amax(1) * p.quality.sigmoid() for p in (own, other))
        assert_close(confidence(own), c_q)
        u, v = torch.maximum(c_q, c_t) ** 2, c_t**2
        divergence = kl_divergence(own.logits, other.logits, 2.0, True)
        divergence += kl_divergence(own.quality[:, None], other.quality[:, None], 2.0, True)
        unit = (v[:, None] * other.codes.abs()).sum() / (4 * v.sum())
        distance = (own.codes - other.codes).abs().mean(1) / unit
        numerators += torch.stack([(u * divergence).sum(), (v * distance).sum()])
        masses += torch.stack([u.sum(), v.sum()])
    assert_close(torch.stack(detection_losses(ours, theirs, 2.0)), numerators / (1 + masses))


def test_background_does_not_swamp_objects():
    few, many = (detection_losses([dense(count, moved=1.0)], [dense(count)])[0].item() for count in (100, 10_000))
    assert many == pytest.approx(few, rel=0.3)


def test_what_only_the_student_takes_for_an_object_counts_as_much():
    missed = detection_losses([dense(100, object_logit=-5.0)], [dense(100)])[0]
    invented = detection_losses([dense(100)], [dense(100, object_logit=-5.0)])[0]
    assert invented > 0.3 * missed > 0


def test_the_box_term_has_no_unit_and_the_background_of_softmax_is_no_object():
    ours, theirs = dense(10, moved=0.2), dense(10)
    in_pixels = [predictions._replace(codes=predictions.codes * 64) for predictions in (ours, theirs)]
    assert_close(detection_losses([in_pixels[0]], [in_pixels[1]])[1], detection_losses([ours], [theirs])[1])
    background = Predictions(torch.tensor([[0.0, 0.0, 20.0]]), torch.ones(1, 4), sigmoid=False)
    assert confidence(background).item() < 1e-6


def test_of_a_box_per_class_the_teachers_class_counts():
    logits = torch.tensor([[0.0, 5.0, 0.0]])  # two classes and background
    codes = torch.ones(1, 2, 4)
    other_class, same_class = codes.clone(), codes.clone()
    other_class[0, 0], same_class[0, 1] = 9.0, 9.0
    teacher = [Predictions(logits, codes, sigmoid=False)]
    assert detection_losses([Predictions(logits, other_class, sigmoid=False)], teacher)[1] == 0
    assert detection_losses([Predictions(logits, same_class, sigmoid=False)], teacher)[1] > 1


def test_losses_without_any_place_are_zero_and_finite():
    nothing = [Predictions(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 2, 4), sigmoid=False)]
    assert [float(value) for value in detection_losses(nothing, nothing)] == [0.0, 0.0]


def test_relative_error_is_the_written_out_formula_for_the_student_alone():
    ours, theirs = torch.randn(2, 2, 3, 4, 4).unbind()
    ours.requires_grad_(), theirs.requires_grad_()
    value = relative_error(ours, theirs)
    assert_close(value, (ours - theirs).norm() ** 2 / theirs.norm() ** 2)
    value.backward()
    assert theirs.grad is None and ours.grad.abs().sum() > 0
    assert torch.isfinite(relative_error(ours, torch.zeros_like(theirs)))
