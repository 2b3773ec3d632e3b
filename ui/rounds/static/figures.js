// What each round changed in the detector and the generator.
import { get } from "../api.js";
import { h, panel } from "../dom.js";
import { figure, percent, when } from "../format.js";
import { beforeAndAfter } from "../diagrams.js";
import { lasting, state } from "./format.js";

function chart(title, rows, read, write) {
  const pairs = rows.map((row, at) => ({ number: at + 1, pair: read(row) }))
    .filter(({ pair }) => pair?.every((value) => value !== null && value !== undefined))
    .map(({ number, pair: [before, after] }) => ({ number, before, after }));
  return panel(title, pairs.length ? beforeAndAfter(pairs, { label: title, write }) : h("p", { class: "soft" }, "Not measured in any round yet."));
}

function arrow(pair, write) {
  if (!pair || pair.every((value) => value === null)) return "–";
  return `${write(pair[0])} → ${write(pair[1])}`;
}

// A change with the gate's verdict: better or worse beyond noise, or within it.
function judged(pair, write, verdict) {
  return h("span", { class: verdict === "better" || verdict === "worse" ? verdict : "", title: verdict ?? "" }, arrow(pair, write), verdict ? h("small", { class: "soft" }, h("br"), verdict) : null);
}

// How long devices and people worked, without those that did not.
function spent({ devices, people }) {
  const parts = Object.entries(devices).map(([kind, seconds]) => `${lasting(seconds)} ${kind}`);
  if (people) parts.push(`${lasting(people)} people`);
  return parts.map((part) => h("small", { class: "soft" }, h("br"), part));
}

function row(one) {
  return h("tr", {},
    h("td", { class: "figure" }, String(one.number)),
    h("td", {}, h("a", { href: `?view=rounds&round=${encodeURIComponent(one.round)}` }, when(one.created)), h("br"), h("span", { class: "soft" }, one.recipe), spent(one.cost)),
    h("td", {}, state(one.state)),
    h("td", { class: "figure" }, one.labels ?? "–"),
    h("td", {}, one.hard.join(", ") || "–"),
    h("td", { class: "figure" }, judged(one.mse, figure, one.moods.mse)),
    h("td", { class: "figure" }, judged(one.false_alarm, percent, one.moods.false_alarm)),
    h("td", { class: "figure" }, judged(one.miss, percent, one.moods.miss)),
    h("td", {}, one.promoted === null ? "–" : one.promoted ? "promoted" : "kept"),
    h("td", { class: "figure" }, arrow(one.mean_confidence, figure)),
    h("td", { class: "figure" }, arrow(one.frequency, percent)),
    h("td", {}, one.generator ? h("a", { href: `?view=lineage&generator=${encodeURIComponent(one.generator)}` }, "lineage") : "–"));
}

export async function figures(root) {
  const { rounds, champion } = await get("/api/rounds");
  root.append(h("h1", {}, "Round by round"), h("p", { class: "lead" }, champion ? `Champion: ${champion}. Detector figures: champion → candidate, on labelled validation images. Generator figures: untreated → treated, as predicted by the champion.` : "No champion yet."));
  if (!rounds.length) return root.append(h("p", { class: "soft" }, "No rounds yet."));
  root.append(h("div", { class: "charts" },
    chart("Detector: squared error on validation", rounds, (one) => one.mse, (value) => figure(value, 2)),
    chart("Generator: share of flawed images", rounds, (one) => one.frequency, percent)));
  const heads = ["No.", "Round", "State", "Labels", "Hard categories", "Squared error", "False alarms", "Misses", "Champion", "Mean confidence", "Flawed images", "Generator"];
  root.append(h("section", { class: "card panel" }, h("div", { class: "scroll" }, h("table", { class: "wide" }, h("thead", {}, h("tr", {}, heads.map((name) => h("th", {}, name)))), h("tbody", {}, rounds.map(row).reverse())))));
  return null;
}
