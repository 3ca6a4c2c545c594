// A profile: how long a batch takes at each share, measured and fitted, with the knees.

import { h, s } from './dom.js';
import { milliseconds, percent, tickMilliseconds } from './format.js';

const HEIGHT = 250;
const PAD = { left: 52, right: 64, top: 12, bottom: 34 };

export class Curve {
  constructor() {
    this.svg = s('svg', { class: 'chart', height: HEIGHT, role: 'img' });
    this.note = h('p', { class: 'fine' });
    this.node = h('div', { class: 'curve', hidden: true }, this.svg, this.note); // until there is a profile
    this.profile = null;
    this.sharePercent = 0;
    this.sizes = new ResizeObserver(() => this.#draw());
    this.sizes.observe(this.node);
  }

  show(profile) {
    this.profile = profile;
    const knees = this.hasKnees() ? profile.curves.map((curve) => `${rows(curve.bucket)}: ${percent(curve.knee_percent)}`).join(', ') : 'not known';
    this.svg.setAttribute('aria-label', `Median time of a batch over the share of ${profile.device}. Knees: ${knees}`);
    const how = profile.quick ? 'Timed in passing, at a load' : `${profile.points.length} points`;
    const error = profile.error_percent ? `, model error ${profile.error_percent.toFixed(1)}\u2009%` : '';
    const more = this.hasKnees() ? `Knees: ${knees}.` : `Only one share has been measured: gslice profile ${profile.name} measures more.`;
    this.note.textContent = `${how}${error}; ${profile.device} under ${profile.limiter}, ${profile.machine}. ${more}`;
    this.#draw();
  }

  // One share says nothing about what others would be worth.
  hasKnees() {
    return this.profile.curves.some((curve) => curve.shares_percent.at(-1) - curve.shares_percent[0] > 0.5);
  }

  // The share that the slider is at, or that is in force.
  mark(sharePercent) {
    if (sharePercent === this.sharePercent) return;
    this.sharePercent = sharePercent;
    this.#draw();
  }

  close() {
    this.sizes.disconnect();
  }

  #draw() {
    const width = Math.max(260, this.svg.clientWidth);
    if (!this.profile?.curves.length) return;
    const times = [...this.profile.curves.flatMap((curve) => curve.medians_us), ...this.profile.points.map((point) => point.median_us)].filter((time) => time > 0);
    const [low, high] = [Math.log10(Math.min(...times)) - 0.05, Math.log10(Math.max(...times)) + 0.05];
    const x = (share) => PAD.left + (width - PAD.left - PAD.right) * (share / 100);
    const y = (time) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - (Math.log10(time) - low) / (high - low || 1));
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(
      ...timeTicks(low, high).map((time) => s('g', { class: 'grid' },
        s('line', { x1: PAD.left, x2: width - PAD.right, y1: y(time), y2: y(time) }),
        s('text', { x: PAD.left - 6, y: y(time) + 3.5, 'text-anchor': 'end' }, tickMilliseconds(time)))),
      ...[0, 25, 50, 75, 100].map((share) => s('text', { class: 'time', x: x(share), y: HEIGHT - 18, 'text-anchor': 'middle' }, `${share}`)),
      s('text', { class: 'time', x: x(50), y: HEIGHT - 3, 'text-anchor': 'middle' }, `share of ${this.profile.device}, %`),
      ...(this.sharePercent ? [s('line', { class: 'here', x1: x(this.sharePercent), x2: x(this.sharePercent), y1: PAD.top, y2: HEIGHT - PAD.bottom })] : []),
      ...this.#curves(x, y),
    );
  }

  #curves(x, y) {
    const { curves, points } = this.profile;
    let above = Infinity;
    return curves.toReversed().flatMap((curve, place) => {
      const tone = { tone: curves.length > 1 ? 1 - place / (curves.length - 1) : 0 };
      const line = curve.shares_percent.map((share, each) => `${each ? 'L' : 'M'}${x(share).toFixed(1)} ${y(curve.medians_us[each]).toFixed(1)}`).join('');
      const end = [x(curve.shares_percent.at(-1)), y(curve.medians_us.at(-1))];
      const measured = points.filter((point) => point.bucket === curve.bucket);
      const [kx, ky] = [x(curve.knee_percent), y(curve.knee_us)];
      const label = above === Infinity || end[1] - above >= 11;
      if (label) above = end[1];
      return [s('g', { class: 'bucket', vars: tone },
        s('path', { class: 'line', fill: 'none', d: line }),
        ...measured.map((point) => s('circle', { cx: x(point.share_percent), cy: y(point.median_us), r: 2.5 },
          s('title', {}, `${rows(point.bucket)} at ${percent(point.share_percent)}: ${milliseconds(point.median_us)}, p99 ${milliseconds(point.p99_us)}`))),
        this.hasKnees() ? s('path', { class: 'knee', d: `M${kx} ${ky - 7}l6 7l-6 7l-6 -7z` },
          s('title', {}, `Knee of ${rows(curve.bucket)}: ${percent(curve.knee_percent)}, ${milliseconds(curve.knee_us)}`)) : null,
        label ? s('text', { class: 'end', x: end[0] + 8, y: end[1] + 3.5 }, rows(curve.bucket)) : null)];
    });
  }
}

function rows(bucket) {
  return bucket === 1 ? '1 row' : `${bucket} rows`;
}

function timeTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    for (const factor of high - low > 3 ? [1] : high - low > 0.7 ? [1, 3] : [1, 1.5, 2, 3, 5, 7]) {
      const value = Math.log10(factor) + power;
      if (value >= low && value <= high) found.push(10 ** value);
    }
  }
  return found;
}
