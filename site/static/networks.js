// The committed networks: the runtime and the files are unpacked when they are first asked for, and run in this page.
// A page in a folder may load scripts, but may neither fetch nor import files; so the data are scripts, and the runtime's own
// code is imported from memory.
"use strict";
(() => {
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  const scripts = new Map(), sessions = new Map();
  let runtime = null;

  // One of the data scripts, loaded once: its value.
  function data(name) {
    if (!scripts.has(name)) scripts.set(name, new Promise((done, failed) => {
      const element = document.createElement("script");
      element.src = `${folder}${name}.js`;
      element.onload = () => done(globalThis.saqData[name]);
      element.onerror = () => failed(new Error(`${name}.js cannot be loaded`));
      document.head.append(element);
    }));
    return scripts.get(name);
  }

  const bytes = base64 => Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  async function unpacked(base64) {
    const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function started() {
    const { code, wasm } = await data("data-runtime");
    const address = URL.createObjectURL(new Blob([await unpacked(code)], { type: "text/javascript" }));
    const loaded = await import(address);
    URL.revokeObjectURL(address);
    loaded.env.wasm.wasmBinary = (await unpacked(wasm)).buffer;
    loaded.env.wasm.numThreads = 1; // more threads need headers that a folder cannot send; these networks are small
    return loaded;
  }
  const ort = () => runtime ??= started();

  // A network, ready to run.
  function ready(name) {
    if (!sessions.has(name)) sessions.set(name, (async () => {
      const { InferenceSession } = await ort();
      const models = await data("data-models");
      return InferenceSession.create(await unpacked(models[name]), { executionProviders: ["wasm"] });
    })());
    return sessions.get(name);
  }

  // What a file gives, logits and one or two maps, for each of these images (784 grey values), all at once.
  async function run(name, images) {
    const network = await ready(name), { Tensor } = await ort(), { PIXELS, SIDE } = globalThis.saqPixels;
    const input = new Float32Array(images.length * PIXELS);
    images.forEach((image, i) => input.set(Float32Array.from(image, value => Math.fround(value / 255)), i * PIXELS));
    const outputs = await network.run({ images: new Tensor("float32", input, [images.length, 1, SIDE, SIDE]) });
    const values = Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
    return images.map((_, i) => row(values, i, images.length));
  }

  // Of outputs for `count` images those for image i.
  function row(values, i, count) {
    const part = all => all.slice(all.length / count * i, all.length / count * (i + 1));
    return Object.fromEntries(Object.entries(values).map(([name, all]) => [name, part(all)]));
  }

  // The probability of each class.
  function probabilities(logits) {
    const top = Math.max(...logits), powers = Array.from(logits, value => Math.exp(value - top));
    const total = powers.reduce((sum, power) => sum + power, 0);
    return powers.map(power => power / total);
  }

  globalThis.saqNetworks = { data, bytes, unpacked, ready, run, row, probabilities };
})();
