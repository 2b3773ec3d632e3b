// Curves over steps, drawn by uPlot: zoom, log axis, smoothing, values under the cursor, PNG; by mouse and keyboard.
import { urlOf } from "./root.js";
import { h } from "./dom.js";
import { figure } from "./format.js";
import uPlot from "./vendor/uplot.js";

const HEIGHT = 260, SERIES = 6, MOST_DOTS = 40;
const DASHES = [[], [7, 4], [2, 3], [10, 4, 2, 4]];
const WHOLE = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat(); // steps are whole
const HELP = "Drag to zoom, double-click to see everything. Keys: ← → move the cursor, + and − zoom, 0 shows everything.";

document.head.append(h("link", { rel: "stylesheet", href: "/static/vendor/uplot.css" }));

const dark = matchMedia("(prefers-color-scheme: dark)");
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function seriesColour(at) {
  const value = colourOf(`--series-${(at % SERIES) + 1}`);
  return value.startsWith("var(") ? colourOf(value.slice(4, -1)) : value;
}

// Exponential moving average without the bias of its start; a weight of 0 changes nothing.
export function smoothed(values, weight) {
  let sum = 0, share = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + 1 - weight;
    return sum / share;
  });
}

// The index of the step that is nearest to `at`; steps ascend.
export function nearest(steps, at) {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= at) low = middle; else high = middle;
  }
  return at - steps[low] <= steps[high] - at ? low : high;
}

// A chart that keeps zoom, axis and smoothing when its data change: { node, show(series, options), close() }.
// series: [{ name, steps, values, colour, dash }]; limits: horizontal lines that must not be crossed.
export function curveChart({ csv = () => null } = {}) {
  const values = h("div", { class: "read", role: "status" });
  const place = h("div", { class: "plot", tabIndex: 0, role: "group", title: HELP, onkeydown: press });
  const smoothing = h("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0", "aria-label": "Smoothing", oninput: draw });
  const log = h("input", { type: "checkbox", onchange: draw });
  const tool = (text, act) => h("button", { type: "button", class: "link", onclick: act }, text);
  const download = h("a", { class: "link", download: "" }, "CSV");
  const tools = h("div", { class: "tools" }, h("label", {}, "Smoothing ", smoothing), h("label", {}, log, " Log axis"), h("span", { class: "gap" }), tool("Show everything", () => zoom(null)), tool("PNG", save), download);
  const node = h("div", { class: "chartbox" }, tools, values, place);
  let plot = null, shown = [], options = {}, zoomed = null;

  function show(series, given = {}) {
    const kept = shown.map(({ name }) => name).join("\n") === series.map(({ name }) => name).join("\n");
    [shown, options] = [series.filter(({ steps }) => steps.length), given];
    if (!kept) zoomed = null;
    place.setAttribute("aria-label", `Curves of ${shown.map(({ name }) => name).join(", ") || "nothing yet"}. ${HELP}`);
    const address = csv();
    download.hidden = !address;
    if (address) download.href = urlOf(address);
    draw();
  }

  function draw() {
    plot?.destroy();
    plot = null;
    if (!shown.length) return place.replaceChildren(h("p", { class: "nothing" }, "No data yet."));
    place.replaceChildren();
    const weight = Number(smoothing.value), positive = log.checked;
    const lines = shown.flatMap((one, at) => {
      const line = { ...one, stroke: seriesColour(one.colour ?? at), dash: DASHES[(one.dash ?? 0) % DASHES.length] };
      return weight ? [{ ...line, faint: true }, { ...line, values: smoothed(one.values, weight) }] : [line];
    });
    const data = uPlot.join(lines.map(({ steps, values: ys }) => [steps, positive ? ys.map((y) => (y > 0 ? y : null)) : ys]));
    const [ink, line] = [colourOf("--soft"), colourOf("--line")];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: `11px ${colourOf("--font")}` };
    plot = new uPlot({
      width: Math.max(200, place.clientWidth), height: HEIGHT, legend: { show: false },
      scales: { x: { time: false, range: (_, low, high) => zoomed ?? [low, high > low ? high : low + 1] }, y: { distr: positive ? 3 : 1 } },
      axes: [{ ...axis, incrs: WHOLE, label: options.label ?? "step", labelSize: 18, labelFont: axis.font, size: 34 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : figure(tick))) }],
      series: [{}, ...lines.map(({ name, stroke, dash, steps, faint }) => ({ label: name, stroke, width: faint ? 1 : 2, alpha: faint ? 0.3 : 1, dash, spanGaps: true, points: { show: !faint && steps.length <= MOST_DOTS, size: 5, fill: stroke } }))],
      cursor: { drag: { x: true, y: false }, points: { size: 6 } },
      hooks: {
        setCursor: [read],
        setSelect: [(u) => { if (u.select.width > 2) zoomed = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]; }],
        draw: [limits],
      },
    }, data, place);
    plot.over.addEventListener("dblclick", () => zoom(null));
    read(plot);
  }

  // The horizontal lines that a figure must not cross.
  function limits(u) {
    for (const value of options.limits ?? []) {
      const y = u.valToPos(value, "y", true);
      if (!(y >= u.bbox.top && y <= u.bbox.top + u.bbox.height)) continue;
      u.ctx.save();
      u.ctx.strokeStyle = colourOf("--soft");
      u.ctx.setLineDash([6, 4]);
      u.ctx.beginPath();
      u.ctx.moveTo(u.bbox.left, y);
      u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
      u.ctx.stroke();
      u.ctx.restore();
    }
  }

  // The values under the cursor, or else the last ones.
  function read(u) {
    const at = u.cursor.left >= 0 && u.cursor.idx !== null && u.cursor.idx !== undefined ? u.data[0][u.cursor.idx] : null;
    const weight = Number(smoothing.value);
    values.replaceChildren(h("b", {}, `${options.label ?? "step"} ${at ?? Math.max(...shown.map(({ steps }) => steps.at(-1)))}`), ...shown.map((one, place) => {
      const i = at === null ? one.steps.length - 1 : nearest(one.steps, at);
      const value = weight ? smoothed(one.values.slice(0, i + 1), weight).at(-1) : one.values[i];
      return h("span", {}, h("i", { style: { background: seriesColour(one.colour ?? place) } }), `${one.name} ${figure(value)}`);
    }));
  }

  function zoom(range) {
    zoomed = range;
    if (plot) plot.setScale("x", { min: range?.[0] ?? plot.data[0][0], max: range?.[1] ?? plot.data[0].at(-1) });
  }

  function press(event) {
    if (!plot || event.target !== place) return;
    const xs = plot.data[0], idx = plot.cursor.left >= 0 && plot.cursor.idx !== null ? plot.cursor.idx : xs.length - 1;
    const { min, max } = plot.scales.x, middle = plot.cursor.left >= 0 ? xs[idx] : (min + max) / 2;
    const move = (to) => plot.setCursor({ left: plot.valToPos(xs[Math.min(xs.length - 1, Math.max(0, to))], "x"), top: 1 });
    const scale = (by) => zoom([Math.max(xs[0], middle - (middle - min) * by), Math.min(xs.at(-1), middle + (max - middle) * by)]);
    const actions = {
      ArrowLeft: () => move(idx - 1), ArrowRight: () => move(idx + 1), Home: () => move(0), End: () => move(xs.length - 1),
      "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), 0: () => zoom(null), Escape: () => plot.setCursor({ left: -10, top: -10 }),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  }

  // The chart with its names as a PNG, on the page's own ground.
  function save() {
    if (!plot) return;
    const source = plot.ctx.canvas, ratio = devicePixelRatio, row = 20 * ratio;
    const canvas = h("canvas", { width: source.width, height: source.height + row * shown.length + row / 2 });
    const context = canvas.getContext("2d");
    context.fillStyle = colourOf("--surface");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.font = `${13 * ratio}px ${colourOf("--font")}`;
    shown.forEach((one, at) => {
      context.fillStyle = seriesColour(one.colour ?? at);
      context.fillRect(row / 2, at * row + row / 2, row / 2, row / 2);
      context.fillStyle = colourOf("--ink");
      context.fillText(one.name, 1.5 * row, at * row + row);
    });
    context.drawImage(source, 0, row * shown.length + row / 2);
    canvas.toBlob((blob) => {
      const link = h("a", { href: URL.createObjectURL(blob), download: `${shown.map(({ name }) => name).join(", ").slice(0, 80).replace(/[^\w ,.-]/g, "_")}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }

  const observer = new ResizeObserver(() => {
    if (plot && Math.abs(place.clientWidth - plot.width) > 1) plot.setSize({ width: Math.max(200, place.clientWidth), height: HEIGHT });
    else if (!plot && shown.length) draw();
  });
  observer.observe(place);
  dark.addEventListener("change", draw);
  return { node, show };
}
