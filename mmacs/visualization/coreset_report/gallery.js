// The images of a coreset's report: filters, order, a slider over rounds, and each image enlarged with what the models find.
(() => {
  const { images, rounds, columns, classes, detection, models, before, total } = page.data;
  const gallery = document.getElementById('gallery');
  const dialog = document.getElementById('enlarged');
  const STEP = 24; // images that are added at a time
  const sets = [['truth', 'ground truth'], ...Object.entries(models)];
  const colours = { model: 'quantized', quantized: 'quantized', teacher: 'teacher', truth: 'truth' };
  const state = {
    round: rounds.length - 1, show: 'all', label: '', name: '', order: 'importance', descending: true,
    low: 0, high: 100, threshold: 0.4, drawn: new Set(['truth']), count: STEP,
  };
  let found = images;

  // ------------------------------------------------------------ what is known of an image
  const labelsOf = (image) => new Set(detection ? image.truth.filter((one) => !one[5]).map((one) => one[4]) : image.truth);
  images.forEach((image) => { image.labels = labelsOf(image); });
  const value = (image, key) => {
    const column = columns.indexOf(key);
    return column < 0 ? image[key] : image.scores[state.round][column];
  };
  const share = (image, key) => (columns.includes(key) ? image.shares[state.round][columns.indexOf(key)] : null);
  const kinds = {
    all: ['all', () => true],
    chosen: ['chosen', (image) => image.chosen[state.round]],
    other: ['not chosen', (image) => !image.chosen[state.round]],
    never: ['never chosen', (image) => image.times === 0],
  };
  if (images.some((image) => 'trimmed' in image)) kinds.trimmed = ['trimmed as suspected', (image) => image.trimmed];
  if (images.some((image) => 'noisy' in image)) kinds.noisy = ['label noise injected', (image) => image.noisy];
  const orders = [...columns, ...(images.some((image) => 'suspicion' in image) ? ['suspicion'] : [])];
  const others = { times: 'rounds that chose it', ...(detection ? { objects: 'objects' } : {}), name: 'file name' };
  const iou = (a, b) => {
    const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
    const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    if (width <= 0 || height <= 0) return 0;
    const area = (one) => (one[2] - one[0]) * (one[3] - one[1]);
    return (width * height) / (area(a) + area(b) - width * height);
  };
  // Detections from the highest score on take the object of their class that they overlap most, by a half at least.
  const matched = (image, detections) => {
    const free = new Set(image.truth.keys());
    const hit = detections.map((one) => {
      let best = -1;
      let most = 0.5;
      for (const place of free) {
        const overlap = image.truth[place][4] === one[4] ? iou(one, image.truth[place]) : 0;
        if (overlap >= most) [best, most] = [place, overlap];
      }
      if (best < 0) return null;
      free.delete(best);
      return best;
    });
    return { hit, missed: [...free].filter((place) => !image.truth[place][5]) };
  };
  const detected = (image, name) => ((image.found || {})[name] || []).filter((one) => one[5] >= state.threshold);
  const className = (label) => classes[label] ?? String(label);

  // ------------------------------------------------------------ pictures
  const outline = (drawing, box, kind, title, extra = '') => {
    const at = { x: box[0], y: box[1], width: Math.max(0, box[2] - box[0]), height: Math.max(0, box[3] - box[1]) };
    if (extra === '') drawing.append(page.drawing('rect', { ...at, class: 'edge' }));
    const rect = page.drawing('rect', { ...at, class: `box ${colours[kind]} ${extra}` });
    const told = page.drawing('title');
    told.textContent = title;
    rect.append(told);
    drawing.append(rect);
  };
  const frame = (image, kind) => {
    const box = page.element('div', { class: `picture ${kind}` });
    if (!image.picture) {
      box.append(page.element('span', {}, 'no picture'));
      return [box, null];
    }
    if (kind !== 'thumb') {
      box.style.aspectRatio = `${image.width} / ${image.height}`;
      box.style.maxWidth = `calc(${(75 * image.width) / image.height}vh)`; // all of it is in sight
    }
    const drawing = page.drawing('svg', { viewBox: `0 0 ${image.width} ${image.height}` });
    box.append(page.element('img', { src: image.picture, alt: `${image.name}: ${image.content}`, loading: 'lazy', decoding: 'async' }), drawing);
    return [box, drawing];
  };
  const thumbnail = (image) => {
    const [box, drawing] = frame(image, 'thumb');
    if (!drawing || !detection) return box;
    for (const [name, words] of sets) {
      if (!state.drawn.has(name)) continue;
      if (name === 'truth') {
        for (const one of image.truth) outline(drawing, one, name, `${words}: ${className(one[4])}`, one[5] ? 'ignored' : '');
      } else {
        for (const one of detected(image, name)) outline(drawing, one, name, `${words}: ${className(one[4])} ${one[5].toFixed(2)}`);
      }
    }
    return box;
  };
  // Puts each name where it hides no other: at one of the corners of its box, the surest first; else it is left out.
  const placeNames = (box, image, names) => {
    const scale = box.clientWidth / image.width;
    const taken = [];
    let left = 0;
    for (const { at, text, kind, extra } of names) {
      const label = page.element('span', { class: `name ${colours[kind]} ${extra}` }, text);
      box.append(label);
      const [width, height] = [label.offsetWidth, label.offsetHeight];
      const [x1, y1, x2, y2] = at.slice(0, 4).map((end) => end * scale);
      const spots = [
        [x1, y1 - height], [x1, y1], [x2 - width, y1 - height], [x1, y2], [x2 - width, y2], [x2 - width, y1],
        [x1, y2 - height], [x2 - width, y2 - height], [(x1 + x2 - width) / 2, (y1 + y2 - height) / 2],
        [x2, y1], [x1 - width, y1], [x2, y2 - height], [x1 - width, y2 - height],
      ].map(([x, y]) => [Math.min(Math.max(0, x), box.clientWidth - width), Math.min(Math.max(0, y), box.clientHeight - height)]);
      const spot = spots.find(([x, y]) => taken.every(([u, v, w, h]) => x + width <= u || u + w <= x || y + height <= v || v + h <= y));
      if (!spot) { label.remove(); left += 1; continue; }
      taken.push([...spot, width, height]);
      [label.style.left, label.style.top] = [`${spot[0]}px`, `${spot[1]}px`];
    }
    return left;
  };

  // ------------------------------------------------------------ cards
  const shown = (number) => (number == null ? '–' : Number(number.toPrecision(3)).toString());
  const percent = (number) => (number == null ? '' : ` (${Math.round(100 * number)}%)`);
  const marks = (image) => [
    image.chosen[state.round] ? 'chosen' : value(image, 'importance') == null ? 'not among the candidates' : 'not chosen',
    ...(image.trimmed ? ['trimmed'] : []), ...(image.noisy ? ['label noise injected'] : []),
  ].join(' · ');
  const scoreRows = (image) => [
    ...columns.map((column) => [column, shown(value(image, column)) + percent(share(image, column))]),
    ...('suspicion' in image ? [['suspicion', shown(image.suspicion)]] : []),
  ];
  const card = (image, place) => page.element('figure', { class: 'card', 'data-id': image.id },
    page.element('button', { type: 'button', class: 'open', 'aria-label': `Enlarge ${image.name}`, onclick: () => enlarge(place) }, thumbnail(image)),
    page.element('figcaption', {},
      page.element('strong', {}, image.name), ` · ${image.content}`, page.element('br'),
      page.element('span', { class: 'mark' }, marks(image)),
      page.element('table', {}, page.element('tbody', {}, ...scoreRows(image).map(([name, text]) => page.element('tr', {},
        page.element('td', { class: 'text' }, name), page.element('td', {}, text)))))));

  const draw = () => {
    const [, keep] = kinds[state.show];
    const [low, high] = [state.low / 100, state.high / 100];
    const text = state.name.toLowerCase();
    found = images.filter((image) => {
      const ranked = share(image, columns.includes(state.order) ? state.order : 'importance');
      return keep(image) && (state.label === '' || image.labels.has(Number(state.label)))
        && (text === '' || image.name.toLowerCase().includes(text) || image.id.toLowerCase().includes(text))
        && (ranked == null ? low <= 0 && high >= 1 : ranked >= low && ranked <= high);
    });
    const sign = state.descending ? -1 : 1;
    const compare = (x, y) => (typeof x === 'string' ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    const last = (image) => (value(image, state.order) == null ? 1 : 0);
    found.sort((a, b) => last(a) - last(b) || sign * compare(value(a, state.order), value(b, state.order)));
    gallery.replaceChildren(...found.slice(0, state.count).map(card));
    const more = document.getElementById('more');
    more.hidden = found.length <= state.count;
    more.textContent = `Show ${Math.min(STEP, found.length - state.count)} more`;
    const of = images.length === total ? `${images.length} images` : `${images.length} images of ${total} that this page holds`;
    document.getElementById('count').textContent = `${found.length} of the ${of} fit${found.length > state.count ? `, ${state.count} are shown` : ''}.`;
  };
  const change = (changes) => { Object.assign(state, { count: STEP }, changes); draw(); };

  // ------------------------------------------------------------ one image, enlarged
  const panel = (image, name, words) => {
    const part = page.element('section', {}, page.element('h3', {}, page.element('span', { class: `swatch ${colours[name]}` }), words));
    if (!detection) {
      const given = name === 'truth' ? image.truth.map((label) => className(label))
        : ((image.found || {})[name] || []).map(([label, score]) => `${className(label)} ${score.toFixed(2)}`);
      part.append(page.element('p', {}, given.join(', ') || '–'));
      return [part, () => {}];
    }
    const [box, drawing] = frame(image, 'large');
    const names = [];
    let said;
    if (name === 'truth') {
      for (const one of image.truth) {
        outline(drawing || page.drawing('svg'), one, name, className(one[4]), one[5] ? 'ignored' : '');
        names.push({ at: one, text: className(one[4]) + (one[5] ? ' (ignored)' : ''), kind: name, extra: '' });
      }
      said = image.content;
    } else {
      const detections = detected(image, name);
      const { hit, missed } = matched(image, detections);
      const objects = image.truth.filter((one) => !one[5]).length;
      let wrong = 0;
      detections.forEach((one, place) => {
        const extra = hit[place] === null ? 'unmatched' : '';
        wrong += hit[place] === null;
        const text = `${className(one[4])} ${one[5].toFixed(2)}`;
        outline(drawing || page.drawing('svg'), one, name, text, extra);
        names.push({ at: one, text, kind: name, extra });
      });
      for (const place of missed) outline(drawing || page.drawing('svg'), image.truth[place], 'truth', `missed: ${className(image.truth[place][4])}`, 'missed');
      said = `${objects - missed.length} of ${objects} objects found, ${wrong} other detections`;
    }
    const told = page.element('p', {}, said);
    part.append(told, box);
    const place = () => {
      if (!drawing) return;
      box.querySelectorAll('.name').forEach((label) => label.remove());
      const left = placeNames(box, image, names);
      told.textContent = said + (left ? `; there is no room for ${left} names: point at a box to read its own` : '');
    };
    box.addEventListener('click', () => { // all of the width for this one
      part.classList.toggle('wide');
      place();
    });
    return [part, place];
  };
  let opened = 0;
  const enlarge = (place) => {
    opened = place;
    const image = found[place];
    const panels = sets.map(([name, words]) => panel(image, name, words));
    const step = (by) => page.element('button', { type: 'button', disabled: !found[place + by], onclick: () => enlarge(place + by) }, by < 0 ? '← previous' : 'next →');
    const parts = panels.map(([part]) => part);
    const shownParts = detection ? parts : [frame(image, 'large')[0], page.element('div', {}, ...parts)];
    dialog.replaceChildren(
      page.element('header', {}, page.element('h2', { id: 'enlarged-name' }, image.name),
        page.element('div', { class: 'row' }, step(-1), ' ', step(1), ' ',
          page.element('button', { type: 'button', onclick: () => dialog.close() }, 'Close'))),
      page.element('div', { class: 'facts' },
        page.element('span', {}, `id ${image.id}`),
        page.element('span', { class: 'mark' }, `${marks(image)} ${before[state.round]}`),
        page.element('span', {}, `chosen in ${image.times} of ${page.data.count} rounds`),
        ...scoreRows(image).map(([name, text]) => page.element('span', {}, `${name} `, page.element('b', {}, text)))),
      page.element('p', {}, Object.keys(models).length && detection
        ? `Detections with a score of ${state.threshold} and more; solid where they overlap an object of their class by a half, dashed and red where not; missed objects are dotted.` : ''),
      page.element('div', { class: 'panels' }, ...shownParts));
    if (!dialog.open) dialog.showModal();
    panels.forEach(([, placed]) => placed());
  };
  dialog.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && found[opened + by]) { event.preventDefault(); enlarge(opened + by); }
  });
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  let waiting = 0;
  addEventListener('resize', () => { // names are placed by pixels
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (dialog.open) enlarge(opened); }, 200);
  });

  // ------------------------------------------------------------ controls
  const choice = (id, words, options, picked, changed) => page.element('label', {}, words,
    page.element('select', { id, onchange: (event) => changed(event.target.value) },
      ...options.map(([key, text]) => page.element('option', { value: key, selected: key === picked }, text))));
  const said = page.element('span', { id: 'round-said' }, before[state.round]);
  const controls = document.getElementById('controls');
  const inRow = (...parts) => page.element('div', { class: 'row' }, ...parts);
  const bound = (id, key, label) => page.element('input', { id, type: 'number', min: 0, max: 100, value: state[key], 'aria-label': label,
    oninput: (event) => change({ [key]: event.target.value === '' ? { low: 0, high: 100 }[key] : Number(event.target.value) }) });
  controls.append(
    page.element('label', {}, 'Round', page.element('input', { id: 'round', type: 'range', min: 0, max: rounds.length - 1, step: 1, value: state.round,
      oninput: (event) => { state.round = Number(event.target.value); said.textContent = before[state.round]; change({}); } }), said),
    choice('show', 'Show', Object.entries(kinds).map(([key, [text]]) => [key, text]), 'all', (show) => change({ show })),
    choice('label', 'Class', [['', 'any'], ...classes.map((name, label) => [String(label), name]).filter(([label]) => images.some((image) => image.labels.has(Number(label))))], '', (label) => change({ label })),
    page.element('label', {}, 'File name or id', page.element('input', { id: 'name', type: 'search', oninput: (event) => change({ name: event.target.value }) })),
    choice('order', 'Sort by', [...orders.map((key) => [key, key]), ...Object.entries(others)], 'importance', (order) => change({ order })),
    choice('direction', 'Order', [['down', 'highest first'], ['up', 'lowest first']], 'down', (way) => change({ descending: way === 'down' })),
    page.element('fieldset', {}, page.element('legend', {}, 'Rank of that score among all images, %'),
      inRow(bound('low', 'low', 'lowest rank in percent'), ' to ', bound('high', 'high', 'highest rank in percent'))));
  if (detection && images.some((image) => image.picture)) {
    controls.append(page.element('fieldset', {}, page.element('legend', {}, 'Boxes in the pictures'), inRow(...sets.map(([name, words]) => page.element('label', {},
      page.element('input', { type: 'checkbox', id: `draw-${name}`, checked: state.drawn.has(name), onchange: (event) => { state.drawn[event.target.checked ? 'add' : 'delete'](name); draw(); } }),
      page.element('span', { class: `swatch ${colours[name]}` }), words)))));
    if (Object.keys(models).length) {
      const limit = page.element('span', {}, state.threshold.toFixed(2));
      controls.append(page.element('label', {}, 'Detections from this score on', page.element('input', { id: 'threshold', type: 'range', min: 0.1, max: 0.95, step: 0.05, value: state.threshold,
        oninput: (event) => { state.threshold = Number(event.target.value); limit.textContent = state.threshold.toFixed(2); draw(); } }), limit));
    }
  }
  document.getElementById('more').addEventListener('click', () => { state.count += STEP; draw(); });
  document.querySelectorAll('[data-shown]').forEach((button) => button.addEventListener('click', () => {
    const image = images[Number(button.dataset.shown)];
    if (!found.includes(image)) found = [image];
    enlarge(found.indexOf(image));
  }));
  draw();
})();
