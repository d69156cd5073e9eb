// Pictures as plain arrays: how a drawing becomes an image as MNIST's authors made theirs, which pixels a map lets go first,
// and what takes their place. No page and no network is needed here, so tests run it in node as it stands.
"use strict";
(() => {
  const SIDE = 28, PIXELS = SIDE * SIDE, BOX = 20;

  // Share of ink in each cell of `columns` x `rows` cells laid over a part of the pad: the mean over the cell's area.
  function shrunk(ink, padSide, box, columns, rows) {
    const out = new Float64Array(columns * rows), wide = box.width / columns, high = box.height / rows;
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
      const x0 = box.left + column * wide, y0 = box.top + row * high;
      let sum = 0;
      for (let y = Math.floor(y0); y < y0 + high; y++) for (let x = Math.floor(x0); x < x0 + wide; x++) {
        const across = Math.min(x + 1, x0 + wide) - Math.max(x, x0), down = Math.min(y + 1, y0 + high) - Math.max(y, y0);
        if (across > 0 && down > 0 && x < padSide && y < padSide) sum += across * down * ink[y * padSide + x];
      }
      out[row * columns + column] = sum / (wide * high);
    }
    return out;
  }

  function boxOf(ink, padSide) {
    let left = padSide, top = padSide, right = -1, bottom = -1;
    for (let i = 0; i < ink.length; i++) if (ink[i] > 32) {
      const x = i % padSide, y = (i - x) / padSide;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  // A drawing (grey values of a square pad) as 784 grey values: the ink fills a box of 20 x 20 pixels, its centre of mass
  // lies in the middle of the image. Null for an empty pad.
  function prepared(ink, padSide) {
    const box = boxOf(ink, padSide);
    if (!box) return null;
    const scale = BOX / Math.max(box.width, box.height);
    const columns = Math.max(1, Math.round(box.width * scale)), rows = Math.max(1, Math.round(box.height * scale));
    const small = shrunk(ink, padSide, box, columns, rows);
    let mass = 0, x = 0, y = 0;
    small.forEach((value, i) => { mass += value; x += value * (i % columns + .5); y += value * (Math.floor(i / columns) + .5); });
    const inside = (start, size) => Math.min(Math.max(start, 0), SIDE - size);
    const left = inside(Math.round(SIDE / 2 - x / mass), columns), top = inside(Math.round(SIDE / 2 - y / mass), rows);
    const image = new Uint8Array(PIXELS);
    small.forEach((value, i) => { image[(top + Math.floor(i / columns)) * SIDE + left + i % columns] = Math.round(value); });
    return image;
  }

  // Pixels in the order in which they leave: by the magnitude of the map, equal ones in their order in the image.
  function order(map, mostFirst) {
    const sign = mostFirst ? -1 : 1;
    return Uint16Array.from({ length: PIXELS }, (_, i) => i)
      .sort((a, b) => sign * (Math.abs(map[a]) - Math.abs(map[b])) || a - b);
  }

  // The same noise each time, uniform over all grey values (the generator is mulberry32).
  function noise() {
    let state = 1;
    return Uint8Array.from({ length: PIXELS }, () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return (t ^ (t >>> 14)) >>> 24;
    });
  }

  // The mean of 7 x 7 pixels around each, weighted by a Gaussian of 2 pixels; beyond the edge lies background.
  function blurred(image) {
    const weights = Array.from({ length: 7 }, (_, i) => Math.exp(-((i - 3) ** 2) / 8));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const along = (values, step, place) => Float64Array.from(values, (_, i) => weights.reduce((sum, weight, k) => {
      const at = place(i) + k - 3;
      return at < 0 || at >= SIDE ? sum : sum + weight / total * values[i + (k - 3) * step];
    }, 0));
    const rows = along(Float64Array.from(image), 1, i => i % SIDE);
    return Uint8Array.from(along(rows, SIDE, i => Math.floor(i / SIDE)), Math.round);
  }

  // What pixels become when they are removed, by name.
  function fill(name, image, mean) {
    if (name === "zero") return new Uint8Array(PIXELS);
    if (name === "mean") return mean;
    if (name === "noise") return noise();
    if (name === "blur") return blurred(image);
    throw new Error(`there is no fill called ${name}`);
  }

  // The image with its first `count` pixels of an order replaced.
  function removed(image, places, count, filling) {
    const out = Uint8Array.from(image);
    for (const place of places.subarray(0, count)) out[place] = filling[place];
    return out;
  }

  globalThis.saqPixels = { SIDE, PIXELS, BOX, prepared, order, fill, removed };
})();
