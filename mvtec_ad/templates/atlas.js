// What the map does. Bokeh calls this as the body of a function when the document is ready, with the plot, its two
// sources (all marks, and the one that is kept) and the corners -1 to 1 of every map as arguments, and what the search box needs.
/* global plot, source, chosen, squares, search, words_search */
const find = id => document.getElementById(id), kinds = Array.from(source.data.kind), whole = [-1.07, 1.07];
const buttons = Array.from(document.querySelectorAll('.type'));
let muted = new Set(), focus = null, marked = 0, moves = 0;
const text = (tag, textContent, className = '') =>
  Object.assign(document.createElement(tag), {textContent, className});
const tell = i => {
  const {category, defect, predicted, image_id} = source.data, right = predicted[i] === defect[i];
  const verdict = right ? '✓ the model said so' : '✗ the model said: ' + predicted[i];
  return {name: category[i] + ' · ' + defect[i], id: text('small', image_id[i]),
          verdict: predicted[i] ? text('div', verdict, right ? 'right' : 'wrong') : ''};
};
const paint = () => {
  const seen = kind => focus === null ? (muted.has(kind) ? 0.07 : 1) : (kind === focus ? 1 : 0.1);
  source.data = {...source.data, alpha: kinds.map(seen)};
  buttons.forEach((button, kind) => button.setAttribute('aria-pressed', !muted.has(kind)));
};
const ring = () => { chosen.data = {x: [source.data.x[marked]], y: [source.data.y[marked]]}; };
const place = event => {  // in the page and on the map; bokeh's own tap fails on a click held for long
  const box = find('plot').getBoundingClientRect(), {x_range, y_range} = plot;
  const sx = event.clientX - box.left, sy = event.clientY - box.top;
  return {sx, sy, x: x_range.start + sx / box.width * (x_range.end - x_range.start),
          y: y_range.end - sy / box.height * (y_range.end - y_range.start)};
};
const nearest = event => {
  const pixel = (plot.x_range.end - plot.x_range.start) / find('plot').clientWidth;
  let best = -1, least = 11 * pixel;
  kinds.forEach((kind, i) => {
    const distance = Math.hypot(source.data.x[i] - event.x, source.data.y[i] - event.y);
    if (!muted.has(kind) && distance < least) { best = i; least = distance; }
  });
  return best;
};
const point = event => {
  const i = event === null ? -1 : nearest(event), tip = find('tip'), width = find('plot').clientWidth;
  tip.hidden = i < 0;
  if (i < 0) return;
  const words = document.createElement('div'), {name, id, verdict} = tell(i);
  words.append(text('b', name), verdict, id);
  tip.replaceChildren(Object.assign(new Image(), {src: source.data.thumbnail[i]}), words);
  tip.style.left = event.sx < width / 2 ? event.sx + 16 + 'px' : event.sx - 16 - tip.offsetWidth + 'px';
  tip.style.top = Math.min(Math.max(event.sy - 50, 4), width - tip.offsetHeight - 4) + 'px';
};
const pin = i => {
  if (i < 0) return;
  const {picture, anomaly_map, low, high} = source.data, {name, id, verdict} = tell(i);
  marked = i; ring();
  find('what').textContent = name;
  find('about').replaceChildren(id, verdict);
  for (const [key, column] of [['picture', picture], ['anomaly-map', anomaly_map]])
    Object.assign(find(key), {src: column[i], hidden: !column[i], alt: key.replace('-', ' ') + ' of ' + name});
  find('low').textContent = anomaly_map[i] ? 'score ' + low[i] : 'no heat map';
  find('high').textContent = anomaly_map[i] ? high[i] : '';
};
const move = index => {
  const from = [Array.from(source.data.x), Array.from(source.data.y)], to = squares[index], mine = ++moves;
  const start = performance.now(), span = matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 600;
  const step = now => {
    if (mine !== moves) return;
    const part = span ? Math.min(Math.max((now - start) / span, 0), 1) : 1, eased = part * part * (3 - 2 * part);
    const [x, y] = [0, 1].map(k => part < 1 ? from[k].map((a, i) => a + eased * (to[k][i] - a)) : to[k]);
    source.data = {...source.data, x, y}; ring();
    if (part < 1) requestAnimationFrame(step);
  };
  point(null); reset(); requestAnimationFrame(step);
};
const reset = () => { for (const range of [plot.x_range, plot.y_range]) range.setv({start: whole[0], end: whole[1]}); };
let down = null;
const listen = (kind, act) => find('plot').addEventListener(kind, act, true);
listen('pointerdown', event => { down = event; });
listen('click', event => {
  const moved = down ? Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) : 0;
  if (moved < 4) pin(nearest(place(event)));
});
listen('mousemove', event => point(place(event)));
find('plot').addEventListener('mouseleave', () => point(null));
listen('dblclick', reset);
find('maps').addEventListener('change', event => move(Number(event.target.value)));
const switched = kinds => {
  const all = kinds.some(kind => muted.has(kind));
  kinds.forEach(kind => all ? muted.delete(kind) : muted.add(kind)); paint();
};
buttons.forEach((button, kind) => {
  button.onclick = () => { focus = null; switched([kind]); };
  button.onmouseenter = () => { focus = muted.has(kind) ? null : kind; paint(); };
  button.onmouseleave = () => { focus = null; paint(); };
});
document.querySelectorAll('.product').forEach(product => product.firstElementChild.onclick = () =>
  switched(Array.from(product.querySelectorAll('.type'), button => Number(button.dataset.kind))));
document.querySelectorAll('[data-all]').forEach(button => button.onclick = () => {
  muted = new Set(button.dataset.all ? [] : buttons.keys()); paint();
});
if (search) {  // a JSON text of `words.for_page`, "" where there is no search box
  const rank = words_search(JSON.parse(search)), shown = 8;
  find('query').oninput = event => {
    const typed = event.target.value.trim(), cosines = typed ? rank(typed) : null;
    const order = cosines ? [...cosines.keys()].sort((a, b) => cosines[b] - cosines[a]).slice(0, shown) : [];
    find('results').replaceChildren(...order.map(i => {
      const image = Object.assign(new Image(), {src: source.data.thumbnail[i], alt: tell(i).name});
      const button = text('button', '');
      button.append(image, text('small', cosines[i].toFixed(2)));
      button.onclick = () => pin(i);
      return button;
    }), ...(typed && !cosines ? [text('small', 'no word of “' + typed + '” is known')] : []));
    focus = null; paint();
    if (!order.length) return;
    source.data = {...source.data, alpha: kinds.map((_, i) => order.includes(i) ? 1 : 0.07)};
    pin(order[0]);
  };
}
pin(0);
document.body.dataset.ready = 'yes';
