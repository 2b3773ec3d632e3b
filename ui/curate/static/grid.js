// The grid: filters in the address, pages by key, the detector's map on hover, and one image enlarged.
import { get } from "../api.js";
import { address, h, importButton, nothing, select, tell } from "../dom.js";
import { count, number, percent } from "../format.js";
import { drawHeat, thumbnail } from "../images.js";
import { openImage } from "./large_view.js";
import { Selection } from "./selection.js";
import { similar, similarity } from "./similar.js";
import { viewsMenu } from "./views.js";
import { workBar, workButton } from "./work.js";

const FILTERS = ["search", "lasso", "category", "generator", "detector", "low", "high", "class", "state", "split", "source", "round", "tag", "sort"];
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
  root.append(bar(choices, filters, go, total, hidden));
  let alike = {};
  if (asked.like) {
    alike = await similar(root, { id: asked.like, go, again, grid, tile: (card) => tile(card, shown) });
    root.append(selection.bar);
    grid.querySelectorAll(".tile").forEach((made) => selection.add(made));
  } else {
    root.append(grid, more, selection.bar);
    await turnPage(shown, null);
    get(`/api/curate/count${address(filters)}`).then((found) => {
      matching = found.more ? null : found.count;
      total.textContent = countText(found);
      hidden.replaceChildren(...leftOut(found.hidden, filters));
      selection.show();
    }, () => {});
    get(`/api/curate/facets${address(filters)}`).then((facets) => showFacets(root, facets), () => {});
  }
  if (asked.image && current()) openImage(asked.image, { go, detector: filters.detector });
  return { ...alike, leave: () => {
    alike.leave?.();
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
      // Null: too many to count.
      if (option.value && counts[option.value] !== null) option.textContent += ` · ${count(counts[option.value] ?? 0)}`;
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
  if (filters.lasso) fields.push(h("input", { type: "hidden", name: "lasso", value: filters.lasso }));
  const form = h("form", { class: "filters card", id: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, fields);
  // On a phone the images come first: the filters open at a press.
  const unfold = h("button", { type: "button", class: "button quiet unfold", "aria-expanded": "false", "aria-controls": "filters", onclick: () => {
    unfold.setAttribute("aria-expanded", String(form.classList.toggle("open")));
  } }, "Filters");
  const overlay = h("input", { type: "checkbox", checked: always, onchange: () => {
    always = overlay.checked;
    localStorage.setItem("curate.overlay", always ? "always" : "hover");
    document.querySelector(".grid")?.classList.toggle("overlays", always);
    if (always) document.querySelectorAll(".tile").forEach((tile) => tile.heat());
  } });
  const named = { lasso: [[filters.lasso, "inside the lasso"]], state: STATES, class: classes, generator: generators, detector: detectors };
  return h("div", { class: "top" }, form, chips(filters, named, go), choices.images ? workBar(filters, () => go({ view: "images", ...filters })) : null, h("div", { class: "line" }, total, hidden, h("span", { class: "gap" }),
    unfold, viewsMenu(choices, filters),
    h("label", { class: "switch" }, overlay, "Always show the artifact map"),
    h("button", { type: "button", class: "link", onclick: () => go({ ...filters, view: "map" }) }, "Show these on the map")));
}

const CHIPS = { search: "Prompt", lasso: "Map", category: "Category", state: "Status", class: "Class", generator: "Generator", detector: "Predicted by", split: "Split", source: "Source", round: "Round", tag: "Tag" };

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
  const { grid, more, filters, choices, selection } = shown;
  const page = await get(`/api/curate/images${address({ ...filters, after })}`);
  if (!page.cards.length && !after) grid.append(emptyGrid(choices.images, filters));
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

// Nothing imported, nothing predicted and nothing found are three things.
function emptyGrid(images, filters) {
  if (!images) return nothing("This workspace has no images yet.", importButton());
  const { detector, sort, ...kept } = filters, found = Object.keys(kept).length;
  if (detector && !found) return nothing(`None of the ${count(images)} images has a map by this detector yet.`, workButton("diagnose", {}, () => location.reload(), false), h("a", { class: "button quiet", href: "?view=images" }, "Show all images"));
  return nothing(`None of the ${count(images)} images matches ${found === 1 ? "this filter" : "these filters"}. Remove one above.`);
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
  const figures = similarity(card) ?? [
    card.max === null ? "not diagnosed" : number(card.max),
    card.disagreement === undefined ? null : `disagreement ${percent(card.disagreement)}`,
    by && !by.champion ? `by ${by.name}` : null,
  ].filter(Boolean).join(" · ");
  const title = card.prompt || card.category || card.source;
  const toggle = (event) => { event.preventDefault(); selection.pick(made, event.shiftKey); };
  const button = h("button", { type: "button", class: "open", title: card.prompt, onclick: (event) => (event.shiftKey || event.ctrlKey || event.metaKey ? toggle(event) : openImage(card.id, { go, detector: card.detector })),
    onkeyup: (event) => event.key === " " && event.preventDefault() },  // Space selects
    h("span", { class: "picture" }, h("img", { src: thumbnail(card.id), alt: "", loading: "lazy" }), canvas,
      card.labelled ? h("i", { class: "badge", role: "img", "aria-label": "labelled", title: "labelled" }, "✓") : null),
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
