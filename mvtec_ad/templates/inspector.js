// The exported graph, run by onnxruntime-web in one thread: a page from a file may not share memory between threads.
const by = (id) => document.getElementById(id);
const write = (verdict, words = "") => {
  by("verdict").textContent = verdict;
  by("words").textContent = words;
};

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function opened() {
  const glue = new Blob([await unpacked(FILES.glue)], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked(FILES.wasm);
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
  const graph = new Uint8Array(await unpacked(FILES.graph));
  return ort.InferenceSession.create(graph, { executionProviders: ["wasm"], logSeverityLevel: 3 });
}

// The stored colours as they are, upright, at full size; a transparent picture's colours are mixed with black here.
async function decoded(file) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options);
  const canvas = by("picture");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const coloured = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const pixels = new Uint8Array(3 * canvas.width * canvas.height);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = coloured[from];
    pixels[to + 1] = coloured[from + 1];
    pixels[to + 2] = coloured[from + 2];
  }
  return new ort.Tensor("uint8", pixels, [canvas.height, canvas.width, 3]);
}

function drawMap(values) {
  const canvas = by("map");
  const [low, high] = MODEL.map_scale;
  canvas.width = canvas.height = MODEL.crop;
  const context = canvas.getContext("2d");
  const image = context.createImageData(MODEL.crop, MODEL.crop);
  values.forEach((value, place) => {
    const level = Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low))));
    image.data.set([...COLOURS[level], 255], 4 * place);
  });
  context.putImageData(image, 0, 0);
  const start = Math.floor((MODEL.image_size - MODEL.crop) / 2); // of the part that is looked at
  const share = (pixels) => `${(100 * pixels) / MODEL.image_size}%`;
  Object.assign(canvas.style, { left: share(start), top: share(start), width: share(MODEL.crop), height: share(MODEL.crop) });
}

const session = opened();
let latest = 0;

async function inspect(file) {
  if (!file) return;
  const number = ++latest;
  const result = by("result");
  delete result.dataset.verdict;
  delete result.dataset.file;
  write("looking …");
  try {
    const graph = await session;
    const image = await decoded(file);
    await new Promise((resolve) => setTimeout(resolve)); // the words are seen before the work begins
    const start = performance.now();
    const outputs = await graph.run({ image });
    if (number !== latest) return; // another picture has been chosen since
    const score = outputs.score.data[0];
    const verdict = outputs.defect.data[0] ? "defect" : "good";
    const shown = (value) => Number(value.toPrecision(4)).toString();
    const milliseconds = Math.round(performance.now() - start);
    write(verdict, `score ${shown(score)}, threshold ${shown(MODEL.threshold.value)}, ${milliseconds} ms`);
    by("picture").setAttribute("aria-label", `${file.name}: ${verdict}`);
    by("shown").hidden = false;
    by("controls").hidden = by("map").hidden = !outputs.map;
    if (outputs.map) drawMap(outputs.map.data);
    Object.assign(result.dataset, { verdict, score: String(score), file: file.name });
  } catch (problem) {
    write("not judged", `${file.name} cannot be read as a picture here`);
    Object.assign(result.dataset, { verdict: "unreadable", file: file.name });
  }
}

for (const id of ["file", "camera"]) {
  by(id).addEventListener("change", (event) => {
    inspect(event.target.files[0]);
    event.target.value = ""; // the same picture may be chosen again
  });
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") inspect(event.dataTransfer.files[0]);
  });
}
by("opacity").addEventListener("input", () => (by("map").style.opacity = by("opacity").value / 100));
by("map").style.opacity = 0.5;
by("low").textContent = MODEL.map_scale[0].toPrecision(3);
by("high").textContent = MODEL.map_scale[1].toPrecision(3);
document.querySelector(".bar").style.background = `linear-gradient(90deg, ${COLOURS.map((c) => `rgb(${c})`)})`;
session.then(
  () => {
    write("ready");
    document.body.dataset.ready = "yes";
  },
  () => write("not ready", "this browser cannot run the model: it needs WebAssembly"),
);
