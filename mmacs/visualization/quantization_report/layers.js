// The layers of a quantization report: a filter by name, and each layer's histograms.
(() => {
  const dialog = document.getElementById('layer');
  const [WIDTH, HEIGHT, FOOT] = [400, 160, 18];
  const histogram = ({ low, high, q_min: first, q_max: last, counts }) => {
    const drawing = page.drawing('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT + FOOT}`, role: 'img' });
    const at = (value) => (WIDTH * (value - low)) / (high - low);
    const step = Math.max(1, Math.ceil((last - first + 1) / 64)); // lines that can still be told apart
    for (let level = first; level <= last; level += step) {
      drawing.append(page.drawing('line', { class: 'level', x1: at(level), x2: at(level), y1: 0, y2: HEIGHT }));
    }
    const [most, width] = [Math.max(...counts), WIDTH / counts.length];
    const total = counts.reduce((sum, one) => sum + one, 0);
    counts.forEach((count, place) => {
      const centre = low + ((place + 0.5) * (high - low)) / counts.length;
      const height = count ? Math.max(1, HEIGHT * Math.sqrt(count / most)) : 0; // beside the zeros of a ReLU, others show
      const bar = page.drawing('rect', { class: centre < first - 0.5 || centre > last + 0.5 ? 'bar clipped' : 'bar',
        x: place * width + 0.3, y: HEIGHT - height, width: width - 0.6, height });
      const told = page.drawing('title');
      told.textContent = `around ${centre.toFixed(1)}: ${count} values, ${((100 * count) / total).toFixed(2)} %`;
      bar.append(told);
      drawing.append(bar);
    });
    drawing.append(page.drawing('line', { class: 'axis', x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
    for (const value of new Set([first, ...(first < 0 && last > 0 ? [0] : []), last])) {
      const tick = page.drawing('text', { class: 'tick', x: at(value), y: HEIGHT + 13 });
      tick.textContent = value;
      drawing.append(tick);
    }
    return drawing;
  };
  const show = (layer) => {
    dialog.replaceChildren(
      page.element('header', {}, page.element('h2', { id: 'layer-name' }, layer.name),
        page.element('button', { type: 'button', onclick: () => dialog.close() }, 'Close')),
      page.element('p', {}, 'Values before quantization, in steps of their own range; lines are the levels that they are rounded to; heights are square roots of counts. Orange lies outside of the range and is clipped; what lies further out is in the last bar.'),
      page.element('div', { class: 'histograms' }, ...layer.quantizers.map((one) => page.element('section', {},
        page.element('h3', {}, one.kind), page.element('p', {}, one.text),
        one.histogram ? histogram(one.histogram) : page.element('p', {}, 'It met no values, or its levels form no grid.')))));
    dialog.showModal();
  };
  document.querySelectorAll('[data-layer]').forEach((button) => button.addEventListener('click', () => show(page.data.layers[Number(button.dataset.layer)])));
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById('filter').addEventListener('input', (event) => {
    const text = event.target.value.toLowerCase();
    for (const row of document.getElementById('table').tBodies[0].rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
  });
})();
