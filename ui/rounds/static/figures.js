// What every round did to the detector and to the generator.
import { get } from "/static/api.js";
import { h, panel, when } from "/static/dom.js";
import { figure, share, state } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Before and after of each round, joined: where a round began, where it came to.
function chart(title, rows, read, write) {
  const points = rows.map(read).map((pair, index) => ({ pair, index })).filter(({ pair }) => pair && pair.every((value) => value !== null && value !== undefined));
  if (!points.length) return panel(title, h("p", { class: "soft" }, "No round has measured this yet."));
  const [width, height, edge, foot] = [520, 150, 46, 22];
  const top = Math.max(...points.flatMap(({ pair }) => pair)) * 1.12 || 1;
  const x = (place, after) => edge + ((place + (after ? 0.72 : 0.28)) * (width - edge - 8)) / points.length;
  const y = (value) => 8 + (1 - value / top) * (height - foot - 8);
  const parts = [0, top / 2, top].map((value) => svg("g", {}, svg("line", { x1: edge, x2: width - 8, y1: y(value), y2: y(value), class: "grid" }), Object.assign(svg("text", { x: edge - 6, y: y(value) + 4, class: "tick end" }), { textContent: write(value) })));
  const label = Math.ceil(points.length / 10);
  points.forEach(({ pair: [before, after], index }, place) => {
    const better = after <= before;
    parts.push(svg("line", { x1: x(place, false), y1: y(before), x2: x(place, true), y2: y(after), class: better ? "better" : "worse" }));
    parts.push(svg("circle", { cx: x(place, false), cy: y(before), r: 3.5, class: "before" }), svg("circle", { cx: x(place, true), cy: y(after), r: 3.5, class: better ? "after better" : "after worse" }));
    if (place % label === 0) parts.push(Object.assign(svg("text", { x: (x(place, false) + x(place, true)) / 2, y: height - 6, class: "tick" }), { textContent: String(index + 1) }));
  });
  return panel(title, svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, ...parts));
}

function arrow(pair, write) {
  if (!pair || pair.every((value) => value === null)) return "–";
  return `${write(pair[0])} → ${write(pair[1])}`;
}

function row(one, place) {
  return h("tr", {},
    h("td", { class: "figure" }, String(place + 1)),
    h("td", {}, h("a", { href: `?view=rounds&round=${encodeURIComponent(one.round)}`, "data-go": true }, when(one.created)), h("br"), h("span", { class: "soft" }, one.recipe)),
    h("td", {}, state(one.state)),
    h("td", { class: "figure" }, one.labels ?? "–"),
    h("td", {}, one.hard.join(", ") || "–"),
    h("td", { class: "figure" }, arrow(one.mse, figure)),
    h("td", { class: "figure" }, arrow(one.false_alarm, share)),
    h("td", { class: "figure" }, arrow(one.miss, share)),
    h("td", {}, one.promoted === null ? "–" : one.promoted ? "promoted" : "kept"),
    h("td", { class: "figure" }, arrow(one.mean_confidence, figure)),
    h("td", { class: "figure" }, arrow(one.frequency, share)),
    h("td", {}, one.generator ? h("a", { href: `?view=lineage&generator=${encodeURIComponent(one.generator)}`, "data-go": true }, "lineage") : "–"));
}

export async function figures(root) {
  const { rounds, champion } = await get("/api/rounds");
  root.append(h("h1", {}, "Round by round"), h("p", { class: "lead" }, champion ? `The champion is ${champion}. Detector figures: champion, then candidate, on validation images that people labelled. Generator figures: untreated, then treated, as the champion sees them.` : "There is no champion yet."));
  if (!rounds.length) return root.append(h("p", { class: "soft" }, "No round yet."));
  root.append(h("div", { class: "charts" },
    chart("Detector: squared error on validation", rounds, (one) => one.mse, (value) => figure(value, 2)),
    chart("Generator: share of flawed images", rounds, (one) => one.frequency, share)));
  const heads = ["", "Round", "State", "Labels", "Hard categories", "Squared error", "False alarms", "Misses", "Champion", "Mean confidence", "Flawed images", ""];
  root.append(h("section", { class: "card panel" }, h("div", { class: "scroll" }, h("table", { class: "wide" }, h("thead", {}, h("tr", {}, heads.map((name) => h("th", {}, name)))), h("tbody", {}, rounds.map(row).reverse())))));
  return null;
}
