// The grid: filters in the address, pages by key, the detector's map on hover, and one image enlarged.
import { get, post } from "/static/api.js";
import { address, h, nothing, query, say, select, tell } from "/static/dom.js";
import { count, number, percent, when } from "/static/format.js";
import { drawHeat, drawLabels, labelOf, pixels, thumbnail } from "/static/images.js";
import { openCanvas } from "./assign.js";
import { goldMark, makeGold } from "./gold.js";
import { repairPanel } from "./repairs.js";
import { Selection } from "./selection.js";
import { viewsMenu } from "./views.js";

const FILTERS = ["search", "category", "generator", "detector", "low", "high", "class", "state", "split", "source", "round", "tag", "sort"];
const SORTS = [["uncertainty", "Most uncertain"], ["max", "Highest confidence"], ["disagreement", "Most disagreement"], ["newest", "Newest"], ["oldest", "Oldest"]];
const STATES = [["unlabelled", "not labelled"], ["waiting", "waiting for annotators"], ["unreviewed", "to review"], ["approved", "approved"], ["returned", "returned"], ["refused", "refused"]];
const SOURCES = ["generated", "real", "imported", "drawn", "injected", "repaired"];
const UNRANKED = {
  disagreement: "Fewer than two people labelled these; newest first.",
  uncertainty: "The champion has not predicted these; newest first.",
  max: "The champion has not predicted these; newest first.",
};
const any = (values) => [["", "any"], ...values.map((value) => (Array.isArray(value) ? value : [value, value]))];
let always = localStorage.getItem("curate.overlay") === "always";

export async function images(root, { choices, asked, go, again, current }) {
  const filters = Object.fromEntries(FILTERS.filter((name) => asked[name]).map((name) => [name, asked[name]]));
  const grid = h("div", { class: "grid", role: "list" });
  const total = h("span", { class: "total", role: "status" });
  const hidden = h("span", { class: "hint left-out" });
  const more = h("div", { class: "more" });
  let matching = null;
  const selection = new Selection({ grid, filters, choices, go, again, matches: () => matching, listed: Boolean(asked.like) });
  const shown = { grid, more, filters, go, choices, selection, divided: false };
  root.append(bar(choices, filters, go, total, hidden), asked.like ? similarHead(asked.like, go) : "", grid, more, selection.bar);
  if (asked.like) {
    await like(shown, total, asked.like);
  } else {
    await turnPage(shown, null);
    get(`/api/curate/count${address(filters)}`).then((found) => {
      matching = found.more ? null : found.count;
      total.textContent = countText(found);
      hidden.replaceChildren(...leftOut(found.hidden, filters));
      selection.show();
    }, () => {});
    get(`/api/curate/facets${address(filters)}`).then((facets) => showFacets(root, facets), () => {});
  }
  if (asked.image && current()) open(asked.image, go);
  return { leave: () => {
    selection.leave();
    document.body.classList.remove("selecting");
    document.querySelector("dialog.detail")?.remove();
  } };
}

function countText({ count: found, more, total, total_more: totalMore }) {
  const matches = `${count(found)}${more ? " or more" : ""}`;
  return found === total ? `${matches} image${found === 1 ? "" : "s"}` : `${matches} of ${count(total)}${totalMore ? " or more" : ""} images`;
}

// What the grid shows only when it is asked for.
function leftOut({ injected, refused }, filters) {
  const parts = [];
  if (injected && filters.source !== "injected") parts.push(h("a", { href: address({ view: "images", source: "injected" }) }, `${count(injected)} with an injected artifact`));
  if (refused && filters.state !== "refused") parts.push(h("a", { href: address({ view: "images", state: "refused" }) }, `${count(refused)} refused`));
  return parts.length ? ["Kept apart: ", ...parts.flatMap((part, at) => (at ? [", ", part] : [part]))] : [];
}

function showFacets(root, facets) {
  for (const [name, counts] of Object.entries(facets)) {
    for (const option of root.querySelectorAll(`.filters select[name=${name}] option`)) {
      if (option.value) option.textContent = `${option.textContent} · ${count(counts[option.value] ?? 0)}`;
    }
  }
}

function bar(choices, filters, go, total, hidden) {
  const change = () => {
    const values = Object.fromEntries(new FormData(form));
    if (values.low === "0") delete values.low;
    if (values.high === "1") delete values.high;
    if (values.sort === (values.search ? "newest" : "uncertainty")) delete values.sort;
    go({ view: "images", ...values });
  };
  const detectors = choices.detectors.map((one) => [one.id, `${one.name}${one.champion ? " (champion)" : ""}${one.looked ? "" : ", no predictions yet"}`]);
  const generators = choices.generators.map((one) => [one.id, one.name]);
  const classes = choices.classes.map((name, i) => [i + 1, name]);
  const fields = [
    h("label", { class: "field search" }, h("span", {}, "Prompt"), h("input", { name: "search", type: "search", value: filters.search ?? "", maxlength: 400, onchange: change,
      placeholder: "hand \"five fingers\" -glove", title: "Words that the prompt contains; \"a phrase\", -without, begin*" })),
    select("sort", "Sort by", SORTS, filters.sort ?? (filters.search ? "newest" : "uncertainty"), change),
    select("category", "Category", any(choices.categories), filters.category, change),
    range("low", "Confidence from", filters.low ?? 0, change),
    range("high", "to", filters.high ?? 1, change),
    select("state", "Status", any(STATES), filters.state, change),
    select("class", "Class", any(classes), filters.class, change),
    select("generator", "Generator", any(generators), filters.generator, change),
    select("detector", "Detector", [["", "any detector"], ...detectors], filters.detector, change),
    select("split", "Split", any(["train", "validation", "benchmark"]), filters.split, change),
    select("source", "Source", any(SOURCES), filters.source, change),
    select("round", "Round", any(choices.rounds), filters.round, change),
    select("tag", "Tag", any(choices.tags), filters.tag, change),
  ];
  const form = h("form", { class: "filters card", role: "search", onsubmit: (event) => event.preventDefault() }, fields);
  const overlay = h("input", { type: "checkbox", checked: always, onchange: () => {
    always = overlay.checked;
    localStorage.setItem("curate.overlay", always ? "always" : "hover");
    document.querySelector(".grid")?.classList.toggle("overlays", always);
    if (always) document.querySelectorAll(".tile").forEach((tile) => tile.heat());
  } });
  const named = { state: STATES, class: classes, generator: generators, detector: detectors };
  return h("div", { class: "top" }, form, chips(filters, named, go), h("div", { class: "line" }, total, hidden, h("span", { class: "gap" }),
    viewsMenu(choices, filters),
    h("label", { class: "switch" }, overlay, "Always show the artifact map"),
    h("button", { type: "button", class: "button quiet", onclick: () => tell(post("/api/curate/features"), "Similarity index queued. Rounds → Jobs and workers shows its progress.") }, "Build similarity index")));
}

const CHIPS = { search: "Prompt", category: "Category", state: "Status", class: "Class", generator: "Generator", detector: "Predicted by", split: "Split", source: "Source", round: "Round", tag: "Tag" };

// The filters in use, each with a button that removes it.
function chips(filters, named, go) {
  const without = (...names) => go({ view: "images", ...Object.fromEntries(Object.entries(filters).filter(([name]) => !names.includes(name))) });
  const chip = (label, text, ...names) => h("button", { type: "button", class: "chip", title: "Remove this filter", onclick: () => without(...names) }, h("span", {}, `${label}: `), h("b", {}, text), h("i", { "aria-hidden": "true" }, "×"));
  const found = Object.entries(CHIPS).filter(([name]) => filters[name]).map(([name, label]) =>
    chip(label, named[name]?.find(([value]) => String(value) === filters[name])?.[1] ?? filters[name], name));
  if (filters.low || filters.high) found.push(chip("Confidence", `${Number(filters.low ?? 0).toFixed(2)} to ${Number(filters.high ?? 1).toFixed(2)}${filters.detector ? "" : ", champion"}`, "low", "high"));
  if (!found.length) return "";
  return h("div", { class: "line chips", role: "group", "aria-label": "Filters in use" }, found, h("button", { type: "button", class: "link", onclick: () => go({ view: "images", sort: filters.sort }) }, "Clear filters"));
}

function range(name, label, value, change) {
  const output = h("output", {}, Number(value).toFixed(2));
  const slider = h("input", { type: "range", name, min: "0", max: "1", step: "0.05", value: String(value), "aria-label": label,
    oninput: () => { output.textContent = Number(slider.value).toFixed(2); }, onchange: change });
  return h("label", { class: "field range" }, h("span", {}, label, " ", output), slider);
}

async function turnPage(shown, after) {
  const { grid, more, filters, selection } = shown;
  const page = await get(`/api/curate/images${address({ ...filters, after })}`);
  if (!page.cards.length && !after) grid.append(await emptyGrid(filters));
  for (const card of page.cards) {
    divide(shown, card);
    const made = tile(card, shown);
    grid.append(made);
    selection.add(made);
  }
  more.replaceChildren(page.after ? h("button", { type: "button", class: "button quiet", onclick: (event) => {
    event.target.disabled = true;
    tell(turnPage(shown, page.after));
  } }, "More") : "");
  if (page.after) watchEnd(more);
}

async function emptyGrid(filters) {
  const { total } = await get("/api/curate/count");
  if (!total) return nothing("No images yet. Import some, or run a round, and they appear here.");
  const found = Object.keys(filters).filter((name) => name !== "sort").length;
  return nothing(`None of the ${count(total)} images matches ${found === 1 ? "this filter" : "these filters"}. Remove one above.`);
}

// Says once where the images begin that the order does not rank.
function divide(shown, card) {
  const sort = shown.filters.sort ?? (shown.filters.search ? "newest" : "uncertainty");
  const champion = shown.choices.detectors.find((one) => one.champion);
  const ranked = sort === "disagreement" ? card.disagreement !== undefined : !champion || shown.filters.detector || card.detector === champion.id;
  if (shown.divided || ranked || !UNRANKED[sort]) return;
  shown.divided = true;
  shown.grid.append(h("p", { class: "divider" }, UNRANKED[sort]));
}

function watchEnd(more) {
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    more.querySelector("button")?.click();
  }, { rootMargin: "600px" });
  watcher.observe(more);
}

function tile(card, { go, choices, selection }) {
  const canvas = h("canvas", { class: "heat", "aria-hidden": "true" });
  const by = choices.detectors.find((one) => one.id === card.detector);
  const figures = [
    card.max === null ? "not diagnosed" : number(card.max),
    card.disagreement === undefined ? null : `disagreement ${percent(card.disagreement)}`,
    card.similarity === undefined ? null : `similarity ${percent(card.similarity)}`,
    by && !by.champion ? `by ${by.name}` : null,
  ].filter(Boolean).join(" · ");
  const title = card.prompt || card.category || card.source;
  const toggle = (event) => { event.preventDefault(); selection.pick(made, event.shiftKey); };
  const button = h("button", { type: "button", class: "open", "aria-label": `${title}, ${figures}`, title: card.prompt, onclick: (event) => (event.shiftKey || event.ctrlKey || event.metaKey ? toggle(event) : open(card.id, go, card.detector)),
    onkeyup: (event) => event.key === " " && event.preventDefault() },  // Space selects
    h("span", { class: "picture" }, h("img", { src: thumbnail(card.id), alt: "", loading: "lazy" }), canvas,
      card.labelled ? h("i", { class: "badge", title: "labelled" }, "✓") : null),
    h("span", { class: "caption" }, h("b", {}, title), h("span", {}, [card.category && card.prompt ? card.category : null, figures].filter(Boolean).join(" · ")),
      card.tags.length ? h("span", { class: "tags" }, card.tags.map((tag) => h("em", {}, tag))) : null));
  const box = h("input", { type: "checkbox", class: "pick", tabindex: "-1", "aria-label": `Select ${title}` });
  const made = h("div", { class: "tile", role: "listitem", "data-id": card.id }, button, box,
    card.max === null ? null : h("span", { class: "meter", style: { "--value": String(card.max) } }));
  // The box shows the selection, which decides what a click does.
  box.addEventListener("click", (event) => { selection.pick(made, event.shiftKey); setTimeout(() => selection.mark(made)); });
  let drawn = false;
  made.heat = async () => {
    if (drawn || !card.map) return;
    drawn = true;
    await drawHeat(canvas, card.id, card.detector);
    canvas.classList.add("drawn");
  };
  made.addEventListener("pointerenter", made.heat);
  made.addEventListener("focusin", made.heat);
  if (always) made.heat();
  return made;
}

function similarHead(id, go) {
  return h("div", { class: "line like" }, h("img", { src: thumbnail(id), alt: "" }), h("b", {}, "More like this, by the champion’s features"),
    h("button", { type: "button", class: "link", onclick: () => go({ view: "images" }) }, "Back to all images"));
}

async function like(shown, total, id) {
  const similar = await tell(get(`/api/curate/similar/${id}`));
  if (!similar) {
    shown.grid.append(nothing("This image is not in the similarity index yet. Press “Build similarity index”, then try again."));
    return;
  }
  for (const card of similar.cards) {
    const made = tile(card, shown);
    shown.grid.append(made);
    shown.selection.add(made);
  }
  total.textContent = `compared with ${count(similar.compared)} images`;
}

// ---- one image large ---------------------------------------------------------------------------

async function open(id, go, detector) {
  const known = await tell(get(`/api/curate/images/${id}`));
  if (!known) return;
  document.querySelector("dialog.detail")?.remove();
  history.replaceState(null, "", address({ ...query(), image: id }));
  const heat = h("canvas", { class: "heat drawn" });
  const drawing = h("canvas", { class: "labels" });
  const stage = h("div", { class: "stage" }, h("img", { src: pixels(id), alt: known.prompt || "image" }), heat, drawing);
  const map = known.predictions.find((one) => one.map && one.detector_id === (detector ?? known.detector)) ?? known.predictions.find((one) => one.map);
  if (map) drawHeat(heat, id, map.detector_id);
  const toggles = [map ? layer(`Artifact map by ${map.detector}`, heat, true)
    : h("span", { class: "hint", role: "note" }, known.predictions.length ? "No artifact map: the detector only says whether the image is flawed." : "Not diagnosed: no detector has predicted this image.")];
  const authors = [...new Set(known.labels.map((one) => one.author))];
  if (authors.length) {
    drawLabels(drawing, labelOf(id, authors[0]));
    toggles.push(layer("Label", drawing, true));
    if (authors.length > 1) toggles.push(select("author", "of", authors.map((name) => [name, name]), authors[0], (event) => drawLabels(drawing, labelOf(id, event.target.value))));
  }
  const dialog = h("dialog", { class: "detail card", onclose: () => {
    const { image, ...rest } = query();
    history.replaceState(null, "", address(rest));
    dialog.remove();
  } },
    h("div", { class: "left" }, stage, h("div", { class: "line" }, toggles)),
    h("div", { class: "right" },
      h("header", {}, h("h2", {}, known.category ?? "No category"), h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
      h("p", { class: "prompt" }, known.prompt || "No prompt."),
      h("div", { class: "line actions" },
        h("button", { type: "button", class: "button", onclick: () => openCanvas(id) }, "Annotate"),
        h("button", { type: "button", class: "button quiet", onclick: () => { dialog.close(); go({ view: "images", like: id }); } }, "More like this"),
        h("button", { type: "button", class: "button quiet", onclick: () => navigator.clipboard?.writeText(location.href).then(() => say("Link copied.")) }, "Copy link")),
      known.gold?.chosen ? goldMark(id, known.gold, () => open(id, go, detector)) : null,
      ...known.predictions.filter((one) => one.note).map((one) => h("p", { class: "hint" }, one.note)),
      known.source === "repaired" ? null : repairPanel(known),
      factList(known), labelList(known, () => open(id, go, detector)), commentList(known)));
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.showModal();
  dialog.scrollTop = 0;  // focus goes to a control below the image
}

function layer(text, canvas, on) {
  const box = h("input", { type: "checkbox", checked: on, onchange: () => { canvas.hidden = !box.checked; } });
  return h("label", { class: "switch" }, box, text);
}

function factList(known) {
  const facts = [
    ["size", `${known.height} × ${known.width}`], ["source", `${known.source}, ${known.split}`], ["generator", known.generator],
    ["seed", known.seed], ["licence", known.licence], ["round", known.round_id], ["origin", known.origin], ["created", when(known.created)],
    ...known.predictions.map((one) => [one.detector, `max ${number(one.max)}, mean ${number(one.mean, 3)}, uncertainty ${number(one.uncertainty)}`]),
    ...known.answers.map((one) => [one.model, `${one.category} (${percent(one.confidence)})`]),
    ["snapshots", known.snapshots.length ? known.snapshots.map((id) => id.slice(0, 8)).join(", ") : null],
    ["assigned to", known.takers.join(", ")], ["tags", known.tags.join(", ")],
  ];
  return h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

const VERDICT = { accepted: "approved", rejected: "returned", corrected: "replaced" };

function labelList(known, changed) {
  if (!known.labels.length) return nothing("No labels yet.");
  const newest = new Set(known.labels.filter((one, at) => known.labels.findIndex((other) => other.author === one.author) === at));
  const usable = (one) => known.gold && !known.gold.chosen && newest.has(one) && !["rejected", "corrected"].includes(one.review?.verdict);
  return h("ul", { class: "history" }, known.labels.map((one) => h("li", {},
    h("b", {}, `${one.author}, revision ${one.revision}`),
    h("span", {}, `${one.clean ? "clean" : "drawn"} · ${when(one.created)}${one.seconds ? ` · ${Math.round(one.seconds)} s` : ""}`),
    one.review ? h("em", { class: `verdict ${one.review.verdict}` }, `${VERDICT[one.review.verdict]} by ${one.review.by}${one.review.note ? `: ${one.review.note}` : ""}`) : h("em", { class: "verdict" }, "not reviewed"),
    usable(one) ? [" · ", makeGold(known.id, one.author, changed)] : null)));
}

function commentList(known) {
  return known.comments.length ? h("ul", { class: "history" }, known.comments.map((one) => h("li", {}, h("b", {}, one.author), h("span", {}, one.text)))) : null;
}
