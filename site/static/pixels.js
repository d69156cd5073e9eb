// Pictures as plain arrays: how a drawing or any picture becomes an image as MNIST's authors made theirs, which pixels a map
// lets go first, and what takes their place. No page and no network is needed here, so tests run it in node as it stands.
"use strict";
(() => {
  const SIDE = 28, PIXELS = SIDE * SIDE, BOX = 20, FAINT = 32, LARGEST = 4096 * 4096; // as in saqlib.deploy.explain

  // Ink in each cell of `columns` x `rows` cells laid over a part of a picture: the mean over the cell's area.
  function shrunk(ink, width, height, box, columns, rows) {
    const out = new Float64Array(columns * rows), wide = box.width / columns, high = box.height / rows;
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
      const x0 = box.left + column * wide, y0 = box.top + row * high;
      let sum = 0;
      for (let y = Math.floor(y0); y < y0 + high; y++) for (let x = Math.floor(x0); x < x0 + wide; x++) {
        const across = Math.min(x + 1, x0 + wide) - Math.max(x, x0), down = Math.min(y + 1, y0 + high) - Math.max(y, y0);
        if (across > 0 && down > 0 && x < width && y < height) sum += across * down * ink[y * width + x];
      }
      out[row * columns + column] = Math.round(sum / (wide * high) + 1e-6); // a half goes up, whatever the sums made of it
    }
    return out;
  }

  function boxOf(ink, width) {
    let left = width, top = ink.length, right = -1, bottom = -1;
    for (let i = 0; i < ink.length; i++) if (ink[i] > FAINT) {
      const x = i % width, y = (i - x) / width;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  // A drawing (its grey values, bright on black) as 784 grey values: the ink fills a box of 20 x 20 pixels, its centre of
  // mass lies in the middle of the image. Null where there is no ink.
  function prepared(ink, width) {
    const box = boxOf(ink, width);
    if (!box) return null;
    const scale = BOX / Math.max(box.width, box.height);
    const columns = Math.max(1, Math.round(box.width * scale)), rows = Math.max(1, Math.round(box.height * scale));
    const small = shrunk(ink, width, ink.length / width, box, columns, rows);
    let mass = 0, x = 0, y = 0;
    small.forEach((value, i) => { mass += value; x += value * (i % columns + .5); y += value * (Math.floor(i / columns) + .5); });
    if (!mass) return null;
    const inside = (start, size) => Math.min(Math.max(start, 0), SIDE - size);
    const left = inside(Math.round(SIDE / 2 - x / mass), columns), top = inside(Math.round(SIDE / 2 - y / mass), rows);
    const image = new Uint8Array(PIXELS);
    small.forEach((value, i) => { image[(top + Math.floor(i / columns)) * SIDE + left + i % columns] = value; });
    return image;
  }

  function borderOf(grey, width) {
    const rows = grey.length / width, sides = [...grey.subarray(0, width), ...grey.subarray(grey.length - width)];
    for (let row = 1; row < rows - 1; row++) sides.push(grey[row * width], grey[(row + 1) * width - 1]);
    return sides;
  }

  // Grey values of a picture (red, green, blue, opacity) on black or white, whichever it stands out from; a bright ground
  // is turned.
  function inkOf(rgba, width) {
    const grey = new Uint8Array(rgba.length / 4);
    let opaque = 0, bright = 0;
    for (let i = 0; i < grey.length; i++) {
      const [red, green, blue, alpha] = rgba.subarray(4 * i, 4 * i + 4);
      grey[i] = Math.floor((299 * red + 587 * green + 114 * blue + 500) / 1000);
      opaque += alpha; bright += grey[i] * alpha;
    }
    const behind = 2 * bright < 255 * opaque ? 255 : 0;
    const shown = grey.map((value, i) => Math.floor((2 * (value * rgba[4 * i + 3] + behind * (255 - rgba[4 * i + 3])) + 255) / 510));
    const border = borderOf(shown, width), total = border.reduce((sum, value) => sum + value, 0);
    return 2 * total > 255 * border.length ? shown.map(value => 255 - value) : shown;
  }

  // Any picture as 784 grey values, null for a blank one: step by step as_image of saqlib.deploy.explain, which says why.
  function pictured(rgba, width) {
    let ink = inkOf(rgba, width);
    if (width !== SIDE || ink.length !== PIXELS) {
      const border = borderOf(ink, width).sort((a, b) => a - b), ground = border[border.length >> 1];
      const range = ink.reduce((most, value) => Math.max(most, value), 0) - ground;
      if (range <= 0) return null;
      ink = prepared(ink.map(value => Math.floor((510 * Math.max(value - ground, 0) + range) / (2 * range))), width);
    }
    return ink?.some(value => value !== ink[0]) ? ink : null;
  }

  // Pixels in the order in which they leave: by the magnitude of the map, equal ones in their order in the image.
  function order(map, mostFirst) {
    const sign = mostFirst ? -1 : 1;
    return Uint16Array.from({ length: PIXELS }, (_, i) => i)
      .sort((a, b) => sign * (Math.abs(map[a]) - Math.abs(map[b])) || a - b);
  }

  // The same noise each time, uniform between the image's least and largest value (the generator is mulberry32).
  function noise(image) {
    const low = Math.min(...image), range = Math.max(...image) - low + 1;
    let state = 1;
    return Uint8Array.from({ length: PIXELS }, () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return low + Math.floor(range * ((t ^ (t >>> 14)) >>> 0) / 2 ** 32);
    });
  }

  // The mean of all other pixels, weighted by a Gaussian of 2.8 pixels, as saqlib.removal blurs.
  function blurred(image) {
    const weights = Float64Array.from({ length: SIDE }, (_, distance) => Math.exp(-((distance / (.1 * SIDE)) ** 2) / 2));
    const along = (values, step) => Float64Array.from(values, (_, i) => weights.reduce((sum, _, place) => {
      const apart = place - Math.floor(i / step) % SIDE;
      return sum + weights[Math.abs(apart)] * values[i + apart * step];
    }, 0));
    const summed = values => along(along(values, 1), SIDE), whole = summed(image), total = summed(new Float64Array(PIXELS).fill(1));
    return Uint8Array.from(image, (value, i) => Math.round((whole[i] - value) / (total[i] - 1)));
  }

  // What pixels become when they are removed, by name.
  function fill(name, image, mean) {
    if (name === "zero") return new Uint8Array(PIXELS);
    if (name === "mean") return mean;
    if (name === "noise") return noise(image);
    if (name === "blur") return blurred(image);
    throw new Error(`there is no fill called ${name}`);
  }

  // The image with its first `count` pixels of an order replaced.
  function removed(image, places, count, filling) {
    const out = Uint8Array.from(image);
    for (const place of places.subarray(0, count)) out[place] = filling[place];
    return out;
  }

  globalThis.saqPixels = { SIDE, PIXELS, LARGEST, prepared, pictured, order, fill, removed };
})();
