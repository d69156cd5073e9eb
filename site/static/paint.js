// Colours of images and maps, and the chart of confidences.
"use strict";
(() => {
  const { SIDE, PIXELS } = globalThis.saqPixels;
  const FOR = [178, 24, 43], AGAINST = [33, 102, 172], NEUTRAL = [247, 247, 247];
  // Nine colours of inferno, from matplotlib.
  const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10],
    [249, 201, 50], [252, 255, 164]];

  function pixels(canvas, values, colour) {
    const image = new ImageData(SIDE, SIDE);
    for (let i = 0; i < PIXELS; i++) image.data.set([...colour(values[i]), 255], 4 * i);
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  const mixed = (from, to, part) => from.map((value, i) => Math.round(value + (to[i] - value) * part));

  function image(canvas, values) { pixels(canvas, values, value => [value, value, value]); }

  // Red where a brighter pixel speaks for the class, blue where it speaks against; full colour at the largest magnitude.
  function signed(canvas, map) {
    const top = map.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    pixels(canvas, map, value => mixed(NEUTRAL, value > 0 ? FOR : AGAINST, Math.abs(value) / top));
  }

  // Black is 0, the brightest colour the 99th percentile or more, as in the paper's figures.
  function magnitude(canvas, map) {
    const sorted = Float32Array.from(map, Math.abs).sort();
    const top = sorted[Math.round(.99 * (PIXELS - 1))] || sorted[PIXELS - 1] || 1;
    pixels(canvas, map, value => {
      const at = Math.min(1, Math.abs(value) / top) * (INFERNO.length - 1), below = Math.min(Math.floor(at), INFERNO.length - 2);
      return mixed(INFERNO[below], INFERNO[below + 1], at - below);
    });
  }

  // Confidence of each network over the share of removed pixels, as the content of an SVG of 300 x 150.
  function chart(curves, share) {
    const x = part => 30 + 262 * part, y = value => 126 - 116 * value;
    const grid = [0, .5, 1].map(value => `<line class="grid" x1="30" x2="292" y1="${y(value)}" y2="${y(value)}"/>`
      + `<text class="y" x="25" y="${y(value) + 4}">${100 * value}</text>`);
    const ticks = [0, .25, .5, .75, 1].map(part => `<text class="x" x="${x(part)}" y="143">${100 * part}</text>`);
    const lines = curves.map(({ kind, values }) => `<polyline class="curve ${kind}" points="${values.map((value, i) =>
      `${x(i / (values.length - 1)).toFixed(1)},${y(value).toFixed(1)}`).join(" ")}"/>`);
    const cursor = `<line class="cursor" x1="${x(share)}" x2="${x(share)}" y1="10" y2="126"/>`;
    return [...grid, ...ticks, ...lines, cursor].join("");
  }

  globalThis.saqPaint = { image, signed, magnitude, chart };
})();
