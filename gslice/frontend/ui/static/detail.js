// One function: its figures, its last minutes, its share, its profile, and a panel to try it.

import { asked } from './asking.js';
import { Charts } from './chart.js';
import { Curve } from './curve.js';
import { $, h, say, toggle } from './dom.js';
import { bytes, count, milliseconds, percent, rate, tickMilliseconds } from './format.js';
import { reasonOf } from './functions.js';
import { get, order } from './net.js';
import { Resize } from './resize.js';
import { functionOf, hueOf, nameInAddress, store, watch } from './store.js';
import { TryIt } from './tryit.js';

const PROFILE_AGAIN = new Set(['profile', 'load', 'move', 'version']);

let open = null;

// Shows the function of the address, or none.
export function showDetail() {
  addEventListener('hashchange', follow);
  watch(() => {
    if (!open && store.status) follow();
    open?.update();
  });
}

function follow() {
  const name = nameInAddress();
  if ((open?.name ?? '') === name) return;
  const place = $('detail');
  open?.close();
  open = null;
  place.replaceChildren();
  place.hidden = !name;
  $('functions').hidden = Boolean(name);
  document.title = name ? `${name} – gslice` : 'gslice';
  if (!name || !store.status) return;
  open = new Detail(name);
  place.append(open.node);
  open.update();
  const { top } = place.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) place.scrollIntoView();
}

class Detail {
  constructor(name) {
    this.name = name;
    this.abort = new AbortController();
    this.profiled = 0; // the event after which the profile was last asked for
    this.figures = new Map();
    this.curve = new Curve();
    this.resize = new Resize(name, (share) => this.curve.mark(share));
    this.charts = new Charts(name, [
      { title: 'Answers per second', lines: [{ figure: 'rate' }], least: 1, format: count, read: rate },
      {
        title: 'Latency', lines: [{ figure: 'p99', label: 'p99' }, { figure: 'p50', label: 'p50' }], least: 100,
        format: tickMilliseconds, read: milliseconds, limit: () => functionOf(name)?.slo_p99_us,
      },
      { title: 'Share in force', lines: [{ figure: 'share' }], least: 100, steps: true, format: count, read: percent },
    ]);
    this.tryIt = new TryIt(name);
    this.#build();
  }

  #build() {
    const name = this.name;
    this.state = h('span', { class: 'state' });
    this.about = h('span', { class: 'fine' });
    this.gone = h('p', { class: 'problem', hidden: true }, 'There is no such function now.');
    this.reason = h('p', { class: 'problem', hidden: true });
    this.why = h('p', { class: 'why' });
    this.list = h('dl', { class: 'figures' });
    this.profileNote = h('p', { class: 'fine' });
    this.actions = h('span', { class: 'actions' });
    this.trouble = h('p', { class: 'problem', role: 'alert', hidden: true });
    this.load = asked('Load', { question: () => '', act: () => this.#order('load') });
    this.load.ask(false);
    this.unload = asked('Unload', { question: () => `Drain and remove ${name}?`, act: () => this.#order('unload') });
    this.actions.append(this.load.node, this.unload.node);
    this.head = h('div', { class: 'detail-head', vars: { hue: hueOf(name) } },
      h('a', { href: '#/', class: 'back', 'aria-label': 'Back to all functions' }, '←'),
      h('h2', {}, h('span', { class: 'chip', 'aria-hidden': 'true' }), name), this.state, this.about, this.actions);
    this.node = h('div', { class: 'function-detail', vars: { hue: hueOf(name) } }, this.head, this.gone, this.reason, this.trouble,
      this.list, this.why,
      h('div', { class: 'columns' },
        h('div', {}, this.charts.node),
        h('div', {}, this.resize.node,
          h('section', { 'aria-label': 'Profile' }, h('h3', {}, 'Profile: time of a batch over share'), this.curve.node, this.profileNote))),
      this.tryIt.node);
  }

  update() {
    const each = functionOf(this.name);
    this.gone.hidden = Boolean(each);
    toggle(this.node, 'is-gone', !each);
    if (!each) return;
    const isCommand = each.engine === 'command';
    say(this.state, each.state.toLowerCase());
    this.state.className = `state ${each.state.toLowerCase()}`;
    say(this.about, `${each.engine}, version ${each.version || '–'}, on ${each.devices.join(', ') || each.device}${each.isolation === 'exclusive' ? ', exclusive' : ''}`);
    this.reason.hidden = !each.reason;
    say(this.reason, reasonOf(each));
    this.#figures(each);
    say(this.why, this.#why(each));
    this.load.name(each.state === 'READY' ? 'Load again' : 'Load');
    this.actions.hidden = !store.session.may_change;
    const device = store.status.devices.find((one) => one.name === (each.devices[0] ?? each.device));
    this.resize.update(each, device);
    this.charts.update(store.events.filter((event) => event.subject === this.name && event.kind === 'swap'));
    this.tryIt.update(each);
    toggle(this.charts.node, 'unused', isCommand);
    this.#profile();
  }

  close() {
    this.abort.abort();
    this.charts.close();
    this.curve.close();
    this.resize.close();
    this.tryIt.close();
  }

  #figures(each) {
    const slo = each.slo_p99_us;
    const values = {
      Rate: `${rate(each.rate_per_s)} /s`,
      p50: milliseconds(each.p50_us),
      p99: milliseconds(each.p99_us),
      SLO: slo ? milliseconds(slo) : 'none',
      'Within SLO': slo && each.rate_per_s ? percent(Math.floor(each.attainment * 1000) / 10) : '–',
      'Can serve': each.decision?.capacity_per_s ? `${rate(each.decision.capacity_per_s)} /s` : '–',
      Queue: `${each.queued} + ${each.in_flight}`,
      'Rows a batch': each.batch_mean_rows ? each.batch_mean_rows.toFixed(1) : '–',
      Answered: count(each.ok),
      Failed: count(each.failed),
      Memory: bytes(each.workers.reduce((sum, worker) => sum + worker.rss_bytes, 0)),
      Workers: String(each.workers.length),
    };
    if (each.device_memory_bytes) values['On the GPU'] = bytes(each.device_memory_bytes);
    for (const [label, value] of Object.entries(values)) {
      let shown = this.figures.get(label);
      if (!shown) {
        shown = h('dd');
        this.figures.set(label, shown);
        this.list.append(h('div', {}, h('dt', {}, label), shown));
      }
      say(shown, value);
    }
    toggle(this.figures.get('p99'), 'broken', slo && each.p99_us > slo);
  }

  // The last change of the share in the daemon's words, and what its controller thinks now.
  #why(each) {
    const last = store.events.findLast((event) => event.subject === this.name && event.kind === 'share');
    const parts = [];
    if (last) parts.push(`Last change of share: ${last.text}.`);
    if (each.decision?.reason) parts.push(`Now: ${each.decision.reason}.`);
    return parts.join(' ');
  }

  // Asked for again when something happened that may have changed it.
  async #profile() {
    const news = store.events.findLast((event) => event.subject === this.name && PROFILE_AGAIN.has(event.kind))?.id ?? 0;
    if (this.profiled === news + 1 || store.connection !== 'live') return;
    this.profiled = news + 1;
    try {
      const profile = await get(`api/functions/${encodeURIComponent(this.name)}/profile`, this.abort.signal);
      this.curve.node.hidden = false;
      say(this.profileNote, '');
      this.curve.show(profile);
      this.resize.knees(this.curve.hasKnees() ? profile.curves.map((curve) => curve.knee_percent) : []);
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.curve.node.hidden = true;
      say(this.profileNote, error.message);
    }
  }

  async #order(what) {
    this.trouble.hidden = true;
    try {
      for await (const stage of order(`api/functions/${encodeURIComponent(this.name)}/${what}`, {})) {
        if (stage.name === 'failed') throw new Error(stage.detail);
      }
    } catch (error) {
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    }
  }
}
