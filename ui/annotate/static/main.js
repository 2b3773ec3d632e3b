// The annotation page: shows the current image, edits and submits its label map, loads the next image.
import { root, urlOf } from "../root.js";
import { Unreachable, currentSession, get, post } from "../api.js";
import { $ } from "../dom.js";
import { ActiveTimer } from "./active_timer.js";
import { packed, runs, unpacked } from "./codec.js";
import { Editor } from "./editor.js";
import { keyOf } from "./keys.js";
import { askReason, showComments, showOutbox, wireKeys } from "./panels.js";
import { Segmenter } from "./segment.js";
import { OutboxSender } from "./outbox.js";
import { drafts, outbox } from "./draft_store.js";
import { TaskQueue, keepLeases, load } from "./task_queue.js";
import { RegionNotes } from "./regions.js";
import { OwnAnswers } from "./own_answers.js";
import { answerPainter, answerText, endTour, isShown, practice, showLesson, tourIsDue, verdict } from "./tour.js";
import { Triage } from "./triage.js";

const RETRY_MS = 5000;
const SERVER_DRAFT_MS = 4000;
const CLASSES = ["shape distortion", "unreasonable content", "watermark"];

const { name: person, roles } = await currentSession();
const CURRENT = `clinic.current.${person}${root}`;
const tasks = new TaskQueue(person), timer = new ActiveTimer();
const editor = new Editor($("bench"), { changed: drawn }), { desk, pointer, view } = editor;
const say = (...message) => editor.say(...message);
const sender = new OutboxSender(person, (state) => showOutbox(state, { reopen, drop }), confirmed);
const triage = new Triage(sender, timer, say, () => (tasks.current ? showTools() : advance()));
const segmenter = new Segmenter(desk, view, tasks, act);
desk.segmenter = segmenter;
const own = new OwnAnswers(openOwn);
const regions = new RegionNotes($, { changed: noted, point: pointOut });
// The curation desk opens an image by name, and wants its person back afterwards.
const asked = new URLSearchParams(location.search), wanted = asked.get("image");
const back = /^\/curate([/?#]|$)/.test(asked.get("back") ?? "") ? asked.get("back") : null;
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
      if (task?.image.id !== entry.image) throw new Error("That image is no longer available; your answer is saved on this device.");
      putBack();
      show(await load(task, person));
    }
    const pixels = await unpacked(entry.body.label_map, desk.labels.pixels.length);
    editor.replace(pixels);
    regions.open(desk.labels, entry.body.regions, tasks.current.task.classes);
    noted();
    await drop(entry);
  });
}

// ---- drafts ----

// After every change of the label map: stores a draft in the browser at once, on the server a little later.
function drawn() {
  regions.painted();
  if (tasks.current?.lesson) showLesson(tasks.current);
  saveDraft();
}

// An edit of a region's fields is a change like one of the map.
function noted() {
  if (!tasks.current || tasks.current.lesson) return;
  tasks.current.labels.changes++;
  saveDraft();
}

// Outlines a region while its fields have the focus.
function pointOut(box) {
  if (tasks.current?.lesson) return;
  editor.hint = box && ((context, pixel) => {
    const [left, top, right, bottom] = box;
    for (const [width, colour] of [[5, "rgb(0 0 0 / 60%)"], [2.5, "#fff"]]) {
      Object.assign(context, { lineWidth: width * pixel, strokeStyle: colour });
      context.strokeRect(left - 2 * pixel, top - 2 * pixel, right - left + 4 * pixel, bottom - top + 4 * pixel);
    }
  });
  view.request();
}

function saveDraft() {
  const { current } = tasks;
  if (!current || current.lesson || !current.labels.changes || current.labels.changes === savedChanges) return;
  savedChanges = current.labels.changes;
  const bytes = runs(current.labels.pixels);
  drafts.put({ person, image: current.task.image.id, runs: bytes, regions: regions.current(), seconds: timer.seconds, saved: Date.now() })
    .catch(() => say("This browser cannot store drafts; they are saved on the server every few seconds.", "bad"));
}

async function saveOnServer() {
  const { current } = tasks;
  if (!current || current.lesson || busy || current.labels.changes === serverDraftAt) return;
  serverDraftAt = current.labels.changes;
  const body = { image: current.task.image.id, label_map: await packed(current.labels.pixels), regions: regions.current(), seconds: timer.seconds };
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
  editor.open(loaded, { image: task.image.id, classes: task.classes, offered: task.offered, threshold: firstThreshold(task.map), tools: task.tools });
  if (loaded.lesson) regions.close();
  else regions.open(labels, loaded.regions, task.classes);
  timer.reset(loaded.seconds);
  $("map-hint").textContent = task.map ? `Predicted by ${task.map.detector}. ${task.map.note}`.trim() : "No detector has looked at this image yet.";
  $("map-group").classList.toggle("none", !task.map);
  $("prompt").textContent = task.image.prompt || "No prompt.";
  $("category").textContent = task.image.category ?? "";
  $("comment-count").textContent = task.comments || "";
  $("returned").hidden = !task.note;
  $("returned").textContent = task.note ? `Returned by a curator: ${task.note}${labels.painted || loaded.restored ? "" : " You had answered that the image is clean."}` : "";
  showLesson(loaded);
  $("empty").hidden = true;
  $("comment-button").disabled = Boolean(loaded.lesson);
  if (!loaded.lesson) localStorage.setItem(CURRENT, task.image.id);
  say(loaded.restored ? "Draft restored." : task.answer && !task.note && task.lease ? "Your earlier answer." : "");
  showTools();
}

const NOTHING = ["Nothing to label right now", "Images appear here when a curator sends some, or when a round reaches its labelling stage. This page checks every few seconds."];
const OFFLINE = ["Cannot reach the server", "Your answers are safe on this device. This page tries again every few seconds."];
const SIGNED_OUT = ["You are signed out", "Your answers are safe on this device. Sign in again to continue."];

// An empty stage that says why it is empty, and tries again.
function rest([title, text] = NOTHING) {
  tasks.current = null;
  editor.close();
  regions.close();
  showLesson(null);
  $("empty").hidden = false;
  $("empty-title").textContent = title;
  $("empty-text").textContent = text;
  $("prompt").textContent = $("category").textContent = $("map-hint").textContent = "";
  $("returned").hidden = true;
  say("", "", "bad");
  if (title === NOTHING[0]) day.remaining = 0;
  showTools();
  clearTimeout(resting);
  resting = setTimeout(() => !tasks.current && !triage.open && advance(), RETRY_MS);
}

// Puts the current image back to the front of the queue.
function putBack() {
  const { current } = tasks;
  if (!current || current.lesson || current.task.lease === null) return;
  saveDraft();
  tasks.waiting.unshift({ task: current.task, loaded: Promise.resolve({ ...current, regions: regions.current(), seconds: timer.seconds, restored: false }) });
}

async function advance(prefer) {
  const error = await act(async () => {
    tasks.current = null;
    const lesson = lessons.shift();
    const loaded = lesson ?? (await tasks.next(prefer));
    if (!loaded) return rest();
    show(loaded);
    if (!lesson) tasks.fill().catch(() => {});
  });
  if (error && !tasks.current) rest(error instanceof Unreachable ? OFFLINE : error.status === 401 ? SIGNED_OUT : ["The next image could not be loaded", error.message]);
}

// Runs one action at a time; errors are shown and returned, and no work is lost.
async function act(action) {
  if (busy) return null;
  busy = true;
  try {
    await action();
    return null;
  } catch (error) {
    say(error.status === 401 ? "You are signed out. Sign in again in another tab; your work is safe on this device."
      : error instanceof Unreachable ? "Cannot reach the server. Your answers are safe on this device." : error.message, "bad");
    if (error.status === 401) $("outbox").hidden = $("sign-in").hidden = false;
    return error;
  } finally {
    busy = false;
  }
}

// ---- answers ----

async function answer(clean) {
  const { current } = tasks;
  if (!current || busy || pointer.busy) return;
  if (current.lesson && isShown(current)) return nextLesson();
  if (clean && current.labels.painted) return say(`You have painted something: erase it first, or press ${keyOf("submit")} to submit it.`, "bad");
  if (!clean && !current.labels.painted) return say(`Nothing is painted. If the image is clean, press ${keyOf("clean")}.`, "bad");
  if (current.lesson) return judgeLesson(current, clean);
  if (!clean && regions.wrong) {
    regions.wrong.focus();
    return say("An importance is a whole number from 1 to 100.", "bad");
  }
  let kept = false;
  await act(async () => {
    const { lease, image, revision } = current.task;
    const body = {
      lease, image: image.id, revision, clean, label_map: clean ? null : await packed(current.labels.pixels), regions: clean ? [] : regions.current(),
      seconds: timer.seconds, key: crypto.randomUUID(),
    };
    await sender.add("/api/annotate/submit", body, image.id);
    drafts.drop(person, image.id).catch(() => {});
    if (lease) day.remaining = Math.max(0, day.remaining - 1);
    if (lease && !revision) day.done++;
    kept = true;
  });
  if (kept) await leaveOrAdvance(current);
}

// The image that Curate asked for leads back there, once the server has what was decided.
async function leaveOrAdvance({ task }) {
  if (!back || task.image.id !== wanted) return advance();
  await sender.flush();
  if (!(await outbox.of(person)).length) return location.assign(urlOf(back));
  return advance();
}

// ---- practice ----

async function judgeLesson(current, clean) {
  const { good, text, hint } = verdict(current, clean, current.task.classes);
  if (good) return nextLesson(text);
  current.misses++;
  if (isShown(current)) {
    editor.hint = answerPainter(current);
    view.request();
  }
  showLesson(current, `${text} ${isShown(current) ? answerText(current, current.task.classes) : hint}`);
}

async function nextLesson(text = "") {
  if (!lessons.length) endTour();
  await advance();
  if (tasks.current?.lesson) showLesson(tasks.current, text, true);
  else say(`${text} Practice is over; these images are real.`.trim());
}

function finishTour() {
  endTour();
  lessons = [];
}

async function beginTour() {
  lessons = await practice(tasks.current?.task.classes ?? CLASSES);
}

async function skip() {
  const { current } = tasks;
  if (!current || busy || pointer.busy) return;
  if (current.lesson) return nextLesson();
  if (current.task.lease === null) return leaveOrAdvance(current);
  const reason = await askReason();
  if (reason === null || tasks.current !== current) return;
  await act(async () => {
    await sender.add("/api/annotate/skip", { lease: current.task.lease, reason }, current.task.image.id);
    drafts.drop(person, current.task.image.id).catch(() => {});
    day.remaining = Math.max(0, day.remaining - 1);
  });
  await leaveOrAdvance(current);
}

async function previous() {
  if (pointer.busy || tasks.current?.lesson) return;
  await act(async () => {
    await sender.flush();
    if ((await outbox.of(person)).some((entry) => !entry.refused)) throw new Error("Your last answer is still being sent; try again in a moment.");
    const before = tasks.current?.task.lease === null ? tasks.current.task.image.id : null;
    const task = await get(`/api/annotate/previous${before ? `?before=${encodeURIComponent(before)}` : ""}`);
    if (!task) return say("There is no earlier image.");
    await showEarlier(task);
  });
}

async function showEarlier(task) {
  putBack();
  show(await load(task, person));
  say(`Your earlier answer: change it and submit again, or press ${keyOf("skip")} to continue.`);
}

// One of the own answers, from their list; one that is current already stays.
async function openOwn(image) {
  if (pointer.busy || tasks.current?.task.image.id === image) return;
  await act(async () => showEarlier(await get(`/api/annotate/previous?image=${encodeURIComponent(image)}`)));
}

function confirmed(entry, stored) {
  if (entry.path.endsWith("/submit")) say(`Saved, revision ${stored.revision}.`);
  clearTimeout(confirmed.timer);
  confirmed.timer = setTimeout(() => countAgain(), 1500);
}

const numbers = () => get("/api/annotate/mine").catch(() => null);

async function countAgain(pending = numbers()) {
  const statistics = await pending;
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
    if (await act(() => triage.enter())) await triage.leave();
  },
  answers: () => own.show(sender.flush(), tasks.current?.task.classes ?? CLASSES),
  regions: () => !tasks.current.lesson && regions.focus(),
  comment: () => tasks.current && !tasks.current.lesson && showComments(tasks.current.task.image.id, say),
  guide: () => showFromTop("guide"), help: () => showFromTop("help"),
};
const WITHOUT_IMAGE = ["help", "guide", "triage", "previous", "answers"];

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.closest?.("#region-list")) return view.stage.focus();
  if (document.querySelector("dialog[open]") || event.target.matches?.("input:not([type=range]), textarea")) return;
  if (triage.open) return triage.keydown(event);
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
  await act(beginTour);
  await advance();
});
$("lesson-end").addEventListener("click", () => {
  finishTour();
  advance();
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
if (back) {
  $("back").hidden = false;
  $("back").href = urlOf(back);
}
const first = numbers();
countAgain(first);
if (wanted) await reserve();
else if (tourIsDue(await first)) await beginTour().catch(() => {});
await advance(wanted ?? localStorage.getItem(CURRENT));
document.body.dataset.ready = "true";

// An image that Curate opened leaves the queue when its page is left without an answer; here its page is back.
async function reserve() {
  const task = await get(`/api/annotate/next?prefer=${encodeURIComponent(wanted)}`).catch(() => null);
  if (task?.image.id !== wanted && roles.some((role) => ["curator", "admin"].includes(role))) await post("/api/curate/open", { image: wanted }).catch(() => {});
}
