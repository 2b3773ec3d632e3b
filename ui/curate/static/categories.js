// Hard categories, with thresholds that show how many images would be queued for people; and the balance of labels.
import { get, post } from "/static/api.js";
import { h, input, nothing, panel, select, tell } from "/static/dom.js";
import { count, number, percent } from "/static/format.js";
import { peoplePicker, tickedPeople } from "./assign.js";

const STEPS = 100;

export async function categories(root, { choices, go }) {
  const found = await get("/api/curate/categories");
  if (!found.categories.length) {
    root.append(panel("Hard categories", nothing("No image has both a category and a prediction yet. A round's diagnose and categorize stages make them.")));
    return;
  }
  const champion = choices.detectors.find((one) => one.champion);
  const looked = choices.detectors.find((one) => one.id === found.detector) ?? champion;
  const rows = found.categories.map((row) => line(row, () => retotal(), found.detector));
  const total = h("b", { id: "would-go" });
  const send = h("button", { type: "button", class: "button", id: "send" }, "Send to people");
  const form = h("form", { class: "send", onsubmit: (event) => event.preventDefault() },
    input("opinions", "Opinions each", "number", 1, { min: "1", max: "9" }),
    input("priority", "Priority", "number", 0.5, { min: "0", max: "10", step: "0.1" }),
    input("limit", "At most", "number", 1000, { min: "1", max: "20000" }),
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
      people: tickedPeople(form), detector: found.detector, round: values.get("round") || null,
    }), (sent) => `${count(sent.sent)} image${sent.sent === 1 ? " waits" : "s wait"} for people now.`);
    if (answer) go({ view: "categories" });
  });
  root.append(
    panel(`Where ${looked === champion ? "the champion" : looked.name} suspects most`,
      looked === champion ? null : h("p", { class: "hint" }, `The champion, ${champion?.name ?? "none yet"}, has no predictions for images with a category yet; the next round makes them.`),
      h("p", { class: "hint" },
      "A category is hard by the rule of the newest round: a bootstrap over its images against the median of the other categories. z is the robust distance of its mean from theirs; p-values are Holm-corrected for multiple comparisons. Positives among reviewed far above one half teach the detector that the category itself is an artifact."),
      chart(found.categories),
      h("div", { class: "scroll" }, h("table", { class: "categories" },
        h("thead", {}, h("tr", {}, ["Category", "Images", "Mean", "90 %", "Above", "z", "p", "Reviewed", "Flawed", "Ask above", "Would go"].map((name) => h("th", {}, name)))),
        h("tbody", {}, rows.map((row) => row.node))))),
    panel(null, h("div", { class: "line ask" }, h("p", {}, total, " images would go to people."), form, send)));
  retotal();
}

function line(row, changed, detector) {
  const hard = row.verdict === "hard";
  const above = h("td", { class: "figure" });
  const would = h("td", { class: "figure would" });
  const shown = h("output", {});
  const why = row.askable.length ? null : "Every image of this category is labelled or waits already.";
  const slider = h("input", { type: "range", title: why, min: "0", max: String(STEPS), value: "50", "aria-label": `Ask about ${row.category} above`, disabled: !row.askable.length });
  const on = h("input", { type: "checkbox", title: why, checked: hard, "aria-label": `Ask about ${row.category}`, disabled: !row.askable.length });
  const asked = () => (on.checked ? row.askable[slider.value] ?? 0 : 0);
  const redraw = () => {
    shown.textContent = (slider.value / STEPS).toFixed(2);
    above.textContent = percent(row.above[slider.value]);
    would.textContent = on.checked ? count(asked()) : "–";
    changed();
  };
  const node = h("tr", { "data-category": row.category },
    h("td", {}, h("a", { href: `?view=images&category=${encodeURIComponent(row.category)}&sort=max&detector=${encodeURIComponent(detector)}` }, row.category), hard ? h("em", { class: "hard" }, "hard") : null),
    h("td", { class: "figure" }, count(row.images)), h("td", { class: "figure" }, number(row.mean)), h("td", { class: "figure" }, number(row.p90)),
    above, h("td", { class: "figure" }, number(row.z, 1)), h("td", { class: "figure" }, row.p === null ? "–" : row.p < 0.001 ? "< .001" : number(row.p, 3)),
    h("td", { class: "figure" }, count(row.reviewed)), h("td", { class: row.positive > 0.8 ? "figure warn" : "figure" }, percent(row.positive)),
    h("td", {}, h("span", { class: "threshold" }, on, slider, shown)), would);
  slider.addEventListener("input", () => { on.checked = true; redraw(); });
  on.addEventListener("change", redraw);
  queueMicrotask(redraw);
  return { node, asked, category: row.category, threshold: () => slider.value / STEPS };
}

function chart(rows) {
  return h("div", { class: "bars", role: "img", "aria-label": "Mean and 90th percentile of confidence by category" },
    rows.slice(0, 24).map((row) => h("div", { class: row.p !== null && row.p < 0.05 ? "bar hard" : "bar", title: `${row.category}: mean ${number(row.mean)}, 90 % below ${number(row.p90)}` },
      h("span", { class: "column" }, h("i", { class: "p90", style: { "--value": String(row.p90) } }), h("i", { class: "mean", style: { "--value": String(row.mean) } })),
      h("span", { class: "name" }, row.category))));
}

// ---- balance -----------------------------------------------------------------------------------

export async function balance(root, { choices, asked, go }) {
  const policy = asked.policy === "approved" ? "approved" : "unreturned";
  const found = await get(`/api/curate/balance?policy=${policy}`);
  const most = Math.max(1, ...found.categories.flatMap((row) => [row.now.positive + row.now.negative, row.next.positive + row.next.negative]));
  const rows = found.categories.map((row) => h("tr", {}, h("td", {}, row.category), h("td", {}, stacked(row.now, most)), h("td", {}, stacked(row.next, most)),
    h("td", { class: row.wanted ? "figure warn" : "figure" }, row.wanted ? count(row.wanted) : "–")));
  root.append(panel("Positives and negatives by category",
    h("p", { class: "hint" }, "Flawed images teach where artifacts are, clean ones that the category itself is none. “Wanted” says how many clean images would bring flawed ones down to one half."),
    select("policy", "Publish takes", [["unreturned", "all labels but returned ones"], ["approved", "approved labels only"]], policy, (event) => go({ view: "balance", policy: event.target.value })),
    rows.length ? h("div", { class: "scroll" }, h("table", { class: "balance" },
      h("thead", {}, h("tr", {}, ["Category", found.snapshot ? `Now (snapshot ${found.snapshot.slice(0, 8)})` : "Now (no snapshot yet)", "After the pending snapshot", "Wanted"].map((name) => h("th", {}, name)))),
      h("tbody", {}, rows))) : nothing("Nothing is labelled yet."),
    h("p", { class: "legend" }, h("i", { class: "flawed" }), "flawed ", h("i", { class: "clean" }), "clean")));
  root.append(panel("Add real photos as negatives", choices.folders.length ? photoForm(choices) : nothing("No folder is registered. An admin registers one on the Admin desk (kind “folder”); only registered folders can be read from here.")));
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
    tell(post("/api/curate/balance/real", { folder: values.get("folder"), licence: values.get("licence") }), "A worker imports the folder; the Rounds desk shows how far it is.");
  });
  return form;
}
