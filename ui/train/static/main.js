// The training desk: the champion, candidates, and training runs, which continue when the page is closed.
import { currentSession, get, post } from "../api.js";
import { h, nothing, panel, say, tell } from "../dom.js";
import { figure, percent, when } from "../format.js";
import { drawLabels, mapOf, mergedOf, pixels } from "../images.js";
import { reliability } from "../diagrams.js";
import { glossary, metric } from "../metrics.js";
import { router } from "../router.js";
import { form, labelled } from "../runs/form.js";
import { followJob } from "../runs/job.js";
import { registerButton } from "../runs/register.js";
import { inject } from "./inject.js";
import { curvesPanel, drawChecks, facts, flat, overlaid, pill, renamable, runList, runView, starter } from "../runs/run.js";

const API = "/api/train";
const HIGHER = ["pixel_ap", "iou", "auroc"];
const FIVE = ["mse", "kl", "kl1m", "real_mse", "real_kl1m"];
const GROUPS = [
  { name: "loss", figures: ["loss"] },
  { name: "validation error", figures: ["validation_mse"] },
  { name: "validation KL", figures: ["validation_kl", "validation_kl1m"] },
  { name: "validation rates", figures: ["validation_false_alarm", "validation_miss"] },
  { name: "learning rate", figures: ["lr"] },
];
const OTHER = "other…";
const FIRST = ["start", "training.name", "training.steps", "training.batch", "training.lr", "training.mixture", "publish.injected_limit"];

// ---- overview ----------------------------------------------------------------------------------------------

async function overview(root, { again }) {
  const seen = await get(`${API}/overview`);
  root.append(
    h("div", { class: "line head" }, h("div", {}, h("h1", {}, "Train"), h("p", { class: "lead" }, "Detectors find artifacts per pixel. The champion is the one in use everywhere.")),
      h("span", { class: "gap" }), h("a", { class: "button quiet", href: "?inject=1" }, "Inject artifacts"), h("a", { class: "button", href: "?new=1" }, "New training")),
    seen.worker ? "" : h("p", { class: "note" }, "No worker is running, so training does not start. Start one with “clinic worker”."),
    champion(seen.champion, again),
    panel("Detectors", detectors(seen, again), seen.detectors.length ? h("div", { class: "line" }, registerButton("detector", again)) : null), panel("Training runs", runList(seen.runs, "No training runs yet. Those of a round are under Rounds.")));
}

function champion(one, again) {
  if (!one) return panel("Champion", nothing("No champion yet. Promote a detector, or let a round do it."));
  return h("section", { class: "card champion" },
    h("div", {}, h("span", { class: "name" }, "champion"), h("b", {}, h("a", { href: `?detector=${one.id}` }, one.name)), h("span", {}, one.since ? `champion since ${when(one.since)}` : `created ${when(one.created)}`), limits(one)),
    FIVE.map((name) => h("div", {}, h("span", { class: "name" }, metric(name)), h("b", {}, figure(one.figures[name])), h("span", {}, measured(one.figures[name], range(one.intervals[name]))))),
    RATES.map((name) => h("div", {}, h("span", { class: "name" }, metric(name)), h("b", {}, rate(one.rates[name])), h("span", {}, measured(one.rates[name], `from ${figure(one.operating_point.flagged)}`)))),
    one.previous ? h("div", { class: "act" }, h("button", { type: "button", class: "button quiet", onclick: () => rollBack(one, again) }, "Roll back")) : null);
}

const RATES = ["miss", "false_alarm"];
const rate = (value) => (value === null || value === undefined ? "–" : percent(value));
const measured = (value, text) => (value === null || value === undefined ? "not measured" : text);
const range = (interval) => (interval ? `${figure(interval[0])} – ${figure(interval[1])}` : "on validation");

function detectors({ detectors: rows, more }, again) {
  if (!rows.length) return nothing("No detectors yet. Register one, such as the small one that is shipped, or train the first on labelled images.", registerButton("detector", again, false), h("a", { class: "button quiet", href: "?new=1" }, "New training"));
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, "Detector"), h("th", {}, "Role"), [...FIVE.slice(0, 3), ...RATES].map((name) => h("th", { class: "figure" }, metric(name))), h("th", { class: "figure" }, "Flags from"), h("th", { class: "figure" }, "Created"))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, h("a", { href: `?detector=${row.id}` }, row.name), limits(row)), h("td", {}, pill(row.role)),
      FIVE.slice(0, 3).map((name) => h("td", { class: "figure" }, figure(row.figures[name]))), RATES.map((name) => h("td", { class: "figure" }, rate(row.rates[name]))),
      h("td", { class: "figure", title: row.operating_point.text }, figure(row.operating_point.flagged)), h("td", { class: "figure" }, when(row.created)))))),
    more ? h("p", { class: "hint" }, `${more} older detector${more === 1 ? "" : "s"} not shown; “clinic detectors” lists all.`) : null);
}

// The mark of a detector whose licence forbids something.
const limits = ({ forbids, licence }) => (forbids ? h("span", { class: "state limited", title: licence }, `no ${forbids}`) : null);

async function rollBack(one, again) {
  if (!confirm(`Roll back to the previous champion (${one.previous})?`)) return;
  const made = await tell(post(`${API}/rollback`, { champion: one.id }));
  if (made) { say(`${made.name} is champion again.`); again(); }
}

// ---- a new training ----------------------------------------------------------------------------------------

async function fresh(root, { asked, go }) {
  const described = await get(`${API}/form${asked.preset ? `?preset=${encodeURIComponent(asked.preset)}` : ""}`);
  const contents = panel("Snapshot contents", nothing("Counting…"));
  const preflight = panel("Preflight", nothing("Checking…"));
  let turn = 0, timer = null;
  const start = starter("Start training", begin);
  const made = form(described.fields, { first: FIRST, replace: { start: (field) => starts(field, described.starts), "training.encoder_weights": inStart }, unused: unusedIn(described.starts), changed: () => { clearTimeout(timer); timer = setTimeout(look, 400); } });
  const preset = h("select", { onchange: () => go({ new: 1, preset: preset.value }, { replace: true }) },
    described.recipes.map(({ value, name }) => h("option", { value, selected: value === described.preset }, name)));
  const recipe = described.recipes.find(({ value }) => value === described.preset);

  async function begin() {
    try {
      const { run } = await post(`${API}/start`, { settings: made.read() });
      await go({ run });
    } catch (error) { say(error.message, true); made.mark(error.message); }
  }

  async function look() {
    const mine = ++turn, body = { settings: made.read() };
    const current = (draw) => (answer) => { if (mine === turn) draw(answer); };
    const failed = (error) => {
      if (mine !== turn) return;
      preflight.replaceChildren(h("h2", {}, "Preflight"), h("p", { class: "note bad" }, error.message));
      made.mark(error.message);
      start.refuse("Correct the marked setting first.");
    };
    const checks = [];
    const put = current(({ checks: found }) => { checks.push(...found); drawChecks(preflight, "Preflight", checks); start.allow(checks); });
    post(`${API}/checks`, body).then((found) => { put(found); return post(`${API}/needs`, body); }).then(put).catch(failed);
    post(`${API}/preview`, body).then(current((found) => drawContents(contents, found)))
      .catch(() => { if (mine === turn) contents.replaceChildren(h("h2", {}, "Snapshot contents"), nothing("Counted once the settings are valid.")); });
  }

  root.append(h("p", { class: "crumb" }, h("a", { href: "/train" }, "← Train")), h("h1", {}, "New training"),
    h("p", { class: "lead" }, "Publishes a snapshot, trains a detector on it, and compares this candidate with the champion if there is one. You can close this page; the run continues on the server."),
    h("div", { class: "two wide" }, h("section", { class: "card panel" }, labelled({ kind: "choice", label: "Recipe", help: recipe.help }, preset), made.node),
      h("div", { class: "side" }, contents, preflight, start.node)));
  look();
}

// What training starts from: a choice with a line of help, or the name of weights that an admin registered.
function starts(field, choices) {
  const groups = [...new Set(choices.map(({ group }) => group))];
  const option = ({ value, name, forbids }) => h("option", { value, selected: value === (field.value ?? "") }, forbids ? `${name} (no ${forbids})` : name);
  const known = choices.some(({ value }) => value === (field.value ?? ""));
  const control = h("select", { onchange: show },
    known ? null : h("option", { value: "", selected: true }, "choose…"),
    groups.map((group) => h("optgroup", { label: group }, choices.filter((one) => one.group === group).map(option))),
    h("optgroup", { label: "elsewhere" }, h("option", { value: OTHER }, "other weights…")));
  const path = h("input", { type: "text", class: "mono", placeholder: "a file, a folder, or the id of a detector", autocomplete: "off", "aria-label": "Weights to start from" });
  const help = h("span"), mark = h("span", { class: "state limited" });
  function show() {
    const chosen = choices.find(({ value }) => value === control.value), other = control.value === OTHER;
    path.hidden = !other;
    mark.hidden = !chosen?.forbids;
    mark.textContent = `no ${chosen?.forbids}`;
    help.textContent = other ? "Encoder weights that an admin registered under Admin → Models and endpoints. On the server, “clinic retrain --start PATH” takes any."
      : chosen?.help ?? "There is no champion to continue from: choose what training starts from.";
  }
  show();
  const node = labelled({ kind: "choice", label: "Start from", help: [mark, " ", help] }, h("span", { class: "starts" }, control, path));
  return { node, read: () => (control.value === OTHER ? path.value.trim() : control.value || null) };
}

// The settings that others leave without effect.
const unusedIn = (choices) => ({
  "training.detector": ({ start }) => choices.some((one) => one.value === (start ?? "") && one.group === "registered detectors"),
  "training.encoder_factor": ({ start }) => start === "random",
  "training.encoder_frozen": ({ start }) => start === "random",
  "training.pseudo.threshold": ({ training }) => training.pseudo.form !== "thresholded",
  "training.loss.focal_gamma": ({ training }) => training.loss.focal === 0,
  "training.loss.peak_share": ({ training }) => training.loss.peak === 0,
  ...Object.fromEntries(["shrink_below", "shrink_scale", "shrink_kinds"].map((name) => [`training.augmentation.${name}`, ({ training }) => training.augmentation.shrink === 0])),
  ...Object.fromEntries(["strong_colour", "strong_blur"].map((name) => [`training.augmentation.${name}`, ({ training }) => training.augmentation.strong === 0])),
  "training.augmentation.resave_quality": ({ training }) => training.augmentation.resave === 0,
  "publish.injected_weight": ({ publish }) => publish.injected_limit === 0,
  "evaluate.operating_point.recall": ({ evaluate }) => evaluate.operating_point.rule !== "false_alarm_at",
  "evaluate.operating_point.false_alarm": ({ evaluate }) => evaluate.operating_point.rule !== "recall_at",
});

// A setting that the choice of the start decides.
const inStart = (field) => ({ node: h("span", { hidden: true }), read: () => field.value });

function drawContents(place, { rows, kinds, categories, changes }) {
  const words = { true: "human labels", pseudo: "pseudo-labels", real: "real photos", previous: "earlier training sets", injected: "injected artifacts" };
  const most = Math.max(1, ...categories.map(({ positive, negative }) => positive + negative));
  const change = changes === null ? "There is no champion’s snapshot to compare with."
    : changes.new + changes.gone + changes.relabelled === 0 ? "Identical to the champion's training set."
      : `Compared with the champion's: ${changes.new} new, ${changes.relabelled} relabelled, ${changes.gone} removed, ${changes.same} unchanged.`;
  place.replaceChildren(h("h2", {}, "Snapshot contents"),
    h("div", { class: "kinds" }, h("div", {}, h("b", {}, rows.toLocaleString("en")), "images"), Object.entries(kinds).map(([kind, count]) => h("div", {}, h("b", {}, count.toLocaleString("en")), words[kind]))),
    h("p", { class: "hint" }, change),
    h("div", { class: "balance" }, categories.slice(0, 12).map(({ category, positive, negative }) => {
      const bar = h("span", { class: "bar" }, h("i", { class: "positive" }), h("i", { class: "negative" }));
      bar.children[0].style.width = `${(100 * positive) / most}%`;
      bar.children[1].style.width = `${(100 * negative) / most}%`;
      return h("div", {}, h("span", {}, category), bar, h("span", { class: "figure" }, `${positive} / ${negative}`));
    })), h("p", { class: "hint key" }, h("i", { class: "positive" }), " with artifacts", h("i", { class: "negative" }), " without"));
}

// ---- a run -------------------------------------------------------------------------------------------------

async function run(root, { asked, again }) {
  const session = await currentSession();
  await runView(root, {
    api: API, kind: "retrain", id: asked.run, back: "Train", groups: GROUPS, admin: session.roles.includes("admin"),
    gallery: { title: "Current predictions", draw: drawSamples },
    done: async (place, found) => { await verdict(place, found.result.detector, again); },
  });
}

function drawSamples(place, kept, mapAt) {
  const title = h("h2", {}, "Current predictions");
  if (!kept.samples) return place.replaceChildren(title, nothing("Predictions on a few validation images appear with the first checkpoint."));
  return place.replaceChildren(title, h("p", { class: "hint" }, `Validation images after ${kept.step} steps: image, human label, prediction.`),
    h("div", { class: "triples" }, kept.samples.map(({ image, map, caption }) => triple(image, mapAt(map), caption))));
}

function triple(image, mapUrl, caption) {
  const truth = h("canvas", { class: "heat" });
  drawLabels(truth, mergedOf(image)).then((ok) => truth.classList.toggle("drawn", ok));
  return h("figure", { class: "triple" }, h("span", { class: "frame" }, h("img", { src: pixels(image), alt: caption ?? "", loading: "lazy" })),
    h("span", { class: "frame" }, h("img", { src: pixels(image), alt: "human label", loading: "lazy" }), truth),
    overlaid(pixels(image), mapUrl, "").firstChild, h("figcaption", {}, caption ?? ""));
}

// ---- a detector --------------------------------------------------------------------------------------------

async function detector(root, { asked, again }) {
  root.append(h("p", { class: "crumb" }, h("a", { href: "/train" }, "← Train")));
  await verdict(root, asked.detector, again, true);
}

async function verdict(place, id, again, whole = false) {
  const one = await get(`${API}/detectors/${encodeURIComponent(id)}`);
  const against = one.beside ? one.champion.name : null;
  place.append(
    h("section", { class: "card panel" }, h("div", { class: "line" }, renamable(whole ? "h1" : "h2", one.name, (name) => rename(one, name, again)), pill(one.role), limits(one), h("span", { class: "gap" }), h("span", { class: "hint" }, when(one.created))),
      h("p", { class: "hint", id: "operating-point" }, `${one.name} ${one.operating_point.text}. Misses and false alarms are those at each detector’s own threshold.`),
      compared(one, against, again), unequal(one, against, again), decision(one, again)),
    h("div", { class: "two" }, categories(one, against), calibration(one)), worst(one, "misses", "Ten worst misses"), worst(one, "false_alarms", "Ten worst false alarms"));
  if (!whole) return;
  const { "goes on from": start, ...lineage } = one.lineage;
  const charts = panel("Curves");
  place.append(h("div", { class: "two" }, charts, panel("Lineage", facts({ "started from": start, ...lineage }))), panel("Settings", h("details", {}, h("summary", {}, "As trained"), facts(flat(one.config)))));
  const at = `${API}/detectors/${encodeURIComponent(id)}`;
  curvesPanel(charts, { api: API, at, name: one.name, settings: { training: one.config }, groups: GROUPS }).show(await get(`${at}/curves`));
}

function compared(one, against, again) {
  const splits = [["validation", "validation", ["mse", "kl", "kl1m", "miss", "false_alarm", "pixel_ap"]], ["validation_real", "real photos in validation", ["mse", "kl1m", "false_alarm"]], ["benchmark", "benchmark, reported only", ["mse", "kl", "kl1m", "miss", "false_alarm", "pixel_ap"]], ["benchmark_real", "real photos in the benchmark, reported only", ["mse", "kl1m", "false_alarm"]]];
  const rows = splits.filter(([key]) => one.measured[key]).flatMap(([key, title, names]) => {
    const mine = one.measured[key], theirs = one.beside?.[key];
    const other = theirs && !theirs.comparable ? `; ${against} on another set of ${theirs.images ?? "unknown"} images, so no change is shown` : "";
    return [h("tr", { class: "split" }, h("th", { colspan: "4" }, `${title} · ${mine.images} images${other}`)),
      ...names.map((name) => h("tr", {}, h("td", {}, metric(name)), cell(mine, name), against ? cell(theirs, name) : null, against ? h("td", { class: "figure" }, changed(mine, theirs, name)) : null))];
  });
  if (!rows.length) return nothing("Not measured on labelled images yet.", measure(one, "Measure", again));
  return h("div", { class: "scroll" }, h("table", { class: "compared" }, h("thead", {}, h("tr", {}, h("th", {}, "Metric"), h("th", { class: "figure" }, one.name), against ? h("th", { class: "figure" }, `${against} (champion)`) : null, against ? h("th", { class: "figure" }, "change") : null)), h("tbody", {}, rows)), glossary([...new Set(splits.flatMap(([, , names]) => names))]));
}

// Offers to measure both on the same images where the champion was measured on others.
function unequal(one, against, again) {
  const splits = Object.entries(one.measured).filter(([key]) => one.beside?.[key] && !one.beside[key].comparable);
  if (!against || one.role === "champion" || (!splits.length && one.beside.validation)) return null;
  return h("div", { class: "line" }, measure(one, "Measure both on the same images", again));
}

// Measures a detector, and the champion with it, on the images labelled now; shows the figures once they are there.
function measure(one, text, again) {
  const place = h("div", {}, h("button", { type: "button", class: "button quiet", disabled: one.measuring, onclick: async () => {
    const asked = await tell(post(`${API}/detectors/${encodeURIComponent(one.id)}/measure`));
    if (asked) place.replaceChildren(followJob(asked.job, (ended) => { if (ended.state === "succeeded") again(); }));
  } }, one.measuring ? "Measuring…" : text));
  return place;
}

async function rename(one, name, again) {
  if (await tell(post(`${API}/detectors/${encodeURIComponent(one.id)}/rename`, { name }), "Renamed.")) await again();
}

function cell(found, name) {
  const interval = found?.intervals?.[name];
  return h("td", { class: "figure" }, h("b", {}, figure(found?.figures?.[name])), interval ? h("small", {}, `${figure(interval[0])}–${figure(interval[1])}`) : null);
}

function changed(mine, theirs, name) {
  const now = mine.figures[name], before = theirs?.comparable ? theirs.figures?.[name] : null;
  if (now === null || before === null || before === undefined || before === 0) return "–";
  const share = now / before - 1;
  if (Math.abs(share) < 0.0005) return "same";
  const better = HIGHER.includes(name) ? share > 0 : share < 0;
  return h("span", { class: Math.abs(share) < 0.005 ? "" : better ? "better" : "worse" }, `${share > 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)} %`);
}

function decision(one, again) {
  if (one.role === "champion") return h("p", { class: "hint" }, "This is the champion.");
  if (!one.benchmark_frozen && one.champion) return h("p", { class: "note" }, "No benchmark is frozen yet. To promote this detector, freeze one under Curate → Benchmark.");
  const reason = h("input", { type: "text", maxlength: "1000", placeholder: one.objections.length ? "why it should be promoted anyway" : "why (optional)", "aria-label": "Reason" });
  const button = h("button", { type: "button", class: "button", onclick: promote }, "Make champion");
  const settle = () => { button.disabled = one.objections.length > 0 && !reason.value.trim(); };
  async function promote() {
    button.disabled = true;
    const made = await tell(post(`${API}/promote`, { detector: one.id, reason: reason.value, champion: one.champion?.id ?? null }));
    if (made) { say(`${made.name} is now champion.`); await again(); } else settle();
  }
  reason.addEventListener("input", settle);
  settle();
  return h("div", { class: "decision" }, verdicts(one.verdicts),
    one.objections.length ? h("div", { class: "note bad" }, h("b", {}, "The promotion checks on validation failed. "), one.objections.join("; "), ".") : h("p", { class: "hint good" }, one.champion ? "Promotion checks passed: better on validation, no more misses beyond noise, no worse on real photos." : "There is no champion to compare with. The first one is your decision: look at its figures and its worst images."),
    h("div", { class: "line" }, reason, button));
}

// The gate's figures on validation; a change is better or worse only if its 95 % interval excludes 0.
function verdicts(rows) {
  if (!rows.length) return "";
  const mood = { better: "better", worse: "worse" };
  return h("div", { class: "scroll" }, h("table", { class: "verdicts" },
    h("thead", {}, h("tr", {}, h("th", {}, "Change on validation"), ["champion", "candidate", "95 % interval of the change", "verdict"].map((text) => h("th", { class: "figure" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", { "data-figure": row.figure }, h("td", {}, row.name), h("td", { class: "figure" }, figure(row.before)), h("td", { class: "figure" }, figure(row.after)),
      h("td", { class: "figure" }, row.interval.map((end) => figure(end)).join(" – ")), h("td", { class: `figure ${mood[row.verdict] ?? ""}` }, row.verdict))))));
}

function categories(one, against) {
  const mine = one.measured.validation?.categories ?? {}, theirs = one.beside?.validation?.categories ?? {};
  const pair = (key, name) => h("td", { class: "figure" }, h("b", {}, rate(mine[key][name])), against ? h("small", {}, rate(theirs[key]?.[name])) : null);
  const rows = Object.keys(mine).map((key) => h("tr", {}, h("td", {}, key || "–"), h("td", { class: "figure" }, mine[key].images), pair(key, "false_alarm"), pair(key, "miss")));
  return panel("By category, on validation", rows.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Category"), h("th", { class: "figure" }, "images"), h("th", { class: "figure" }, "false alarms"), h("th", { class: "figure" }, "misses"))), h("tbody", {}, rows)) : nothing("Not measured."),
    rows.length && against ? h("p", { class: "hint" }, `Small figures: ${against}.`) : null);
}

function calibration(one) {
  return panel("Calibration (reliability diagram)", one.calibration ? reliability(one.calibration.before) : nothing("Not measured. Training runs started here measure it if validation has flawed and clean labels; for other detectors, run “clinic detectors --calibrate ID”."));
}

function worst(one, key, title) {
  const rows = one.worst?.[key] ?? [];
  if (!rows.length) return "";
  return panel(title, h("div", { class: "triples" }, rows.map(({ image, category, score }) => triple(image, mapOf(image, one.id), `${category ?? ""} ${figure(score)}`))));
}

// ---- which view --------------------------------------------------------------------------------------------

router({
  home: "/train",
  title: "Train",
  views: { overview, run, detector, inject, new: fresh },
  nameOf: (asked) => ["run", "detector", "inject", "new"].find((name) => asked[name]),
});
