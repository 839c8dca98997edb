import mmcv
import pytest
from matplotlib.figure import Figure

from mmacs.visualization.quantization import _bars, draw_report


def quantizer(**changes):
    return dict(dict(bits=4, clipped=0.01, levels=12.5, sqnr_db=15.0), **changes)


def report(count, with_drops):
    layers = [
        dict(name=f'backbone.layer.{number}', weight=quantizer(), inputs=[quantizer()] * 2, drop=0.1 * with_drops)
        for number in range(count)
    ]
    layers[0].update(weight=None, inputs=[quantizer(sqnr_db=None, clipped=None)], drop=-0.2)
    layers[-1].update(inputs=[])
    return dict(
        model='Net', images=8, layers=layers, sensitivity=dict(metric='accuracy', images=4) if with_drops else {}
    )


@pytest.mark.parametrize('with_drops', [True, False])
def test_the_picture_grows_with_layers_and_panels(tmp_path, with_drops):
    shapes = []
    for count in (2, 50):
        draw_report(report(count, with_drops), tmp_path / f'{count}.png')
        shapes.append(mmcv.imread(tmp_path / f'{count}.png').shape)
    (low, width, _), (high, same_width, _) = shapes
    assert width == same_width == (1520 if with_drops else 1230)
    assert high - low == pytest.approx(48 * 21, abs=2)


@pytest.mark.parametrize(
    ('values', 'limits'),
    [([0.0, None], (0, 1)), ([-2.0, -1.0], (-2.1, 0)), ([3.0, None], (0, 3.15)), ([-2.0, 4.0], (-2.1, 4.2))],
)
def test_zero_and_all_bars_are_in_sight(values, limits):
    axis = Figure().subplots()
    _bars(axis, 'drop', {'sensitivity': (values, 'red')})
    assert axis.get_xlim() == pytest.approx(limits)
    assert [bar.get_width() for bar in axis.patches[:2]] == [value or 0 for value in values]
