// The panel that sends a function one request: each input from a picture, numbers, text or a file.

import { showTensor } from './answers.js';
import { h, say } from './dom.js';
import { get, infer } from './net.js';
import { draw, layoutOf, numbersOf, SCALES, sizeFor } from './picture.js';
import { answerTensors, elements, encodeBytes, encodeNumbers, flatten, isFloat, isNumeric, misfit, requestBody } from './tensors.js';

const SMALL = 64; // elements that one may write by hand

export class TryIt {
  constructor(name) {
    this.name = name;
    this.abort = new AbortController();
    this.version = null;
    this.fields = h('div', { class: 'inputs' });
    this.note = h('p', { class: 'fine' });
    this.send = h('button', { type: 'submit', class: 'main', disabled: true }, 'Run');
    this.timing = h('span', { class: 'fine', 'aria-live': 'polite' });
    this.trouble = h('p', { class: 'problem', role: 'alert', hidden: true });
    this.answers = h('div', { class: 'answers', 'aria-live': 'polite' });
    const form = h('form', {}, this.fields, this.note, h('p', { class: 'controls' }, this.send, this.timing), this.trouble);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#run();
    });
    this.node = h('section', { class: 'try', 'aria-label': 'Try it' }, h('h3', {}, 'Try it'), h('div', { class: 'columns' }, form, this.answers));
  }

  // What a function takes is asked for anew with each version.
  update(each) {
    this.node.hidden = each.engine === 'command';
    const version = each.state === 'READY' ? `${each.version}` : this.version;
    this.ready = each.state === 'READY' || each.state === 'COLD';
    this.send.disabled = !this.ready || !this.sources || this.running;
    if (version !== this.version && version !== null) {
      this.version = version;
      this.#describe();
    }
    if (!this.sources) say(this.note, this.ready ? 'Asking what it takes …' : `Its state is ${each.state.toLowerCase()}: there is nothing to try yet.`);
  }

  close() {
    this.abort.abort();
  }

  async #describe() {
    try {
      const { inputs } = await get(`../v2/models/${encodeURIComponent(this.name)}`, this.abort.signal);
      this.sources = inputs.map((input) => new Source(input));
      this.fields.replaceChildren(...this.sources.map((source) => source.node));
      say(this.note, '');
      this.send.disabled = !this.ready;
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.sources = null;
      say(this.note, error.message);
    }
  }

  async #run() {
    this.running = true;
    this.send.disabled = true;
    this.trouble.hidden = true;
    try {
      const tensors = await Promise.all(this.sources.map((source) => source.tensor()));
      const { body, jsonBytes } = requestBody(tensors);
      const begun = performance.now();
      const answer = await infer(this.name, body, jsonBytes, this.abort.signal);
      const tookMs = performance.now() - begun;
      say(this.timing, `answered in ${tookMs.toFixed(tookMs < 10 ? 2 : 1)} ms, this browser's network included`);
      this.answers.replaceChildren(...answerTensors(answer.headers, answer.body).map(showTensor));
    } catch (error) {
      if (error.name === 'AbortError') return;
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
      say(this.timing, '');
      this.answers.replaceChildren();
    } finally {
      this.running = false;
      this.send.disabled = !this.ready;
    }
  }
}

// One input, and the ways in which it can be given.
class Source {
  constructor(input) {
    this.input = input;
    this.shape = input.shape.map(Number);
    this.plain = this.shape.map((dim) => (dim < 0 ? 1 : dim)); // with 1 where any length is taken
    this.layout = isNumeric(input.datatype) ? layoutOf(this.shape) : null;
    const ways = this.#ways();
    this.way = h('select', { 'aria-label': `How ${input.name} is given` }, ways.map(([value, text]) => h('option', { value }, text)));
    this.place = h('div', { class: 'way' });
    this.node = h('fieldset', { 'data-input': input.name }, h('legend', {}, h('b', { class: 'mono' }, input.name),
      h('span', { class: 'fine' }, ` ${input.datatype} [${this.shape.map((dim) => (dim < 0 ? 'any' : dim)).join(', ')}]`)), this.way, this.place);
    this.way.addEventListener('change', () => this.#show());
    this.#show();
  }

  #ways() {
    if (!isNumeric(this.input.datatype)) return [['text', 'text'], ['lines', 'a line an element'], ['file', 'a file, as one element']];
    const ways = [['numbers', 'numbers, as JSON'], ['ones', 'ones'], ['zeros', 'zeros'], ['random', 'random numbers']];
    if (elements(this.plain) > SMALL) ways.push(ways.shift());
    if (this.input.datatype === 'UINT8' && this.shape.at(-1) < 0) ways.unshift(['file', 'the bytes of a file']);
    return this.layout ? [['picture', 'a picture'], ...ways] : ways;
  }

  #show() {
    const make = { picture: () => this.#picture(), numbers: () => this.#numbers(), text: () => this.#text(), lines: () => this.#text(), file: () => this.#file() }[this.way.value];
    this.place.replaceChildren(...(make ? make() : []));
  }

  async tensor() {
    const { name, datatype } = this.input;
    const { shape, bytes } = await this.#value(this.way.value, datatype);
    const wrong = misfit(shape, this.shape);
    if (wrong) throw new Error(`${name}: ${wrong}`);
    return { name, datatype, shape, bytes };
  }

  async #value(way, datatype) {
    if (way === 'picture') return this.#pictureValue(datatype);
    if (way === 'file') return this.#fileValue(datatype);
    if (way === 'text' || way === 'lines') {
      const text = this.area.value;
      const parts = (way === 'lines' ? text.split('\n') : [text]).map((part) => new TextEncoder().encode(part));
      return { shape: this.#shapeOf(parts.length), bytes: encodeBytes(parts) };
    }
    if (way === 'numbers') {
      const { shape, numbers } = flatten(parsed(this.area.value, this.input.name));
      return { shape, bytes: encodeNumbers(datatype, numbers) };
    }
    const float = isFloat(datatype);
    const value = { ones: () => 1, zeros: () => 0, random: () => (float ? Math.random() : Math.floor(Math.random() * (datatype === 'BOOL' ? 2 : 100))) }[way];
    return { shape: this.plain, bytes: encodeNumbers(datatype, Array.from({ length: elements(this.plain) }, value)) };
  }

  // The declared shape with so many elements, where its first free length makes up for it.
  #shapeOf(length) {
    const free = this.shape.findIndex((dim) => dim < 0);
    return this.plain.map((dim, place) => (place === free ? length / (elements(this.plain) / dim) : dim));
  }

  #numbers() {
    const nested = this.plain.reduceRight((inner, dim) => Array(dim).fill(inner), isFloat(this.input.datatype) ? 0.5 : 1);
    this.area = h('textarea', { rows: 3, spellcheck: 'false', class: 'mono', 'aria-label': `Numbers of ${this.input.name}` }, elements(this.plain) > SMALL ? '' : JSON.stringify(nested));
    return [this.area];
  }

  #text() {
    this.area = h('textarea', { rows: 3, 'aria-label': `Text of ${this.input.name}` });
    return [this.area];
  }

  #file() {
    this.chosen = h('input', { type: 'file', 'aria-label': `File for ${this.input.name}` });
    return [this.chosen];
  }

  async #fileValue(datatype) {
    const [file] = this.chosen.files;
    if (!file) throw new Error(`${this.input.name}: choose a file`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (datatype === 'BYTES') return { shape: this.plain, bytes: encodeBytes([bytes]) };
    return { shape: [...this.plain.slice(0, -1), bytes.length], bytes };
  }

  // ---- pictures ------------------------------------------------------------------------------

  #picture() {
    const { layout } = this;
    const option = ([value, text]) => h('option', { value }, text);
    this.chosen = h('input', { type: 'file', accept: 'image/*', 'aria-label': `Picture for ${this.input.name}` });
    this.canvas = h('canvas', { class: 'preview-image', width: 1, height: 1, role: 'img', 'aria-label': 'What the model gets to see', hidden: true });
    this.size = { width: h('input', { type: 'number', min: 1, max: 8192, 'aria-label': 'Width' }), height: h('input', { type: 'number', min: 1, max: 8192, 'aria-label': 'Height' }) };
    for (const side of ['width', 'height']) {
      if (layout[side] > 0) Object.assign(this.size[side], { value: layout[side], disabled: true });
    }
    this.fit = h('select', { 'aria-label': 'Fit' }, [['cover', 'cropped to fit'], ['contain', 'whole, with a border'], ['stretch', 'stretched']].map(option));
    this.scale = h('select', { 'aria-label': 'Numbers' }, Object.entries(SCALES).map(([value, { text }]) => option([value, text])));
    this.colours = h('select', { 'aria-label': 'Colours' }, [['rgb', 'RGB'], ['bgr', 'BGR']].map(option));
    const choices = [h('label', {}, 'Size ', this.size.width, ' × ', this.size.height), this.fit];
    if (isFloat(this.input.datatype)) choices.push(this.scale);
    if (layout.channels >= 3) choices.push(this.colours);
    this.bitmap = null;
    this.chosen.addEventListener('change', () => this.#choose(this.chosen.files[0]));
    for (const each of [this.size.width, this.size.height, this.fit]) each.addEventListener('change', () => this.#draw());
    const drop = h('div', { class: 'drop' }, this.chosen, this.canvas);
    drop.addEventListener('dragover', (event) => event.preventDefault());
    drop.addEventListener('drop', (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.#choose(event.dataTransfer.files[0]);
    });
    this.pictureNote = h('p', { class: 'fine' }, `${layout.order}${layout.batched ? ' with a batch of 1' : ''}`);
    return [drop, h('p', { class: 'choices' }, choices), this.pictureNote];
  }

  async #choose(file) {
    this.choosing = (async () => {
      this.bitmap?.close();
      this.bitmap = null;
      if (!file) return;
      try {
        this.bitmap = await createImageBitmap(file);
      } catch {
        say(this.pictureNote, `${file.name} is no picture that this browser can read`);
        return;
      }
      const size = sizeFor(this.layout, this.bitmap);
      for (const side of ['width', 'height']) this.size[side].value = size[side];
      say(this.pictureNote, `${file.name}, ${this.bitmap.width} × ${this.bitmap.height}`);
      this.#draw();
    })();
    await this.choosing;
  }

  #draw() {
    if (!this.bitmap) return null;
    const [width, height] = [Number(this.size.width.value), Number(this.size.height.value)];
    if (!(width > 0 && height > 0)) throw new Error(`${this.input.name}: give a size`);
    this.canvas.hidden = false;
    return { pixels: draw(this.canvas, this.bitmap, { width, height, fit: this.fit.value }), width, height };
  }

  async #pictureValue(datatype) {
    await this.choosing;
    const drawn = this.#draw();
    if (!drawn) throw new Error(`${this.input.name}: choose a picture`);
    const { width, height, pixels } = drawn;
    const options = { width, height, scale: this.scale.value, bgr: this.colours.value === 'bgr', integer: !isFloat(datatype) };
    const { numbers, shape } = numbersOf(pixels, this.layout, options);
    return { shape, bytes: encodeNumbers(datatype, numbers) };
  }
}

function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name}: not JSON: ${error.message}`);
  }
}
