// A picture as a tensor: where its height, width and colours go, and what its numbers mean.

const CHANNELS = new Set([1, 3, 4]);
const SIDE_LEAST = 8; // what is smaller is no picture
const LONG_SIDE = 640; // where the model takes any size
const GRID = 32; // of sizes that most convolutional models take

// How a model wants pictures; null: its input is none. -1 of a declared shape is any length.
export function layoutOf(shape) {
  const batched = shape.length === 4;
  const core = batched ? shape.slice(1) : shape;
  const side = (dim) => dim < 0 || dim >= SIDE_LEAST;
  if (core.length === 3) {
    const [first, second, third] = core;
    if (CHANNELS.has(first) && side(second) && side(third)) return { batched, order: 'CHW', channels: first, height: second, width: third };
    if (CHANNELS.has(third) && side(first) && side(second)) return { batched, order: 'HWC', channels: third, height: first, width: second };
    if (first < 0 && second >= SIDE_LEAST && third >= SIDE_LEAST) return { batched: true, order: 'HW', channels: 1, height: second, width: third };
  }
  if (core.length === 2 && !batched && core[0] >= SIDE_LEAST && core[1] >= SIDE_LEAST) {
    return { batched: false, order: 'HW', channels: 1, height: core[0], width: core[1] };
  }
  return null;
}

// Ways in which models want numbers of 0 to 255, by what they are called.
export const SCALES = {
  unit: { text: '0 … 1', of: (value) => value / 255 },
  signed: { text: '−1 … 1', of: (value) => value / 127.5 - 1 },
  raw: { text: '0 … 255', of: (value) => value },
  imagenet: { text: 'ImageNet mean and deviation', of: (value, channel) => (value / 255 - MEAN[channel % 3]) / DEVIATION[channel % 3] },
};
const MEAN = [0.485, 0.456, 0.406];
const DEVIATION = [0.229, 0.224, 0.225];

// Width and height for a picture: the model's, or near its own where the model takes any.
export function sizeFor(layout, bitmap) {
  const factor = Math.min(1, LONG_SIDE / Math.max(bitmap.width, bitmap.height));
  const free = (side) => Math.max(GRID, Math.round((side * factor) / GRID) * GRID);
  return {
    width: layout.width > 0 ? layout.width : free(bitmap.width),
    height: layout.height > 0 ? layout.height : free(bitmap.height),
  };
}

// Draws a picture at a size: `cover` crops, `contain` leaves a border, `stretch` distorts.
export function draw(canvas, bitmap, { width, height, fit }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const [across, down] = [width / bitmap.width, height / bitmap.height];
  const factor = fit === 'cover' ? Math.max(across, down) : Math.min(across, down);
  const [w, h] = fit === 'stretch' ? [width, height] : [bitmap.width * factor, bitmap.height * factor];
  context.fillStyle = '#000';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height).data;
}

// Pixels (RGBA) as numbers in the model's order, with their shape.
export function numbersOf(pixels, layout, { width, height, scale, bgr, integer }) {
  const { channels, order } = layout;
  const numbers = new Float64Array(width * height * channels);
  const of = integer ? (value) => value : SCALES[scale].of;
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = channels === 1 ? grey(pixels, pixel) : pixels[pixel * 4 + source(channel, bgr)];
      const place = order === 'CHW' ? channel * width * height + pixel : pixel * channels + channel;
      numbers[place] = of(value, source(channel, bgr));
    }
  }
  const core = { CHW: [channels, height, width], HWC: [height, width, channels], HW: [height, width] }[order];
  return { numbers, shape: layout.batched ? [1, ...core] : core };
}

function source(channel, bgr) {
  return bgr && channel < 3 ? 2 - channel : channel;
}

function grey(pixels, pixel) {
  const at = pixel * 4;
  return 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
}
