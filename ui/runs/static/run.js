// One run: state, rate, time left, curves, images, log; pause, cancel and resume.
import { here } from "../root.js";
import { get, post } from "../api.js";
import { h, nothing, panel, say, tell } from "../dom.js";
import { figure, when } from "../format.js";
import { drawHeatAt } from "../images.js";
import { curveChart } from "../curves.js";
import { meaning, metricName } from "../metrics.js";

const POLL_MS = 1000, CURVE_MS = 4000, IDLE_MS = 5000;
const OPEN = ["queued", "running"];

export const spoken = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
};

// Queued, or assigned to a worker that is waiting for its device.
const waits = ({ state, position, progress, message }) => Boolean(position) || (state === "running" && !progress && !message);

export const pill = (state) => h("span", { class: `state ${state}` }, state);

export function runList(rows, empty, name = "run") {
  if (!rows.length) return nothing(empty);
  return h("ul", { class: "runlist" }, rows.map((row) => h("li", {}, h("a", { href: `?${name}=${encodeURIComponent(row.run)}` },
    h("span", { class: "words" }, h("b", {}, row.name), h("span", {}, `${when(row.created)}${row.by ? ` by ${row.by}` : ""}`)),
    row.state === "running" && !waits(row) ? h("progress", { value: row.progress, max: 1 }) : null, pill(waits(row) ? "waiting" : row.state)))));
}

// `api` is "/api/train", "/api/treat" or "/api/treat/instances"; `groups` say which figures share a chart; `done` shows the result.
export async function runView(root, { api, kind, id, back, groups, gallery, admin, done }) {
  const at = `${api}/runs/${encodeURIComponent(id)}`;
  const head = h("section", { class: "card panel standing" });
  const after = h("div", {});
  const charts = panel("Curves");
  const images = panel(gallery.title);
  const log = h("pre", { tabindex: "0", role: "region", "aria-label": "Log" });
  const result = h("div", {});
  let size = -1, drawn = -Infinity, shown = "", ended = false, panelOfCurves = null;

  root.append(h("p", { class: "crumb" }, h("a", { href: here() }, `← ${back}`)), head, after, result,
    h("div", { class: "two" }, charts, images), panel("Log", log));

  async function press(what) {
    if (what === "cancel" && !confirm("Cancel this run? Its checkpoints are kept, and it can be resumed.")) return;
    await tell(post(what === "first" ? `/api/queue/${kind}/${encodeURIComponent(id)}/first` : `${at}/${what}`), { cancel: "Cancelling. Checkpoints are kept.", pause: "Pausing after the current step. Nothing is lost.", resume: "Resuming from the last checkpoint.", first: "Moved to the front of the queue." }[what]);
    ended = false;
    await tell(look());
  }

  async function rename(name) {
    await tell(post(`${at}/rename`, { name }), "Renamed.");
    await tell(look());
  }

  function buttons(run) {
    const open = OPEN.includes(run.state);
    return h("div", { class: "line" },
      open ? h("button", { type: "button", class: "button quiet", disabled: run.pausing || run.stopping, onclick: () => press("pause") }, run.pausing && !run.stopping ? "Pausing…" : "Pause") : null,
      open || run.state === "paused" ? h("button", { type: "button", class: "button quiet bad", disabled: run.stopping, onclick: () => press("cancel") }, run.stopping ? "Stopping…" : "Cancel") : null,
      run.position > 1 && admin ? h("button", { type: "button", class: "button quiet", onclick: () => press("first") }, "Move to the front") : null,
      ["paused", "failed", "cancelled"].includes(run.state) ? h("button", { type: "button", class: "button", onclick: () => press("resume") }, "Resume") : null);
  }

  function draw(run) {
    const facts = [
      run.total && run.state !== "succeeded" ? ["step", `${run.step} of ${run.total}`] : null,
      run.rate ? ["rate", run.rate >= 1 ? `${figure(run.rate)} per second` : `${figure(1 / run.rate)} s per step`] : null,
      run.state === "running" && run.left ? ["time left", spoken(run.left)] : null,
      run.state === "succeeded" && run.attempts === 1 ? ["took", spoken(run.finished - run.started)] : null,
      ["requested", `${when(run.created)}${run.by ? ` by ${run.by}` : ""}`],
    ].filter(Boolean);
    if (run.attempts > 1) facts.push(["attempts", String(run.attempts)]);
    const line = run.position ? `Position in the queue: ${run.position}. Each device runs one job at a time.` : "";
    head.replaceChildren(
      h("div", { class: "line" }, renamable("h1", run.name, rename), pill(waits(run) ? "waiting" : run.state), h("span", { class: "gap" }), buttons(run)),
      h("progress", { value: run.state === "succeeded" ? 1 : run.progress, max: 1 }),
      h("p", { class: "message" }, line || (OPEN.includes(run.state) ? run.message : "") || (run.state === "queued" ? "Waiting for a worker." : "")),
      run.note ? h("p", { class: "note" }, run.note) : "",
      run.state === "paused" ? h("p", { class: "note" }, "Paused; its device is free. Resume continues from the same step, at the same place in the queue.")
        : run.state === "cancelled" ? h("p", { class: "note" }, "Cancelled. Its checkpoints are kept; resume continues from the last one.")
          : run.error ? h("p", { class: "note bad" }, run.error) : "",
      h("dl", { class: "standing-facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
  }

  async function curves(run) {
    panelOfCurves ??= curvesPanel(charts, { api, at, own: id, name: run.name, settings: run.settings, groups });
    panelOfCurves.show(await get(`${at}/curves`));
  }

  async function samples() {
    const kept = await get(`${at}/samples`);
    const key = JSON.stringify(kept);
    if (key === shown) return;
    shown = key;
    gallery.draw(images, kept, (ref) => `${at}/maps/${encodeURIComponent(ref)}`);
  }

  async function look() {
    const run = await get(at);
    draw(run);
    root.dataset.state = run.state;
    const now = performance.now(), open = OPEN.includes(run.state);
    if (run.size !== size && (now - drawn > CURVE_MS || !open)) {
      [size, drawn] = [run.size, now];
      await Promise.all([curves(run), samples()]);
      const text = (await get(`${at}/log`)).log.trim() || "No output yet.";
      if (log.textContent !== text) { log.textContent = text; log.scrollTop = log.scrollHeight; }
    }
    if (!open && !ended) {
      ended = true;
      await Promise.all([curves(run), samples()]);
      log.textContent = (await get(`${at}/log`)).log.trim() || "No output.";
      result.replaceChildren();
      if (run.state === "succeeded") await done(result, run);
    }
    return open;
  }

  async function follow() {
    if (!root.isConnected && root.dataset.state) return;
    let wait = IDLE_MS;
    if (!document.hidden) {
      try { if (await look()) wait = POLL_MS; } catch (error) { say(error.message, true); }
    }
    setTimeout(follow, wait);
  }

  await look();
  charts.dataset.ready = "";
  setTimeout(follow, POLL_MS);
}

// A panel with the curves of a run, of which others can be laid over it: { show(series) }.
export function curvesPanel(place, { api, at, own, name, settings, groups }) {
  const bar = h("div", { class: "chips" }), words = h("p", { class: "hint" }), differences = h("div", {});
  const others = h("details", { class: "others" }, h("summary", {}, "Compare with other runs")), boxes = h("div", { class: "boxes" });
  const chart = curveChart({ csv: () => (at ? `${at}/curves.csv?${new URLSearchParams([...laid.keys()].map((id) => ["beside", id]))}` : null) });
  const laid = new Map();
  let series = {}, chosen = null;
  others.append(boxes, differences);
  others.addEventListener("toggle", () => { if (others.open && !boxes.childElementCount) tell(list()); });
  place.replaceChildren(h("h2", {}, "Curves"), bar, words, chart.node, others);

  async function list() {
    const { runs } = await get(`${api}/runs`);
    const rows = runs.filter(({ run }) => run !== own);
    boxes.replaceChildren(...(rows.length ? rows.map((row) => h("label", {}, h("input", { type: "checkbox", onchange: (event) => tell(lay(row, event.target)) }), ` ${row.name}`, h("span", { class: "soft" }, ` ${when(row.created)}`))) : [nothing("There is no other run.")]));
  }

  async function lay(row, box) {
    laid.delete(row.run);
    if (box.checked) {
      const path = `${api}/runs/${encodeURIComponent(row.run)}`;
      const [found, run] = await Promise.all([get(`${path}/curves`), get(path)]);
      laid.set(row.run, { name: row.name, series: found, settings: run.settings });
    }
    draw();
  }

  function draw() {
    const runs = [{ name, series, settings }, ...laid.values()];
    const names = [...new Set(runs.flatMap((one) => Object.keys(one.series)))];
    const known = groups.filter(({ figures }) => figures.some((one) => names.includes(one)));
    const loose = names.filter((one) => !groups.some(({ figures }) => figures.includes(one)));
    const tabs = [...known, ...loose.map((one) => ({ name: one.replaceAll("_", " "), figures: [one] }))];
    const now = tabs.find((tab) => tab.name === chosen) ?? tabs[0];
    bar.replaceChildren(...tabs.map((tab) => h("button", { type: "button", "aria-pressed": String(tab === now), onclick: () => { chosen = tab.name; draw(); bar.querySelector("[aria-pressed=true]").focus(); } }, tab.name)));
    const figures = (now?.figures ?? []).filter((one) => names.includes(one));
    words.textContent = figures.map((one) => (meaning(one) ? `${metricName(one)[0].toUpperCase()}${metricName(one).slice(1)}: ${meaning(one)}` : "")).filter(Boolean).join(" ");
    const lines = runs.flatMap((run, r) => figures.filter((one) => run.series[one]).map((one, f) => ({
      name: laid.size ? `${run.name} · ${metricName(one)}` : metricName(one), steps: run.series[one][0], values: run.series[one][1], colour: laid.size ? r : f, dash: laid.size ? f : 0 })));
    chart.show(lines, { limits: now?.limits ?? [], label: now?.label ?? "step" });
    differences.replaceChildren(laid.size ? settingsTable(runs) : "");
  }

  return { show: (found) => { series = found; draw(); } };
}

// The settings in which runs differ, side by side.
function settingsTable(runs) {
  const flats = runs.map(({ settings }) => flat(settings));
  const rows = [...new Set(flats.flatMap(Object.keys))].filter((path) => new Set(flats.map((one) => one[path] ?? "–")).size > 1 && !path.endsWith(".name") && path !== "name");
  if (!rows.length) return h("p", { class: "hint" }, "The settings of these runs are the same.");
  return h("div", { class: "scroll" }, h("table", { class: "differences" }, h("thead", {}, h("tr", {}, h("th", {}, "Settings that differ"), runs.map(({ name }) => h("th", {}, name)))),
    h("tbody", {}, rows.map((path) => h("tr", {}, h("td", {}, path), flats.map((one) => h("td", {}, one[path] ?? "–")))))));
}

// What people call it, and a button that changes that.
export const renamable = (tag, name, rename) => [h(tag, {}, name), h("button", { type: "button", class: "link", "aria-label": `Rename ${name}`, onclick: async () => {
  const given = prompt("New name", name);
  if (given !== null && given.trim() !== name) await rename(given);
} }, "Rename")];

// An image with an artifact map over it.
export function overlaid(source, mapUrl, caption) {
  const canvas = h("canvas", { class: "heat" });
  const box = h("figure", { class: "overlaid" }, h("span", { class: "frame" }, h("img", { src: source, alt: caption, loading: "lazy" }), canvas), caption ? h("figcaption", {}, caption) : null);
  if (mapUrl) drawHeatAt(canvas, mapUrl).then((ok) => canvas.classList.toggle("drawn", ok));
  return box;
}

// The button that starts a run: disabled while a check fails, with the reason beside it.
export function starter(text, begin) {
  const why = h("span", { class: "hint", id: "why-not", role: "status" });
  const button = h("button", { type: "button", class: "button", "aria-describedby": "why-not", onclick: async () => {
    button.disabled = true;
    try { await begin(); } finally { judge(); }
  } }, text);
  let problem = "";
  const judge = () => { button.disabled = Boolean(problem); why.textContent = problem; };
  return { node: h("div", { class: "starting" }, why, button), refuse: (message) => { problem = message; judge(); }, allow: (checks) => { problem = checks.find(({ verdict }) => verdict === "bad")?.text ?? ""; judge(); } };
}

export function drawChecks(place, title, checks) {
  const marks = { good: "✓", warn: "!", bad: "✗" };
  place.replaceChildren(h("h2", {}, title), h("ul", { class: "checks" }, checks.map(({ name, verdict, text }) =>
    h("li", { class: verdict }, h("i", { "aria-hidden": "true" }, marks[verdict]), h("span", {}, h("b", {}, name), text)))));
}

export const flat = (value, prefix = "") => Object.fromEntries(Object.entries(value ?? {}).flatMap(([key, one]) =>
  (one && typeof one === "object" && !Array.isArray(one) ? Object.entries(flat(one, `${prefix}${key}.`)) : [[`${prefix}${key}`, Array.isArray(one) ? one.join(", ") : String(one ?? "–")]])));
export const facts = (values) => h("dl", { class: "facts" }, Object.entries(values).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value ?? "–"))]));
