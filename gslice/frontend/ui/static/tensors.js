// Tensors as KServe's binary tensor extension has them: raw, little-endian, in C order.

const HALF = new DataView(new ArrayBuffer(4));

// What each data type is made of: bytes an element, and how one is written and read.
const TYPES = {
  BOOL: [1, (view, at, value) => view.setUint8(at, value ? 1 : 0), (view, at) => view.getUint8(at)],
  UINT8: [1, (view, at, value) => view.setUint8(at, value), (view, at) => view.getUint8(at)],
  UINT16: [2, (view, at, value) => view.setUint16(at, value, true), (view, at) => view.getUint16(at, true)],
  UINT32: [4, (view, at, value) => view.setUint32(at, value, true), (view, at) => view.getUint32(at, true)],
  UINT64: [8, (view, at, value) => view.setBigUint64(at, BigInt(value), true), (view, at) => Number(view.getBigUint64(at, true))],
  INT8: [1, (view, at, value) => view.setInt8(at, value), (view, at) => view.getInt8(at)],
  INT16: [2, (view, at, value) => view.setInt16(at, value, true), (view, at) => view.getInt16(at, true)],
  INT32: [4, (view, at, value) => view.setInt32(at, value, true), (view, at) => view.getInt32(at, true)],
  INT64: [8, (view, at, value) => view.setBigInt64(at, BigInt(value), true), (view, at) => Number(view.getBigInt64(at, true))],
  FP16: [2, (view, at, value) => view.setUint16(at, toHalf(value), true), (view, at) => fromHalf(view.getUint16(at, true))],
  BF16: [2, (view, at, value) => view.setUint16(at, toBrain(value), true), (view, at) => fromBrain(view.getUint16(at, true))],
  FP32: [4, (view, at, value) => view.setFloat32(at, value, true), (view, at) => view.getFloat32(at, true)],
  FP64: [8, (view, at, value) => view.setFloat64(at, value, true), (view, at) => view.getFloat64(at, true)],
};

export const isNumeric = (datatype) => datatype in TYPES;
export const isFloat = (datatype) => /^(FP|BF)/.test(datatype);

export function elements(shape) {
  return shape.reduce((product, dim) => product * dim, 1);
}

// Numbers as a tensor's bytes.
export function encodeNumbers(datatype, numbers) {
  const [size, write] = TYPES[datatype];
  const bytes = new Uint8Array(size * numbers.length);
  const view = new DataView(bytes.buffer);
  for (let place = 0; place < numbers.length; place += 1) write(view, place * size, numbers[place]);
  return bytes;
}

// A tensor's bytes as numbers; those over 2^53 lose digits.
export function decodeNumbers(datatype, bytes) {
  const [size, , read] = TYPES[datatype];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const numbers = new Float64Array(bytes.byteLength / size);
  for (let place = 0; place < numbers.length; place += 1) numbers[place] = read(view, place * size);
  return numbers;
}

// Elements of BYTES, each a Uint8Array, with its length in front.
export function encodeBytes(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    bytes.set(part, at + 4);
    at += 4 + part.length;
  }
  return bytes;
}

export function decodeBytes(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  for (let at = 0; at < bytes.length;) {
    const length = view.getUint32(at, true);
    parts.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return parts;
}

// A request's body: JSON, then the tensors. `tensors` are {name, datatype, shape, bytes}.
export function requestBody(tensors) {
  const inputs = tensors.map(({ name, datatype, shape, bytes }) => ({ name, datatype, shape, parameters: { binary_data_size: bytes.length } }));
  const json = new TextEncoder().encode(JSON.stringify({ inputs, parameters: { binary_data_output: true } }));
  return { body: new Blob([json, ...tensors.map((tensor) => tensor.bytes)]), jsonBytes: json.length };
}

// An answer's tensors: {name, datatype, shape, numbers or parts}.
export function answerTensors(headers, buffer) {
  const jsonBytes = Number(headers.get('Inference-Header-Content-Length') ?? buffer.byteLength);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 0, jsonBytes)));
  let at = jsonBytes;
  return told.outputs.map(({ name, datatype, shape, parameters, data }) => {
    const size = parameters?.binary_data_size;
    if (size === undefined) {
      const flat = data.flat(Infinity);
      return datatype === 'BYTES'
        ? { name, datatype, shape, parts: flat.map((text) => new TextEncoder().encode(text)) }
        : { name, datatype, shape, numbers: Float64Array.from(flat) };
    }
    const bytes = new Uint8Array(buffer, at, size);
    at += size;
    return datatype === 'BYTES'
      ? { name, datatype, shape, parts: decodeBytes(bytes) }
      : { name, datatype, shape, numbers: decodeNumbers(datatype, bytes) };
  });
}

// Nested lists of numbers as a shape and the numbers in order.
export function flatten(nested) {
  const shape = [];
  for (let level = nested; Array.isArray(level); level = level[0]) shape.push(level.length);
  const numbers = [];
  const walk = (level, depth) => {
    if (depth === shape.length) {
      if (typeof level !== 'number' && typeof level !== 'boolean') throw new Error(`${JSON.stringify(level)} is not a number`);
      numbers.push(Number(level));
      return;
    }
    if (!Array.isArray(level) || level.length !== shape[depth]) throw new Error('the lists are not all of the same length');
    for (const each of level) walk(each, depth + 1);
  };
  walk(nested, 0);
  return { shape, numbers };
}

// Why a shape does not fit a declared one, where -1 is any length; empty if it does.
export function misfit(shape, declared) {
  const fits = shape.length === declared.length && shape.every((dim, place) => declared[place] < 0 || declared[place] === dim);
  return fits ? '' : `the shape [${shape.join(', ')}] is not [${declared.map((dim) => (dim < 0 ? 'any' : dim)).join(', ')}]`;
}

// ---- half precision --------------------------------------------------------------------------

function toBrain(value) {
  HALF.setFloat32(0, value);
  const bits = HALF.getUint32(0);
  if (Number.isNaN(value)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function fromBrain(bits) {
  HALF.setUint32(0, (bits << 16) >>> 0);
  return HALF.getFloat32(0);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

function toHalf(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | even(size / 2 ** -24);
  const exponent = Math.floor(Math.log2(size));
  const fraction = even((size / 2 ** exponent - 1) * 1024);
  return sign | (((exponent + 15) << 10) + fraction); // a fraction that rounds up to 1024 carries
}

function even(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}
