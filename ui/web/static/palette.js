// The colours of classes, series and artifact maps. Those of classes and series are variables of style.css,
// and of classes.css for the workspace's own, read here for canvases, which take numbers.

const SERIES = 6;
const style = getComputedStyle(document.documentElement);
const CLASSES = Math.max(6, Number(style.getPropertyValue("--class-count")) || 0);
const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

const CLASS_COLOURS = Array.from({ length: CLASSES }, (_, at) => channels(style.getPropertyValue(`--class-${at + 1}`).trim()));

// A class's [red, green, blue]; after the last colour they begin again.
export const classColour = (value) => CLASS_COLOURS[(value - 1) % CLASSES];

// RGBA of every class from 0, which is clear, to 255.
export function classTints(alpha) {
  const tints = new Uint8ClampedArray(256 * 4);
  for (let value = 1; value < 256; value++) tints.set([...classColour(value), alpha], 4 * value);
  return tints;
}

// The colour of a chart's series, for CSS and SVG.
export const seriesColour = (at) => `var(--series-${(at % SERIES) + 1})`;

// The one colour of the artifact map on the annotation page; its opacity is the confidence.
export const MAP_COLOUR = [168, 60, 255];

// Elsewhere an artifact map is a tint from dark violet over red to yellow, the more opaque the surer.
const RAMP = [[0, 22, 18, 60], [0.35, 142, 32, 110], [0.7, 240, 90, 60], [1, 255, 226, 120]];

function ramp(value) {
  const at = Math.max(1, RAMP.findIndex(([stop]) => stop >= value));
  const [stop, ...high] = RAMP[at];
  const [start, ...low] = RAMP[at - 1];
  const share = (value - start) / (stop - start);
  return low.map((channel, i) => channel + share * (high[i] - channel));
}

// RGBA for every confidence from 0 to 255.
export const HEAT = new Uint8ClampedArray(256 * 4);
for (let value = 0; value < 256; value++) {
  HEAT.set([...ramp(value / 255), 255 * Math.min(0.85, (1.5 * value) / 255)], 4 * value);
}
