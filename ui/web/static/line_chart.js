// A line chart in SVG: one or more series over steps, readable in light and dark, values under the pointer.
import { h } from "/static/dom.js";

const SVG = "http://www.w3.org/2000/svg";
const SIZE = { width: 720, height: 260, left: 58, right: 14, top: 12, bottom: 30 };
const COLOURS = ["var(--accent)", "#d97706", "#7c3aed", "#db2777", "#2563eb", "#65a30d"];

function s(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

export const figure = (value) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0 || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 0.001 && size < 100000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
};

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

function bounds(series, limits) {
  const steps = series.flatMap(({ steps }) => [steps[0], steps[steps.length - 1]]);
  const all = series.map(({ values }) => values).concat([limits]);
  let low = Infinity, high = -Infinity;
  for (const values of all) for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { from: Math.min(...steps), to: Math.max(...steps, Math.min(...steps) + 1), low: low >= 0 && low < high * 0.35 ? 0 : low - room, high: high + room };
}

// series: [{name, steps, values}]; limits: horizontal lines that must not be crossed.
export function chart(series, { limits = [], label = "step" } = {}) {
  const shown = series.filter(({ steps }) => steps.length);
  if (!shown.length) return h("p", { class: "nothing" }, "Nothing was logged yet.");
  const { width, height, left, right, top, bottom } = SIZE;
  const { from, to, low, high } = bounds(shown, limits);
  const x = (step) => left + ((step - from) / (to - from)) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart", "aria-label": shown.map(({ name }) => name).join(", ") });
  for (const value of ticks(low, high, 5)) {
    svg.append(s("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "rule" }),
      s("text", { x: left - 8, y: y(value) + 4, class: "tick", "text-anchor": "end" }, figure(value)));
  }
  for (const step of ticks(from, to, 7)) {
    svg.append(s("text", { x: x(step), y: height - 10, class: "tick", "text-anchor": "middle" }, figure(step)));
  }
  for (const value of limits) svg.append(s("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "limit" }));
  shown.forEach(({ steps, values }, number) => {
    const colour = COLOURS[number % COLOURS.length];
    if (steps.length === 1) svg.append(s("circle", { cx: x(steps[0]), cy: y(values[0]), r: 3.5, fill: colour }));
    else svg.append(s("path", { d: steps.map((step, i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(values[i]).toFixed(1)}`).join(""), fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round" }));
    if (steps.length > 1 && steps.length <= 40) for (const [i, step] of steps.entries()) svg.append(s("circle", { cx: x(step), cy: y(values[i]), r: 2.6, fill: colour }));
  });
  const line = s("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" });
  svg.append(line);
  const read = h("div", { class: "read" });
  const last = Math.max(...shown.map(({ steps }) => steps[steps.length - 1]));
  const say = (at) => {
    const parts = shown.map(({ name, steps, values }, number) => {
      const i = at === null ? steps.length - 1 : nearest(steps, at);
      const key = h("i", {});
      key.style.background = COLOURS[number % COLOURS.length];
      return h("span", {}, key, `${name} ${figure(values[i])}`);
    });
    read.replaceChildren(h("b", {}, `${label} ${at === null ? last : Math.round(at)}`), ...parts);
  };
  say(null);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = Math.min(width - right, Math.max(left, ((event.clientX - box.left) / box.width) * width));
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
    line.setAttribute("visibility", "visible");
    say(from + ((place - left) / (width - left - right)) * (to - from));
  });
  svg.addEventListener("pointerleave", () => { line.setAttribute("visibility", "hidden"); say(null); });
  return h("div", { class: "chartbox" }, read, svg);
}

function nearest(steps, at) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= at) low = middle; else high = middle;
  }
  return at - steps[low] <= steps[high] - at ? low : high;
}

// Bins of confidence against the share that is broken: on the diagonal the detector means what it says.
export function reliability({ pixels, confidence, flawed, error }) {
  const side = 230, margin = 34, whole = side + margin + 10;
  const at = (value) => margin + side * value, up = (value) => 8 + side * (1 - value);
  const svg = s("svg", { viewBox: `0 0 ${whole} ${whole}`, role: "img", class: "chart square", "aria-label": "Reliability diagram" });
  for (const value of [0, 0.5, 1]) {
    svg.append(s("line", { x1: at(0), x2: at(1), y1: up(value), y2: up(value), class: "rule" }),
      s("text", { x: at(0) - 6, y: up(value) + 4, class: "tick", "text-anchor": "end" }, String(value)),
      s("text", { x: at(value), y: whole - 6, class: "tick", "text-anchor": "middle" }, String(value)));
  }
  svg.append(s("line", { x1: at(0), y1: up(0), x2: at(1), y2: up(1), class: "limit" }));
  const points = confidence.map((value, i) => [value, flawed[i], pixels[i]]).filter(([, , count]) => count);
  svg.append(s("path", { d: points.map(([c, f], i) => `${i ? "L" : "M"}${at(c)} ${up(f)}`).join(""), fill: "none", stroke: "var(--accent)", "stroke-width": 2 }));
  for (const [c, f, count] of points) svg.append(s("circle", { cx: at(c), cy: up(f), r: 2 + Math.log10(count) / 1.6, fill: "var(--accent)", "fill-opacity": 0.75 }));
  return h("figure", { class: "reliability" }, svg, h("figcaption", {}, `Across: confidence. Up: share of pixels truly broken. Calibration error ${figure(error)}; larger dots hold more pixels.`));
}
