// What the page of a service does: pictures go to POST /inspect one by one, and what comes back is shown.
'use strict';
const find = id => document.getElementById(id);
const make = (tag, textContent = '', more = {}) => Object.assign(document.createElement(tag), {textContent, ...more});
const SIGNS = {'good': '✓', 'defect': '✕', 'undecided': '?', 'none of these': '∅'};
const TRIES = 20;  // of a busy service
const PATIENCE = 120000;  // milliseconds for an answer
const number = value => String(Number(value.toPrecision(value >= 100 ? 4 : 3)));
const percent = share => (share >= 0.0995 ? Math.round(100 * share) : Number((100 * share).toPrecision(2))) + ' %';
const colour = verdict => `var(--${verdict.replaceAll(' ', '-')}, var(--unreadable))`;
const pause = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));

// --- the service ---

// A token may come in the address, once; it goes from there into this tab's memory.
const address = new URL(location.href);
if (address.searchParams.has('token')) {
  sessionStorage.setItem('token', address.searchParams.get('token'));
  address.searchParams.delete('token');
  history.replaceState(null, '', address);
}

const once = async (path, options) => {
  const token = sessionStorage.getItem('token');
  const headers = {...options.headers, ...(token && {Authorization: `Bearer ${token}`})};
  let response;
  try {
    response = await fetch(path, {cache: 'no-store', ...options, headers, signal: AbortSignal.timeout(PATIENCE)});
  } catch {
    throw Object.assign(new Error('the service does not answer: is it still running?'), {gone: true});
  }
  const picture = response.ok && (response.headers.get('Content-Type') || '').startsWith('image/');
  const data = await (picture ? response.blob() : response.json()).catch(() => null);
  if (response.ok && data) return data;
  const words = data && typeof data.error === 'string' ? data.error : `the service answers ${response.status}`;
  throw Object.assign(new Error(words), {status: response.status, wait: Number(response.headers.get('Retry-After'))});
};

let asked = null;  // a promise while a person is asked for the token
const askToken = () => asked ??= new Promise(resolve => {
  find('token-form').hidden = false;
  document.querySelector('footer').hidden = true;  // a link brings no token
  find('token').value = '';
  find('token').focus();
  find('token-form').onsubmit = event => {
    event.preventDefault();
    sessionStorage.setItem('token', find('token').value.trim());
    find('token-form').hidden = true;
    asked = null;
    resolve();
  };
});

// Asks until there is an answer: a busy service says when to come again, a locked one wants its token.
const ask = async (path, options = {}) => {
  for (let tries = 1; ; tries++) {
    try {
      return await once(path, options);
    } catch (problem) {
      if (problem.status === 401) {
        if (sessionStorage.getItem('token')) tell('this is not the token that the service was started with');
        sessionStorage.removeItem('token');
        await askToken();
        clear();
      } else if (problem.status === 503 && tries < TRIES) {
        const wait = Math.min(Math.max(problem.wait || 1, 0.2), 30);
        find('progress').textContent = `the service is busy: trying again in ${Math.ceil(wait)} s`;
        await pause(wait);
      } else {
        throw problem;
      }
    }
  }
};

const tell = (words, again = null) => {
  const line = make('p'), button = make('button', again ? 'Try again' : 'Close', {type: 'button'});
  button.onclick = () => { line.remove(); if (again) again(); };
  line.append(make('span', words), button);
  for (const other of find('problems').children) if (other.firstChild.textContent === words) other.remove();
  find('problems').append(line);
};
const clear = () => find('problems').replaceChildren();

// --- pictures that wait ---

const waiting = [], results = new Map();  // results: id -> a record with its map, and the picture's address
let working = false, done = 0;
const counts = {};

const add = files => {
  if (!files.length) return;
  if (!working && !waiting.length) {
    clear();
    done = 0;
    for (const verdict of Object.keys(counts)) delete counts[verdict];
  }
  waiting.push(...files);
  work();
};

const work = async () => {
  if (working) return;
  working = true;
  while (waiting.length) {
    const file = waiting[0], all = done + waiting.length;
    find('progress').textContent = all > 1 ? `inspecting ${done + 1} of ${all}: ${file.name}` : `inspecting ${file.name}`;
    const form = new FormData();
    form.append('images', file, file.name || 'pasted.png');
    try {
      const record = (await ask('inspect', {method: 'POST', body: form})).images[0];
      counts[record.verdict] = (counts[record.verdict] || 0) + 1;
      keep(record, URL.createObjectURL(file));
      // Of several the first that needs a person stays in sight.
      if (!done || !shown || shown.verdict === 'good') show(record.id);
      refresh();
    } catch (problem) {
      if (problem.gone) {
        const left = waiting.length > 1 ? ` ${waiting.length} pictures wait.` : '';
        find('progress').textContent = '';
        tell(problem.message + left, work);
        working = false;
        return;
      }
      tell(problem.message.includes(file.name) ? problem.message : `${file.name}: ${problem.message}`);
    }
    waiting.shift();
    done++;
  }
  working = false;
  const words = Object.entries(counts).map(([verdict, count]) => `${count} ${verdict}`);
  const lost = done - Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (lost) words.push(`${lost} not inspected`);
  find('progress').textContent = done > 1 ? `${done} pictures: ${words.join(', ')}` : '';
  watch();
};

const keep = (record, url) => {
  results.set(record.id, {...record, url});
  if (results.size > 50) {
    const [oldest] = results.keys();
    if (oldest !== (shown && shown.id)) {
      URL.revokeObjectURL(results.get(oldest).url);
      results.delete(oldest);
    }
  }
};

for (const id of ['choose', 'photograph']) {
  find(id).onchange = event => { add([...event.target.files]); event.target.value = ''; };
}
document.addEventListener('paste', event => add([...event.clipboardData.files]));
let within = 0;
document.addEventListener('dragenter', () => document.body.classList.toggle('dropping', ++within > 0));
document.addEventListener('dragleave', () => document.body.classList.toggle('dropping', --within > 0));
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  event.preventDefault();
  within = 0;
  document.body.classList.remove('dropping');
  add([...event.dataTransfer.files]);
});

// --- one result ---

let shown = null, values = null;  // values: the map's grays, beside its width and height
let types = new Set();
const stops = find('heat').dataset.colours.split(' ').map(hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)));
const palette = Array.from({length: 256}, (_, gray) => {
  const at = gray / 255 * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((from, k) => Math.round(from + (at - low) * (stops[low + 1][k] - from)));
});

const place = (element, [x, y, width, height]) => {
  const shares = {left: x, top: y, width, height};
  for (const [name, share] of Object.entries(shares)) element.style[name] = `${100 * share}%`;
};

// Of an earlier picture, as after a reload, the service has the map, and the file where it keeps files.
const reopen = async id => {
  if (!results.has(id)) {
    try {
      const record = await ask(`history/${id}`);
      keep(record, record.has_file ? URL.createObjectURL(await ask(`history/${id}/picture`)) : '');
    } catch (problem) {
      tell(problem.message);
      return;
    }
  }
  show(id);
  find('result').scrollIntoView({block: 'nearest'});
};

const show = async id => {
  const record = results.get(id);
  shown = record;
  values = null;
  find('result').hidden = false;
  document.body.classList.add('begun');
  find('result').style.setProperty('--verdict', colour(record.verdict));
  find('verdict').textContent = `${SIGNS[record.verdict] || '!'} ${record.verdict}`;
  const [before, after] = record.type ? record.sentence.split(record.type, 2) : [record.sentence];
  find('sentence').replaceChildren(before, ...(after === undefined ? [] : [make('em', record.type), after]));
  find('name').replaceChildren(make('b', record.name), [
    '', record.product, `${record.size[0]} × ${record.size[1]} pixels`, `${record.milliseconds >= 10 ? Math.round(record.milliseconds) : number(record.milliseconds)} ms`,
  ].filter(words => words !== null).join(' · '));
  showScore(record);
  showRegions(record);
  showWay(record);
  showFeedback(record);
  find('frame').style.setProperty('--aspect', record.size[0] / record.size[1]);
  find('picture').alt = `picture ${record.name}`;
  find('picture').src = record.url || record.thumbnail;
  const whole = record.seen.every((share, k) => Math.abs(share - [0, 0, 1, 1][k]) < 1e-9);
  find('seen').hidden = whole;
  if (!whole) place(find('seen'), record.seen);
  find('caption').textContent = [
    whole ? '' : 'The model looks at the part within the dashed line.',
    record.map ? '' : 'There is no heat map of it.',
    record.url ? '' : 'Of the picture itself a thumbnail is left.',
  ].filter(Boolean).join(' ');
  find('controls').hidden = !record.map;
  find('heat').hidden = !record.map;
  for (const button of find('history').querySelectorAll('button')) mark(button);
  if (record.map) await readMap(record);
  document.body.dataset.shown = record.id;
};

// A browser reads no TIFF: what it can show is small.
const useThumbnail = () => {
  const {complete, naturalWidth, src} = find('picture'), small = shown && past.has(shown.id) && past.get(shown.id).thumbnail;
  if (!complete || naturalWidth || !small || src === small) return;
  find('picture').src = small;
  find('caption').textContent += ' This browser cannot show the file: a thumbnail.';
};
find('picture').onerror = useThumbnail;

const showScore = record => {
  const {score, threshold, promised} = record, bar = document.querySelector('.bar');
  find('score').hidden = score === null;
  if (score === null) return;
  bar.hidden = threshold === null;
  const words = [`score ${number(score)}`];
  if (threshold !== null) {
    const span = Math.abs(threshold) || 1, low = Math.min(threshold - span, score);
    const high = Math.max(threshold + span, score), share = value => `${100 * (value - low) / (high - low)}%`;
    bar.style.setProperty('--score', share(score));
    bar.style.setProperty('--threshold', share(threshold));
    bar.querySelector('b').textContent = `threshold ${number(threshold)}`;
    words[0] += ` ${score > threshold ? '>' : '≤'} threshold ${number(threshold)}`;
  }
  if (promised !== null) words.push(`chosen to stop at most ${percent(promised)} of good parts`);
  find('score-text').textContent = words.join('; ');
};

const showRegions = record => {
  const rows = [], boxes = [];
  record.regions.forEach((region, index) => {
    const box = make('div', '', {className: 'box'}), row = make('tr'), button = make('button', index + 1, {type: 'button'});
    place(box, region.box);
    box.append(make('b', index + 1));
    if (region.box[1] < 0.08) box.classList.add(region.box[3] > 0.12 ? 'inside' : 'under');  // above it there is no room
    const choose = on => box.classList.toggle('chosen', on);
    row.onmouseenter = button.onfocus = button.onclick = () => choose(true);
    row.onmouseleave = button.onblur = () => choose(false);
    button.setAttribute('aria-label', `show region ${index + 1}`);
    const first = make('td');
    first.append(button);
    const sides = region.box.slice(2).map((share, k) => Math.round(share * record.size[k])).join(' × ');
    row.append(first, make('td', region.where), ...[percent(region.area), sides, number(region.peak)].map(
      words => make('td', words, {className: 'number'})));
    rows.push(row);
    boxes.push(box);
  });
  find('boxes').replaceChildren(...boxes);
  const table = make('table'), head = make('thead'), body = make('tbody'), line = make('tr');
  for (const words of ['region', 'where', 'area', 'box, pixels', 'peak']) {
    line.append(make('th', words, {scope: 'col', className: ['region', 'where'].includes(words) ? '' : 'number'}));
  }
  head.append(line);
  body.append(...rows);
  table.append(head, body);
  find('regions').replaceChildren(...(rows.length ? [table] : []));
};

const showWay = record => {
  const list = make('ol');
  for (const step of record.path) {
    const item = make('li', '', {className: step.result === 'skipped' ? 'skipped' : ''});
    item.append(make('span', `${step.stage}: `), make('b', step.result), make('small', step.words));
    list.append(item);
  }
  find('way').replaceChildren(...(record.path.length ? [make('h3', 'The way to the verdict'), list] : []));
};

// --- the heat map ---

const readMap = async record => {
  const image = new Image();
  image.src = record.map;
  await image.decode();
  if (shown !== record) return;
  const {naturalWidth: width, naturalHeight: height} = image, canvas = find('heat');
  const scale = Math.max(1, Math.ceil(448 / Math.max(width, height)));  // smooth edges where it is cut at a level
  Object.assign(canvas, {width: width * scale, height: height * scale});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  values = context.getImageData(0, 0, canvas.width, canvas.height).data.filter((_, k) => k % 4 === 0);
  place(canvas, record.seen);
  const [low, high] = record.map_scale, level = find('level');
  Object.assign(level, {min: low, max: high, step: (high - low) / 250});
  level.value = record.level ?? (low + high) / 2;
  find('mark').hidden = record.level === null || record.level > high;
  find('mark').style.left = `${100 * (record.level - low) / (high - low)}%`;
  paint();
};

const paint = () => {
  if (!shown || !values) return;
  const canvas = find('heat'), context = canvas.getContext('2d'), [low, high] = shown.map_scale;
  const exact = Number(find('level').value);
  const near = !find('mark').hidden && Math.abs(exact - shown.level) <= (high - low) / 250;  // the slider goes by steps
  const level = near ? shown.level : exact, least = (level - low) / (high - low) * 255;
  const alpha = Math.round(2.55 * find('opacity').value), image = context.createImageData(canvas.width, canvas.height);
  values.forEach((gray, k) => {
    if (gray < least) return;
    [image.data[4 * k], image.data[4 * k + 1], image.data[4 * k + 2]] = palette[gray];
    image.data[4 * k + 3] = alpha;
  });
  context.putImageData(image, 0, 0);
  find('opacity-text').textContent = `${find('opacity').value} %`;
  find('level-text').textContent = number(level) + (near && level === shown.threshold ? ', threshold' : '');
  // A region whose peak is below the level has nothing left to show.
  [...find('boxes').children].forEach((box, index) => {
    const below = shown.regions[index].peak <= level;
    box.hidden = below || !find('boxed').checked;
    find('regions').querySelectorAll('tbody tr')[index].classList.toggle('below', below);
  });
};
for (const id of ['opacity', 'level', 'boxed']) find(id).oninput = paint;

// --- feedback ---

const OTHER = 'another: …', UNSAID = 'a defect';
const radios = [...document.getElementsByName('right')];

const inWords = ({right, type}) => (right ? 'right' : 'wrong') + (type ? `, ${type}` : '');

const showFeedback = record => {
  const said = record.feedback;
  for (const radio of radios) radio.checked = Boolean(said) && (radio.value === 'yes') === said.right;
  find('more').hidden = true;
  find('answer').textContent = said ? `Said before: ${inWords(said)}.` : '';
};

const offer = () => {
  const right = radios[0].checked, {verdict, type} = shown;
  const good = right ? verdict === 'good' : verdict === 'defect', known = [...types].filter(name => name !== 'good').sort();
  const names = !['good', 'defect'].includes(verdict) ? ['good', UNSAID, ...known, OTHER] : good ? ['good'] : [UNSAID, ...known, OTHER];
  if (!right && verdict === 'defect') names.push(...known, OTHER);  // a defect, but of another type
  find('type').replaceChildren(...names.map(name => make('option', name)));
  if (right && known.includes(type)) find('type').value = type;
  find('more').hidden = false;
  find('type').hidden = find('type-label').hidden = names.length === 1;
  find('answer').textContent = '';
  other();
};

const other = () => {
  const free = find('type').value === OTHER;
  find('other').hidden = find('other-label').hidden = !free;
  find('other').required = free;
};
for (const radio of radios) radio.onchange = offer;
find('type').onchange = () => { other(); if (!find('other').hidden) find('other').focus(); };

find('feedback').onsubmit = async event => {
  event.preventDefault();
  const record = shown, choice = find('type').value, right = radios[0].checked;
  const type = choice === OTHER ? find('other').value.trim() : choice === UNSAID ? (right ? null : 'defect') : choice;
  const headers = {'Content-Type': 'application/json'};
  try {
    const body = JSON.stringify({id: record.id, right, type});
    const answer = await ask('feedback', {method: 'POST', headers, body});
    record.feedback = {right, type};
    if (type) types.add(type);
    if (shown === record) {
      find('more').hidden = true;
      find('answer').textContent = `Saved as ${answer.saved}.`;
    }
    refresh();
  } catch (problem) {
    if (shown === record) find('answer').textContent = problem.message;
  }
};

// --- the last ones, the model, drift ---

const past = new Map();  // id -> record, newest first
const mark = button => button.setAttribute('aria-current', String(Boolean(shown) && button.dataset.id === shown.id));
let refreshing = false, stale = false;

// What was asked for while an answer is on its way is asked once more.
const refresh = async () => {
  stale = true;
  if (refreshing) return;
  refreshing = true;
  while (stale) {
    stale = false;
    await list();
  }
  refreshing = false;
};

const list = async () => {
  const {images} = await ask('history').catch(problem => (tell(problem.message, refresh), {images: null}));
  if (!images) return;
  past.clear();
  const items = images.map(record => {
    past.set(record.id, record);
    if (results.has(record.id)) results.get(record.id).feedback = record.feedback;
    for (const name of [record.type, record.feedback && record.feedback.type]) if (name && name !== 'unknown') types.add(name);
    const item = make('li'), button = make('button', '', {type: 'button'}), time = new Date(record.at);
    button.dataset.id = record.id;
    button.style.setProperty('--verdict', colour(record.verdict));
    button.append(
      make('img', '', {src: record.thumbnail, alt: '', decoding: 'async'}),
      make('span', `${SIGNS[record.verdict] || '!'} ${record.verdict}`, {className: 'verdict'}),
      make('span', record.name, {title: record.name}),
      make('span', time.toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'}), {className: 'faint'}),
    );
    if (record.feedback) button.append(make('span', inWords(record.feedback), {className: 'faint'}));
    button.onclick = () => reopen(record.id);
    mark(button);
    item.append(button);
    return item;
  });
  find('history').replaceChildren(...items);
  find('count').textContent = items.length > 1 ? items.length : 'one';
  find('last').hidden = !items.length;
  useThumbnail();
};

const watch = async () => {
  const drift = await ask('drift').catch(() => null);
  if (!drift) return;
  find('drift').hidden = !drift.alarm;
  find('drift').textContent = drift.alarm
    ? `The line has drifted: parts that pass no longer score like the parts before them. Guarantee: ${drift.guarantee}.` : '';
};

const introduce = async () => {
  try {
    const model = await ask('model'), products = Object.entries(model.products || {});
    for (const known of [model, ...products.map(([, product]) => product)]) for (const name of known.types || []) types.add(name);
    const names = model.product ? [model.product] : products.map(([name]) => name);
    const only = products.length === 1 ? products[0][1] : {}, second = (only.second_opinion || {}).method;
    find('feedback').hidden = model.feedback === false;
    const words = [model.method || second, names.join(', '), model.promise || only.promise];
    find('model').textContent = words.filter(Boolean).join(' · ');
  } catch (problem) {
    find('model').textContent = '';
    tell(problem.message, introduce);
    return;
  }
  await refresh();
  await watch();
  document.body.dataset.ready = 'yes';
};
introduce();
