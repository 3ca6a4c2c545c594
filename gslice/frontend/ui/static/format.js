// Figures as people read them: what gslice/core/figures.py is for the command line.

export function milliseconds(durationUs) {
  if (!durationUs) return '–';
  const value = durationUs / 1000;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3)} ms`;
}

// Likewise at an axis, where values are round.
export function tickMilliseconds(durationUs) {
  const text = (value) => Number(value.toPrecision(3));
  if (durationUs >= 1e6) return `${text(durationUs / 1e6)} s`;
  return durationUs ? `${text(durationUs / 1000)} ms` : '0';
}

export function percent(value) {
  return `${value >= 10 || value === 0 ? Math.round(value * 10) / 10 : Number(value.toPrecision(2))}\u2009%`;
}

export function rate(perS) {
  if (!perS) return '0';
  return perS >= 100 ? Math.round(perS).toLocaleString('en') : perS.toFixed(1);
}

export function bytes(size) {
  let value = size;
  for (const unit of ['B', 'KiB', 'MiB']) {
    if (value < 1024) return unit === 'B' ? `${value} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} GiB`;
}

export function requestedShare(least, most) {
  if (least === most) return percent(least);
  return most - least >= 99 ? 'auto' : `${percent(least)} to ${percent(most)}`;
}

export function uptime(seconds) {
  const parts = [];
  let left = Math.floor(seconds);
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['m', 60], ['s', 1]]) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count) parts.push(`${count}${unit}`);
  }
  return parts.slice(0, 2).join(' ') || '0s';
}

export function clock(atS) {
  return new Date(atS * 1000).toLocaleTimeString('en-GB');
}

export function count(number) {
  return number.toLocaleString('en');
}

// A few round numbers that span [0, most].
export function ticks(most, about = 3) {
  if (!(most > 0)) return [0, 1];
  const raw = most / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const found = [];
  for (let value = 0; value < most + step * 0.999; value += step) found.push(Number(value.toPrecision(6)));
  return found;
}
