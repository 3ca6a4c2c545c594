// Figures over the last minutes: lines on one time axis, with a cursor that all of them share.

import { h, s, say } from './dom.js';
import { clock, ticks } from './format.js';
import { series, spanS, store } from './store.js';

const HEIGHT = 112;
const PAD = { left: 46, right: 10, top: 8, bottom: 18 };
const TIMES = { 60: [60, 45, 30, 15, 0], 120: [120, 90, 60, 30, 0], 300: [300, 240, 180, 120, 60, 0] }; // by span
const GAP_S = 5; // without samples for longer, a line ends and begins anew

// Charts below each other, of one function.
export class Charts {
  constructor(name, charts) {
    this.cursorS = null;
    this.charts = charts.map((options) => new TimeChart(name, options, this));
    this.node = h('div', { class: 'charts' }, this.charts.map((chart) => chart.node));
    this.marks = [];
    this.sizes = new ResizeObserver(() => this.update());
    this.sizes.observe(this.node);
  }

  // Marks are events: swaps are drawn as lines through all charts.
  update(marks = this.marks) {
    this.marks = marks;
    for (const chart of this.charts) chart.update(marks);
  }

  point(atS) {
    this.cursorS = atS;
    for (const chart of this.charts) chart.update(this.marks);
  }

  close() {
    this.sizes.disconnect();
  }
}

class TimeChart {
  // Options: title, lines [{figure, label}], format, least (of the scale's end), limit() in the
  // lines' unit: a dashed line, as of an SLO.
  constructor(name, options, group) {
    this.name = name;
    this.options = options;
    this.group = group;
    this.readouts = options.lines.map(() => h('b'));
    const words = options.lines.map(({ label }, place) => h('span', { class: `readout line-${place}` }, label ? `${label} ` : '', this.readouts[place]));
    this.when = h('span', { class: 'fine' });
    this.svg = s('svg', { class: 'chart', height: HEIGHT, role: 'img', 'aria-label': `${options.title} of ${name} over the last minutes` });
    this.node = h('figure', {}, h('figcaption', {}, h('span', { class: 'label' }, options.title), words, this.when), this.svg);
    this.svg.addEventListener('pointermove', (event) => this.#follow(event));
    this.svg.addEventListener('pointerleave', () => group.point(null));
  }

  update(marks) {
    const width = Math.max(200, this.svg.clientWidth || this.node.clientWidth);
    const lines = this.options.lines.map(({ figure }) => series(this.name, figure));
    const limit = this.options.limit?.() || null;
    const most = Math.max(this.options.least, limit ?? 0, ...lines.flat().map(([, value]) => value ?? 0));
    const scale = ticks(most);
    const span = spanS();
    const x = (atS) => PAD.left + (width - PAD.left - PAD.right) * (1 - (store.atS - atS) / span);
    const y = (value) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - value / scale.at(-1));
    this.width = width;
    this.spanS = span;
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(
      ...scale.map((value) => this.#gridLine(y(value), width, this.options.format(value))),
      ...this.#times(x, width),
      ...marks.filter((mark) => store.atS - mark.at_s < span).map((mark) => swapMark(x(mark.at_s), mark)),
      ...(limit ? [s('line', { class: 'limit', x1: PAD.left, x2: width - PAD.right, y1: y(limit), y2: y(limit) })] : []),
      ...lines.map((points, place) => s('path', { class: `line line-${place}`, fill: 'none', d: path(points, x, y, this.options.steps) })),
      ...this.#cursor(lines, x, y),
    );
    this.#read(lines);
  }

  #gridLine(at, width, text) {
    return s('g', { class: 'grid' },
      s('line', { x1: PAD.left, x2: width - PAD.right, y1: at, y2: at }),
      s('text', { x: PAD.left - 6, y: at + 3.5, 'text-anchor': 'end' }, text));
  }

  #times(x, width) {
    const [first, ...rest] = TIMES[this.spanS];
    return [first, ...(width > 420 ? rest : rest.slice(-2))].map((ago) => s('text', {
      class: 'time', x: x(store.atS - ago), y: HEIGHT - 4, 'text-anchor': ago === first ? 'start' : ago ? 'middle' : 'end',
    }, ago ? `\u2212${ago % 60 ? `${ago} s` : `${ago / 60} min`}` : 'now'));
  }

  #cursor(lines, x, y) {
    const { cursorS } = this.group;
    if (cursorS === null) return [];
    const dots = lines.map((points, place) => [nearest(points, cursorS), place]).filter(([point]) => point && point[1] !== null);
    return [
      s('line', { class: 'cursor', x1: x(cursorS), x2: x(cursorS), y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      ...dots.map(([point, place]) => s('circle', { class: `dot line-${place}`, cx: x(point[0]), cy: y(point[1]), r: 3 })),
    ];
  }

  #read(lines) {
    const atS = this.group.cursorS;
    lines.forEach((points, place) => {
      const point = atS === null ? points.at(-1) : nearest(points, atS);
      const value = point?.[1] ?? null;
      say(this.readouts[place], value === null ? '–' : this.options.read(value));
    });
    say(this.when, atS === null ? '' : clock(atS));
  }

  #follow(event) {
    const box = this.svg.getBoundingClientRect();
    const part = (event.clientX - box.left - PAD.left) / (this.width - PAD.left - PAD.right);
    this.group.point(store.atS - this.spanS * (1 - Math.min(1, Math.max(0, part))));
  }
}

function swapMark(x, event) {
  return s('g', { class: 'swap' },
    s('title', {}, `${clock(event.at_s)} ${event.text}`),
    s('line', { x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
    s('path', { d: `M${x} ${PAD.top - 5}l4 4l-4 4l-4 -4z` }));
}

function nearest(points, atS) {
  let found = null;
  for (const point of points) {
    if (!found || Math.abs(point[0] - atS) < Math.abs(found[0] - atS)) found = point;
  }
  return found;
}

function path(points, x, y, steps) {
  let text = '';
  let last = null;
  for (const [atS, value] of points) {
    if (value === null) {
      last = null;
      continue;
    }
    const [px, py] = [x(atS).toFixed(1), y(value).toFixed(1)];
    if (last === null || atS - last > GAP_S) text += `M${px} ${py}`;
    else text += steps ? `H${px}V${py}` : `L${px} ${py}`;
    last = atS;
  }
  return text;
}
