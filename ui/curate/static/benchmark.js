// The benchmark builder: draw by strata, watch opinions come in, settle, freeze.
import { get, post } from "/static/api.js";
import { h, input, nothing, panel, tell } from "/static/dom.js";
import { count, percent, when } from "/static/format.js";
import { drawLabels, labelOf, mergedOf, pixels } from "/static/images.js";
import { openCanvas, peoplePicker, tickedPeople } from "./assign.js";

const SHOWN = 60;

export async function benchmark(root, { choices, asked, go }) {
  const { benchmarks } = await get("/api/curate/benchmarks");
  const draft = benchmarks.find((one) => one.state === "draft");
  const chosen = benchmarks.find((one) => one.id === asked.benchmark) ?? draft ?? benchmarks[0];
  root.append(h("div", { class: "columns wide" },
    h("aside", {}, panel("Benchmarks", benchmarks.length ? h("div", { class: "versions" }, benchmarks.map((one) => h("a", { href: `?view=benchmark&benchmark=${one.id}`, "aria-current": one === chosen ? "true" : null },
      h("b", {}, `Version ${one.version}`), h("em", { class: one.state }, one.state), h("span", {}, one.name || `${count(one.images)} images`)))) : nothing("No benchmark yet. Promotion refuses to run without a frozen one.")),
      draft ? null : newForm(choices, go)),
    h("div", {}, chosen ? await version(chosen.id, go) : panel("Why a benchmark", h("p", {}, "Choices are made on validation; a benchmark says afterwards how good a detector really is. It is drawn evenly over categories and bands of confidence, so that it holds what detectors overlook as well as what they suspect, answered by several people, settled where they disagree, and frozen. Nothing in it is ever trained on.")))));
}

function newForm(choices, go) {
  const form = h("form", { class: "stackform" }, input("name", "Name", "text", "", { maxlength: "100", placeholder: "autumn, all categories" }),
    input("per_stratum", "Images of each category and band", "number", 5, { min: "1", max: "1000" }), input("opinions", "Opinions each", "number", 3, { min: "1", max: "9" }),
    input("real", "Real photos, at most", "number", 20, { min: "0", max: "10000" }), input("seed", "Seed", "number", 0, { min: "0" }),
    peoplePicker(choices.annotators, "Who answers"), h("button", { class: "button" }, "Draw a draft"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = new FormData(form);
    const numbers = Object.fromEntries(["per_stratum", "opinions", "real", "seed"].map((name) => [name, Number(values.get(name))]));
    const made = await tell(post("/api/curate/benchmarks", { name: values.get("name"), ...numbers, people: tickedPeople(form) }), (one) => `Version ${one.version}: ${count(one.images)} image${one.images === 1 ? "" : "s"}, and people are asked.`);
    if (made) go({ view: "benchmark", benchmark: made.id });
  });
  return panel("A new version", form);
}

async function version(id, go) {
  const found = await get(`/api/curate/benchmarks/${id}`);
  const act = (what, body, done) => async () => { if (await tell(post(`/api/curate/benchmarks/${id}/${what}`, body?.() ?? {}), done)) go({ view: "benchmark", benchmark: what === "discard" ? "" : id }); };
  const open = found.images - found.settled;
  const limit = h("input", { type: "number", min: "0", max: "1", step: "0.05", value: "0.3", "aria-label": "Disagreement at most" });
  const head = panel(`Version ${found.version}${found.name ? `: ${found.name}` : ""}`,
    h("div", { class: "figures" }, figure(count(found.images), "images"), figure(count(found.strata), "strata"), figure(count(found.real), "real photos"), figure(`${count(found.settled)} / ${count(found.images)}`, "settled")),
    h("progress", { max: String(found.images || 1), value: String(found.settled), "aria-label": "Settled" }),
    found.state === "frozen" ? h("p", { class: "hint" }, `Frozen by ${found.frozen_by} on ${when(found.frozen)}. Its digest is ${found.digest.slice(0, 16)}…; it never changes.`)
      : h("div", { class: "line" },
        h("button", { type: "button", class: "button quiet", id: "settle-agreed", onclick: act("settle-agreed", () => ({ disagreement: Number(limit.value) }), (done) => `${count(done.settled)} images are settled by majority.`) }, "Settle where people agree"),
        h("label", { class: "switch" }, "disagreement at most", limit),
        h("span", { class: "gap" }),
        h("button", { type: "button", class: "button quiet bad", onclick: () => confirm("Discard this draft? Its images stay reserved.") && act("discard", null, "The draft is gone; its images stay reserved for the next one.")() }, "Discard"),
        h("button", { type: "button", class: "button", id: "freeze", disabled: open > 0, title: open ? `${open} images are not settled yet` : "", onclick: act("freeze", null, (done) => `Version ${done.version} is frozen.`) }, "Freeze for good")));
  const items = found.items.slice(0, SHOWN).map((item) => row(item, found, id, go));
  return h("div", { class: "stacked-panels" }, head, panel("Images", h("div", { class: "items" }, items), found.items.length > SHOWN ? h("p", { class: "hint" }, `The ${SHOWN} most urgent of ${count(found.items.length)} are shown.`) : null));
}

const figure = (value, label) => h("div", {}, h("b", {}, value), h("span", {}, label));

function row(item, found, id, go) {
  const canvas = h("canvas", { class: "labels" });
  if (item.given) drawLabels(canvas, item.settled || item.given > 1 ? mergedOf(item.image) : labelOf(item.image, item.authors[0]));
  const settle = (choice, author) => async () => { if (await tell(post(`/api/curate/benchmarks/${id}/settle`, { image: item.image, choice, author: author ?? null }), "Settled.")) go({ view: "benchmark", benchmark: id }); };
  const state = item.settled ? (item.how || "settled") : item.given >= item.opinions ? "to be decided" : `${item.given} of ${item.opinions} opinions`;
  return h("article", { class: item.settled ? "item settled" : "item", "data-image": item.image },
    h("div", { class: "stage" }, h("img", { src: pixels(item.image), alt: "", loading: "lazy" }), canvas),
    h("div", {}, h("b", {}, item.stratum), h("span", {}, item.settled && item.clean ? `${state}; clean` : state),
      item.disagreement === null ? null : h("span", { class: item.disagreement > 0.5 ? "warn" : "" }, `disagreement ${percent(item.disagreement)}`),
      found.state === "draft" && !item.settled && item.given ? h("div", { class: "line choices" },
        h("button", { type: "button", class: "link", onclick: settle("majority") }, item.given > 1 ? "Take the majority" : "Take it"),
        item.authors.length > 1 ? item.authors.map((name) => h("button", { type: "button", class: "link", onpointerenter: () => drawLabels(canvas, labelOf(item.image, name)), onclick: settle("author", name) }, `Take ${name}'s`)) : null,
        h("button", { type: "button", class: "link", onclick: settle("clean") }, "It is clean"), h("button", { type: "button", class: "link", onclick: () => openCanvas(item.image) }, "Draw it")) : null));
}
