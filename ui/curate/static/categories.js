// Hard categories, with thresholds that show how many images would be sent to annotators; and the balance of labels.
import { get, post } from "../api.js";
import { h, importButton, input, nothing, panel, select, tell } from "../dom.js";
import { count, number, percent } from "../format.js";
import { workButton } from "./work.js";
import { peoplePicker, selectedPeople } from "./assign.js";

const STEPS = 100;
const COLUMNS = [
  ["Category", ""], ["Images", "Images of the category that the detector has predicted"],
  ["Mean confidence", "Mean of the images’ highest confidence"], ["90th percentile", "Nine of ten images stay below this highest confidence"],
  ["At or above threshold", "Share of the images at or above the threshold on the right"],
  ["z", "Robust distance of the mean from the other categories’"], ["p", "Holm-corrected for multiple comparisons"],
  ["Reviewed", "Images with an approved label"], ["Flawed", "Share of the reviewed images that show an artifact"],
  ["Send if confidence ≥", "Images at or above this confidence go to annotators"], ["Images to send", "Those that are neither labelled nor queued"],
];

// Lets the champion predict what it has not, by a job.
function diagnoseButton() {
  return h("button", { type: "button", class: "button quiet", id: "diagnose", onclick: async (event) => {
    event.target.disabled = true;
    await tell(post("/api/curate/categories/diagnose"), "Queued: the champion predicts all images that it has not. Rounds → Jobs and workers shows its progress.");
  } }, "Let the champion predict them");
}

export async function categories(root, { choices, go }) {
  const found = await get("/api/curate/categories");
  if (!found.categories.length) {
    root.append(panel("Hard categories", choices.images
      ? nothing("No image has both a category and a map yet. Find artifacts in the images, and sort them by category.", workButton("diagnose", {}, () => go({ view: "categories" }), false), workButton("categorize", {}, () => go({ view: "categories" })))
      : nothing("This workspace has no images yet.", importButton())));
    return;
  }
  const champion = choices.detectors.find((one) => one.champion);
  const shown = choices.detectors.find((one) => one.id === found.detector) ?? champion;
  const rows = found.categories.map((row) => line(row, () => retotal(), found));
  const total = h("b", { id: "would-go" });
  const send = h("button", { type: "button", class: "button", id: "send" }, "Send to annotators");
  const form = h("form", { class: "send", onsubmit: (event) => event.preventDefault() },
    input("opinions", "Annotators per image", "number", 1, { min: "1", max: "9" }),
    input("priority", "Priority", "number", 0.5, { min: "0", max: "10", step: "0.1" }),
    input("limit", "Maximum images", "number", 1000, { min: "1", max: "20000" }),
    select("round", "For round", [["", "none"], ...choices.open_rounds.map((id) => [id, id])], ""),
    peoplePicker(choices.annotators));
  const retotal = () => {
    const sum = rows.reduce((all, row) => all + row.asked(), 0);
    total.textContent = count(Math.min(sum, Number(form.elements.limit.value) || sum));
    send.disabled = sum === 0;
  };
  form.elements.limit.addEventListener("input", retotal);
  send.addEventListener("click", async () => {
    const chosen = rows.filter((row) => row.asked() > 0);
    const values = new FormData(form);
    const answer = await tell(post("/api/curate/ask", {
      thresholds: Object.fromEntries(chosen.map((row) => [row.category, row.threshold()])),
      opinions: Number(values.get("opinions")), priority: Number(values.get("priority")), limit: Number(values.get("limit")),
      people: selectedPeople(form), detector: found.detector, round: values.get("round") || null,
    }), (sent) => `${count(sent.sent)} image${sent.sent === 1 ? "" : "s"} sent to annotators.`);
    if (answer) go({ view: "categories" });
  });
  root.append(
    panel(`Where ${shown === champion ? "the champion" : shown.name} finds most artifacts`,
      shown === champion ? null : h("div", { class: "line" }, h("p", { class: "hint" }, champion ? `The champion, ${champion.name}, has not predicted images with a category yet. Showing ${shown.name}.` : `There is no champion yet. Showing ${shown.name}.`), champion ? diagnoseButton() : null),
      h("p", { class: "hint" },
      "Hard categories are tested as in the newest round: a bootstrap over the category’s images against the median of the other categories. z: robust distance of its mean from theirs. p: p-values, Holm-corrected for multiple comparisons. If far more than half of the reviewed images are flawed, the detector learns that the category itself is an artifact."),
      chart(found.categories),
      h("div", { class: "scroll" }, h("table", { class: "categories" },
        h("thead", {}, h("tr", {}, COLUMNS.map(([name, title]) => h("th", { title }, name)))),
        h("tbody", {}, rows.map((row) => row.node))))),
    panel(null, h("div", { class: "line ask" }, h("p", {}, total, " images will be sent to annotators."), form, send)));
  retotal();
}

function line(row, changed, { detector, threshold: first }) {
  const hard = row.verdict === "hard";
  const above = h("td", { class: "figure" });
  const would = h("td", { class: "figure would" });
  const threshold = h("output", {});
  const why = row.askable.length ? null : "Every image of this category is already labelled or queued.";
  const slider = h("input", { type: "range", title: why, min: "0", max: String(STEPS), value: String(Math.round(first * STEPS)), "aria-label": `Send ${row.category} if confidence is at least`, disabled: !row.askable.length });
  const on = h("input", { type: "checkbox", title: why, checked: hard, "aria-label": `Send ${row.category}`, disabled: !row.askable.length });
  const asked = () => (on.checked ? row.askable[slider.value] ?? 0 : 0);
  const redraw = () => {
    threshold.textContent = (slider.value / STEPS).toFixed(2);
    above.textContent = percent(row.above[slider.value]);
    would.textContent = on.checked ? count(asked()) : "–";
    changed();
  };
  const node = h("tr", { "data-category": row.category },
    h("td", {}, h("a", { href: `?view=images&category=${encodeURIComponent(row.category)}&sort=max&detector=${encodeURIComponent(detector)}` }, row.category), hard ? h("em", { class: "hard" }, "hard") : null),
    h("td", { class: "figure" }, count(row.images)), h("td", { class: "figure" }, number(row.mean)), h("td", { class: "figure" }, number(row.p90)),
    above, h("td", { class: "figure" }, number(row.z, 1)), h("td", { class: "figure" }, row.p === null ? "–" : row.p < 0.001 ? "< .001" : number(row.p, 3)),
    h("td", { class: "figure" }, count(row.reviewed)), h("td", { class: row.positive > 0.8 ? "figure warn" : "figure" }, percent(row.positive)),
    h("td", {}, h("span", { class: "threshold" }, on, slider, threshold)), would);
  slider.addEventListener("input", () => { on.checked = true; redraw(); });
  on.addEventListener("change", redraw);
  queueMicrotask(redraw);
  return { node, asked, category: row.category, threshold: () => slider.value / STEPS };
}

// One bar for each category: mean and 90th percentile on a common axis from 0 to 1.
function chart(rows) {
  const shown = rows.slice(0, 24);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => h("div", { class: "tick", style: { "--at": String(at) } }, h("span", {}, at.toFixed(2))));
  const isHard = (row) => row.verdict === "hard";
  return h("figure", { class: "chart" },
    h("figcaption", { class: "legend" }, "Highest confidence of the images by category: ", h("i", { class: "mean" }), "mean ", h("i", { class: "p90" }), "90th percentile ", h("i", { class: "hard" }), "hard category",
      rows.length > shown.length ? ` (the ${shown.length} highest of ${rows.length})` : ""),
    h("div", { class: "scroll" }, h("div", { class: "bars", role: "img", "aria-label": `Mean and 90th percentile of confidence: ${shown.map((row) => `${row.category} ${number(row.mean)}, ${number(row.p90)}`).join("; ")}` }, ticks,
      shown.map((row) => h("div", { class: isHard(row) ? "bar hard" : "bar", title: `${row.category}: mean ${number(row.mean)}, 90th percentile ${number(row.p90)}` },
        h("span", { class: "column" }, h("i", { class: "p90", style: { "--value": String(row.p90) } }), h("i", { class: "mean", style: { "--value": String(row.mean) } })),
        h("span", { class: "value" }, `${number(row.mean)} · ${number(row.p90)}`), h("span", { class: "name" }, row.category))))));
}

// ---- balance -----------------------------------------------------------------------------------

export async function balance(root, { choices, asked, go }) {
  const policy = asked.policy === "approved" ? "approved" : "unreturned";
  const injected = asked.injected === "true";
  const found = await get(`/api/curate/balance?policy=${policy}&injected=${injected}`);
  const most = Math.max(1, ...found.categories.flatMap((row) => [row.now.positive + row.now.negative, row.next.positive + row.next.negative]));
  const rows = found.categories.map((row) => h("tr", {}, h("td", {}, row.category), h("td", {}, stacked(row.now, most)), h("td", {}, stacked(row.next, most)),
    h("td", { class: row.wanted ? "figure warn" : "figure" }, row.wanted ? count(row.wanted) : "–")));
  root.append(panel("Positives and negatives by category",
    h("p", { class: "hint" }, "Flawed images teach the detector where artifacts are; clean ones, that the category itself is not one. “Wanted” is the number of clean images that would bring the flawed share down to one half."),
    select("policy", "Labels to publish", [["unreturned", "all except returned"], ["approved", "approved only"]], policy, (event) => go({ view: "balance", policy: event.target.value, injected: injected || "" })),
    select("injected", "Injected artifacts", [["false", "left out"], ["true", "included"]], String(injected), (event) => go({ view: "balance", policy, injected: event.target.value === "true" || "" })),
    rows.length ? h("div", { class: "scroll" }, h("table", { class: "balance" },
      h("thead", {}, h("tr", {}, ["Category", found.snapshot ? `Now (snapshot ${found.snapshot.slice(0, 8)})` : "Now (no snapshot yet)", "After the next snapshot", "Wanted"].map((name) => h("th", {}, name)))),
      h("tbody", {}, rows))) : nothing("No labels yet."),
    h("p", { class: "legend" }, h("i", { class: "flawed" }), "flawed ", h("i", { class: "clean" }), "clean")));
  root.append(panel("Add real photos as negatives", choices.folders.length ? photoForm(choices) : nothing("No folder is registered. An admin can register one on the Admin desk (kind “folder”).")));
}

function stacked({ positive, negative }, most) {
  return h("span", { class: "stacked", title: `${positive} flawed, ${negative} clean` },
    h("i", { class: "flawed", style: { "--value": String(positive / most) } }), h("i", { class: "clean", style: { "--value": String(negative / most) } }),
    h("span", {}, positive + negative ? `${count(positive)} : ${count(negative)}` : "–"));
}

function photoForm(choices) {
  const form = h("form", { class: "send" }, select("folder", "Folder", choices.folders.map((one) => [one.id, one.name]), ""),
    input("licence", "Licence", "text", "", { maxlength: "200", placeholder: "CC0" }), h("button", { class: "button" }, "Import as real photos"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = new FormData(form);
    tell(post("/api/curate/balance/real", { folder: values.get("folder"), licence: values.get("licence") }), "Import queued. Rounds → Jobs and workers shows its progress.");
  });
  return form;
}
