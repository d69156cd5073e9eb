// Are the numbers in this browser those that Python wrote? Every network answers every example once more.
"use strict";
(() => {
  // For each network: the classes, the logits bit for bit, and the largest difference of any of its maps.
  async function compared(pictures, progress) {
    const { data, bytes, unpacked, run, row } = globalThis.saqNetworks;
    const answers = await data("data-answers");
    const found = { rows: 0, classes: 0, quantized: 0, bitEqual: 0, largestLogit: 0, largestMap: 0 };
    for (const [dataset, { images }] of Object.entries(pictures)) for (const [name, packed] of Object.entries(answers[dataset])) {
      progress(name);
      const python = {};
      for (const output in packed) python[output] = new Float32Array((await unpacked(packed[output])).buffer);
      for (let i = 0; i < images.length; i++) {
        const [here] = await run(name, [bytes(images[i])]);
        add(found, here, row(python, i, images.length), /-(?!fp32)\w+-/.test(name));
      }
    }
    return { ...found, agree: agrees(found) };
  }

  function add(found, here, there, quantized) {
    const top = values => values.indexOf(Math.max(...values));
    const apart = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
    const off = apart(here.logits, there.logits);
    found.rows += 1;
    found.classes += top(here.logits) === top(there.logits);
    found.quantized += quantized;
    found.bitEqual += quantized && off === 0;
    found.largestLogit = Math.max(found.largestLogit, off);
    for (const output in here) if (output !== "logits") {
      const largest = there[output].reduce((most, value) => Math.max(most, Math.abs(value)), 1);
      found.largestMap = Math.max(found.largestMap, apart(here[output], there[output]) / largest);
    }
  }

  // Quantized logits bit for bit, those of full precision and all maps to rounding.
  const agrees = found => found.rows > 0 && found.classes === found.rows && found.bitEqual === found.quantized
    && found.largestLogit <= 1e-4 && found.largestMap <= 1e-6;

  function sentence(found) {
    return `${found.agree ? "All agree" : "They do not agree"}: ${found.classes} of ${found.rows} classes are those of Python, `
      + `${found.bitEqual} of ${found.quantized} rows of quantized logits are equal bit for bit, `
      + `no logit differs by more than ${found.largestLogit.toExponential(1)}, `
      + `no pixel of a map by more than ${found.largestMap.toExponential(1)}, or as a share of the map's largest where that is above 1.`;
  }

  globalThis.saqCompare = { compared, sentence };
})();
