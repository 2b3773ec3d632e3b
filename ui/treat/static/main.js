// The treatment desk: start a treatment, follow it and its guard, compare before and after, download the LoRA.
import { currentSession, get, post } from "../api.js";
import { h, nothing, panel, say, tell } from "../dom.js";
import { figure, when } from "../format.js";
import { drawHeatAt, mapOf, pixels } from "../images.js";
import { glossary, metric } from "../metrics.js";
import { router } from "../router.js";
import { form, grouped, labelled } from "../runs/form.js";
import { registerButton } from "../runs/register.js";
import { play } from "./play.js";
import { instance, learn } from "./instance.js";
import { curvesPanel, drawChecks, facts, flat, renamable, runList, runView, starter } from "../runs/run.js";

const API = "/api/treat";
const FIRST = ["generator", "detector", "name", "prompts", "judge", "tuning.rewards", "tuning.updates", "tuning.batch", "tuning.lora"];
// The settings that others leave without effect.
const UNUSED = {
  "tuning.pixel.pixels": ({ tuning }) => tuning.pixel.weight === 0,
  "tuning.pixel.above": ({ tuning }) => tuning.pixel.weight === 0 || tuning.pixel.pixels !== "above",
  ...Object.fromEntries(["lowest", "highest", "step", "discount"].map((name) => [`tuning.direct.${name}`, ({ tuning }) => tuning.truncation !== "direct"])),
  "tuning.grad_steps": ({ tuning }) => tuning.truncation === "direct",
  "tuning.offline_distilled": ({ tuning }) => tuning.offline === null || tuning.offline.targets === "own",
  "tuning.offline.times": ({ tuning }) => tuning.offline?.targets === "own",
  "tuning.paired": ({ tuning }) => tuning.offline === null,
  real_limit: ({ tuning }) => tuning.offline === null,
  real_scorer: ({ tuning }) => tuning.offline === null,
  real_least: ({ tuning, real_scorer: scorer }) => tuning.offline === null || !scorer,
};
const FIGURES = ["mean_confidence", "max_confidence", "frequency", "flagged", "detail", "diversity"];
const groups = (guard) => [
  { name: "confidence", figures: ["pixel", "mean_confidence"], label: "update" },
  { name: "max confidence", figures: ["max_confidence"], label: "update" },
  { name: "guard: change", figures: ["guard_change"], limits: guard?.change, label: "update" },
  { name: "guard: detail", figures: ["guard_detail"], limits: guard?.detail, label: "update" },
  { name: "guard: diversity", figures: ["guard_diversity"], limits: guard?.diversity, label: "update" },
  { name: "guard: attributes", figures: ["guard_attributes"], limits: guard?.attributes, label: "update" },
  { name: "loss", figures: ["loss", "offline", "region", "preference"], label: "update" },
  { name: "gradient", figures: ["grad_norm"], label: "update" },
];

// ---- overview ----------------------------------------------------------------------------------------------

async function overview(root, { again }) {
  const seen = await get(`${API}/overview`);
  root.append(
    h("div", { class: "line head" }, h("div", {}, h("h1", {}, "Treat"), h("p", { class: "lead" }, "Fine-tunes a generator so that a frozen detector finds fewer artifacts, under a quality guard.")),
      h("span", { class: "gap" }), h("a", { class: "button quiet", href: "?learn=1" }, "Learn an instance"), seen.treatments.length ? registerButton("generator", again) : null, h("a", { class: "button", href: "?new=1" }, "New treatment")),
    seen.worker ? "" : h("p", { class: "note" }, "No worker is running, so treatments do not start. Start one with “clinic worker”."),
    h("div", { class: "two slim" }, h("div", { class: "side" }, panel("Runs", runList(seen.runs, "No treatment runs yet. Those of a round are under Rounds.")),
      seen.instances.length ? panel("Learned instances", runList(seen.instances, "", "instance")) : null), panel("Treatments", treatments(seen, again))));
}

function treatments({ treatments: rows, more, generators }, again) {
  if (!rows.length && !generators) return nothing("No generator yet. A treatment fine-tunes one: register a diffusers pipeline, or the tiny one that is shipped.", registerButton("generator", again, false));
  if (!rows.length) return nothing("No treatments yet. Start one, or run a round.", h("a", { class: "button", href: "?new=1" }, "New treatment"), registerButton("generator", again));
  const ratio = (row, name) => h("td", { class: "figure" }, row.ratios[name] === undefined ? "–" : h("span", { class: row.ratios[name] < 1 ? "better" : "worse" }, `× ${figure(row.ratios[name])}`));
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, "Treated"), h("th", { class: "figure" }, "mean confidence"), h("th", { class: "figure" }, "max confidence"), h("th", { class: "figure" }, "kept"), h("th", { class: "figure" }, "Created"))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, h("a", { href: `?treatment=${row.id}` }, row.treated ?? `${row.generator}: no checkpoint kept`)),
      ratio(row, "mean_confidence"), ratio(row, "max_confidence"), h("td", { class: "figure" }, row.kept === null ? "–" : `${row.kept} of ${row.updates}`), h("td", { class: "figure" }, when(row.created)))))),
    more ? h("p", { class: "hint" }, `${more} older treatment${more === 1 ? "" : "s"} not shown.`) : null);
}

// ---- a new treatment ---------------------------------------------------------------------------------------

async function fresh(root, { asked, go }) {
  const chosen = Object.fromEntries(["preset", "instance"].filter((name) => asked[name]).map((name) => [name, asked[name]]));
  const described = await get(`${API}/form?${new URLSearchParams(chosen)}`);
  const preflight = panel("Preflight", nothing("Checking…"));
  let turn = 0, timer = null;
  const changed = () => { clearTimeout(timer); timer = setTimeout(look, 400); };
  const start = starter("Start treatment", begin);
  const made = form(described.fields, {
    first: FIRST, changed, unused: UNUSED,
    replace: {
      generator: (field) => picked(field, "Generator", described.choices.generator, null),
      detector: (field) => picked(field, "Detector", described.choices.detector, "the champion"),
      prompts: (field) => prompts(field, "Training prompts", described.categories, changed),
      judge: (field) => prompts(field, "Evaluation prompts", described.categories, changed),
    },
  });
  const preset = h("select", { onchange: () => go({ ...chosen, new: 1, preset: preset.value }, { replace: true }) },
    described.presets.map((name) => h("option", { selected: name === described.preset }, name)));

  async function begin() {
    try {
      const { run } = await post(`${API}/start`, { settings: made.read() });
      await go({ run });
    } catch (error) { say(error.message, true); made.mark(error.message); }
  }

  async function look() {
    const mine = ++turn, body = { settings: made.read() }, checks = [];
    const put = ({ checks: found }) => { if (mine === turn) { checks.push(...found); drawChecks(preflight, "Preflight", checks); start.allow(checks); } };
    try {
      put(await post(`${API}/checks`, body));
      if (mine === turn) preflight.append(h("p", { class: "hint wait" }, "Estimating memory and time…"));
      put(await post(`${API}/needs`, body));
    } catch (error) {
      if (mine !== turn) return;
      preflight.replaceChildren(h("h2", {}, "Preflight"), h("p", { class: "note bad" }, error.message));
      made.mark(error.message);
      start.refuse("Correct the marked setting first.");
    }
  }

  root.append(h("p", { class: "crumb" }, h("a", { href: "/treat" }, "← Treat")), h("h1", {}, asked.instance ? "Treat a learned instance" : "New treatment"),
    h("p", { class: "lead" }, "Writes prompts, trains a LoRA, verifies it in a fresh pipeline, and compares before and after on held-out prompts. You can close this page; the run continues on the server."),
    h("div", { class: "two wide" }, h("section", { class: "card panel" }, labelled({ kind: "choice", label: "Preset", help: "A recipe, or a published objective with its settings." }, preset), made.node),
      h("div", { class: "side" }, preflight, start.node)));
  look();
}

function picked(field, label, choices, none) {
  const options = [...(none ? [["", none]] : []), ...choices];
  const control = h("select", {}, options.map(([value, text]) => h("option", { value, selected: value === (field.value ?? "") }, text)));
  return { node: labelled({ kind: "choice", label, help: field.help }, control), read: () => control.value || null };
}

// Where prompts come from: the hard categories' own, categories by name, or a file or text of them.
function prompts(field, label, categories, changed) {
  const value = field.value;
  const source = h("select", { "aria-label": `${label}: source` }, [["hard", "written for the hard categories"], ["category", "written for these categories"], ["given", "these prompts"]].map(([one, text]) => h("option", { value: one, selected: one === value.source }, text)));
  const named = h("input", { type: "text", value: value.categories.join(", "), placeholder: categories.join(", ") || "hand, face", "aria-label": "Categories" });
  const each = h("input", { type: "text", inputmode: "decimal", value: String(value.per_category), "aria-label": "Prompts per category" });
  const texts = h("textarea", { rows: 5, placeholder: "one prompt per line", "aria-label": "Prompts" });
  texts.value = value.texts.join("\n");
  const file = h("input", { type: "file", accept: ".txt,text/plain", "aria-label": "Prompt file", onchange: async () => {
    if (!file.files.length) return;
    try {
      const { csrf } = await currentSession();
      const { texts: found } = await post(`${API}/prompts`, {}, { body: file.files[0], headers: { "Content-Type": "application/octet-stream", Accept: "application/json", "X-Clinic-CSRF": csrf } });
      texts.value = found.join("\n");
      changed();
    } catch (error) { say(error.message, true); }
    file.value = "";
  } });
  const perCategory = h("label", { class: "short" }, each, " per category");
  const given = h("div", { class: "given" }, texts, h("label", { class: "short" }, "or from a file ", file));
  const settle = () => { named.hidden = source.value !== "category"; perCategory.hidden = source.value === "given"; given.hidden = source.value !== "given"; };
  source.addEventListener("change", settle);
  settle();
  return {
    node: grouped({ kind: "prompts", label, help: field.help }, h("div", { class: "stackform" }, source, named, perCategory, given)),
    read: () => ({ source: source.value, categories: named.value.split(",").map((one) => one.trim()).filter(Boolean), per_category: Number(each.value), texts: texts.value.split("\n").map((one) => one.trim()).filter(Boolean), seed: value.seed }),
  };
}

// ---- a run -------------------------------------------------------------------------------------------------

async function run(root, { asked, again }) {
  const session = await currentSession();
  const { settings } = await get(`${API}/runs/${encodeURIComponent(asked.run)}`);
  const at = `${API}/runs/${encodeURIComponent(asked.run)}`;
  const strip = h("div", {});
  await runView(root, {
    api: API, kind: "treat", id: asked.run, back: "Treat", groups: groups(settings.tuning.guard), admin: session.roles.includes("admin"),
    gallery: { title: "Before and after", draw: (place, kept, mapAt) => { drawSamples(place, kept, mapAt, at); tell(drawLooks(strip, at)); } },
    done: async (place, found) => { await outcome(place, found.result.treatment, again); },
  });
  root.querySelector(".two").after(strip);
}

function drawSamples(place, kept, mapAt, at) {
  const title = h("h2", {}, "Before and after");
  if (!kept.samples) return place.replaceChildren(title, nothing("The guard's images appear after its first check."));
  const source = (sha) => `${at}/pictures/${sha}`;
  const rows = kept.samples.map((one) => slider({ prompt: one.prompt, before: source(one.before), after: one.after ? source(one.after) : null, maps: [mapAt(one.map_before), one.map_after ? mapAt(one.map_after) : null] }));
  return place.replaceChildren(title, h("p", { class: "hint" }, `Fixed prompts and seeds after ${kept.step} updates. Drag across an image to compare; the detector's maps are below.`), ...comparing(h("div", { class: "sliders" }, rows)));
}

// One image over the other, divided at the slider; both maps below.
function slider({ prompt, before, after, maps, names = ["before", "after"], below = null }) {
  const over = h("img", { src: after ?? "", alt: `${names[1]}: ${prompt}`, class: "over", loading: "lazy" });
  const knob = h("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": `${names[0]} or ${names[1]}: ${prompt}` });
  const frame = h("span", { class: "frame slider" }, h("img", { src: before, alt: `${names[0]}: ${prompt}`, loading: "lazy" }),
    after ? [over, h("span", { class: "divide" }), knob] : null, h("i", { class: "tag left" }, names[0]), after ? h("i", { class: "tag right" }, names[1]) : null);
  const set = () => frame.style.setProperty("--at", `${knob.value}%`);
  knob.addEventListener("input", set);
  set();
  const seen = maps.filter(Boolean).map((url, i) => {
    const canvas = h("canvas", { class: "heat" });
    drawHeatAt(canvas, url).then((ok) => canvas.classList.toggle("drawn", ok));
    return h("span", { class: "frame" }, h("img", { src: i ? after : before, alt: "", loading: "lazy", class: "dim" }), canvas);
  });
  return h("figure", { class: "pairbox" }, frame, h("span", { class: "maps" }, seen), h("figcaption", {}, prompt, below));
}

// How pairs are compared: divided at a slider, blinking, or by their difference.
function comparing(...children) {
  const modes = [["slide", "Slider"], ["blink", "Blink"], ["differ", "Difference"]];
  const gallery = h("div", { class: "compare slide" }, ...children);
  const bar = h("div", { class: "chips", role: "group", "aria-label": "How to compare" }, modes.map(([mode, text]) => h("button", { type: "button", "aria-pressed": String(mode === "slide"), onclick: (event) => {
    gallery.className = `compare ${mode}`;
    for (const one of bar.children) one.setAttribute("aria-pressed", String(one === event.target));
  } }, text)));
  return [bar, gallery];
}

// One prompt over the updates, from the guard's images.
async function drawLooks(place, at) {
  const { prompts, looks } = await get(`${at}/looks`);
  if (looks.length < 2) return place.replaceChildren();
  const row = h("div", { class: "looks" });
  const draw = (which) => row.replaceChildren(...looks.map(({ update, images, mean_confidence: mean }) => h("figure", {}, h("img", { src: `${at}/looks/${images[which]}`, alt: `after ${update} updates`, loading: "lazy" }), h("figcaption", {}, h("b", {}, update ? `update ${update}` : "untreated"), ` ${figure(mean)}`))));
  const chosen = h("select", { "aria-label": "Prompt", onchange: () => draw(chosen.selectedIndex) }, prompts.map((text) => h("option", {}, text)));
  draw(0);
  return place.replaceChildren(panel("One prompt over the updates", h("div", { class: "line" }, chosen), row, h("p", { class: "hint" }, "The same seed at each check of the guard; the figure is the mean confidence of all its images.")));
}

// ---- the result --------------------------------------------------------------------------------------------

async function treatment(root, { asked, again }) {
  root.append(h("p", { class: "crumb" }, h("a", { href: "/treat" }, "← Treat")));
  await outcome(root, asked.treatment, again, true);
}

async function outcome(place, id, again, whole = false) {
  const one = await get(`${API}/treatments/${encodeURIComponent(id)}`);
  const name = one.treated?.name ?? "No checkpoint kept";
  const rename = async (given) => {
    const renamed = await tell(post(`${API}/generators/${encodeURIComponent(one.treated.id)}/rename`, { name: given }), "Renamed.");
    if (renamed) again();
  };
  const next = one.treated === null ? null : h("div", { class: "line next" },
    h("a", { class: "button", href: `${API}/treatments/${one.id}/lora.zip`, download: "" }, "Download the LoRA"),
    h("a", { class: "button quiet", href: `/study?view=make&after=${encodeURIComponent(one.treated.id)}` }, "Start a study"),
    h("a", { class: "button quiet", href: `/curate?view=images&generator=${encodeURIComponent(one.treated.id)}&sort=max&low=0.3` }, "Browse its remaining artifacts"));
  place.append(h("section", { class: "card panel" },
    h("div", { class: "line" }, one.treated ? renamable(whole ? "h1" : "h2", name, rename) : h(whole ? "h1" : "h2", {}, name), h("span", { class: "gap" }), h("span", { class: "hint" }, when(one.created))),
    kept(one), table(one.judged), next));
  if (one.judged.likeness) place.append(likeness(one));
  if (one.pairs.length) place.append(panel("Same prompts and seeds", ...pairsBy(one)));
  if (one.strip) place.append(panel("The same seeds over the updates", h("img", { class: "strip", src: `${API}/treatments/${encodeURIComponent(id)}/strip.png`, alt: "The guard's images at each of its looks; framed ones are outside its limits", loading: "lazy" })));
  if (one.treated) place.append(withAndWithout(one));
  if (!whole) return;
  const charts = panel("Curves");
  const lineage = { generator: one.base.name, "treated against": one.detector.name, round: one.round, licence: one.licence || "not recorded" };
  place.append(h("div", { class: "two" }, charts, panel("Lineage", facts(lineage), h("details", {}, h("summary", {}, "Settings"), facts(flat(one.config))))));
  const at = `${API}/treatments/${encodeURIComponent(id)}`;
  const series = await get(`${at}/curves`);
  if (!Object.keys(series).length && one.curve.length) series.pixel = [one.curve.map(([update]) => update), one.curve.map(([, value]) => value)];
  curvesPanel(charts, { api: API, at, name, settings: { tuning: one.config }, groups: groups(one.config.guard) }).show(series);
}

// The pairs, those that got worse first or those with most artifacts before.
function pairsBy(one) {
  const gallery = h("div", { class: "sliders many" }), note = h("p", { class: "hint" });
  const orders = [["worse", "Got worse", one.worse, "None of the pairs got worse by the detector."], ["pairs", "Most artifacts before", one.pairs, ""]];
  const show = ([key, , pairs, none]) => {
    gallery.replaceChildren(...pairs.map((pair) => paired(one, pair)));
    note.textContent = pairs.length ? `${pairs.length} pair${pairs.length === 1 ? "" : "s"}.` : none;
    for (const button of bar.children) button.setAttribute("aria-pressed", String(button.dataset.order === key));
  };
  const bar = h("div", { class: "chips", role: "group", "aria-label": "Which pairs" }, orders.map((order) => h("button", { type: "button", "data-order": order[0], onclick: () => show(order) }, order[1])));
  show(one.worse.length ? orders[0] : orders[1]);
  return [bar, note, ...comparing(gallery)];
}

// The user's own prompts, generated with and without the treatment.
function withAndWithout(one) {
  const text = h("textarea", { rows: "3", placeholder: "one prompt per line", "aria-label": "Prompts" });
  const seeds = h("input", { type: "number", min: "1", max: "8", value: "1", "aria-label": "Seeds per prompt" });
  const button = h("button", { type: "button", class: "button quiet", onclick: draw }, "Generate both");
  const status = h("p", { class: "hint", role: "status" });
  const gallery = h("div", { class: "sliders many" });
  async function draw() {
    button.disabled = true;
    try {
      const { job } = await post(`${API}/treatments/${one.id}/draw`, { text: text.value, seeds: Number(seeds.value) });
      for (let now = null; !now || ["queued", "running"].includes(now.state);) {
        now = await get(`${API}/treatments/${one.id}/draw/${job}`);
        status.textContent = now.state === "queued" ? "Waiting for a worker." : now.state === "succeeded" ? "" : now.message || now.state;
        if (now.state === "succeeded") gallery.replaceChildren(...now.pairs.map((pair) => paired(one, pair, ["without", "with"])));
        else await new Promise((go) => setTimeout(go, 1000));
        if (!button.isConnected) return;
      }
    } catch (error) { say(error.message, true); } finally { button.disabled = false; }
  }
  return panel("With and without", h("p", { class: "hint" }, "Your own prompts, generated from the same seeds with and without the treatment."),
    h("div", { class: "setting tall" }, text, h("div", { class: "line" }, h("label", { class: "hint" }, "seeds per prompt ", seeds), button)), status, ...comparing(gallery));
}

const paired = (one, pair, names) => slider({ names, prompt: pair.prompt, below: [" ", h("a", { href: `?play=${pair.after}` }, "Play its steps")], before: pixels(pair.before), after: pixels(pair.after), maps: [mapOf(pair.before, one.detector.id), mapOf(pair.after, one.detector.id)] });

function kept(one) {
  const look = one.looks.find(({ update }) => update === one.kept);
  const why = one.kept === 0 ? "No checkpoint within the guard's limits was better than the original generator."
    : `Kept update ${one.kept} of ${one.updates}: the lowest mean confidence${look ? ` (${figure(look.mean_confidence)})` : ""} within the guard's limits.`;
  return h("p", { class: "hint" }, why, ` Stopped: ${one.stopped}.`);
}

function table(judged) {
  const rows = FIGURES.filter((key) => judged[key]);
  if (!rows.length) return nothing("Not evaluated on held-out prompts.");
  const better = { mean_confidence: true, max_confidence: true, frequency: true, flagged: true };
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, `${judged.pairs ?? ""} pairs of held-out prompts`), ...["before", "after", "after / before", "95 % interval"].map((text) => h("th", { class: "figure" }, text)))),
    h("tbody", {}, rows.map((key) => {
      const { before, after, ratio, interval: range } = judged[key];
      const interval = before ? range : null; // a ratio to 0 is undefined
      const mood = !better[key] || !interval ? "" : interval[1] < 1 ? "better" : interval[0] > 1 ? "worse" : "";
      return h("tr", {}, h("td", {}, metric(key)), h("td", { class: "figure" }, figure(before)), h("td", { class: "figure" }, figure(after)), h("td", { class: `figure ${mood}` }, h("b", {}, interval ? figure(ratio) : "–")), h("td", { class: "figure" }, interval ? `${figure(interval[0])} – ${figure(interval[1])}` : "–"));
    }), judged.attributes ? attributesRow(judged.attributes) : null)), glossary(rows), similarity(judged.similarity));
}

// How much of a learned instance is left, on held-out prompts that name it.
function likeness({ id, judged: { likeness: found } }) {
  const text = found.note ? `${found.note[0].toUpperCase()}${found.note.slice(1)}.`
    : `${figure(found.before)} before, ${figure(found.after)} after: × ${figure(found.ratio)} (95 %: ${found.interval.map((value) => figure(value)).join(" – ")}) on ${found.pairs} pair${found.pairs === 1 ? "" : "s"} of held-out prompts; the mean cosine to the instance's images by ${found.encoder}.`;
  const sheet = h("img", { class: "strip", src: `${API}/treatments/${encodeURIComponent(id)}/likeness.png`, alt: "Images of the instance beside the same seeds before and after treating", loading: "lazy" });
  sheet.addEventListener("error", () => sheet.remove());
  return panel("Likeness to the instance", h("p", { class: "hint" }, text), sheet);
}

// How much the images changed: PSNR, SSIM and LPIPS of before against after.
function similarity(found) {
  if (!found) return null;
  const means = [["PSNR", found.psnr], ["SSIM", found.ssim], ["LPIPS", found.lpips]].filter(([, one]) => one).map(([name, one]) => `${name} ${figure(one.mean)}`);
  return h("p", { class: "hint" }, `Before against after: ${means.join(", ") || "the same images"}. ${found.note}`);
}

function attributesRow({ before, after, drop, interval }) {
  const change = drop > 0 ? `${figure(drop)} lost` : drop < 0 ? `${figure(-drop)} gained` : "same";
  const spread = !interval ? [] : drop < 0 ? [-interval[1], -interval[0]] : interval;
  return h("tr", {}, h("td", {}, "attributes shown"), ...[before, after].map((value) => h("td", { class: "figure" }, figure(value))), h("td", { class: "figure" }, h("b", {}, change)), h("td", { class: "figure" }, spread.map((value) => figure(value || 0)).join(" – ") || "–"));
}

// ---- which view --------------------------------------------------------------------------------------------

router({
  home: "/treat",
  title: "Treat",
  views: { overview, run, treatment, new: fresh, learn, instance, play },
  nameOf: (asked) => ["run", "treatment", "new", "learn", "instance", "play"].find((name) => asked[name]),
});
