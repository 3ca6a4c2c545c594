// The share map: how each device is divided, by the shares that its limiter reads back.

import { $, h, Keyed, say, toggle } from './dom.js';
import { bytes, percent } from './format.js';
import { order } from './net.js';
import { asked } from './asking.js';
import { hueOf, isPreparing, store, watch } from './store.js';

export function showDevices() {
  const list = new Keyed($('devices').querySelector('.devices'), makeDevice, updateDevice);
  watch(() => {
    if (store.status) list.show(store.status.devices, (device) => device.name);
  });
}

function makeDevice(device) {
  const name = h('b', { class: 'mono' }, device.name);
  const about = h('span', { class: 'fine' });
  const given = h('span', { class: 'given' });
  const marks = h('span', { class: 'marks' });
  const map = h('ul', { class: 'map', 'aria-label': `Shares of ${device.name}` });
  const scale = h('div', { class: 'scale', 'aria-hidden': 'true' });
  const problem = h('p', { class: 'problem', hidden: true });
  const part = { refused: '' }; // why the last drain was not, or not wholly, done
  const drain = asked('Drain', {
    question: () => `Have every function leave ${device.name}?`,
    act: async () => {
      part.refused = await orderDrain(device.name);
      showProblem(part, store.status.devices.find((each) => each.name === device.name));
    },
  });
  const head = h('div', { class: 'device-head' }, name, about, marks, given, drain.node);
  const node = h('div', { class: 'device', 'data-device': device.name }, head, map, scale, problem);
  const segments = new Keyed(map, makeSegment, updateSegment);
  return Object.assign(part, { node, about, given, marks, map, scale, segments, drain, problem });
}

function showProblem(part, device) {
  const text = [device?.problem, part.refused].filter(Boolean).join('; ');
  say(part.problem, text);
  part.problem.hidden = !text;
}

async function orderDrain(device) {
  const undo = store.status.devices.find((each) => each.name === device)?.drained ?? false;
  const told = [];
  try {
    for await (const stage of order('api/drain', { device, undo })) {
      if (stage.name === 'failed' || stage.name === 'stay') told.push(stage.detail);
    }
  } catch (error) {
    told.push(error.message);
  }
  return told.join('; ');
}

function updateDevice(part, device) {
  const on = store.status.functions.filter((each) => each.devices.includes(device.name) || each.device === device.name);
  const sharing = on.filter((each) => each.share_effective_percent > 0);
  const used = sharing.reduce((sum, each) => sum + each.share_effective_percent, 0);
  const span = Math.max(100, used); // where batches take turns, shares are more than there is
  const free = Math.max(0, device.share_limit_percent - used);
  say(part.about, about(device));
  say(part.given, `${percent(used)} given, ${percent(free)} free${memory(device)}`);
  showMarks(part.marks, device, used);
  part.map.style.setProperty('--span', span);
  const segments = sharing.map((each) => ({ key: each.name, function: each, part: each.share_effective_percent }));
  if (free > 0) segments.push({ key: '', free: true, part: free });
  const beyond = span - used - free;
  if (beyond > 0.01) segments.push({ key: ' ', beyond: true, part: beyond });
  part.segments.show(segments, (segment) => segment.key);
  showScale(part.scale, span);
  part.drain.node.hidden = !store.session.may_change;
  part.drain.name(device.drained ? 'Undrain' : 'Drain');
  part.drain.ask(!device.drained);
  showProblem(part, device);
}

function about(device) {
  const parts = [];
  if (device.gpu) {
    parts.push(device.gpu.name, `${device.gpu.sms} SMs`);
    if (device.gpu.power_w) parts.push(`${Math.round(device.gpu.utilization_percent)}\u2009% busy`, `${Math.round(device.gpu.power_w)} W`);
    if (device.gpu.temperature_c) parts.push(`${Math.round(device.gpu.temperature_c)}\u2009°C`);
  } else {
    parts.push(`${device.cpus.length} ${device.cpus.length === 1 ? 'core' : 'cores'}`);
  }
  // `auto` becomes another one when the first function is loaded.
  if (device.limiter !== 'auto') parts.push(device.limiter === 'none' ? 'no limiter' : `limited by ${device.limiter}`);
  return parts.join(', ');
}

function memory(device) {
  if (!device.memory_used_bytes) return '';
  const most = device.memory_bytes ? ` of ${bytes(device.memory_bytes)}` : '';
  return `; memory ${bytes(device.memory_used_bytes)}${most}`;
}

function showMarks(node, device, used) {
  const marks = [];
  if (device.held_by) marks.push(`exclusive: ${device.held_by}`);
  if (used > device.share_limit_percent + 0.01 && device.limiter !== 'none') marks.push('turns');
  if (device.drained) marks.push('drained');
  if (node.dataset.marks === marks.join()) return;
  node.dataset.marks = marks.join();
  node.replaceChildren(...marks.map((mark) => h('span', { class: 'mark' }, mark)));
}

function makeSegment(segment) {
  if (!segment.function) {
    const text = h('span', { class: 'segment-share' });
    return { node: h('li', { class: segment.free ? 'free' : 'beyond' }, text), text };
  }
  const name = h('span', { class: 'segment-name' }, segment.function.name);
  const text = h('span', { class: 'segment-share' });
  const link = h('a', { href: `#/f/${encodeURIComponent(segment.function.name)}` }, name, text);
  const node = h('li', { class: 'segment', vars: { hue: hueOf(segment.function.name) } }, link);
  return { node, link, text };
}

function updateSegment(part, segment) {
  part.node.style.setProperty('--part', segment.part);
  say(part.text, segment.beyond ? '' : segment.free ? `${percent(segment.part)} free` : percent(segment.part));
  if (!segment.function) return;
  const shadow = segment.function.state === 'READY' && isPreparing(segment.function.name);
  toggle(part.node, 'shadowed', shadow);
  const granted = segment.function.share_granted_percent;
  const differs = Math.abs(granted - segment.part) > 0.05 ? `, ${percent(granted)} granted` : '';
  const text = `${segment.function.name}: ${percent(segment.part)} in force${differs}${shadow ? '; a shadow is being prepared' : ''}`;
  if (part.link.title !== text) {
    part.link.title = text;
    part.link.setAttribute('aria-label', text);
  }
}

function showScale(node, span) {
  const step = span > 200 ? 100 : 25;
  const values = [];
  for (let value = 0; value <= span + 0.01; value += step) values.push(value);
  if (node.dataset.values === `${values}/${span}`) return;
  node.dataset.values = `${values}/${span}`;
  node.replaceChildren(...values.map((value) => h('span', { vars: { at: value / span }, class: value === 100 ? 'whole' : '' }, String(value))));
}
