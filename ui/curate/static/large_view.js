// One image large: zoom and pan, the maps of several detectors side by side, labels, facts and history.
import { currentSession, get } from "../api.js";
import { address, h, nothing, query, say, select, tell } from "../dom.js";
import { number, percent, when } from "../format.js";
import { drawHeat, drawLabels, labelOf, pixels } from "../images.js";
import { openCanvas } from "./assign.js";
import { goldMark, makeGold } from "./gold.js";
import { repairPanel } from "./repairs.js";
import { Zoom } from "./zoom.js";

const MOST_PANES = 6, PATIENCE_MS = 5000;
const EDITABLE = "input, select, textarea";
let compared = null;  // ids of the detectors compared, kept from image to image

// `detector` is the one whose map is shown first: the champion if none is named.
export async function openImage(id, { go, detector } = {}) {
  const known = await tell(get(`/api/curate/images/${id}`));
  if (!known) return;
  document.querySelector("dialog.detail")?.remove();
  history.replaceState(null, "", address({ ...query(), image: id }));
  const again = () => openImage(id, { go, detector });
  const step = (by) => tell(neighbour(id, by).then((other) => other && openImage(other, { go, detector })));
  const dialog = h("dialog", { class: "detail card", "aria-label": known.prompt || known.category || "Image", onclose: () => {
    const { image, ...rest } = query();
    history.replaceState(null, "", address(rest));
    dialog.remove();
  } },
    maps(known, detector, step),
    h("div", { class: "right" },
      h("header", {}, h("h2", {}, known.category ?? "No category"), h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
      h("p", { class: "prompt" }, known.prompt || "No prompt."),
      h("div", { class: "line actions" },
        h("button", { type: "button", class: "button", onclick: () => openCanvas(id) }, "Annotate"),
        h("button", { type: "button", class: "button quiet", onclick: () => { dialog.close(); go({ view: "images", like: id }); } }, "More like this"),
        h("button", { type: "button", class: "button quiet", onclick: () => navigator.clipboard?.writeText(location.href).then(() => say("Link copied.")) }, "Copy link")),
      known.gold?.chosen ? goldMark(id, known.gold, again) : null,
      ...known.predictions.filter((one) => one.note).map((one) => h("p", { class: "hint" }, one.note)),
      known.generator_id ? playLink(id) : null,
      known.source === "repaired" ? null : repairPanel(known),
      factList(known), labelList(known, again), commentList(known)));
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.closest(EDITABLE) || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    step(by);
  });
  dialog.showModal();
  dialog.scrollTop = 0;  // focus goes to a control below the image
}

// For whom may treat: the image's sampling on the Treat desk.
function playLink(id) {
  const place = h("p", { class: "hint" });
  currentSession().then(({ areas }) => {
    if (areas.some(({ path }) => path === "/treat")) place.append(h("a", { href: `/treat?play=${encodeURIComponent(id)}` }, "Play its sampling step by step"));
  });
  return place;
}

// The image before or after in the view behind; more are loaded at its end.
async function neighbour(id, by) {
  const shown = () => [...document.querySelectorAll("#view [data-id]")].map((tile) => tile.dataset.id);
  const at = shown().indexOf(id);
  if (at < 0) return null;
  const before = shown().length;
  if (at + by >= before) {
    document.querySelector("#view .more button:not([disabled])")?.click();
    const until = Date.now() + PATIENCE_MS;
    while (document.querySelector("#view .more button") && shown().length === before && Date.now() < until) {
      await new Promise((done) => setTimeout(done, 50));
    }
  }
  const other = shown()[at + by];
  if (!other) say(by < 0 ? "This is the first image." : "This is the last image.");
  return other;
}

// ---- the panes: one per detector, all with the same zoom ----

function maps(known, detector, step) {
  const panes = h("div", { class: "panes" }), zoom = new Zoom(panes);
  const authors = [...new Set(known.labels.map((one) => one.author))];
  const state = { map: true, label: authors[0] ?? null };
  const draw = () => {
    const chosen = known.detectors.filter((one) => picked(known, detector).has(one.id));
    panes.dataset.count = Math.max(1, chosen.length);
    panes.replaceChildren(...(chosen.length ? chosen : [null]).map((one) => pane(known, one, state)));
    zoom.apply();
  };
  const toggles = [toggle("Artifact map", true, (on) => { state.map = on; draw(); })];
  if (authors.length) {
    toggles.push(toggle("Label", true, (on) => { state.label = on ? author() : null; draw(); }));
    if (authors.length > 1) toggles.push(select("author", "of", authors.map((name) => [name, name]), authors[0], () => { state.label = author(); draw(); }));
  }
  const author = () => toggles.at(-1).querySelector("select")?.value ?? authors[0];
  draw();
  return h("div", { class: "left" }, panes,
    h("div", { class: "line" },
      h("button", { type: "button", class: "button quiet", "aria-keyshortcuts": "ArrowLeft", title: "Previous image (←)", "aria-label": "Previous image", onclick: () => step(-1) }, "←"),
      h("button", { type: "button", class: "button quiet", "aria-keyshortcuts": "ArrowRight", title: "Next image (→)", "aria-label": "Next image", onclick: () => step(1) }, "→"),
      zoom.buttons(), h("span", { class: "gap" }), toggles),
    known.detectors.length > 1 ? picker(known, detector, draw) : null);
}

// The detectors whose maps are shown: those compared before as far as they are known here, or the one asked for.
function picked(known, detector) {
  const offered = new Set(known.detectors.map((one) => one.id));
  const kept = [...compared ?? []].filter((id) => offered.has(id));
  if (kept.length || compared?.size === 0) return new Set(kept);
  const first = known.detectors.find((one) => one.id === detector) ?? known.detectors.find((one) => one.champion) ?? known.detectors[0];
  return new Set(first ? [first.id] : []);
}

function picker(known, detector, draw) {
  const boxes = known.detectors.map((one) => {
    const box = h("input", { type: "checkbox", value: one.id, checked: picked(known, detector).has(one.id), onchange: () => {
      const chosen = boxes.map((label) => label.firstChild).filter((other) => other.checked);
      if (chosen.length > MOST_PANES) {
        box.checked = false;
        say(`Up to ${MOST_PANES} detectors fit side by side.`, true);
        return;
      }
      compared = new Set(chosen.map((other) => other.value));
      draw();
    } });
    return h("label", {}, box, one.champion ? `${one.name} (champion)` : one.name, one.looked ? null : h("span", { class: "soft" }, " · has not looked"));
  });
  return h("fieldset", { class: "people detectors" }, h("legend", {}, "Detectors side by side"), boxes);
}

function pane(known, detector, state) {
  const heat = h("canvas", { class: "heat drawn" }), drawing = h("canvas", { class: "labels" });
  const inner = h("div", { class: "zoomed" }, h("img", { src: pixels(known.id), alt: known.prompt || "image", draggable: false }), heat, drawing);
  if (detector?.looked && state.map) drawHeat(heat, known.id, detector.id);
  if (state.label) drawLabels(drawing, labelOf(known.id, state.label));
  const unseen = detector ? !detector.looked : true;
  const verdict = unseen ? "has not looked at this image" : detector.max < detector.threshold ? `nothing suspected (max ${number(detector.max)})` : `max ${number(detector.max)}`;
  return h("figure", { class: `pane${unseen ? " unseen" : ""}`, "data-detector": detector?.id ?? null },
    h("figcaption", {}, h("b", {}, detector ? detector.name : known.detectors.length ? "No detector chosen" : "No detector yet"), detector ? h("span", {}, verdict) : null),
    h("div", { class: "stage" }, inner));
}

function toggle(text, on, change) {
  const box = h("input", { type: "checkbox", checked: on, onchange: () => change(box.checked) });
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
