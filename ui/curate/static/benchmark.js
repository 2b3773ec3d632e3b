// The benchmark builder: sample by strata, collect labels, resolve disagreements, freeze.
import { get, post } from "../api.js";
import { h, importButton, input, nothing, panel, tell } from "../dom.js";
import { count, percent, when } from "../format.js";
import { drawLabels, labelOf, mergedOf, pixels } from "../images.js";
import { openCanvas, peoplePicker, selectedPeople } from "./assign.js";

const SHOWN = 60;

export async function benchmark(root, { choices, asked, go }) {
  const { benchmarks } = await get("/api/curate/benchmarks");
  const draft = benchmarks.find((one) => one.state === "draft");
  const chosen = benchmarks.find((one) => one.id === asked.benchmark) ?? draft ?? benchmarks[0];
  root.append(h("div", { class: "columns wide" },
    h("aside", {}, panel("Benchmarks", benchmarks.length ? h("div", { class: "versions" }, benchmarks.map((one) => h("a", { href: `?view=benchmark&benchmark=${one.id}`, "aria-current": one === chosen ? "true" : null },
      h("b", {}, `Version ${one.version}`), h("em", { class: one.state }, one.state), h("span", {}, one.name || `${count(one.images)} images`)))) : nothing("No benchmark yet. Promotion requires a frozen one.", ...(choices.images ? [] : [importButton()]))),
      draft || !choices.images ? null : newForm(choices, go)),
    h("div", {}, chosen ? await version(chosen.id, go, choices.may_judge) : panel("Why a benchmark", h("p", {}, "Decisions are made on validation; a benchmark then measures how good a detector really is. It is sampled evenly over categories and confidence bands, so that it includes what detectors miss. Several annotators label each image, disagreements are resolved, and the set is frozen. It is never used for training.")))));
}

function newForm(choices, go) {
  const form = h("form", { class: "stackform" }, input("name", "Name", "text", "", { maxlength: "100", placeholder: "autumn, all categories" }),
    input("per_stratum", "Images per category and confidence band", "number", 5, { min: "1", max: "1000" }), input("opinions", "Annotators per image", "number", 3, { min: "1", max: "9" }),
    input("real", "Real photos (maximum)", "number", 20, { min: "0", max: "10000" }), input("seed", "Seed", "number", 0, { min: "0" }),
    peoplePicker(choices.annotators), h("button", { class: "button" }, "Create draft"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = new FormData(form);
    const numbers = Object.fromEntries(["per_stratum", "opinions", "real", "seed"].map((name) => [name, Number(values.get(name))]));
    const made = await tell(post("/api/curate/benchmarks", { name: values.get("name"), ...numbers, people: selectedPeople(form) }), (one) => `Draft version ${one.version} created: ${count(one.images)} image${one.images === 1 ? "" : "s"} sent to annotators.`);
    if (made) go({ view: "benchmark", benchmark: made.id });
  });
  return panel("New version", form);
}

async function version(id, go, mayJudge) {
  const benchmark = await get(`/api/curate/benchmarks/${id}`);
  const act = (what, body, done) => async () => { if (await tell(post(`/api/curate/benchmarks/${id}/${what}`, body?.() ?? {}), done)) go({ view: "benchmark", benchmark: what === "discard" ? "" : id }); };
  const open = benchmark.images - benchmark.settled;
  const limit = h("input", { type: "number", min: "0", max: "1", step: "0.05", value: "0.3", "aria-label": "Maximum disagreement" });
  const head = panel(`Version ${benchmark.version}${benchmark.name ? `: ${benchmark.name}` : ""}`,
    h("div", { class: "figures" }, figure(count(benchmark.images), "images"), figure(count(benchmark.strata), "strata"), figure(count(benchmark.real), "real photos"), figure(`${count(benchmark.settled)} / ${count(benchmark.images)}`, "resolved")),
    benchmark.missing.length ? h("p", { class: "note" }, `No image of ${benchmark.missing.length === 1 ? "the category" : `${benchmark.missing.length} categories:`} ${benchmark.missing.slice(0, 12).join(", ")}${benchmark.missing.length > 12 ? ", …" : ""}. What a detector misses there stays unmeasured; predict more images of ${benchmark.missing.length === 1 ? "it" : "them"}, or sample more per stratum.`) : null,
    h("progress", { max: String(benchmark.images || 1), value: String(benchmark.settled), "aria-label": "Resolved" }),
    benchmark.state === "frozen" ? h("p", { class: "hint" }, `Frozen by ${benchmark.frozen_by} on ${when(benchmark.frozen)}. Digest: ${benchmark.digest.slice(0, 16)}….`)
      : h("div", { class: "line" },
        mayJudge && h("button", { type: "button", class: "button quiet", id: "settle-agreed", onclick: act("settle-agreed", () => ({ disagreement: Number(limit.value) }), (done) => `${count(done.settled)} image${done.settled === 1 ? "" : "s"} resolved by majority.`) }, "Resolve where annotators agree"),
        h("label", { class: "switch" }, "maximum disagreement", limit),
        h("span", { class: "gap" }),
        h("button", { type: "button", class: "button quiet bad", onclick: () => confirm("Discard this draft? Its images stay reserved.") && act("discard", null, "Draft discarded; its images stay reserved for the next one.")() }, "Discard"),
        h("button", { type: "button", class: "button", id: "freeze", disabled: open > 0, title: open ? `${open} image${open === 1 ? " is" : "s are"} unresolved` : "", onclick: act("freeze", null, (done) => `Version ${done.version} frozen.`) }, "Freeze permanently")));
  const items = benchmark.items.slice(0, SHOWN).map((item) => row(item, benchmark, id, go, mayJudge));
  return h("div", { class: "stacked-panels" }, head, panel("Images", h("div", { class: "items" }, items), benchmark.items.length > SHOWN ? h("p", { class: "hint" }, `Showing the ${SHOWN} most urgent of ${count(benchmark.items.length)}.`) : null));
}

const figure = (value, label) => h("div", {}, h("b", {}, value), h("span", {}, label));

function row(item, benchmark, id, go, mayJudge) {
  const canvas = h("canvas", { class: "labels" });
  if (item.given) drawLabels(canvas, item.settled || item.given > 1 ? mergedOf(item.image) : labelOf(item.image, item.authors[0]));
  const settle = (choice, author) => async () => { if (await tell(post(`/api/curate/benchmarks/${id}/settle`, { image: item.image, choice, author: author ?? null }), "Resolved.")) go({ view: "benchmark", benchmark: id }); };
  const state = item.settled ? (item.how || "resolved") : item.given >= item.opinions ? "needs a decision" : `${item.given} of ${item.opinions} labels`;
  return h("article", { class: item.settled ? "item settled" : "item", "data-image": item.image },
    h("div", { class: "stage" }, h("img", { src: pixels(item.image), alt: "", loading: "lazy" }), canvas),
    h("div", {}, h("b", {}, item.stratum), h("span", {}, item.settled && item.clean ? `${state}; clean` : state),
      item.disagreement === null ? null : h("span", { class: item.disagreement > 0.5 ? "warn" : "" }, `disagreement ${percent(item.disagreement)}`),
      mayJudge && benchmark.state === "draft" && !item.settled && item.given ? h("div", { class: "line choices" },
        h("button", { type: "button", class: "link", onclick: settle("majority") }, item.given > 1 ? "Use the majority" : "Use this label"),
        item.authors.length > 1 ? item.authors.map((name) => h("button", { type: "button", class: "link", onpointerenter: () => drawLabels(canvas, labelOf(item.image, name)), onclick: settle("author", name) }, `Use ${name}'s label`)) : null,
        h("button", { type: "button", class: "link", onclick: settle("clean") }, "Mark clean"), h("button", { type: "button", class: "link", onclick: () => openCanvas(item.image) }, "Annotate")) : null));
}
