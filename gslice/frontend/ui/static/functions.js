// The functions: a line each, against what was promised.

import { $, h, Keyed, s, say, toggle } from './dom.js';
import { milliseconds, percent, rate, requestedShare } from './format.js';
import { hueOf, series, spanS, store, watch } from './store.js';

const COLUMNS = [
  ['Function', ''],
  ['Rate /s', 'number'],
  ['p50', 'number wide'],
  ['p99 of SLO', 'number'],
  ['Within', 'number wide'],
  ['Share', 'number'],
  ['Queue', 'number wide'],
  ['Batch', 'number wide'],
  ['Device', 'wide'],
];
const SPARK = { width: 72, height: 18 };

export function showFunctions() {
  const body = h('tbody');
  const head = h('tr', {}, COLUMNS.map(([text, kind]) => h('th', { scope: 'col', class: kind }, text)));
  const none = h('p', { class: 'empty', hidden: true });
  const table = h('table', { class: 'functions' }, h('thead', {}, head), body);
  $('functions').append(table, none);
  const rows = new Keyed(body, makeRow, updateRow);
  watch(() => {
    if (!store.status) return;
    const search = store.search.toLowerCase();
    const shown = store.status.functions.filter((each) => each.name.toLowerCase().includes(search));
    rows.show(shown, (each) => each.name);
    none.hidden = shown.length > 0;
    say(none, store.search ? `No function has “${store.search}” in its name.` : 'No functions: gslice load NAME MODEL adds one.');
    table.hidden = !shown.length;
  });
  body.addEventListener('keydown', (event) => move(event, body));
}

// Arrows go from function to function.
function move(event, body) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...body.querySelectorAll('a.name')];
  const next = links[links.indexOf(document.activeElement) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function makeRow(each) {
  const url = `#/f/${encodeURIComponent(each.name)}`;
  const cell = (kind) => h('td', { class: kind });
  const dot = h('span', { class: 'state' });
  const name = h('a', { class: 'name', href: url }, each.name);
  const reason = h('span', { class: 'reason' });
  const line = s('path', { class: 'spark', fill: 'none' });
  const spark = s('svg', { class: 'sparkline', width: SPARK.width, height: SPARK.height, 'aria-hidden': 'true' }, line);
  const rateText = h('span');
  const meter = h('span', { class: 'meter', 'aria-hidden': 'true' }, h('i'));
  const p99 = h('span');
  const part = {
    dot, name, reason, line, rateText, meter, p99,
    p50: cell('number wide'), within: cell('number wide'), share: cell('number'),
    queue: cell('number wide'), batch: cell('number wide'), device: cell('wide mono'),
  };
  part.node = h('tr', { vars: { hue: hueOf(each.name) }, 'data-function': each.name },
    h('th', { scope: 'row' }, h('span', { class: 'chip', 'aria-hidden': 'true' }), name, dot, reason),
    h('td', { class: 'number rate' }, spark, rateText),
    part.p50,
    h('td', { class: 'number promise' }, p99, meter),
    part.within, part.share, part.queue, part.batch, part.device);
  part.node.addEventListener('click', (event) => {
    if (!event.target.closest('a') && !String(getSelection())) location.hash = url;
  });
  return part;
}

function updateRow(part, each) {
  const served = each.state === 'READY';
  say(part.dot, served ? '' : each.state.toLowerCase());
  part.dot.className = `state ${each.state.toLowerCase()}`;
  say(part.reason, served ? '' : reasonOf(each));
  say(part.rateText, each.engine === 'command' ? '–' : rate(each.rate_per_s));
  part.line.setAttribute('d', sparkPath(each.name));
  say(part.p50, milliseconds(each.p50_us));
  say(part.p99, each.slo_p99_us ? `${milliseconds(each.p99_us)} of ${milliseconds(each.slo_p99_us)}` : milliseconds(each.p99_us));
  const ratio = each.slo_p99_us ? each.p99_us / each.slo_p99_us : 0;
  part.meter.style.setProperty('--ratio', Math.min(ratio, 1));
  part.meter.hidden = !ratio;
  const broken = ratio > 1;
  toggle(part.p99, 'broken', broken);
  toggle(part.meter, 'broken', broken);
  say(part.within, each.slo_p99_us && each.rate_per_s ? percent(Math.floor(each.attainment * 1000) / 10) : '–');
  say(part.share, shareText(each));
  say(part.queue, String(each.queued + each.in_flight));
  say(part.batch, each.batch_mean_rows ? each.batch_mean_rows.toFixed(1) : '–');
  say(part.device, each.devices.join(', ') || each.device);
}

function shareText(each) {
  if (each.share_effective_percent) return percent(each.share_effective_percent);
  return requestedShare(each.share_min_percent, each.share_max_percent);
}

// Why a function does not serve, without its name in front again.
export function reasonOf(each) {
  return each.reason.replace(`function ${each.name}: `, '');
}

function sparkPath(name) {
  const span = Math.min(spanS(), 120);
  const points = series(name, 'rate').filter(([atS]) => store.atS - atS <= span);
  const most = Math.max(...points.map(([, value]) => value ?? 0), 1e-9);
  let path = '';
  for (const [atS, value] of points) {
    if (value === null) continue;
    const x = SPARK.width * (1 - (store.atS - atS) / span);
    const y = SPARK.height - 2 - (SPARK.height - 4) * (value / most);
    path += `${path ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
  }
  return path;
}
