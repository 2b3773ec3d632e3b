// Images with overlays: the detector's map as a tint, people's label maps in class colours.
import { urlOf } from "./root.js";
import { HEAT, classTints } from "./palette.js";

const LABELS = classTints(185);
const kept = new Map();
const KEPT = 400;

export const thumbnail = (id) => `/api/images/${id}/thumbnail`;
export const pixels = (id) => `/api/images/${id}/pixels`;
export const mapOf = (id, detector) => `/api/images/${id}/map${detector ? `?detector=${encodeURIComponent(detector)}` : ""}`;
export const labelOf = (id, author) => `/api/curate/labels/${id}?author=${encodeURIComponent(author)}`;
export const mergedOf = (id) => `/api/curate/merged/${id}`;

function raw(url) {
  if (!kept.has(url)) {
    if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
    kept.set(url, load(url).catch(() => null));
  }
  return kept.get(url);
}

export const forget = (id) => [...kept.keys()].filter((url) => url.includes(id)).forEach((url) => kept.delete(url));

async function load(url) {
  const response = await fetch(urlOf(url));
  if (!response.ok) return null;
  const [height, width] = ["X-Height", "X-Width"].map((name) => Number(response.headers.get(name)));
  return { height, width, values: new Uint8Array(await response.arrayBuffer()) };
}

// `tints` are the RGBA of the 256 values.
function paint(canvas, map, tints) {
  canvas.height = map.height;
  canvas.width = map.width;
  const image = new ImageData(map.width, map.height);
  const shades = new Uint32Array(tints.buffer), out = new Uint32Array(image.data.buffer);
  for (let at = 0; at < out.length; at++) out[at] = shades[map.values[at]];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export const drawHeat = (canvas, id, detector) => drawHeatAt(canvas, mapOf(id, detector));

export async function drawHeatAt(canvas, url) {
  const map = await raw(url);
  if (map) paint(canvas, map, HEAT);
  return Boolean(map);
}

// The places of a map that are marked, in one colour: [red, green, blue].
export async function drawRegions(canvas, url, colour) {
  const map = await raw(url);
  const tints = new Uint8ClampedArray(256 * 4);
  for (let value = 128; value < 256; value++) tints.set([...colour, 190], 4 * value);
  if (map) paint(canvas, map, tints);
  return Boolean(map);
}

export async function drawLabels(canvas, url) {
  const map = await raw(url);
  if (map) paint(canvas, map, LABELS);
  return Boolean(map);
}
