// Small diagrams in SVG, readable in light and dark: before and after, and a reliability diagram.
import { h, svg } from "./dom.js";
import { figure } from "./format.js";
import { seriesColour } from "./palette.js";

const SMALL = { width: 520, height: 150, left: 46, right: 8, top: 8, bottom: 22 };
const SQUARE = { width: 274, height: 272, left: 34, right: 10, top: 8, bottom: 34 };
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
