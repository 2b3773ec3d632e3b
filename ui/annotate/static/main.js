// The annotation page: shows the current image, edits and submits its label map, loads the next image.
import { Unreachable, currentSession, get, post } from "/static/api.js";
import { $, h } from "/static/dom.js";
import { classColour } from "/static/palette.js";
import { ActiveTimer } from "/static/annotate/active_timer.js";
import { packed, runs, unpacked } from "/static/annotate/codec.js";
import { PointerTools } from "/static/annotate/pointer_tools.js";
import { actionOf, keyOf } from "/static/annotate/keys.js";
import { askReason, showComments, showOutbox, wireKeys } from "/static/annotate/panels.js";
import { Segmenter } from "/static/annotate/segment.js";
import { OutboxSender } from "/static/annotate/outbox.js";
import { drafts, outbox } from "/static/annotate/draft_store.js";
import { Suggestions } from "/static/annotate/suggestions.js";
import { TaskQueue, keepLeases, load } from "/static/annotate/task_queue.js";
import { endTour, practice, tourIsDue, verdict } from "/static/annotate/tour.js";
import { Triage } from "/static/annotate/triage.js";
import { View } from "/static/annotate/view.js";

const RETRY_MS = 5000;
const SERVER_DRAFT_MS = 4000;

const person = (await currentSession()).name;
const tasks = new TaskQueue(person), timer = new ActiveTimer();
const view = new View($("stage"));
const suggestions = new Suggestions(() => {
  view.request();
  showTools();
});
const sender = new OutboxSender(person, (state) => showOutbox(state, { reopen, drop }), confirmed);
const triage = new Triage(sender, timer, say, () => (tasks.current ? showTools() : advance()));
const desk = {
  labels: null, tool: "brush", value: 1, radius: 4, tolerance: 24, pressure: false, hidden: false,
  changed, say, accept: acceptOne, reject: rejectOne,
  rgba() {
    const { current } = tasks;
    if (!current.rgba) {
      const context = new OffscreenCanvas(current.width, current.height).getContext("2d");
      context.drawImage(current.bitmap, 0, 0, current.width, current.height);
      current.rgba = context.getImageData(0, 0, current.width, current.height).data;
    }
    return current.rgba;
  },
};
const pointer = new PointerTools(view, suggestions, desk), segmenter = new Segmenter(desk, view, tasks, act);
desk.segmenter = segmenter;
const day = { remaining: 0, done: 0 };
let busy = false, lessons = [], serverDraftAt = 0, savedChanges = 0, resting = 0;

view.overlayPainter = (context, pixel) => {
  if (!desk.hidden) suggestions.paint(context, pixel, desk.value);
  pointer.paint(context, pixel);
};

// ---- showing ----

function say(text, kind = "") {
  $("message").textContent = text;
  $("message").dataset.kind = kind;
}

function showTools() {
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === desk.tool);
  desk.radius = Number($("size").value) / 2;
  desk.tolerance = Number($("tolerance").value);
  $("size-value").textContent = `${$("size").value} px`;
  $("tolerance-value").textContent = $("tolerance").value;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("threshold-value").textContent = `${$("threshold").value} %`;
  $("tolerance-row").hidden = desk.tool !== "wand";
  $("size-row").hidden = !["brush", "eraser"].includes(desk.tool);
  view.canvases.heat.style.opacity = desk.hidden ? 0 : $("opacity").value / 100;
  view.canvases.labels.style.opacity = desk.hidden ? 0 : 1;
  $("hide").setAttribute("aria-pressed", desk.hidden);
  $("undo").disabled = !desk.labels?.done.length;
  $("redo").disabled = !desk.labels?.undone.length;
  view.stage.dataset.tool = desk.tool;
  view.stage.dataset.regions = suggestions.regions.length;
  view.stage.dataset.ready = suggestions.ready;
  const left = suggestions.open_, all = suggestions.regions.length;
  $("suggestion-count").textContent = all ? `${all} suggestion${all === 1 ? "" : "s"}, ${left} open` : "No suggestions at this threshold";
  for (const id of ["accept", "reject", "accept-all"]) $(id).disabled = !all;
  for (const button of $("classes").children) {
    const value = Number(button.dataset.value), count = desk.labels?.counts[value] ?? 0;
    button.setAttribute("aria-checked", value === desk.value);
    button.querySelector(".count").textContent = count ? `${count} px` : "";
  }
  $("remaining").textContent = day.remaining;
  $("done").textContent = day.done;
}

// Buttons of the offered classes, each with the key of its place; a retired class only colours earlier labels.
function drawClasses(names, offered) {
  $("classes").replaceChildren(...offered.map((value, at) => h("button", { type: "button", role: "radio", "data-value": value, onclick: () => choose(value) },
    h("span", { class: "swatch", style: { background: `rgb(${classColour(value)})` } }), h("span", { class: "name" }, names[value - 1]), h("span", { class: "count" }),
    at < 9 ? h("kbd", {}, at + 1) : null)));
}

const valueAt = (place) => Number($("classes").children[place - 1]?.dataset.value ?? 0);

async function drop(entry) {
  await outbox.drop(entry.key);
  sender.flush();
}

// Brings a refused label map back, onto the same image if it is current or can be leased again.
async function reopen(entry) {
  await act(async () => {
    if (tasks.current?.task.image.id !== entry.image) {
      const task = await get(`/api/annotate/next?prefer=${encodeURIComponent(entry.image)}`);
      if (task?.image.id !== entry.image) throw new Error("That image is no longer available; your answer is kept here.");
      putBack();
      show(await load(task, person));
    }
    const pixels = await unpacked(entry.body.label_map, desk.labels.pixels.length);
    desk.labels.begin();
    view.touch(desk.labels.replace(pixels));
    desk.labels.end();
    changed();
    await drop(entry);
  });
}

// ---- tools ----

function choose(value) {
  if (!value) return;
  desk.value = value;
  if (desk.tool === "eraser") desk.tool = "brush";
  view.request();
  showTools();
}

function takeTool(tool) {
  if (tool === "assist" && !tasks.current?.task.tools.includes("assist")) return;
  desk.tool = tool;
  segmenter.forget();
  pointer.dropLoop();
  view.cursor.hidden = true;
  showTools();
}

function resize(step) {
  const size = $("size");
  size.value = Number(size.value) + step * Math.max(1, Math.round(size.value / 8));
  showTools();
}

function step(direction) {
  if (pointer.busy) return;
  const box = desk.labels?.[direction]();
  if (box) {
    view.touch(box);
    changed();
  }
}

function hide() {
  desk.hidden = !desk.hidden;
  view.request();
  showTools();
}

function acceptOne(index) {
  if (index < 0 || pointer.busy) return;
  suggestions.chosen = index;
  desk.labels.begin();
  view.touch(suggestions.accept(index, desk.value));
  desk.labels.end();
  changed();
  say(`Accepted: ${suggestions.regions[index].area} pixels.`);
}

function rejectOne(index) {
  if (index < 0 || pointer.busy) return;
  suggestions.chosen = index;
  desk.labels.begin();
  const box = suggestions.reject(index);
  if (box) view.touch(box);
  desk.labels.end();
  changed();
  say("Rejected.");
}

function acceptAll() {
  desk.labels.begin();
  suggestions.regions.forEach((region, index) => region.rejected || region.accepted || view.touch(suggestions.accept(index, desk.value)));
  desk.labels.end();
  changed();
}

function walk(direction) {
  const region = suggestions.walk(direction);
  if (!region) return;
  const how = region.accepted ? "accepted" : region.rejected ? "rejected" : "open";
  say(`Suggestion ${suggestions.chosen + 1} of ${suggestions.regions.length}: ${region.area} pixels, ${how}.`);
}

// ---- drafts ----

// After every change of the label map: stores a draft in the browser at once, on the server a little later.
function changed() {
  suggestions.judge();
  view.request();
  showTools();
  saveDraft();
}

function saveDraft() {
  const { current } = tasks;
  if (!current || current.lesson || !current.labels.changes || current.labels.changes === savedChanges) return;
  savedChanges = current.labels.changes;
  const bytes = runs(current.labels.pixels);
  drafts.put({ person, image: current.task.image.id, runs: bytes, seconds: timer.seconds, saved: Date.now() })
    .catch(() => say("This browser cannot store drafts; they are saved on the server every few seconds.", "bad"));
}

async function saveOnServer() {
  const { current } = tasks;
  if (!current || current.lesson || busy || current.labels.changes === serverDraftAt) return;
  serverDraftAt = current.labels.changes;
  const body = { image: current.task.image.id, label_map: await packed(current.labels.pixels), seconds: timer.seconds };
  if (tasks.current === current) await post("/api/annotate/draft", body).catch(() => {});
}

// ---- images ----

// The detector's operating point, until the annotator moves the slider; another detector's map starts anew.
function firstThreshold(map) {
  const slider = $("threshold");
  if (!map) return slider.value / 100;
  if (slider.dataset.detector !== map.detector) {
    slider.dataset.detector = map.detector;
    slider.dataset.moved = "";
    slider.value = Math.round(100 * map.threshold);
    $("threshold-value").textContent = `${slider.value} %`;
  }
  return slider.dataset.moved ? slider.value / 100 : map.threshold;
}

function show(loaded) {
  const { task, width, height, labels } = loaded;
  tasks.current = loaded;
  Object.assign(desk, { labels });
  segmenter.forget();
  serverDraftAt = savedChanges = labels.changes;
  pointer.abort();
  view.open(loaded);
  suggestions.open(task.image.id, loaded.confidence, labels, firstThreshold(task.map));
  timer.reset(loaded.seconds);
  const side = Math.min(width, height);
  $("size").max = Math.max(12, Math.round(side / 3));
  if (Number($("size").dataset.side) !== side) $("size").value = Math.max(3, Math.round(side / 16));
  $("size").dataset.side = side;
  $("map-hint").textContent = task.map ? `Predicted by ${task.map.detector}. ${task.map.note}`.trim() : "No prediction for this image.";
  $("map-group").classList.toggle("none", !task.map);
  $("assist-tool").hidden = !task.tools.includes("assist");
  const offered = task.offered ?? task.classes.map((_, at) => at + 1);
  const drawn = [...task.classes, ...offered].join("\n");
  if ($("classes").dataset.drawn !== drawn) {
    $("classes").dataset.drawn = drawn;
    drawClasses(task.classes, offered);
  }
  if (!offered.includes(desk.value)) desk.value = offered[0];
  $("prompt").textContent = task.image.prompt || "No prompt.";
  $("category").textContent = task.image.category ?? "";
  $("comment-count").textContent = task.comments || "";
  $("returned").hidden = !task.note;
  $("returned").textContent = task.note ? `Returned: ${task.note}` : "";
  view.layers.dataset.image = task.image.id;
  $("empty").hidden = true;
  $("tools").classList.remove("idle");
  $("comment-button").disabled = Boolean(loaded.lesson);
  if (!loaded.lesson) localStorage.setItem(`clinic.current.${person}`, task.image.id);
  say(loaded.restored ? "Draft restored." : "");
  const useless = (desk.tool === "assist" && !task.tools.includes("assist")) || (desk.tool === "eraser" && !labels.painted);
  takeTool(useless ? "brush" : desk.tool);
}

function rest() {
  tasks.current = desk.labels = null;
  view.close();
  suggestions.close();
  $("empty").hidden = false;
  $("tools").classList.add("idle");
  $("prompt").textContent = $("category").textContent = "";
  day.remaining = 0;
  showTools();
  clearTimeout(resting);
  resting = setTimeout(() => !tasks.current && !triage.open && advance(), RETRY_MS);
}

// Puts the current image back to the front of the queue.
function putBack() {
  const { current } = tasks;
  if (!current || current.lesson || current.task.lease === null) return;
  saveDraft();
  tasks.waiting.unshift({ task: current.task, loaded: Promise.resolve({ ...current, seconds: timer.seconds, restored: false }) });
}

async function advance(prefer) {
  await act(async () => {
    tasks.current = null;
    const lesson = lessons.shift();
    const loaded = lesson ?? (await tasks.next(prefer));
    if (!loaded) return rest();
    show(loaded);
    if (lesson) return say(lesson.lesson.text);
    tasks.fill().catch(() => {});
  });
  if (!tasks.current && $("empty").hidden) resting = setTimeout(() => !tasks.current && advance(), RETRY_MS);
}

// Runs one action at a time; errors are shown, and no work is lost.
async function act(action) {
  if (busy) return;
  busy = true;
  try {
    await action();
  } catch (error) {
    say(error.status === 401 ? "You are signed out. Sign in again in another tab; your work is safe on this device."
      : error instanceof Unreachable ? "Cannot reach the server. Your answers are safe on this device." : error.message, "bad");
    if (error.status === 401) $("outbox").hidden = $("sign-in").hidden = false;
  } finally {
    busy = false;
  }
}

// ---- answers ----

async function answer(clean) {
  const { current } = tasks;
  if (!current || busy || pointer.busy) return;
  if (clean && current.labels.painted) return say(`You have painted something: erase it first, or press ${keyOf("submit")} to submit it.`, "bad");
  if (!clean && !current.labels.painted) return say(`Nothing is painted. If the image is clean, press ${keyOf("clean")}.`, "bad");
  if (current.lesson) return judgeLesson(current, clean);
  let kept = false;
  await act(async () => {
    const { lease, image, revision } = current.task;
    const body = {
      lease, image: image.id, revision, clean, label_map: clean ? null : await packed(current.labels.pixels),
      seconds: timer.seconds, key: crypto.randomUUID(),
    };
    await sender.add("/api/annotate/submit", body, image.id);
    drafts.drop(person, image.id).catch(() => {});
    if (lease && !revision) {
      day.done++;
      day.remaining = Math.max(0, day.remaining - 1);
    }
    kept = true;
  });
  if (kept) await advance();
}

async function judgeLesson(current, clean) {
  const { good, text } = verdict(current, clean);
  if (!good) return say(text, "bad");
  if (!lessons.length) finishTour();
  await advance();
  say(`${text} ${lessons.length || tasks.current?.lesson ? tasks.current?.lesson?.text ?? "" : "The tour is over; these images are real."}`);
}

function finishTour() {
  endTour();
  lessons = [];
}

async function skip() {
  const { current } = tasks;
  if (!current || busy || pointer.busy) return;
  if (current.lesson) {
    finishTour();
    return advance();
  }
  if (current.task.lease === null) return advance();
  const reason = await askReason();
  if (reason === null || tasks.current !== current) return;
  await act(async () => {
    await sender.add("/api/annotate/skip", { lease: current.task.lease, reason }, current.task.image.id);
    drafts.drop(person, current.task.image.id).catch(() => {});
    day.remaining = Math.max(0, day.remaining - 1);
  });
  await advance();
}

async function previous() {
  if (pointer.busy || tasks.current?.lesson) return;
  await act(async () => {
    await sender.flush();
    if ((await outbox.of(person)).some((entry) => !entry.refused)) throw new Error("Your last answer is still being sent; try again in a moment.");
    const before = tasks.current?.task.lease === null ? tasks.current.task.image.id : null;
    const task = await get(`/api/annotate/previous${before ? `?before=${encodeURIComponent(before)}` : ""}`);
    if (!task) return say("There is no earlier image.");
    putBack();
    show(await load(task, person));
    say(`Your earlier answer: change it and submit again, or press ${keyOf("skip")} to continue.`);
  });
}

function confirmed(entry, stored) {
  if (entry.path.endsWith("/submit")) say(`Saved, revision ${stored.revision}.`);
  clearTimeout(confirmed.timer);
  confirmed.timer = setTimeout(countAgain, 1500);
}

async function countAgain() {
  const statistics = await get("/api/annotate/mine").catch(() => null);
  if (!statistics || (await outbox.of(person)).length) return;
  Object.assign(day, { remaining: statistics.remaining, done: statistics.done_today });
  showTools();
}

keepLeases(tasks, timer, say, saveDraft);
setInterval(saveOnServer, SERVER_DRAFT_MS);
setInterval(() => pointer.busy && saveDraft(), 1000);

// ---- wiring ----

const DO = {
  accept: () => {
    acceptOne(suggestions.chosen < 0 ? suggestions.walkOpen() : suggestions.chosen);
    suggestions.walkOpen();
  },
  reject: () => {
    rejectOne(suggestions.chosen < 0 ? suggestions.walkOpen() : suggestions.chosen);
    suggestions.walkOpen();
  },
  "accept-all": acceptAll, "next-region": () => walk(1), "previous-region": () => walk(-1),
  smaller: () => resize(-1), larger: () => resize(1), undo: () => step("undo"), redo: () => step("redo"), hide,
  fit: () => view.fit(), submit: () => (pointer.loop ? pointer.closeLoop(false) : answer(false)), clean: () => answer(true), skip, previous,
  triage: async () => {
    if (tasks.current?.lesson) finishTour();
    await act(() => triage.enter());
  },
  comment: () => tasks.current && !tasks.current.lesson && showComments(tasks.current.task.image.id, say),
  guide: () => showFromTop("guide"), help: () => showFromTop("help"),
  ...Object.fromEntries(["select", "brush", "eraser", "lasso", "fill", "wand", "assist"].map((tool) => [tool, () => takeTool(tool)])),
  ...Object.fromEntries([["zoom-in", 1.4], ["zoom-out", 1 / 1.4]].map(([name, factor]) => [name, () => {
    const box = view.stage.getBoundingClientRect();
    view.zoom(box.left + box.width / 2, box.top + box.height / 2, factor);
  }])),
};
const WITHOUT_IMAGE = ["help", "guide", "triage", "previous"];
const REPEATING = ["smaller", "larger", "undo", "redo", "zoom-in", "zoom-out", "next-region", "previous-region"];

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.matches?.("input:not([type=range]), textarea")) return;
  if (triage.open) {
    if (event.key === "Enter") {
      event.preventDefault();
      triage.confirm();
    } else if (event.key === "Escape") triage.leave();
    return;
  }
  const action = actionOf(event), onStage = event.target === view.stage || event.target === document.body;
  if (event.key === "Escape") return void (pointer.dropLoop() || $("brush-tool").focus());
  if (!action) return;
  if (/region$/.test(action) && (!onStage || !suggestions.regions.length)) return;
  if (["submit", "pan"].includes(action) && !onStage && event.target.matches?.("button:not(#submit), a, input")) return;
  if (event.repeat && !REPEATING.includes(action)) return event.preventDefault();
  event.preventDefault();
  if (action === "pan") pointer.space = true;
  else if (action.startsWith("class-")) choose(valueAt(Number(action.slice(6))));
  else if (tasks.current || WITHOUT_IMAGE.includes(action)) DO[action]();
  view.stage.classList.toggle("panning", pointer.space);
});
addEventListener("keyup", (event) => {
  if (event.key === " ") pointer.space = false;
  view.stage.classList.toggle("panning", pointer.space);
});

for (const id of ["size", "opacity", "tolerance"]) $(id).addEventListener("input", showTools);
$("threshold").addEventListener("input", () => {
  $("threshold").dataset.moved = "yes";
  suggestions.move($("threshold").value / 100);
  showTools();
});
$("pressure").addEventListener("change", () => (desk.pressure = $("pressure").checked));
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => takeTool(button.dataset.tool));
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => (tasks.current || WITHOUT_IMAGE.includes(button.dataset.do)) && DO[button.dataset.do]());
$("tour-again").addEventListener("click", async () => {
  $("help").close();
  putBack();
  lessons = await practice(desk.labels ? tasks.current.task.classes : ["shape distortion", "unreasonable content", "watermark"]);
  await advance();
});

// Focus goes to a button that may be below the fold.
function showFromTop(id) {
  $(id).showModal();
  $(id).scrollTop = 0;
}

function showKeys() {
  for (const place of document.querySelectorAll("kbd[data-key]")) place.textContent = keyOf(place.dataset.key).replace("Shift+", "⇧");
}

wireKeys(showKeys);
showKeys();
showTools();
sender.flush();
// The curation desk opens an image by name.
const wanted = new URLSearchParams(location.search).get("image");
if (tourIsDue() && !wanted) lessons = await practice(["shape distortion", "unreasonable content", "watermark"]).catch(() => []);
countAgain();
await advance(new URLSearchParams(location.search).get("image") ?? localStorage.getItem(`clinic.current.${person}`));
document.body.dataset.ready = "true";
