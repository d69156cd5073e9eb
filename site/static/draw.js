// The drawing page: what a reader draws or picks, what the networks answer, and what is left when pixels go.
"use strict";
(() => {
  const { PIXELS, LARGEST, prepared, pictured, order, fill, removed } = globalThis.saqPixels;
  const { data, bytes, ready, run, probabilities } = globalThis.saqNetworks;
  const paint = globalThis.saqPaint;
  const STEPS = 14; // as many as in the study's curves
  const root = document.getElementById("saq"), find = selector => root.querySelector(selector);
  const chosen = name => root.querySelector(`input[name=${name}]:checked`)?.value;
  const pad = find(".pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  const cards = new Map([...root.querySelectorAll(".card")].map(card => [card.dataset.kind, card]));
  const kinds = [...cards.keys()]; // the precisions of the grid, and the untrained network
  const state = { image: null, drawn: false, answers: null, curves: [] };
  const turns = {};
  let pictures, sizes;

  // What is asked for again overtakes what is still under way: the returned function says whether this is the latest.
  function latest(what) {
    const mine = turns[what] = (turns[what] ?? 0) + 1, answers = state.answers;
    return () => mine === turns[what] && answers === state.answers;
  }
  const say = text => { find(".status").textContent = text; };
  const nameOf = kind => kind === "untrained" ? kind : `${chosen("dataset")}-${kind}-${chosen("training")}`;
  const set = (card, selector, text) => { card.querySelector(selector).textContent = text; };
  const percent = value => `${(100 * value).toFixed(1)} %`;

  // ----------------------------------------------------------------------------------------------- what is answered
  // Class, confidence and map of every network for the image in the pad; a later image overtakes an earlier one.
  async function answer() {
    const image = state.image, current = latest("answer");
    if (!image) return blank();
    await Promise.all(kinds.map(kind => ready(nameOf(kind))));
    const answers = new Map(), began = performance.now();
    for (const kind of kinds) {
      const [found] = await run(nameOf(kind), [image]);
      if (!current()) return;
      const likely = probabilities(found.logits);
      answers.set(kind, { ...found, label: likely.indexOf(Math.max(...likely)), likely });
    }
    state.answers = answers;
    const time = performance.now() - began;
    kinds.forEach(showAnswer);
    root.dataset.milliseconds = time.toFixed(1);
    say(`${kinds.length} predictions and maps in ${time.toFixed(0)} ms, in this browser.`);
    await showRemoved();
    clearTimeout(state.later);
    state.later = setTimeout(curves, 120);
  }

  // The page has the choice of a gradient where the files have a second map.
  const output = () => chosen("gradient") ?? "map";
  const mapOf = kind => state.answers.get(kind)[output()];

  function showAnswer(kind) {
    const card = cards.get(kind), { label, likely } = state.answers.get(kind);
    const name = pictures[chosen("dataset")].classes[label], canvas = card.querySelector(".map");
    paint[chosen("view")](canvas, mapOf(kind));
    const which = output() === "map" ? "Saliency" : "Pass-through";
    canvas.setAttribute("aria-label", `${which} map, ${card.querySelector("h3").textContent}, for the class ${name}`);
    set(card, ".class", name);
    set(card, ".confidence", percent(likely[label]));
    card.querySelector(".bar i").style.width = `${100 * likely[label]}%`;
    set(card, ".size", `${(sizes[nameOf(kind)] / 1000).toFixed(0)} kB`);
  }

  function blank() {
    state.answers = null;
    for (const card of cards.values()) {
      for (const part of [".class", ".confidence", ".left"]) set(card, part, "–");
      card.querySelector(".bar i").style.width = 0;
      for (const canvas of card.querySelectorAll("canvas")) paint.image(canvas, new Uint8Array(PIXELS));
    }
    state.curves = [];
    find(".chart").innerHTML = paint.chart([], share());
    say("Draw, or pick a picture.");
  }

  // ----------------------------------------------------------------------------------------- what is left when pixels go
  const share = () => Number(find("[name=share]").value) / 100;
  const places = kind => order(mapOf(kind), chosen("first") === "most");
  const filling = () => fill(chosen("fill"), state.image, bytes(pictures[chosen("dataset")].mean));

  async function confidences(kind, images) {
    const { label } = state.answers.get(kind);
    return (await run(nameOf(kind), images)).map(({ logits }) => probabilities(logits)[label]);
  }

  // The image of each network without the share of pixels that the slider says, and its confidence in the class it named.
  async function showRemoved() {
    find("output").textContent = `${Math.round(100 * share())} %`;
    if (!state.answers) return;
    const current = latest("removed"), count = Math.round(share() * PIXELS), instead = filling();
    for (const kind of kinds) {
      const image = removed(state.image, places(kind), count, instead), card = cards.get(kind);
      const [left] = await confidences(kind, [image]);
      if (!current()) return;
      paint.image(card.querySelector(".without"), image);
      set(card, ".left", percent(left));
    }
    find(".chart").innerHTML = paint.chart(state.curves, share());
  }

  // The same over the whole way from none to all pixels.
  async function curves() {
    if (!state.answers) return;
    const current = latest("curves"), instead = filling(), found = [];
    for (const kind of kinds) {
      const way = places(kind), at = step => Math.round(step * PIXELS / STEPS);
      const images = Array.from({ length: STEPS + 1 }, (_, step) => removed(state.image, way, at(step), instead));
      found.push({ kind, values: await confidences(kind, images) });
      if (!current()) return;
    }
    state.curves = found;
    find(".chart").innerHTML = paint.chart(found, share());
    root.dataset.curves = String(found.length);
  }

  // -------------------------------------------------------------------------------------------------- the pad, pictures
  function clear() {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, pad.width, pad.height);
    Object.assign(state, { image: null, drawn: false });
  }
  function take(image) {
    clear();
    const small = document.createElement("canvas");
    paint.image(small, image);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, pad.width, pad.height);
    state.image = image;
    return answer();
  }
  const takeFirst = () => take(bytes(pictures[chosen("dataset")].images[pictures[chosen("dataset")].first]));
  function showPictures() {
    const { images, classes } = pictures[chosen("dataset")];
    find(".pictures").replaceChildren(...images.map((packed, label) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      paint.image(canvas, bytes(packed));
      Object.assign(button, { type: "button", title: classes[label], onclick: () => take(bytes(packed)) });
      button.setAttribute("aria-label", `Test image: ${classes[label]}`);
      button.append(canvas);
      return button;
    }));
  }

  let last = null, waiting = false;
  const spot = event => [event.offsetX * pad.width / pad.clientWidth, event.offsetY * pad.height / pad.clientHeight];
  function stroke(event) {
    const to = spot(event);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: pad.width / 13, lineCap: "round", lineJoin: "round" });
    pen.beginPath(); pen.moveTo(...last); pen.lineTo(to[0] + .01, to[1]); pen.stroke();
    last = to;
    if (!waiting) { waiting = true; requestAnimationFrame(look); }
  }
  function look() {
    waiting = false;
    const { data: rgba } = pen.getImageData(0, 0, pad.width, pad.height);
    state.image = prepared(Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]), pad.width);
    return answer();
  }
  pad.addEventListener("pointerdown", event => {
    pad.setPointerCapture(event.pointerId);
    if (!state.drawn) clear();
    state.drawn = true;
    last = spot(event);
    stroke(event);
  });
  pad.addEventListener("pointermove", event => { if (last) stroke(event); });
  for (const kind of ["pointerup", "pointercancel"]) pad.addEventListener(kind, () => { last = null; });

  // A picture file as an image. Its size is known before it is decoded; its colours are taken as the file has them.
  async function opened(file) {
    const image = new Image(), address = URL.createObjectURL(file);
    try {
      image.src = address;
      await new Promise((done, failed) => { image.onload = done; image.onerror = failed; });
      const { naturalWidth: width, naturalHeight: height } = image;
      if (width * height > LARGEST) return say(`${file.name} has ${width} × ${height} pixels; save it with fewer than 4096 × 4096.`);
      const canvas = Object.assign(document.createElement("canvas"), { width, height }), brush = canvas.getContext("2d");
      brush.drawImage(await createImageBitmap(image, { colorSpaceConversion: "none", premultiplyAlpha: "none" }), 0, 0);
      const found = pictured(brush.getImageData(0, 0, width, height).data, width);
      return found ? take(found) : say(`${file.name} is blank: there is nothing to explain.`);
    } catch {
      say(`${file.name} is not a picture that this browser can read.`);
    } finally { URL.revokeObjectURL(address); }
  }

  // ------------------------------------------------------------------------------------------------------------ controls
  async function compare() {
    const { compared, sentence } = globalThis.saqCompare, shown = find(".compared");
    const found = await compared(pictures, name => { shown.textContent = `Comparing ${name} …`; });
    shown.textContent = sentence(found);
    root.dataset.agree = String(found.agree);
  }
  const guarded = action => (...given) => Promise.resolve(action(...given)).catch(error => {
    say(`This browser cannot run the networks: ${error.message}`);
    throw error;
  });
  const changed = {
    dataset: () => { showPictures(); return takeFirst(); },
    file: input => { const [file] = input.files; input.value = ""; return file && opened(file); },
    training: answer,
    view: () => { if (state.answers) kinds.forEach(showAnswer); },
    gradient: async () => { changed.view(); await showRemoved(); return curves(); },
    fill: async () => { await showRemoved(); return curves(); },
    first: async () => { await showRemoved(); return curves(); },
  };
  root.addEventListener("change", guarded(event => changed[event.target.name]?.(event.target)));
  root.addEventListener("submit", event => event.preventDefault());
  find("[name=share]").addEventListener("input", guarded(showRemoved));
  find("[data-do=clear]").addEventListener("click", () => { clear(); blank(); latest("answer"); });
  find("[data-do=compare]").addEventListener("click", guarded(compare));

  guarded(async () => {
    [pictures, sizes] = await Promise.all([data("data-pictures"), data("data-sizes")]);
    clear(); blank(); showPictures();
    say("Loading the runtime, 5 MB …");
    await takeFirst();
  })();
})();
