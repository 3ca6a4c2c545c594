// What the page knows of the node, and who wants to hear of it.

const SPANS_S = [60, 120, 300]; // of the charts: the least that shows all that is known
export const SPAN_S = SPANS_S.at(-1);
const SAMPLE_S = 0.9;
const EVENTS_MAX = 500;

export const FIGURES = { rate: 0, p50: 1, p99: 2, queue: 3, share: 4 };

export const store = {
  session: { version: '', may_change: false, why_not: '' },
  connection: 'connecting', // live, away (the daemon), lost (everything)
  trouble: '',
  status: null,
  atS: 0,
  samples: [], // {at_s, functions: {name: [figures]}}, as gslice/frontend/ui/feed.py makes them
  events: [], // ascending
  search: '',
};

const PROGRESS = new Set(['stage', 'swap', 'failed', 'share', 'load', 'crash', 'restart']);
const listeners = new Set();
let pending = false;

// Calls back with the store at once and after every change, at most once a frame.
export function watch(listener) {
  listeners.add(listener);
  listener(store);
  return () => listeners.delete(listener);
}

export function change(values) {
  Object.assign(store, values);
  if (pending) return;
  pending = true;
  const tell = () => {
    pending = false;
    for (const listener of listeners) listener(store);
  };
  // A hidden page gets no frames.
  if (document.hidden) setTimeout(tell, 200);
  else requestAnimationFrame(tell);
}

export function take(name, data) {
  if (name === 'history') {
    change({ samples: data.samples });
  } else if (name === 'status') {
    addSample(data);
    change({ status: data, atS: data.at_s, connection: 'live', trouble: '' });
  } else if (name === 'events') {
    const last = store.events.at(-1)?.id ?? 0;
    const fresh = data.filter((event) => event.id > last);
    change({ events: [...store.events, ...fresh].slice(-EVENTS_MAX) });
  } else if (name === 'away') {
    change({ connection: 'away', trouble: data.text });
  }
}

function addSample(status) {
  const { samples } = store;
  while (samples.length && samples.at(-1).at_s > status.at_s) samples.pop(); // the clock was put back
  if (samples.length && status.at_s - samples.at(-1).at_s < SAMPLE_S) return;
  const functions = {};
  for (const each of status.functions) {
    functions[each.name] = [each.rate_per_s, each.p50_us, each.p99_us, each.queued + each.in_flight, each.share_effective_percent];
  }
  samples.push({ at_s: status.at_s, functions });
  while (status.at_s - samples[0].at_s > SPAN_S) samples.shift();
}

// How far back the charts go.
export function spanS() {
  const knownS = store.atS - (store.samples[0]?.at_s ?? store.atS);
  return SPANS_S.find((each) => knownS <= each) ?? SPAN_S;
}

// One figure of a function over time: [[at_s, value or null]], null where there was none.
export function series(name, figure) {
  const place = FIGURES[figure];
  const gapless = figure === 'rate' || figure === 'queue';
  return store.samples.map((sample) => {
    const value = sample.functions[name]?.[place];
    return [sample.at_s, value === undefined || (!gapless && value === 0) ? null : value];
  });
}

// The function that the address is about; empty: none. Addresses are written by people, too.
export function nameInAddress() {
  if (!location.hash.startsWith('#/f/')) return '';
  const name = location.hash.slice(4);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

export function functionOf(name) {
  return store.status?.functions.find((each) => each.name === name);
}

// Whether a shadow of a function is being prepared, as far as its events tell.
export function isPreparing(name) {
  const last = store.events.findLast((event) => event.subject === name && PROGRESS.has(event.kind));
  return last?.kind === 'stage' && /^(start|load|warm) /.test(last.text);
}

// A hue for each function, the same for as long as the page is open.
const HUES = [255, 45, 155, 325, 95, 200, 10, 290];
const hues = new Map();
export function hueOf(name) {
  const place = hues.size;
  if (!hues.has(name)) hues.set(name, HUES[place] ?? Math.round(place * 137.5) % 360);
  return hues.get(name);
}
