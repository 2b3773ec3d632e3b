// Charts in SVG, readable in light and dark: lines over steps, before and after, and a reliability diagram.
import { h, svg } from "/static/dom.js";
import { figure } from "/static/format.js";
import { seriesColour } from "/static/palette.js";

const WIDE = { width: 720, height: 260, left: 58, right: 14, top: 12, bottom: 30 };
const SMALL = { width: 520, height: 150, left: 46, right: 8, top: 8, bottom: 22 };
const SQUARE = { width: 274, height: 272, left: 34, right: 10, top: 8, bottom: 34 };
const MOST_DOTS = 40;
const MOST_NUMBERS = 10;

// An empty chart with a grid line at each of `values`: where a point lies, and the SVG to draw on.
function plane({ width, height, left, right, top, bottom }, { from, to, low, high }, values, write, attributes) {
  const x = (step) => left + ((step - from) / (to - from)) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart", ...attributes });
  for (const value of values) {
    root.append(svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "rule" }),
      svg("text", { x: left - 7, y: y(value) + 4, class: "tick", "text-anchor": "end" }, write(value)));
  }
  const under = (step, text) => svg("text", { x: x(step), y: height - 8, class: "tick", "text-anchor": "middle" }, text);
  return { root, x, y, under };
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough) * power;
  const values = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) values.push(Number(at.toPrecision(12)));
  return values;
}

function bounds(series, limits) {
  const steps = series.flatMap(({ steps }) => [steps[0], steps[steps.length - 1]]);
  const all = series.map(({ values }) => values).concat([limits]);
  let low = Infinity, high = -Infinity;
  for (const values of all) for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { from: Math.min(...steps), to: Math.max(...steps, Math.min(...steps) + 1), low: low >= 0 && low < high * 0.35 ? 0 : low - room, high: high + room };
}

// series: [{name, steps, values}]; limits: horizontal lines that must not be crossed. The values under the
// pointer, or else the last ones, stand above the chart.
export function chart(series, { limits = [], label = "step" } = {}) {
  const shown = series.filter(({ steps }) => steps.length);
  if (!shown.length) return h("p", { class: "nothing" }, "No data yet.");
  const { width, height, left, right, top, bottom } = WIDE;
  const range = bounds(shown, limits), { from, to } = range;
  const { root, x, y, under } = plane(WIDE, range, ticks(range.low, range.high, 5), figure, { "aria-label": shown.map(({ name }) => name).join(", ") });
  root.append(...ticks(from, to, 7).map((step) => under(step, figure(step))),
    ...limits.map((value) => svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "limit" })));
  shown.forEach(({ steps, values }, at) => {
    const colour = seriesColour(at), points = steps.map((step, i) => [x(step), y(values[i])]);
    if (points.length > 1) root.append(svg("path", { d: path(points), fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round" }));
    if (points.length <= MOST_DOTS) root.append(...points.map(([cx, cy]) => svg("circle", { cx, cy, r: points.length > 1 ? 2.6 : 3.5, fill: colour })));
  });
  const line = svg("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" });
  root.append(line);
  const values = h("div", { class: "read" });
  const last = Math.max(...shown.map(({ steps }) => steps[steps.length - 1]));
  const read = (step) => {
    const parts = shown.map((one, at) => {
      const i = step === null ? one.steps.length - 1 : nearest(one.steps, step);
      return h("span", {}, h("i", { style: { background: seriesColour(at) } }), `${one.name} ${figure(one.values[i])}`);
    });
    values.replaceChildren(h("b", {}, `${label} ${step === null ? last : Math.round(step)}`), ...parts);
  };
  read(null);
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const place = Math.min(width - right, Math.max(left, ((event.clientX - box.left) / box.width) * width));
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
    line.setAttribute("visibility", "visible");
    read(from + ((place - left) / (width - left - right)) * (to - from));
  });
  root.addEventListener("pointerleave", () => { line.setAttribute("visibility", "hidden"); read(null); });
  return h("div", { class: "chartbox" }, values, root);
}

function nearest(steps, at) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= at) low = middle; else high = middle;
  }
  return at - steps[low] <= steps[high] - at ? low : high;
}

// Before and after of each round, joined; lower is better. pairs: [{number, before, after}].
export function beforeAndAfter(pairs, { label, write = figure }) {
  const top = Math.max(...pairs.flatMap(({ before, after }) => [before, after])) * 1.12 || 1;
  const { root, x, y, under } = plane(SMALL, { from: 0, to: pairs.length, low: 0, high: top }, [0, top / 2, top], write, { "aria-label": label });
  const every = Math.ceil(pairs.length / MOST_NUMBERS);
  pairs.forEach(({ number, before, after }, at) => {
    const [x1, x2, y1, y2] = [x(at + 0.28), x(at + 0.72), y(before), y(after)];
    const change = after <= before ? "better" : "worse";
    root.append(svg("line", { x1, x2, y1, y2, class: change }), svg("circle", { cx: x1, cy: y1, r: 3.5, class: "before" }), svg("circle", { cx: x2, cy: y2, r: 3.5, class: change }));
    if (at % every === 0) root.append(under(at + 0.5, String(number)));
  });
  return root;
}

// Reliability diagram: bins of confidence against the share labelled as artifact; calibrated on the diagonal.
export function reliability({ pixels, confidence, flawed, error }) {
  const unit = { from: 0, to: 1, low: 0, high: 1 };
  const { root, x, y, under } = plane(SQUARE, unit, [0, 0.5, 1], String, { class: "chart square", "aria-label": "Reliability diagram" });
  const bins = confidence.map((value, i) => [x(value), y(flawed[i]), pixels[i]]).filter(([, , count]) => count);
  root.append(...[0, 0.5, 1].map((value) => under(value, String(value))), svg("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "limit" }),
    svg("path", { d: path(bins), fill: "none", stroke: seriesColour(0), "stroke-width": 2 }),
    ...bins.map(([cx, cy, count]) => svg("circle", { cx, cy, r: 2 + Math.log10(count) / 1.6, fill: seriesColour(0), "fill-opacity": 0.75 })));
  return h("figure", { class: "reliability" }, root, h("figcaption", {}, `x: confidence, y: share of pixels labelled as artifact. Calibration error ${figure(error)}. Larger dots stand for more pixels.`));
}
