// The first-run tour: three practice images with known answers, on the real desk; nothing is sent to the server.
import { urlOf } from "../root.js";
import { post } from "../api.js";
import { $ } from "../dom.js";
import { LabelMap } from "./label_map.js";
import { unpacked } from "./codec.js";
import { heatBitmap } from "./view.js";

const NEVER = "clinic.tour";
const ENOUGH = 0.4;
const MISSES = 2;

// Whether practice begins by itself: once for every account, unless this browser is set to never begin it.
export const tourIsDue = (statistics) => localStorage.getItem(NEVER) !== "never" && Boolean(statistics?.tour_due);
export const endTour = () => post("/api/annotate/tour").catch(() => {});

// The practice images, as the desk shows a task.
export async function practice(classes) {
  const lessons = await (await fetch(urlOf("/static/annotate/practice.json"))).json();
  return Promise.all(lessons.map(async (lesson, at) => {
    const { width, height } = lesson, count = width * height;
    const truth = await unpacked(lesson.truth, count);
    const confidence = lesson.suspected ? (await unpacked(lesson.suspected, count)).map((level) => 2 * level) : null;
    const response = await fetch(urlOf(`/static/annotate/${lesson.file}`));
    const task = {
      lease: null, image: { id: `practice-${at + 1}`, width, height, prompt: lesson.prompt, category: `practice ${at + 1} of ${lessons.length}` },
      map: confidence && { detector: "the practice detector", threshold: 0.5, note: "" }, classes, revision: 0, comments: 0, tools: [],
    };
    return {
      task, width, height, confidence, heat: confidence && (await heatBitmap(confidence, height, width)),
      bitmap: await createImageBitmap(await response.blob()), labels: new LabelMap(height, width), seconds: 0,
      restored: false, waited: [], misses: 0, lesson: { ...lesson, truth, title: `Practice ${at + 1} of ${lessons.length}` },
    };
  }));
}

// Feedback on an answer to a practice image: whether it is good enough, the words for it, and what to do better.
export function verdict({ lesson, labels }, clean, classes) {
  let both = 0, either = 0, alike = 0, value = 0;
  for (let at = 0; at < lesson.truth.length; at++) {
    const mine = labels.pixels[at] > 0, right = lesson.truth[at] > 0;
    both += mine && right;
    alike += right && labels.pixels[at] === lesson.truth[at];
    value = Math.max(value, lesson.truth[at]);
    either += mine || right;
  }
  if (!either) return { good: clean, text: "Correct: this image is clean. Clean images teach the detector as much as flawed ones.", hint: "" };
  if (clean || !value) return { good: false, text: "Look again.", hint: lesson.hint };
  const overlap = both / either, share = Math.round(100 * overlap);
  if (overlap < ENOUGH) return { good: false, text: `Your mask matches the reference by ${share} % (IoU).`, hint: lesson.hint };
  if (2 * alike < both) return { good: false, text: `The place is right, but this is class ${value}, ${classes[value - 1]}.`, hint: `Undo, press ${value} and mark it again. I opens the guideline.` };
  return { good: true, text: `Well spotted: your mask matches the reference by ${share} % (IoU).`, hint: "" };
}

// After two misses the answer is shown, and Enter goes on.
export const isShown = (loaded) => loaded.misses >= MISSES;

export function answerText({ lesson }, classes) {
  const value = lesson.truth.find((one) => one > 0);
  return value ? `The answer is outlined in white: class ${value}, ${classes[value - 1]}. Compare, then press Enter to continue.`
    : "The answer: this image is clean, nothing is broken. Press Enter to continue.";
}

// Paints the outline of the answer over everything else.
export function answerPainter({ lesson, width, height }) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && lesson.truth[y * width + x] > 0;
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      for (const [beside, toX, toY] of [[at(x, y - 1), x + 1, y], [at(x - 1, y), x, y + 1]]) {
        if (at(x, y) === beside) continue;
        path.moveTo(x, y);
        path.lineTo(toX, toY);
      }
    }
  }
  return (context, pixel) => {
    for (const [width, style] of [[5, "rgb(0 0 0 / 80%)"], [2.5, "#fff"]]) {
      context.lineWidth = width * pixel;
      context.strokeStyle = style;
      context.stroke(path);
    }
  };
}

// The card above the image; nothing without a lesson. The control to press next is marked.
export function showLesson(loaded, text = "", good = false) {
  const lesson = loaded?.lesson;
  $("lesson").hidden = !lesson;
  for (const one of document.querySelectorAll(".pointed")) one.classList.remove("pointed");
  if (!lesson) return;
  $("lesson-title").textContent = lesson.title;
  $("lesson-text").textContent = lesson.text;
  $("lesson-verdict").textContent = text;
  $("lesson-verdict").dataset.kind = text && !good ? "bad" : "";
  $(loaded.labels.painted || isShown(loaded) ? "submit" : lesson.points)?.classList.add("pointed");
}
