// Run ONNX files with ONNX Runtime for browsers: node run_networks.mjs NODE_MODULES < jobs, answers on stdout.
// A job names a file and holds images, float32 as base64, `count` of them; an answer holds each output the same way.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const ort = await import(pathToFileURL(`${process.argv[2]}/onnxruntime-web/dist/ort.wasm.bundle.min.mjs`));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(`${process.argv[2]}/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm`).buffer;

const answers = [];
for (const { file, images, count } of JSON.parse(readFileSync(0, "utf8"))) {
  const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
  const bytes = Buffer.from(images, "base64"), input = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const one = input.length / count, found = {};
  for (let i = 0; i < count; i++) {
    const image = new ort.Tensor("float32", input.slice(i * one, (i + 1) * one), [1, 1, 28, 28]);
    for (const [name, { data }] of Object.entries(await session.run({ images: image }))) (found[name] ??= []).push(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64"));
  }
  answers.push(found);
}
process.stdout.write(JSON.stringify(answers));
