// One run: state, rate, time left, curves, images, log; pause, cancel and resume.
import { get, post } from "/static/api.js";
import { h, nothing, panel, say, tell } from "/static/dom.js";
import { figure, when } from "/static/format.js";
import { drawHeatAt } from "/static/images.js";
import { chart } from "/static/line_chart.js";

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
  const log = h("pre", {});
  const result = h("div", {});
  let size = -1, drawn = -Infinity, shown = "", ended = false, chosen = null;

  root.append(h("p", { class: "crumb" }, h("a", { href: location.pathname }, `← ${back}`)), head, after, result,
    h("div", { class: "two" }, charts, images), panel("Log", log));

  async function press(what) {
    await tell(post(what === "first" ? `/api/queue/${kind}/${encodeURIComponent(id)}/first` : `${at}/${what}`), { cancel: "Cancelling. Checkpoints are kept.", pause: "Pausing after the current step. Nothing is lost.", resume: "Resuming from the last checkpoint.", first: "Moved to the front of the queue." }[what]);
    ended = false;
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
      h("div", { class: "line" }, h("h1", {}, run.name), pill(waits(run) ? "waiting" : run.state), h("span", { class: "gap" }), buttons(run)),
      h("progress", { value: run.state === "succeeded" ? 1 : run.progress, max: 1 }),
      h("p", { class: "message" }, line || (OPEN.includes(run.state) ? run.message : "") || (run.state === "queued" ? "Waiting for a worker." : "")),
      run.note ? h("p", { class: "note" }, run.note) : "",
      run.state === "paused" ? h("p", { class: "note" }, "Paused; its device is free. Resume continues from the same step, at the same place in the queue.")
        : run.error ? h("p", { class: "note bad" }, run.error) : "",
      h("dl", { class: "standing-facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
  }

  async function curves() {
    const series = await get(`${at}/curves`);
    drawCurves(charts, series, groups, chosen, (name) => { chosen = name; drawCurves(charts, series, groups, chosen, () => {}); tell(curves()); });
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
      await Promise.all([curves(), samples()]);
      const text = (await get(`${at}/log`)).log.trim() || "No output yet.";
      if (log.textContent !== text) { log.textContent = text; log.scrollTop = log.scrollHeight; }
    }
    if (!open && !ended) {
      ended = true;
      await Promise.all([curves(), samples()]);
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

export function drawCurves(place, series, groups, chosen, choose) {
  const known = groups.filter(({ figures }) => figures.some((name) => series[name]));
  const loose = Object.keys(series).filter((name) => !groups.some(({ figures }) => figures.includes(name)));
  const tabs = [...known, ...loose.map((name) => ({ name: name.replaceAll("_", " "), figures: [name] }))];
  const title = h("h2", {}, "Curves");
  if (!tabs.length) return place.replaceChildren(title, nothing("No data yet."));
  const now = tabs.find(({ name }) => name === chosen) ?? tabs[0];
  const bar = h("div", { class: "chips" }, tabs.map((tab) => h("button", { type: "button", "aria-pressed": String(tab === now), onclick: () => choose(tab.name) }, tab.name)));
  const lines = now.figures.filter((name) => series[name]).map((name) => ({ name: name.replace(/^(validation|guard)_/, "").replaceAll("_", " "), steps: series[name][0], values: series[name][1] }));
  return place.replaceChildren(title, bar, chart(lines, { limits: now.limits ?? [], label: now.label ?? "step" }));
}

// An image with an artifact map over it.
export function overlaid(source, mapUrl, caption) {
  const canvas = h("canvas", { class: "heat" });
  const box = h("figure", { class: "overlaid" }, h("span", { class: "frame" }, h("img", { src: source, alt: caption, loading: "lazy" }), canvas), caption ? h("figcaption", {}, caption) : null);
  if (mapUrl) drawHeatAt(canvas, mapUrl).then((ok) => canvas.classList.toggle("drawn", ok));
  return box;
}

// `start` cannot be pressed while a check says no: the server would refuse.
export function drawChecks(place, title, checks, start = null) {
  if (start) start.disabled = checks.some(({ verdict }) => verdict === "bad");
  const marks = { good: "✓", warn: "!", bad: "✗" };
  place.replaceChildren(h("h2", {}, title), h("ul", { class: "checks" }, checks.map(({ name, verdict, text }) =>
    h("li", { class: verdict }, h("i", { "aria-hidden": "true" }, marks[verdict]), h("span", {}, h("b", {}, name), text)))));
}

export const flat = (value, prefix = "") => Object.fromEntries(Object.entries(value ?? {}).flatMap(([key, one]) =>
  (one && typeof one === "object" && !Array.isArray(one) ? Object.entries(flat(one, `${prefix}${key}.`)) : [[`${prefix}${key}`, Array.isArray(one) ? one.join(", ") : String(one ?? "–")]])));
export const facts = (values) => h("dl", { class: "facts" }, Object.entries(values).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value ?? "–"))]));
