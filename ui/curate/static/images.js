// Pictures with overlays: the detector's map as a tint, people's label maps in class colours.

const RAMP = [[0, 22, 18, 60], [0.35, 142, 32, 110], [0.7, 240, 90, 60], [1, 255, 226, 120]];
// As on the annotation page.
export const COLOURS = ["#d55e00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#0072b2"];
const kept = new Map();
const KEPT = 400;

function ramp(value) {
  const at = RAMP.findIndex(([stop]) => stop >= value);
  const [stop, ...high] = RAMP[Math.max(1, at)];
  const [start, ...low] = RAMP[Math.max(1, at) - 1];
  const share = (value - start) / (stop - start);
  return low.map((channel, i) => channel + share * (high[i] - channel));
}

const HEAT = new Uint8ClampedArray(256 * 4);
for (let value = 0; value < 256; value++) {
  HEAT.set([...ramp(value / 255), 255 * Math.min(0.85, (1.5 * value) / 255)], 4 * value);
}

export const thumbnail = (id) => `/api/images/${id}/thumbnail`;
export const pixels = (id) => `/api/images/${id}/pixels`;
export const mapOf = (id, detector) => `/api/images/${id}/map${detector ? `?detector=${encodeURIComponent(detector)}` : ""}`;
export const labelOf = (id, author) => `/api/curate/labels/${id}?author=${encodeURIComponent(author)}`;
export const mergedOf = (id) => `/api/curate/merged/${id}`;

export function raw(url) {
  if (!kept.has(url)) {
    if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
    kept.set(url, load(url).catch(() => null));
  }
  return kept.get(url);
}

export const forget = (id) => [...kept.keys()].filter((url) => url.includes(id)).forEach((url) => kept.delete(url));

async function load(url) {
  const response = await fetch(url);
  if (!response.ok) return null;
  const [height, width] = ["X-Height", "X-Width"].map((name) => Number(response.headers.get(name)));
  return { height, width, values: new Uint8Array(await response.arrayBuffer()) };
}

function paint(canvas, found, colour) {
  canvas.height = found.height;
  canvas.width = found.width;
  const image = new ImageData(found.width, found.height);
  found.values.forEach((value, i) => image.data.set(colour(value), 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export const drawHeat = (canvas, id, detector) => drawHeatAt(canvas, mapOf(id, detector));

export async function drawHeatAt(canvas, url) {
  const found = await raw(url);
  if (found) paint(canvas, found, (value) => HEAT.subarray(4 * value, 4 * value + 4));
  return Boolean(found);
}

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const FILL = COLOURS.map((colour) => [...rgb(colour), 185]);

export async function drawLabels(canvas, url) {
  const found = await raw(url);
  if (found) paint(canvas, found, (value) => (value ? FILL[(value - 1) % FILL.length] : [0, 0, 0, 0]));
  return Boolean(found);
}
