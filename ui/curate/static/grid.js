// The grid: filters in the address, pages by key, the detector's map on hover, and one image enlarged.
import { get } from "/static/api.js";
import { address, h, nothing, select, tell } from "/static/dom.js";
import { count, number, percent } from "/static/format.js";
import { drawHeat, thumbnail } from "/static/images.js";
import { openImage } from "./large_view.js";
import { similar, similarity } from "./similar.js";
import { workBar } from "./work.js";

const FILTERS = ["lasso", "category", "generator", "detector", "low", "high", "class", "state", "split", "source", "round", "sort"];
const SORTS = [["uncertainty", "Most uncertain"], ["max", "Highest confidence"], ["disagreement", "Most disagreement"], ["newest", "Newest"], ["oldest", "Oldest"]];
const STATES = [["unlabelled", "not labelled"], ["waiting", "waiting for annotators"], ["unreviewed", "to review"], ["approved", "approved"], ["returned", "returned"], ["refused", "refused"]];
const any = (values) => [["", "any"], ...values.map((value) => (Array.isArray(value) ? value : [value, value]))];
let always = localStorage.getItem("curate.overlay") === "always";

export async function images(root, { choices, asked, go, again, current }) {
  const filters = Object.fromEntries(FILTERS.filter((name) => asked[name]).map((name) => [name, asked[name]]));
  const standing = standIn(choices.detectors, filters.detector);
  const chosen = Object.keys(filters).length > 0;
  if (standing) filters.detector = standing.other.id;
  const grid = h("div", { class: "grid", role: "list" });
  const total = h("span", { class: "total", role: "status" });
  const more = h("div", { class: "more" });
  root.append(bar(choices, filters, chosen, go, total), standing && !asked.like ? standInNote(standing) : "");
  let alike = {};
  if (asked.like) {
    alike = await similar(root, { id: asked.like, go, again, grid, tile: (card) => tile(card, undefined, go) });
  } else {
    root.append(grid, more);
    await turnPage(grid, more, filters, null, go);
    get(`/api/curate/count${address(filters)}`).then(
      (matches) => { total.textContent = `${count(matches.count)}${matches.more ? " or more" : ""} image${matches.count === 1 ? "" : "s"}`; },
      () => {},
    );
  }
  if (asked.image && current()) openImage(asked.image, { go, detector: filters.detector });
  return { ...alike, leave: () => document.querySelector("dialog.detail")?.remove() };
}

// A new champion has no predictions before the next round: the newest detector with predictions stands in for it,
// a teacher last, because it predicts only on a round's unlabelled images.
function standIn(detectors, chosen) {
  const champion = detectors.find((one) => one.champion);
  if (chosen || !champion || champion.looked) return null;
  const looked = detectors.filter((one) => one.looked);
  const other = looked.find((one) => one.role !== "teacher") ?? looked[0];
  return other ? { champion, other } : null;
}

function standInNote({ champion, other }) {
  return h("p", { class: "hint" }, `The champion, ${champion.name}, has no predictions yet; the next round will add them. Showing predictions by ${other.name}.`);
}

function bar(choices, filters, chosen, go, total) {
  const change = () => {
    const values = Object.fromEntries(new FormData(form));
    if (values.low === "0") delete values.low;
    if (values.high === "1") delete values.high;
    if (values.sort === "uncertainty") delete values.sort;
    go({ view: "images", ...values });
  };
  const detectors = choices.detectors.map((one) => [one.id, one.champion ? `${one.name} (champion)` : one.name]);
  const fields = [
    select("sort", "Sort by", SORTS, filters.sort ?? "uncertainty", change),
    select("category", "Category", any(choices.categories), filters.category, change),
    range("low", "Confidence from", filters.low ?? 0, change),
    range("high", "to", filters.high ?? 1, change),
    select("state", "Status", any(STATES), filters.state, change),
    select("class", "Class", any(choices.classes.map((name, i) => [i + 1, name])), filters.class, change),
    select("generator", "Generator", any(choices.generators), filters.generator, change),
    select("detector", "Detector", [["", "champion"], ...detectors], filters.detector, change),
    select("split", "Split", any(["train", "validation", "benchmark"]), filters.split, change),
    select("source", "Source", any(["generated", "real", "imported", "drawn", "injected", "repaired"]), filters.source, change),
    select("round", "Round", any(choices.rounds), filters.round, change),
  ];
  if (filters.lasso) fields.push(h("input", { type: "hidden", name: "lasso", value: filters.lasso }));
  const form = h("form", { class: "filters card", onsubmit: (event) => event.preventDefault() }, fields);
  const overlay = h("input", { type: "checkbox", checked: always, onchange: () => {
    always = overlay.checked;
    localStorage.setItem("curate.overlay", always ? "always" : "hover");
    document.querySelector(".grid")?.classList.toggle("overlays", always);
    if (always) document.querySelectorAll(".tile").forEach((tile) => tile.heat());
  } });
  const reset = chosen ? h("button", { type: "button", class: "link", onclick: () => go({ view: "images" }) }, "Clear filters") : null;
  return h("div", { class: "top" }, form, workBar(filters, () => go({ view: "images", ...filters })), h("div", { class: "line" }, total, filters.lasso ? h("span", { class: "hint chip" }, "inside a lasso on the map") : null, reset, h("span", { class: "gap" }),
    h("label", { class: "switch" }, overlay, "Always show the artifact map"),
    h("button", { type: "button", class: "link", onclick: () => go({ ...filters, view: "map" }) }, "Show these on the map")));
}

function range(name, label, value, change) {
  const output = h("output", {}, Number(value).toFixed(2));
  const slider = h("input", { type: "range", name, min: "0", max: "1", step: "0.05", value: String(value), "aria-label": label,
    oninput: () => { output.textContent = Number(slider.value).toFixed(2); }, onchange: change });
  return h("label", { class: "field range" }, h("span", {}, label, " ", output), slider);
}

async function turnPage(grid, more, filters, after, go) {
  const page = await get(`/api/curate/images${address({ ...filters, after })}`);
  if (!page.cards.length && !after) grid.append(nothing("No images match these filters."));
  grid.append(...page.cards.map((card) => tile(card, filters.detector, go)));
  more.replaceChildren(page.after ? h("button", { type: "button", class: "button quiet", onclick: (event) => {
    event.target.disabled = true;
    tell(turnPage(grid, more, filters, page.after, go));
  } }, "More") : "");
  if (page.after) watchEnd(more);
}

function watchEnd(more) {
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    more.querySelector("button")?.click();
  }, { rootMargin: "600px" });
  watcher.observe(more);
}

function tile(card, detector, go) {
  const canvas = h("canvas", { class: "heat", "aria-hidden": "true" });
  const figures = similarity(card) ?? [
    card.max === null ? "not diagnosed" : number(card.max),
    card.disagreement === undefined ? null : `disagreement ${percent(card.disagreement)}`,
  ].filter(Boolean).join(" · ");
  const made = h("button", { type: "button", class: "tile", role: "listitem", title: card.prompt, "data-id": card.id, onclick: () => openImage(card.id, { go, detector }) },
    h("span", { class: "picture" }, h("img", { src: thumbnail(card.id), alt: card.prompt || card.category || "image", loading: "lazy" }), canvas,
      card.labelled ? h("i", { class: "badge", title: "labelled" }, "✓") : null),
    h("span", { class: "caption" }, h("b", {}, card.category ?? (card.prompt || card.source)), h("span", {}, figures)),
    card.max === null ? null : h("span", { class: "meter", style: { "--value": String(card.max) } }));
  let drawn = false;
  made.heat = async () => {
    if (drawn || !card.map) return;
    drawn = true;
    await drawHeat(canvas, card.id, detector);
    canvas.classList.add("drawn");
  };
  made.addEventListener("pointerenter", made.heat);
  made.addEventListener("focus", made.heat);
  if (always) made.heat();
  return made;
}
