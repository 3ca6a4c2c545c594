// What a function answered, in the way that says most: classes, numbers, texts, or a map.

import { h } from './dom.js';
import { elements } from './tensors.js';

const TOP = 5;
const FIRST = 64; // numbers that are shown
const TEXTS = 50;
const MAP_LEAST = 16; // sides of what is shown as a picture

export function showTensor(tensor) {
  const { name, datatype, shape } = tensor;
  const title = h('p', { class: 'tensor-title' }, h('b', { class: 'mono' }, name), h('span', { class: 'fine' }, ` ${datatype} [${shape.join(', ')}]`));
  const content = tensor.parts ? showTexts(tensor.parts) : showNumbers(tensor);
  return h('div', { class: 'tensor', 'data-output': name }, title, content);
}

function showTexts(parts) {
  const decoder = new TextDecoder();
  const items = parts.slice(0, TEXTS).map((part) => h('li', {}, decoder.decode(part)));
  return [h('ol', { class: 'texts' }, items), parts.length > TEXTS ? h('p', { class: 'fine' }, `and ${parts.length - TEXTS} more`) : null];
}

function showNumbers(tensor) {
  const { numbers, shape } = tensor;
  if (!numbers.length) return h('p', { class: 'fine' }, 'no elements');
  const parts = [];
  const [height, width] = shape.slice(-2);
  if (shape.length >= 2 && height >= MAP_LEAST && width >= MAP_LEAST) parts.push(showMap(numbers, height, width));
  else if (isScores(tensor)) parts.push(showTop(numbers));
  parts.push(h('p', { class: 'fine' }, summary(numbers)));
  if (elements(shape) > 1) {
    parts.push(h('details', {}, h('summary', {}, numbers.length > FIRST ? `The first ${FIRST} of ${numbers.length} numbers` : 'The numbers'),
      h('p', { class: 'mono numbers' }, Array.from(numbers.slice(0, FIRST), short).join('  '))));
  } else {
    parts.unshift(h('p', { class: 'one mono' }, short(numbers[0])));
  }
  return parts;
}

// A vector of floats for one row: most likely scores of classes.
function isScores({ datatype, shape }) {
  const classes = shape.at(-1);
  return /^(FP|BF)/.test(datatype) && classes >= 2 && elements(shape) === classes;
}

function showTop(numbers) {
  const order = Array.from(numbers.keys()).sort((one, other) => numbers[other] - numbers[one]).slice(0, TOP);
  const { least, most, sum } = spread(numbers);
  const isPart = least >= 0 && Math.abs(sum - 1) < 0.01;
  return h('table', { class: 'top' }, h('caption', { class: 'unseen' }, 'Highest scores'), h('tbody', {}, order.map((index) => {
    const part = isPart ? numbers[index] : (numbers[index] - least) / (most - least || 1);
    const text = isPart ? `${(numbers[index] * 100).toFixed(1)}\u2009%` : short(numbers[index]);
    return h('tr', {}, h('th', { scope: 'row' }, String(index)), h('td', { class: 'track' }, h('i', { vars: { part } })), h('td', { class: 'number' }, text));
  })));
}

// The last two dimensions, of the first of what is before them, from dark to bright.
function showMap(numbers, height, width) {
  const canvas = h('canvas', { width, height, class: 'map-image', role: 'img', 'aria-label': `The first ${height} × ${width} numbers as a picture` });
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  const { least, most } = spread(numbers.subarray(0, width * height));
  for (let place = 0; place < width * height; place += 1) {
    const value = (255 * (numbers[place] - least)) / (most - least || 1);
    image.data.set([value, value, value, 255], place * 4);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function spread(numbers) {
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const value of numbers) {
    least = Math.min(least, value);
    most = Math.max(most, value);
    sum += value;
  }
  return { least, most, sum };
}

function summary(numbers) {
  const { least, most, sum } = spread(numbers);
  return `from ${short(least)} to ${short(most)}, mean ${short(sum / numbers.length)}`;
}

function short(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  return Number(value.toPrecision(5)).toString();
}
