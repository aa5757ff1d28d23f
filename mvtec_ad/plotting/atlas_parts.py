"""Words, style and behaviour of the atlas page: what is no Python."""

READING = (
    "Each mark is a picture of a defect, placed by what the network learned: <b>near means alike</b>. Colour and shape "
    "tell type and product{rims}. Point at a mark to see it, click to keep it on the right; scroll to zoom, drag to "
    "move, double-click to go back."
)
RIMS = "; a <b>dark rim</b> tells that the model named another type, or none"

TEMPLATE = """{% from macros import embed %}
{% block postamble %}<meta name="viewport" content="width=device-width"><style>{{ style }}</style>{% endblock %}
{% block contents %}{{ head }}
<main><div id="plot">{{ embed(roots[0]) }}<div id="tip" hidden></div></div>
<aside>{{ panel }}<section id="legend"><h2>Types <button data-all="1">all</button><button data-all="">none</button></h2>
<div id="types">{{ legend }}</div></section></aside></main>{% endblock %}"""

PANEL = """<section id="panel"><h2 id="what"></h2><p id="about"></p>
<div id="shown"><figure><div><img id="picture" alt="" hidden></div><figcaption>picture</figcaption></figure>
<figure><div><img id="heat" alt="" hidden></div><figcaption><span id="low"></span><span class="bar"></span>
<span id="high"></span></figcaption></figure></div></section>"""

STYLE = """
body { font: 14px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: #222; height: auto;
  max-width: 1400px; margin: 0 auto; padding: 20px 28px; background: #FFF; }
header { display: flex; gap: 32px; align-items: flex-end; justify-content: space-between; margin-bottom: 16px; }
h1 { font-size: 26px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 0; } p { margin: 0; color: #555; } header p { max-width: 880px; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: left; }
#maps { border: 1px solid #CFCFCF; border-radius: 9px; padding: 3px; margin: 0; display: flex; flex: none; }
#maps legend { position: absolute; clip-path: inset(50%); } #maps input { position: absolute; opacity: 0; }
#maps span { display: block; padding: 5px 15px; border-radius: 6px; cursor: pointer; }
#maps :checked + span { background: #222; color: #FFF; } #maps :focus-visible + span { outline: 2px solid #0072B2; }
main { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 28px; align-items: start; }
#plot { position: sticky; top: 16px; width: min(100vh - 164px, 52vw); min-width: 400px; aspect-ratio: 1;
  background: #F7F7F5; border-radius: 14px; }
#tip { position: absolute; z-index: 9; pointer-events: none; display: flex; gap: 12px; width: max-content; padding: 9px;
  background: #FFF; border-radius: 10px; box-shadow: 0 3px 16px #0004; font-size: 13px; max-width: 300px; }
#tip[hidden], img[hidden] { display: none; } #tip img { width: 96px; height: 96px; object-fit: contain; }
#tip small, #about small { color: #777; overflow-wrap: anywhere; } .right { color: #00704F; } .wrong { color: #B34700; }
#shown { display: flex; gap: 14px; margin-top: 10px; } figure { margin: 0; flex: 0 1 256px; }
figure div { aspect-ratio: 1; border-radius: 10px; background: #F7F7F5; overflow: hidden; }
figure img { width: 100%; height: 100%; object-fit: contain; }
figcaption { display: flex; gap: 8px; align-items: center; color: #777; font-size: 12px; height: 22px; }
.bar { flex: 1; height: 8px; border-radius: 4px; } #about { min-height: 41px; } #legend { margin-top: 14px; }
#legend h2 button { font-size: 12px; font-weight: 400; color: #0A58A5; margin-left: 10px; }
#types { columns: 148px; column-gap: 16px; margin-top: 6px; } .product { break-inside: avoid; padding-bottom: 10px; }
.product > button { display: block; font-weight: 600; } .product .type { display: flex; gap: 6px; width: 100%;
  align-items: center; font-weight: 400; font-size: 13px; line-height: 20px; border-radius: 5px; }
.type:hover { background: #F0F0EC; } .type svg { width: 15px; flex: none; } .type small { color: #999; }
.type span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.type[aria-pressed=false] { opacity: .35; }
@media (max-width: 900px) { main { grid-template-columns: 1fr; } header { flex-wrap: wrap; } #plot { position: relative;
  top: 0; width: 100%; min-width: 0; } }
"""

SCRIPT = """
const find = id => document.getElementById(id), kinds = Array.from(source.data.kind), home = [-1.07, 1.07];
const buttons = Array.from(document.querySelectorAll('.type'));
let muted = new Set(), focus = null, marked = 0, moves = 0;
const text = (tag, textContent, className = '') =>
  Object.assign(document.createElement(tag), {textContent, className});
const tell = i => {
  const {category, defect, said, image_id} = source.data, right = said[i] === defect[i];
  const verdict = right ? '✓ the model said so' : '✗ the model said: ' + said[i];
  return {name: category[i] + ' · ' + defect[i], id: text('small', image_id[i]),
          verdict: said[i] ? text('div', verdict, right ? 'right' : 'wrong') : ''};
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
  const i = event === null ? -1 : nearest(event), tip = find('tip'), side = find('plot').clientWidth;
  tip.hidden = i < 0;
  if (i < 0) return;
  const words = document.createElement('div'), {name, id, verdict} = tell(i);
  words.append(text('b', name), verdict, id);
  tip.replaceChildren(Object.assign(new Image(), {src: source.data.thumbnail[i]}), words);
  tip.style.left = event.sx < side / 2 ? event.sx + 16 + 'px' : event.sx - 16 - tip.offsetWidth + 'px';
  tip.style.top = Math.min(Math.max(event.sy - 50, 4), side - tip.offsetHeight - 4) + 'px';
};
const keep = i => {
  if (i < 0) return;
  const {picture, heat, low, high} = source.data, {name, id, verdict} = tell(i);
  marked = i; ring();
  find('what').textContent = name;
  find('about').replaceChildren(id, verdict);
  for (const [key, column] of [['picture', picture], ['heat', heat]])
    Object.assign(find(key), {src: column[i], hidden: !column[i], alt: key + ' of ' + name});
  find('low').textContent = heat[i] ? 'score ' + low[i] : 'no heat map';
  find('high').textContent = heat[i] ? high[i] : '';
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
const reset = () => { for (const range of [plot.x_range, plot.y_range]) range.setv({start: home[0], end: home[1]}); };
let down = null;
const listen = (kind, act) => find('plot').addEventListener(kind, act, true);
listen('pointerdown', event => { down = event; });
listen('click', event => {
  const moved = down ? Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) : 0;
  if (moved < 4) keep(nearest(place(event)));
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
keep(0);
document.body.dataset.ready = 'yes';
"""
