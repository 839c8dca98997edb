"""Reports in a real browser, at the width of a desk and of a phone: what a click does, and that nothing hides."""

import shutil

import pytest

from mmacs.visualization.coreset_report.page import write_report
from mmacs.visualization.quantization_report import page_of
from tests.test_tools.test_coreset_report import write_detection_run
from tests.test_visualization.test_quantization import report

playwright = pytest.importorskip('playwright.sync_api', reason='pip install playwright')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium')


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """Files of both reports."""
    folder = tmp_path_factory.mktemp('pages')
    found = report(3, with_drops=True)
    histogram = dict(low=-12.5, high=11.5, q_min=-8, q_max=7, counts=[*range(64)])
    for layer, (name, drop) in zip(found['layers'], (('<b>stem', 0.3), ('layer10', None), ('layer9', 0.1))):
        described = dict(name=f'{name}.weight', type='LSQ', granularity='channel', step=(0.1, 0.2), histogram=histogram)
        layer.update(name=name, drop=drop, macs=10**6, outputs=[], weight={**found['layers'][1]['weight'], **described})
        for one in layer['inputs']:
            one.update(described, histogram=None)
    totals = dict(bytes=1, bytes_full_precision=8, macs=1, bit_operations=1, bit_operations_full_precision=64)
    found.update(config='c.py', checkpoint='</script>.pth', input_shape=[3, 8, 8], totals=totals, complaints=[])
    found['sensitivity'].update(quantized=0.5, full_precision=0.8)
    (folder / 'layers.html').write_text(page_of(found))
    return {'coreset': write_report(write_detection_run(folder)), 'layers': folder / 'layers.html'}


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390])
def opened(request, browser, pages):
    """Opens a page; no script fails or is refused, and nothing is wider than the window."""
    complaints, width = [], request.param

    def open_page(name):
        page = browser.new_page(viewport=dict(width=width, height=844))
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.on('console', lambda message: complaints.append(message.text))
        page.on('dialog', lambda dialog: complaints.append(dialog.message))
        page.goto(pages[name].as_uri())
        assert page.evaluate('document.documentElement.scrollWidth') == width
        return page

    yield open_page
    assert complaints == []


def names(page):
    return page.locator('#gallery strong').all_text_contents()  # also of those that are out of sight


def test_the_images_of_a_coreset_are_filtered_sorted_and_enlarged(opened):
    page = opened('coreset')
    assert len(names(page)) == 10 and names(page)[0] == '001.png'  # of highest importance
    page.select_option('#show', 'other')
    assert names(page) == ['007.png', '008.png', '010.png', '011.png', '012.png']
    marks = page.locator('#gallery .mark').all_text_contents()
    assert marks == ['not chosen'] * 4 + ['not among the candidates']
    page.select_option('#show', 'trimmed')
    assert names(page) == ['001.png', '002.png']
    page.select_option('#show', 'all')
    page.select_option('#direction', 'up')
    assert names(page)[0] == '011.png' and names(page)[-1] == '012.png'  # which was no candidate
    page.select_option('#order', 'name')
    assert names(page) == sorted(names(page))
    page.select_option('#order', 'importance')
    page.fill('#low', '70')
    assert names(page) == ['002.png', '001.png']  # 7 and 8 of 9 candidates score less
    page.fill('#low', '')
    page.select_option('#label', index=1)
    label = page.locator('#label').input_value()
    holding = page.evaluate('(label) => page.data.images.filter((one) => one.labels.has(Number(label))).length', label)
    assert len(names(page)) == holding < 10
    page.select_option('#label', '')
    page.fill('#name', '01')
    assert {*names(page)} == {'001.png', '010.png', '011.png', '012.png'}
    page.fill('#name', '')
    # rounds: scores of that round
    before = page.locator('#gallery').text_content()
    page.locator('#round').fill('0')
    assert (
        page.inner_text('#round-said') == 'in round 0, before epoch 1'
        and page.locator('#gallery').text_content() != before
    )
    # what the models find, in the pictures and enlarged
    truth = page.locator('#gallery rect.truth').count()
    page.check('#draw-quantized')
    assert page.locator('#gallery rect.quantized').count() == 1 and page.locator('#gallery rect.truth').count() == truth
    page.locator('#threshold').fill('0.1')
    assert page.locator('#gallery rect.quantized').count() == 2
    page.fill('#name', '001')
    page.click('.open')
    panels = page.locator('#enlarged .panels h3').all_inner_texts()
    assert panels == ['ground truth', 'quantized model', 'full-precision model']
    boxes = [one.bounding_box() for one in page.locator('#enlarged section:nth-child(2) .name').all()]
    assert len(boxes) == 2
    assert not any(_overlap(a, b) for place, a in enumerate(boxes) for b in boxes[:place])
    assert '<script>' in page.locator('#enlarged').inner_text()  # a class of that name
    page.keyboard.press('Escape')
    assert not page.locator('#enlarged').is_visible()
    page.click('#suspected th:nth-child(4) button')  # suspicion, the highest first
    page.click('#suspected [data-shown] >> nth=0')
    assert page.locator('#enlarged-name').inner_text() in ('001.png', '002.png', '003.png')


def test_layers_are_sorted_filtered_and_opened(opened):
    page = opened('layers')
    assert '</script>.pth' in page.inner_text('dl')
    shown = page.locator('#table tbody tr:visible td:first-child')
    assert shown.all_inner_texts() == ['<b>stem', 'layer10', 'layer9']
    page.click('#table th:first-child button')
    assert shown.all_inner_texts() == ['<b>stem', 'layer9', 'layer10']
    page.click('#table th:last-child button')  # the largest drop first, unknown ones last
    assert shown.all_inner_texts() == ['<b>stem', 'layer9', 'layer10']
    page.click('#table th:last-child button')
    assert shown.all_inner_texts() == ['layer9', '<b>stem', 'layer10']
    page.fill('#filter', 'LAYER1')
    assert shown.all_inner_texts() == ['layer10']
    page.click('#table tbody tr:visible button')
    assert page.locator('#layer rect.bar').count() == 64 and page.locator('#layer rect.clipped').count() > 10
    assert page.locator('#layer').inner_text().count('LSQ, 4 bits') == 3


def _overlap(one, other):
    apart = one['x'] + one['width'] <= other['x'] or other['x'] + other['width'] <= one['x']
    return not (apart or one['y'] + one['height'] <= other['y'] or other['y'] + other['height'] <= one['y'])
