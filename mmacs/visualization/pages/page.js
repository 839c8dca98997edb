'use strict';
// What all pages have: their data, elements made of texts (never of markup), and tables that sort by a click.
const page = { data: JSON.parse(document.getElementById('data').textContent) };

page.element = (name, attributes, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children);
  return made;
};

page.drawing = (name, attributes) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
};

page.sortable = (table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = page.element('button', { type: 'button' }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const first = head.dataset.first || 'descending';
      const other = first === 'descending' ? 'ascending' : 'descending';
      const order = head.getAttribute('aria-sort') === first ? other : first;
      heads.forEach((one) => one.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', order);
      const sign = order === 'ascending' ? 1 : -1;
      const key = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
      const numbers = (text) => (text.trim() === '' ? NaN : Number(text));
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const [u, v] = [numbers(x), numbers(y)];
        if (!Number.isNaN(u) && !Number.isNaN(v)) return sign * (u - v);
        if (x === '' || y === '') return (x === '') - (y === ''); // what has no value comes last
        return sign * x.localeCompare(y, undefined, { numeric: true });
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
};

document.querySelectorAll('table.sortable').forEach(page.sortable);
