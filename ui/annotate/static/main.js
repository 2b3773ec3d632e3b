// The annotation page: shows the current image, edits and submits its label map, loads the next image.
import { Unreachable, currentSession, get, post } from "/static/api.js";
import { $ } from "/static/dom.js";
import { ActiveTimer } from "/static/annotate/active_timer.js";
import { packed, runs, unpacked } from "/static/annotate/codec.js";
import { Editor } from "/static/annotate/editor.js";
import { keyOf } from "/static/annotate/keys.js";
import { askReason, showComments, showOutbox, wireKeys } from "/static/annotate/panels.js";
import { Segmenter } from "/static/annotate/segment.js";
import { OutboxSender } from "/static/annotate/outbox.js";
import { drafts, outbox } from "/static/annotate/draft_store.js";
import { TaskQueue, keepLeases, load } from "/static/annotate/task_queue.js";
import { endTour, practice, tourIsDue, verdict } from "/static/annotate/tour.js";
import { Triage } from "/static/annotate/triage.js";

const RETRY_MS = 5000;
const SERVER_DRAFT_MS = 4000;

const person = (await currentSession()).name;
const tasks = new TaskQueue(person), timer = new ActiveTimer();
const editor = new Editor($("bench"), { changed: saveDraft }), { desk, pointer, view } = editor;
const say = (...message) => editor.say(...message);
const sender = new OutboxSender(person, (state) => showOutbox(state, { reopen, drop }), confirmed);
const triage = new Triage(sender, timer, say, () => (tasks.current ? showTools() : advance()));
const segmenter = new Segmenter(desk, view, tasks, act);
desk.segmenter = segmenter;
const day = { remaining: 0, done: 0 };
let busy = false, lessons = [], serverDraftAt = 0, savedChanges = 0, resting = 0;

// ---- showing ----

function showTools() {
  editor.showTools();
  $("remaining").textContent = day.remaining;
  $("done").textContent = day.done;
}

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
    editor.replace(pixels);
    await drop(entry);
  });
}

// ---- drafts ----

// After every change of the label map: stores a draft in the browser at once, on the server a little later.
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
  const { task, labels } = loaded;
  tasks.current = loaded;
  serverDraftAt = savedChanges = labels.changes;
  editor.open(loaded, { image: task.image.id, classes: task.classes, threshold: firstThreshold(task.map), tools: task.tools });
  timer.reset(loaded.seconds);
  $("map-hint").textContent = task.map ? `Predicted by ${task.map.detector}. ${task.map.note}`.trim() : "No prediction for this image.";
  $("map-group").classList.toggle("none", !task.map);
  $("prompt").textContent = task.image.prompt || "No prompt.";
  $("category").textContent = task.image.category ?? "";
  $("comment-count").textContent = task.comments || "";
  $("returned").hidden = !task.note;
  $("returned").textContent = task.note ? `Returned: ${task.note}` : "";
  $("empty").hidden = true;
  $("comment-button").disabled = Boolean(loaded.lesson);
  if (!loaded.lesson) localStorage.setItem(`clinic.current.${person}`, task.image.id);
  say(loaded.restored ? "Draft restored." : "");
  showTools();
}

function rest() {
  tasks.current = null;
  editor.close();
  $("empty").hidden = false;
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
  ...editor.actions,
  submit: () => (pointer.loop ? pointer.closeLoop(false) : answer(false)), clean: () => answer(true), skip, previous,
  triage: async () => {
    if (tasks.current?.lesson) finishTour();
    await act(() => triage.enter());
  },
  comment: () => tasks.current && !tasks.current.lesson && showComments(tasks.current.task.image.id, say),
  guide: () => showFromTop("guide"), help: () => showFromTop("help"),
};
const WITHOUT_IMAGE = ["help", "guide", "triage", "previous"];

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.matches?.("input:not([type=range]), textarea")) return;
  if (triage.open) {
    if (event.key === "Enter") {
      event.preventDefault();
      triage.confirm();
    } else if (event.key === "Escape") triage.leave();
    return;
  }
  editor.keydown(event, event.target === view.stage || event.target === document.body, DO, run);
});
addEventListener("keyup", (event) => editor.keyup(event));
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => run(button.dataset.do));

function run(action) {
  if (tasks.current || WITHOUT_IMAGE.includes(action)) DO[action]();
}

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

wireKeys(() => editor.showKeys());
editor.showKeys();
showTools();
sender.flush();
// The curation desk opens an image by name.
const wanted = new URLSearchParams(location.search).get("image");
if (tourIsDue() && !wanted) lessons = await practice(["shape distortion", "unreasonable content", "watermark"]).catch(() => []);
countAgain();
await advance(new URLSearchParams(location.search).get("image") ?? localStorage.getItem(`clinic.current.${person}`));
document.body.dataset.ready = "true";
