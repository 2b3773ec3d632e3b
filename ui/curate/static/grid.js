// The grid: filters in the address, pages by key, the detector's map on hover, and one image enlarged.
import { get, post } from "/static/api.js";
import { address, h, importButton, nothing, query, say, select, tell } from "/static/dom.js";
import { count, number, percent, when } from "/static/format.js";
import { drawHeat, drawLabels, labelOf, pixels, thumbnail } from "/static/images.js";
import { openCanvas } from "./assign.js";
import { goldMark, makeGold } from "./gold.js";
import { repairPanel } from "./repairs.js";
import { workBar, workButton } from "./work.js";

const FILTERS = ["category", "generator", "detector", "low", "high", "class", "state", "split", "source", "round", "sort"];
const SORTS = [["uncertainty", "Most uncertain"], ["max", "Highest confidence"], ["disagreement", "Most disagreement"], ["newest", "Newest"], ["oldest", "Oldest"]];
const STATES = [["unlabelled", "not labelled"], ["waiting", "waiting for annotators"], ["unreviewed", "to review"], ["approved", "approved"], ["returned", "returned"], ["refused", "refused"]];
const any = (values) => [["", "any"], ...values.map((value) => (Array.isArray(value) ? value : [value, value]))];
let always = localStorage.getItem("curate.overlay") === "always";

export async function images(root, { choices, asked, go, current }) {
  const filters = Object.fromEntries(FILTERS.filter((name) => asked[name]).map((name) => [name, asked[name]]));
  const standing = standIn(choices.detectors, filters.detector);
  const chosen = Object.keys(filters).length > 0;
  if (standing) filters.detector = standing.other.id;
  const grid = h("div", { class: "grid", role: "list" });
  const total = h("span", { class: "total", role: "status" });
  const more = h("div", { class: "more" });
  root.append(bar(choices, filters, chosen, go, total), standing && !asked.like ? standInNote(standing) : "", asked.like ? similarHead(asked.like, go) : "", grid, more);
  if (asked.like) {
    await like(grid, total, asked.like, go);
  } else {
    await turnPage(grid, more, filters, null, go, choices.images);
    get(`/api/curate/count${address(filters)}`).then(
      (matches) => { total.textContent = `${count(matches.count)}${matches.more ? " or more" : ""} image${matches.count === 1 ? "" : "s"}`; },
      () => {},
    );
  }
  if (asked.image && current()) open(asked.image, go);
  return { leave: () => document.querySelector("dialog.detail")?.remove() };
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
  const form = h("form", { class: "filters card", onsubmit: (event) => event.preventDefault() }, fields);
  const overlay = h("input", { type: "checkbox", checked: always, onchange: () => {
    always = overlay.checked;
    localStorage.setItem("curate.overlay", always ? "always" : "hover");
    document.querySelector(".grid")?.classList.toggle("overlays", always);
    if (always) document.querySelectorAll(".tile").forEach((tile) => tile.heat());
  } });
  const reset = chosen ? h("button", { type: "button", class: "link", onclick: () => go({ view: "images" }) }, "Clear filters") : null;
  return h("div", { class: "top" }, form, choices.images ? workBar(filters, () => go({ view: "images", ...filters })) : null, h("div", { class: "line" }, total, reset, h("span", { class: "gap" }),
    h("label", { class: "switch" }, overlay, "Always show the artifact map"),
    h("button", { type: "button", class: "button quiet", onclick: () => tell(post("/api/curate/features"), "Similarity index queued. Rounds → Jobs and workers shows its progress.") }, "Build similarity index")));
}

function range(name, label, value, change) {
  const output = h("output", {}, Number(value).toFixed(2));
  const slider = h("input", { type: "range", name, min: "0", max: "1", step: "0.05", value: String(value), "aria-label": label,
    oninput: () => { output.textContent = Number(slider.value).toFixed(2); }, onchange: change });
  return h("label", { class: "field range" }, h("span", {}, label, " ", output), slider);
}

// Nothing imported, nothing predicted and nothing found are three things.
function emptyGrid(images, filters) {
  if (!images) return nothing("This workspace has no images yet.", importButton());
  const { detector, sort, ...kept } = filters;
  if (Object.keys(kept).length) return nothing("No images match these filters.");
  return nothing(`None of the ${count(images)} images has a map by this detector yet.`, workButton("diagnose", {}, () => location.reload(), false), h("a", { class: "button quiet", href: "?sort=newest" }, "Show all images"));
}

async function turnPage(grid, more, filters, after, go, total) {
  const page = await get(`/api/curate/images${address({ ...filters, after })}`);
  if (!page.cards.length && !after) grid.append(emptyGrid(total, filters));
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
  const figures = [
    card.max === null ? "not diagnosed" : number(card.max),
    card.disagreement === undefined ? null : `disagreement ${percent(card.disagreement)}`,
    card.similarity === undefined ? null : `similarity ${percent(card.similarity)}`,
  ].filter(Boolean).join(" · ");
  const made = h("button", { type: "button", class: "tile", role: "listitem", title: card.prompt, "data-id": card.id, onclick: () => open(card.id, go, detector) },
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

function similarHead(id, go) {
  return h("div", { class: "line like" }, h("img", { src: thumbnail(id), alt: "" }), h("b", {}, "More like this, by the champion’s features"),
    h("button", { type: "button", class: "link", onclick: () => go({ view: "images" }) }, "Back to all images"));
}

async function like(grid, total, id, go) {
  const similar = await tell(get(`/api/curate/similar/${id}`));
  if (!similar) {
    grid.append(nothing("This image is not in the similarity index yet. Press “Build similarity index”, then try again."));
    return;
  }
  grid.append(...similar.cards.map((card) => tile(card, undefined, go)));
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
  drawHeat(heat, id, detector);
  const toggles = [layer("Artifact map", heat, true)];
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
    ["size", `${known.height} × ${known.width}`], ["source", `${known.source}, ${known.split}`], ["generator", known.generator_id],
    ["seed", known.seed], ["licence", known.licence], ["round", known.round_id], ["origin", known.origin], ["created", when(known.created)],
    ...known.predictions.map((one) => [one.detector, `max ${number(one.max)}, mean ${number(one.mean, 3)}, uncertainty ${number(one.uncertainty)}`]),
    ...known.answers.map((one) => [one.model, `${one.category} (${percent(one.confidence)})`]),
    ["snapshots", known.snapshots.length ? known.snapshots.map((id) => id.slice(0, 8)).join(", ") : null],
    ["assigned to", known.takers.join(", ")],
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
