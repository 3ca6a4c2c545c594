// The share of one function: what it has, what it would get, and the stages on the way there.

import { h, Keyed, say, toggle } from './dom.js';
import { milliseconds, percent, requestedShare } from './format.js';
import { order } from './net.js';
import { store } from './store.js';

const SHADOW = ['plan', 'start', 'load', 'warm', 'swap', 'drain', 'exit', 'done'];
const WORDS = {
  plan: 'Plan', start: 'Start', load: 'Load', warm: 'Warm', swap: 'Swap', drain: 'Drain', exit: 'Exit', done: 'Done',
  failed: 'Failed',
};
const STAGE = /^(\w+) after ([\d.]+) (m?s)(?:: (.*))?$/;
const GRANTED = /granted \(/;
const REFUSED = /^not resized/;
const PREVIEW_MS = 200;

export class Resize {
  // onShare(percent) is told where the slider is.
  constructor(name, onShare) {
    this.name = name;
    this.onShare = onShare;
    this.touched = false; // by the user, since the last order
    this.can = false; // an order would be taken
    this.pinned = null; // the share that was asked for, if it is a fixed one
    this.ordering = null;
    this.mine = false; // events that come now are of the order that was given here
    this.seen = 0; // the newest event that was looked at
    this.path = [];
    this.begunS = NaN; // when what others ordered was begun
    this.now = h('p', { class: 'share-now' });
    this.slider = h('input', { type: 'range', id: 'share', min: 1, max: 100, step: 1, list: 'share-marks' });
    this.marks = h('datalist', { id: 'share-marks' });
    this.output = h('output', { for: 'share', class: 'share-wish' });
    this.preview = h('p', { class: 'preview fine', 'aria-live': 'polite' });
    this.go = h('button', { type: 'button', class: 'main' });
    this.auto = h('button', { type: 'button', class: 'quiet' }, 'auto');
    this.trouble = h('p', { class: 'problem', role: 'alert', hidden: true });
    this.stages = h('ol', { class: 'stages', 'aria-label': 'Stages of the resize' });
    this.result = h('p', { class: 'fine', 'aria-live': 'polite' });
    this.controls = h('div', { class: 'controls' },
      h('label', { for: 'share', class: 'unseen' }, 'Share'), this.slider, this.marks, this.output, this.go, this.auto);
    this.node = h('section', { class: 'resize', 'aria-label': 'Share' }, h('h3', {}, 'Share'),
      this.now, this.controls, this.preview, this.trouble, this.stages, this.result);
    this.rail = new Keyed(this.stages, makeStage, updateStage);
    this.#listen();
  }

  #listen() {
    this.slider.addEventListener('input', () => {
      this.touched = true;
      this.#wish();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#preview(), PREVIEW_MS);
    });
    this.slider.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !this.go.disabled) this.#order(this.#share());
    });
    this.go.addEventListener('click', () => this.#order(this.#share()));
    this.auto.addEventListener('click', () => this.#order('auto'));
  }

  // Knees, as marks at the slider.
  knees(shares) {
    this.marks.replaceChildren(...shares.map((share) => h('option', { value: Math.round(share) })));
  }

  update(each, device) {
    const most = device?.share_limit_percent ?? 100;
    const step = legalStep(each, device);
    Object.assign(this.slider, { min: Math.min(step, most), max: most, step });
    if (!this.touched) this.slider.value = each.share_granted_percent || each.share_effective_percent;
    const asked = requestedShare(each.share_min_percent, each.share_max_percent);
    say(this.now, `${percent(each.share_effective_percent)} in force, ${percent(each.share_granted_percent)} granted, ${asked} asked for`);
    const can = store.session.may_change && each.state === 'READY' && each.engine !== 'command' && store.connection === 'live';
    const why = store.session.may_change ? (each.state === 'READY' ? '' : `Its state is ${each.state.toLowerCase()}: only a function that serves is resized.`) : store.session.why_not;
    this.slider.disabled = !can;
    this.auto.disabled = !can || Boolean(this.ordering) || asked === 'auto';
    this.can = can;
    this.pinned = each.share_min_percent === each.share_max_percent ? each.share_max_percent : null;
    if (!can && why) say(this.preview, why);
    this.#wish();
    this.#follow();
  }

  close() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }

  #share() {
    return `${Number(Number(this.slider.value).toFixed(3))}%`;
  }

  #wish() {
    this.go.disabled = !this.can || Boolean(this.ordering) || Math.abs(this.slider.value - this.pinned) < 0.05;
    say(this.output, percent(Number(this.slider.value)));
    say(this.go, this.ordering ? 'Resizing …' : `Resize to ${percent(Number(this.slider.value))}`);
    this.slider.setAttribute('aria-valuetext', percent(Number(this.slider.value)));
    this.onShare(Number(this.slider.value));
  }

  // What the order would do, from the daemon itself.
  async #preview() {
    this.asking?.abort();
    this.asking = new AbortController();
    try {
      for await (const stage of order(this.#path(), { share: this.#share(), dry_run: true }, this.asking.signal)) {
        say(this.preview, stage.detail);
        toggle(this.preview, 'problem', false);
      }
    } catch (error) {
      if (error.name === 'AbortError') return;
      say(this.preview, error.message);
      toggle(this.preview, 'problem', true);
    }
  }

  async #order(share) {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.ordering = share;
    this.mine = true;
    this.path = [];
    this.trouble.hidden = true;
    say(this.result, '');
    say(this.preview, '');
    this.auto.disabled = true;
    this.#wish();
    try {
      for await (const stage of order(this.#path(), { share })) this.#pass(stage);
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    } finally {
      this.ordering = null;
      this.touched = false;
      if (!this.path.length) this.mine = false; // nothing was begun
      this.#wish();
    }
  }

  #path() {
    return `api/functions/${encodeURIComponent(this.name)}/resize`;
  }

  // With several instances a stage comes again, for the next of them.
  #step(name, ms, detail) {
    const before = this.path.findIndex((stage) => stage.name === name);
    if (before >= 0) this.path.length = before;
    this.path.push({ name, ms, detail });
  }

  #pass(stage) {
    this.#step(stage.name, stage.elapsed_ms, stage.detail);
    if (stage.name === 'failed') {
      this.trouble.textContent = stage.detail;
      this.trouble.hidden = false;
    }
    if (stage.name === 'done' && stage.resized) say(this.result, resultOf(stage.resized));
    this.#show();
  }

  // Resizes that others order: their stages are events.
  #follow() {
    const fresh = store.events.filter((event) => event.id > this.seen && event.subject === this.name);
    const first = this.seen === 0;
    this.seen = store.events.at(-1)?.id ?? this.seen;
    if (first) return;
    for (const event of fresh) {
      const stage = stageOf(event);
      if (!stage) continue;
      if (this.mine) {
        this.mine = stage.name !== 'done' && stage.name !== 'failed';
        continue;
      }
      if (stage.name === 'plan') {
        this.path = [];
        say(this.result, '');
      }
      if (stage.name === 'plan') this.begunS = event.at_s - stage.ms / 1000;
      this.#step(stage.name, Number.isFinite(stage.ms) ? stage.ms : (event.at_s - this.begunS) * 1000, stage.detail);
      this.#show();
    }
  }

  // A stage is told when it begins, so the last one is under way. Of a shadow's, those that are still
  // to come are shown, too.
  #show() {
    const told = new Map(this.path.map((stage, place) => [stage.name, { ...stage, ends: this.path[place + 1]?.ms }]));
    const last = this.path.at(-1)?.name;
    const names = told.has('start') && last !== 'failed' ? SHADOW : [...told.keys()];
    const ended = last === 'done' || last === 'failed';
    this.rail.show(names.map((name) => ({ name, told: told.get(name), now: !ended && name === last })), (stage) => stage.name);
  }
}

// Where a limiter gives whole cores only, these are the steps; elsewhere a percent is fine enough.
function legalStep(each, device) {
  if (device && device.limiter === 'threads' && device.cpus.length) return 100 / device.cpus.length;
  return 1;
}

// The stage of a resize or load that an event tells of; null: none.
function stageOf(event) {
  const ended = event.kind === 'load' || (event.kind === 'share' && GRANTED.test(event.text));
  if (ended) return { name: 'done', ms: NaN, detail: event.text };
  if (event.kind === 'failed' && REFUSED.test(event.text)) return { name: 'failed', ms: NaN, detail: event.text };
  const found = event.kind === 'stage' || event.kind === 'swap' ? STAGE.exec(event.text) : null;
  return found && { name: found[1], ms: Number(found[2]) * (found[3] === 's' ? 1000 : 1), detail: found[4] ?? '' };
}

function resultOf(resized) {
  const swaps = resized.swaps.map((swap) => {
    const hole = swap.hole_us >= 0 ? `, dispatch hole ${milliseconds(swap.hole_us)}` : '';
    return `flip ${milliseconds(swap.flip_us)}${hole}`;
  });
  const how = { shadow: 'by a shadow', 'in place': 'in place', none: 'it had that share already' }[resized.path] ?? resized.path;
  const prepared = resized.prepare_ms ? `; prepared in ${(resized.prepare_ms / 1000).toFixed(2)} s` : '';
  return `${percent(resized.share_effective_percent)} in force, ${how}${prepared}${swaps.length ? `; ${swaps.join('; ')}` : ''}.`;
}

function makeStage(stage) {
  const time = h('span', { class: 'fine' });
  return { node: h('li', { 'data-stage': stage.name }, h('span', { class: 'stage-name' }, WORDS[stage.name] ?? stage.name), time), time };
}

function updateStage(part, stage) {
  toggle(part.node, 'passed', stage.told && !stage.now);
  toggle(part.node, 'now', stage.now);
  toggle(part.node, 'failed', stage.name === 'failed');
  part.node.title = stage.told?.detail ?? '';
  say(part.time, stage.told ? took(stage) : '');
}

// How long a stage lasted; at the end, all of them together.
function took({ name, told, now }) {
  const ms = name === 'done' || name === 'failed' ? told.ms : told.ends - told.ms;
  if (now || !Number.isFinite(ms)) return '';
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${Math.round(ms)} ms`;
}
