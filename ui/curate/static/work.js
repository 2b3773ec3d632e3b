// Work on the images of a filter, as jobs: find artifacts, sort by category, send to people, repair, export.
import { get, post } from "../api.js";
import { address, h, input, select, tell } from "../dom.js";
import { count } from "../format.js";
import { openDialog } from "../runs/dialog.js";
import { followJob } from "../runs/job.js";
import { numbers, openExport } from "./export.js";

const images = (number) => `${count(number)} image${number === 1 ? "" : "s"}`;
const link = (text, href) => h("a", { class: "button quiet", href }, text);

// What can be done with these images; `filter` is a selection in the words of the page's address, and `done` is
// called when a job has changed what the page shows.
const WORK = {
  diagnose: {
    title: "Find artifacts", hint: (choices) => `A detector predicts a confidence map for each of the ${images(choices.count)} that it has not seen.`,
    fields: (choices) => [select("detector", "Detector", choices.detectors.map((one) => [one.id, named(one)]), choices.detectors[0]?.id)],
    body: ({ detector }) => ({ detector }),
    result: (found) => `${images(found.images)} predicted by ${found.name}, ${count(found.suspected)} flagged; ${count(found.known)} had a map before.`,
    next: (filter, asked, found) => [link("See the maps", `/curate${address({ ...filter, detector: found.detector ?? null, sort: "max" })}`), workButton("send", filter), workButton("repair", filter)],
  },
  categorize: {
    title: "Sort by category", hint: (choices) => `A VQA model says what each of the ${images(choices.uncategorised)} without a category shows. Categories that they have stay.`,
    fields: (choices) => [select("model", "VQA model", choices.vqa.map((one) => [one.id, one.name]), choices.vqa[0]?.id),
      input("categories", "Categories, with commas between", "text", choices.categories.join(", "), { maxlength: "4000" })],
    body: ({ model, categories }) => ({ model, categories: categories.split(",").map((word) => word.trim()).filter(Boolean) }),
    result: (found) => `${count(found.answered)} of ${images(found.asked)} without a category got one: ${Object.entries(found.categories).map(([name, number]) => `${count(number)} ${name}`).join(", ")}.`,
    next: () => [link("See hard categories", "/curate?view=categories")],
  },
  send: {
    title: "Send to people", hint: (choices) => `Of the ${images(choices.count)}, annotators get those that teach a detector most, by its maps; labelled and queued ones are left out.`,
    fields: (choices) => [input("budget", "Images at most", "number", Math.max(1, Math.min(100, choices.count)), { min: "1", max: "20000", required: true }),
      select("detector", "By the maps of", choices.detectors.filter((one) => one.id !== "clinic").map((one) => [one.id, named(one)]), choices.detectors[0]?.id)],
    body: ({ budget, detector }) => ({ budget: Number(budget), detector: detector || null }),
    lacking: (choices) => (choices.detectors.some((one) => one.id !== "clinic") ? "" : "No detector has looked at these images yet. Find artifacts first."),
    result: (found) => `${found.queued ? images(found.queued) : "No image was"} sent to annotators${found.queued ? `, ${found.validation || "none"} of them of the validation split, on which detectors are measured` : ""}${found.queued || found.unpredicted ? "" : ": all are labelled, queued, in a benchmark, repaired, or made for an evaluation"}${found.unpredicted ? `; ${images(found.unpredicted)} had no map and were left out` : ""}.`,
    next: () => [link("See who waits for labels", "/curate?state=waiting&sort=newest"), link("Annotate", "/annotate")],
  },
  repair: {
    title: "Repair", hint: (choices) => `A generator redraws the artifacts that the detector finds in the ${images(choices.count)}; you accept or reject each result.`,
    fields: (choices) => [select("generator", "Generator that redraws", choices.generators.map((one) => [one.id, one.name]), ""),
      select("detector", "Detector that finds artifacts", choices.detectors.filter((one) => one.id !== "clinic").map((one) => [one.id, named(one)]), choices.detectors[0]?.id)],
    body: ({ generator, detector }) => ({ generator, detector: detector || null }),
    lacking: (choices) => (!choices.generators.length ? "A repair needs a generator. Register one under Treat." : choices.detectors.some((one) => one.id !== "clinic") ? "" : "A repair needs a detector. Find artifacts first, or register one under Train."),
    result: () => "Repaired where a better result was found.",
    next: () => [link("Compare and decide", "/curate?view=repairs")],
  },
};

const named = (one) => `${one.name}${one.champion ? " (champion)" : ""}${one.left === null ? "" : `, ${one.left ? `${count(one.left)} not seen yet` : "has seen all"}`}`;

export const workButton = (kind, filter, done, quiet = true) =>
  h("button", { type: "button", class: `button${quiet ? " quiet" : ""}`, "data-work": kind, onclick: () => tell(openWork(kind, filter, done)) }, WORK[kind].title);

export async function openWork(kind, filter = {}, done = () => {}) {
  const work = WORK[kind];
  document.querySelector("dialog.work")?.close();
  const choices = await get(`/api/curate/work/choices${address(numbers(filter))}`);
  const lacking = choices.count ? work.lacking?.(choices) : "No image matches this filter.";
  const place = h("div", {});
  const form = h("form", { class: "stackform", onsubmit: async (event) => {
    event.preventDefault();
    place.replaceChildren();
    const given = Object.fromEntries(new FormData(form));
    const asked = await tell(post(`/api/curate/work/${kind}`, { images: numbers(filter), ...work.body(given) }));
    if (!asked) return;
    form.hidden = true;
    place.replaceChildren(followJob(asked.job, (job) => {
      if (job.state !== "succeeded") { form.hidden = false; return; }
      place.append(h("p", {}, work.result(job.result)), job.result.note ? h("p", { class: "note" }, job.result.note) : "",
        h("div", { class: "line" }, work.next(filter, given, job.result)));
      changed = true;
    }));
  } },
    lacking ? h("p", { class: "note" }, lacking) : [h("p", { class: "hint" }, work.hint(choices)), work.fields(choices),
      h("p", { class: "hint" }, "You can close this; the job goes on. Rounds → Jobs and workers shows it.")],
    h("div", { class: "line" }, lacking ? null : h("button", { class: "button" }, work.title)));
  let changed = false;
  openDialog(work.title, form, place).addEventListener("close", () => changed && done());
}

// The row of buttons for a filter.
export function workBar(filter, done) {
  return h("div", { class: "line workbar" }, Object.keys(WORK).map((kind) => workButton(kind, filter, done)),
    h("button", { type: "button", class: "button quiet", "data-work": "export", onclick: () => tell(openExport(filter)) }, "Export"));
}

// What to do after an import.
export function nextSteps(filter) {
  return h("div", { class: "next" }, h("h3", {}, "What next?"), h("div", { class: "line" },
    workButton("diagnose", filter, undefined, false), workButton("categorize", filter), link("See the images", `/curate${address({ ...filter, sort: "newest" })}`)));
}
