// The annotation page: fetch the next image under a lease, paint its label map, submit, next.
import { get, post } from "/static/api.js";
import { LabelMap } from "/static/labelmap.js";

const LOOK_AGAIN_MS = 5000;
const RENEW_MS = 240000;
const COLOURS = [[0, 0, 0], [230, 57, 70], [255, 176, 0], [58, 134, 255], [131, 56, 236], [6, 167, 125], [251, 86, 7]];
const MAP_COLOUR = [34, 211, 238];
const LABEL_ALPHA = 150;

const $ = (id) => document.getElementById(id);
const layers = $("layers");
const canvases = { image: $("image"), heat: $("heat"), labels: $("labels") };
const state = { task: null, labels: null, tool: "brush", value: 1, last: null, busy: false, opened: 0 };

const colourOf = (value) => COLOURS[((value - 1) % (COLOURS.length - 1)) + 1];

// ---- showing ----

function say(text, kind = "") {
  $("message").textContent = text;
  $("message").dataset.kind = kind;
}

function fit() {
  if (!state.task) return;
  const { width, height } = state.task.image;
  const stage = $("stage").getBoundingClientRect();
  const free = Math.min((stage.width - 32) / width, (stage.height - 32) / height);
  const scale = free >= 2 ? Math.floor(free) : free;
  layers.classList.toggle("crisp", scale >= 2);
  layers.style.width = `${width * scale}px`;
  layers.style.height = `${height * scale}px`;
}

function paintLabels(box = { left: 0, top: 0, width: state.labels.width, height: state.labels.height }) {
  const data = new ImageData(box.width, box.height);
  for (let row = 0; row < box.height; row++) {
    const start = (box.top + row) * state.labels.width + box.left;
    for (let column = 0; column < box.width; column++) {
      const value = state.labels.pixels[start + column];
      if (value) data.data.set([...colourOf(value), LABEL_ALPHA], 4 * (row * box.width + column));
    }
  }
  canvases.labels.getContext("2d").putImageData(data, box.left, box.top);
}

function paintHeat(confidence, height, width) {
  const data = new ImageData(width, height);
  for (let at = 0; at < confidence.length; at++) data.data.set([...MAP_COLOUR, confidence[at]], 4 * at);
  canvases.heat.getContext("2d").putImageData(data, 0, 0);
}

function showTools() {
  $("brush-tool").setAttribute("aria-pressed", state.tool === "brush");
  $("eraser-tool").setAttribute("aria-pressed", state.tool === "eraser");
  $("size-value").textContent = `${$("size").value} px`;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  canvases.heat.style.opacity = $("opacity").value / 100;
  $("undo").disabled = !state.labels?.done.length;
  $("redo").disabled = !state.labels?.undone.length;
  for (const button of $("classes").children) {
    const value = Number(button.dataset.value);
    button.setAttribute("aria-checked", value === state.value);
    const count = state.labels?.counts[value] ?? 0;
    button.querySelector(".count").textContent = count ? `${count} px` : "";
  }
}

function drawClasses(names) {
  $("classes").replaceChildren(...names.map((name, at) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button" });
    button.dataset.value = at + 1;
    button.setAttribute("role", "radio");
    for (const [kind, text] of [["swatch", ""], ["name", name], ["count", ""]]) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      button.append(part);
    }
    const key = document.createElement("kbd");
    key.textContent = at + 1;
    button.append(key);
    button.firstChild.style.background = `rgb(${colourOf(at + 1)})`;
    button.addEventListener("click", () => choose(at + 1));
    return button;
  }));
}

function moveBrush(event) {
  const box = layers.getBoundingClientRect();
  const side = (2 * radius() * box.width) / state.task.image.width;
  Object.assign($("brush").style, {
    left: `${event.clientX - box.left}px`, top: `${event.clientY - box.top}px`, width: `${side}px`, height: `${side}px`,
  });
  $("brush").hidden = false;
}

// ---- painting ----

const radius = () => Number($("size").value) / 2;

function point(event) {
  const box = layers.getBoundingClientRect();
  const scale = state.task.image.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
}

function paintTo(event) {
  const value = state.tool === "brush" ? state.value : 0;
  for (const moment of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const here = point(moment);
    const box = state.labels.line(state.last ?? here, here, radius(), value);
    if (box) paintLabels(box);
    state.last = here;
  }
}

function choose(value) {
  if (value > $("classes").children.length) return;
  Object.assign(state, { value, tool: "brush" });
  showTools();
}

function takeTool(tool) {
  state.tool = tool;
  showTools();
}

function resize(step) {
  const size = $("size");
  size.value = Number(size.value) + step * Math.max(1, Math.round(size.value / 8));
  showTools();
}

function step(direction) {
  if (state.last || !state.labels?.[direction]()) return;
  paintLabels();
  showTools();
}

function toggleMap() {
  const slider = $("opacity");
  [slider.value, slider.dataset.before] = Number(slider.value) ? [0, slider.value] : [slider.dataset.before ?? 45, 0];
  showTools();
}

// ---- images ----

async function open(task) {
  const { width, height, id } = task.image;
  const picture = new Image();
  picture.src = task.image.url;
  const [, heat] = await Promise.all([picture.decode(), task.map ? loadMap(task.map.url) : null]);
  Object.assign(state, { task, labels: new LabelMap(height, width), last: null, opened: performance.now() });
  for (const canvas of Object.values(canvases)) Object.assign(canvas, { width, height });
  canvases.image.getContext("2d").drawImage(picture, 0, 0, width, height);
  if (heat) paintHeat(heat, height, width);
  $("map-hint").textContent = heat ? `What ${task.map.detector} suspects. H hides it.` : "No detector has looked at this image yet.";
  $("size").max = Math.max(12, Math.round(Math.min(width, height) / 3));
  if (Number($("size").dataset.side) !== Math.min(width, height)) {
    $("size").value = Math.max(3, Math.round(Math.min(width, height) / 16));
    $("size").dataset.side = Math.min(width, height);
  }
  drawClasses(task.classes);
  if (state.value > task.classes.length) state.value = 1;
  $("prompt").textContent = task.image.prompt || "No prompt is known.";
  $("category").textContent = task.image.category ?? "";
  $("remaining").textContent = task.remaining;
  $("done").textContent = task.done_today;
  layers.dataset.image = id;
  layers.hidden = false;
  $("empty").hidden = true;
  $("tools").classList.remove("idle");
  fit();
  showTools();
}

// Confidence as raw bytes, one per pixel; the browser has already inflated them.
async function loadMap(url) {
  const response = await fetch(url);
  return response.ok ? new Uint8Array(await response.arrayBuffer()) : null;
}

function rest() {
  Object.assign(state, { task: null, labels: null });
  layers.hidden = true;
  $("empty").hidden = false;
  $("tools").classList.add("idle");
  $("prompt").textContent = "";
  $("category").textContent = "";
  $("remaining").textContent = "0";
  setTimeout(next, LOOK_AGAIN_MS);
}

async function next() {
  await act(async () => {
    const task = await get("/api/annotate/next");
    if (task) await open(task);
    else rest();
  });
}

// Runs one action at a time; what goes wrong is said, never thrown away.
async function act(action) {
  if (state.busy) return;
  state.busy = true;
  layers.classList.add("busy");
  try {
    await action();
  } catch (error) {
    if (error.status === 401) location.assign("/login?next=/annotate");
    say(error.message, "bad");
    if (error.status === 409) await get("/api/annotate/next").then((task) => (task ? open(task) : rest()));
  } finally {
    state.busy = false;
    layers.classList.remove("busy");
  }
}

async function answer(clean) {
  if (!state.task || state.busy || state.last) return;
  if (clean && state.labels.painted) return say("Something is painted: erase it first, or submit it with Enter.", "bad");
  if (!clean && !state.labels.painted) return say("Nothing is painted. If nothing is broken, press C for clean.", "bad");
  await act(async () => {
    const { lease, image, revision } = state.task;
    await post("/api/annotate/submit", {
      lease, image: image.id, revision, clean, label_map: clean ? null : await state.labels.packed(),
      seconds: (performance.now() - state.opened) / 1000,
    });
    say(clean ? "Saved as clean." : "Saved.");
  });
  if ($("message").dataset.kind !== "bad") await next();
}

async function skip() {
  if (!state.task || state.busy) return;
  await act(async () => {
    await post("/api/annotate/skip", { lease: state.task.lease, reason: "" });
    say("Skipped.");
  });
  if ($("message").dataset.kind !== "bad") await next();
}

// ---- wiring ----

layers.addEventListener("pointerdown", (event) => {
  if (event.button || !state.task || state.busy) return;
  layers.setPointerCapture(event.pointerId);
  say("");
  state.labels.begin();
  paintTo(event);
});
layers.addEventListener("pointermove", (event) => {
  if (!state.task) return;
  moveBrush(event);
  if (state.last) paintTo(event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  layers.addEventListener(kind, () => {
    if (!state.last) return;
    state.last = null;
    state.labels.end();
    showTools();
  });
}
layers.addEventListener("pointerleave", () => ($("brush").hidden = true));
addEventListener("resize", fit);
addEventListener("pagehide", () => {
  if (state.task) post("/api/annotate/release", { lease: state.task.lease }, { keepalive: true }).catch(() => {});
});

// A page that comes back from the browser's cache has lost its lease.
addEventListener("pageshow", (event) => event.persisted && location.reload());
// Asking again renews the lease of whoever paints for long.
setInterval(() => state.task && !state.busy && get("/api/annotate/next").catch(() => {}), RENEW_MS);

$("size").addEventListener("input", showTools);
$("opacity").addEventListener("input", showTools);
$("brush-tool").addEventListener("click", () => takeTool("brush"));
$("eraser-tool").addEventListener("click", () => takeTool("eraser"));
$("undo").addEventListener("click", () => step("undo"));
$("redo").addEventListener("click", () => step("redo"));
$("submit").addEventListener("click", () => answer(false));
$("clean").addEventListener("click", () => answer(true));
$("skip").addEventListener("click", skip);
$("help-button").addEventListener("click", () => $("help").showModal());

const KEYS = {
  b: () => takeTool("brush"), e: () => takeTool("eraser"), h: toggleMap, c: () => answer(true), s: skip,
  enter: () => answer(false), "[": () => resize(-1), "]": () => resize(1), "?": () => $("help").showModal(),
};

addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if ($("help").open || event.altKey) return;
  if ((event.ctrlKey || event.metaKey) && key === "z") {
    event.preventDefault();
    step(event.shiftKey ? "redo" : "undo");
  } else if (!event.ctrlKey && !event.metaKey && !event.repeat) {
    const run = KEYS[key] ?? (/^[1-9]$/.test(key) ? () => choose(Number(key)) : null);
    if (!run || (key === "enter" && event.target.closest?.("button:not(#submit), a"))) return;
    event.preventDefault();
    run();
  } else if (event.repeat && (key === "[" || key === "]")) {
    KEYS[key]();
  }
});

next();
