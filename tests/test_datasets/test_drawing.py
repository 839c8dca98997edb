import numpy as np
import pytest

from mmacs.datasets.drawing import SHAPES, TEXTURES, draw_sprite, object_colours, random_colour

COLOURS = np.array([[200.0, 50, 50], [220, 80, 50]])


def sprite_of(shape, seed=0, radius=20, centre=(32, 32)):
    return draw_sprite(np.random.default_rng(seed), shape, (64, 64), centre, radius, COLOURS, ['plain'])


@pytest.mark.parametrize('shape', SHAPES)
def test_shapes_fill_the_unit_circle(shape):
    y, x = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j]
    inside = SHAPES[shape](x, y) <= 0
    reach = np.hypot(x, y)[inside].max()
    assert 0.9 < reach <= 1.01
    assert inside.mean() * 9 > 0.5  # area in radii squared


@pytest.mark.parametrize('shape', SHAPES)
def test_window_holds_the_whole_shape(shape):
    for seed in range(5):
        sprite = sprite_of(shape, seed)
        assert not sprite.coverage[[0, -1]].any() and not sprite.coverage[:, [0, -1]].any()
        assert sprite.mask.any()


def test_windows_are_cut_at_the_canvas():
    sprite = sprite_of('disk', centre=(0, 64))
    assert sprite.window == (slice(0, 23), slice(43, 64))
    assert sprite.coverage.shape == (23, 21)


def test_paint_covers_the_mask_and_nothing_outside_the_window():
    canvas = np.zeros((64, 64, 3))
    sprite = sprite_of('ring')
    sprite.paint(canvas)
    painted = canvas.any(axis=-1)
    assert painted[sprite.window][sprite.mask].all()
    assert painted.sum() == (sprite.coverage > 0).sum()


@pytest.mark.parametrize('name', TEXTURES)
def test_textures_are_fields_in_the_unit_interval(name):
    field = TEXTURES[name](np.random.default_rng(0), 30, 50)
    assert field.shape == (30, 50)
    assert field.min() >= 0 and field.max() <= 1


def test_random_colour_keeps_its_distance_from_all_references():
    references = np.array([[40.0, 40, 40], [80, 80, 80]])
    for seed in range(20):
        colour = random_colour(np.random.default_rng(seed), references, (60, 120))
        assert 60 <= np.linalg.norm(colour - references, axis=1).min() <= 120


def test_harder_objects_stand_out_less():
    background = np.array([[100.0, 100, 100], [110, 110, 110]])

    def distance(difficulty):
        rng = np.random.default_rng(0)
        colours = [object_colours(rng, background, difficulty)[0] for _ in range(50)]
        return np.linalg.norm(colours - background[0], axis=1).mean()

    assert distance(1) < 0.8 * distance(0)
