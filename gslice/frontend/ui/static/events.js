// What happened: a strip of the last minutes, and the events themselves, newest first.

import { $, h, Keyed, s, say } from './dom.js';
import { clock } from './format.js';
import { hueOf, nameInAddress, SPAN_S, store, watch } from './store.js';

const SHOWN = 120;
const STRIP = { height: 30, pad: 4 };
const GRAVE = new Set(['crash', 'kill', 'failed', 'fault']);
const GOOD = new Set(['load', 'restart', 'adopt']);

export function showEvents() {
  const title = h('h2', { id: 'events-title' }, 'Events');
  const only = h('select', { 'aria-label': 'Which events' },
    ...[['', 'all but stages'], ['swap', 'swaps'], ['grave', 'faults'], ['share', 'shares'], ['every', 'every one']]
      .map(([value, text]) => h('option', { value }, text)));
  const strip = s('svg', { class: 'strip', height: STRIP.height, role: 'img', 'aria-label': 'Events of the last five minutes' });
  const list = h('ol', { class: 'events' });
  const none = h('p', { class: 'empty', hidden: true }, 'Nothing yet.');
  $('events').append(h('div', { class: 'title-line' }, title, only), strip, list, none);
  const items = new Keyed(list, makeEvent, () => {});
  const show = () => {
    const function_ = nameInAddress();
    say(title, function_ ? `Events of ${function_}` : 'Events');
    const shown = store.events.filter((event) => passes(event, only.value, function_));
    items.show(shown.slice(-SHOWN).reverse(), (event) => event.id);
    none.hidden = shown.length > 0;
    drawStrip(strip, shown);
  };
  only.addEventListener('change', show);
  addEventListener('hashchange', show);
  watch(show);
}

function passes(event, only, function_) {
  if (function_ && event.subject !== function_) return false;
  const search = store.search.toLowerCase();
  if (search && !`${event.subject} ${event.kind} ${event.text}`.toLowerCase().includes(search)) return false;
  if (only === '') return event.kind !== 'stage';
  if (only === 'grave') return GRAVE.has(event.kind) || event.kind === 'requeue';
  return only === 'every' || event.kind === only;
}

function tone(event) {
  if (GRAVE.has(event.kind)) return 'grave';
  if (GOOD.has(event.kind)) return 'good';
  return event.kind === 'swap' ? 'swapped' : event.kind === 'requeue' ? 'warned' : '';
}

function makeEvent(event) {
  const isFunction = store.status?.functions.some((each) => each.name === event.subject);
  const subject = isFunction
    ? h('a', { href: `#/f/${encodeURIComponent(event.subject)}`, class: 'subject', vars: { hue: hueOf(event.subject) } }, event.subject)
    : h('span', { class: 'subject plain' }, event.subject);
  return { node: h('li', { class: tone(event), 'data-kind': event.kind },
    h('time', { datetime: new Date(event.at_s * 1000).toISOString() }, clock(event.at_s)),
    h('span', { class: 'kind' }, event.kind), subject, h('span', { class: 'text' }, event.text)) };
}

function drawStrip(svg, events) {
  const width = Math.max(120, svg.clientWidth);
  const middle = STRIP.height / 2 - 4;
  const x = (atS) => STRIP.pad + (width - 2 * STRIP.pad) * (1 - (store.atS - atS) / SPAN_S);
  const recent = events.filter((event) => store.atS - event.at_s < SPAN_S && event.at_s <= store.atS + 1);
  svg.setAttribute('viewBox', `0 0 ${width} ${STRIP.height}`);
  svg.replaceChildren(
    s('line', { class: 'axis', x1: STRIP.pad, x2: width - STRIP.pad, y1: middle, y2: middle }),
    s('text', { class: 'time', x: STRIP.pad, y: STRIP.height - 2 }, '\u22125 min'),
    s('text', { class: 'time', x: width - STRIP.pad, y: STRIP.height - 2, 'text-anchor': 'end' }, 'now'),
    ...recent.map((event) => s('g', { class: `tick ${tone(event)}` },
      s('title', {}, `${clock(event.at_s)} ${event.subject} ${event.kind}: ${event.text}`),
      event.kind === 'swap'
        ? s('path', { d: `M${x(event.at_s)} ${middle - 5}l5 5l-5 5l-5 -5z` })
        : s('line', { x1: x(event.at_s), x2: x(event.at_s), y1: middle - 5, y2: middle + 5 }))));
}
