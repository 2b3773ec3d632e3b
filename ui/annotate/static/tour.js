// The first-run tour: three practice images with known answers, on the real desk; nothing is sent to the server.
import { LabelMap } from "/static/annotate/label_map.js";
import { unpacked } from "/static/annotate/codec.js";
import { heatBitmap } from "/static/annotate/view.js";

const DONE = "clinic.tour";

export const tourIsDue = () => localStorage.getItem(DONE) === null;
export const endTour = () => localStorage.setItem(DONE, "done");

// The practice images, as the desk shows a task.
export async function practice(classes) {
  const lessons = await (await fetch("/static/annotate/practice.json")).json();
  return Promise.all(lessons.map(async (lesson, at) => {
    const { width, height } = lesson, count = width * height;
    const truth = await unpacked(lesson.truth, count);
    const confidence = lesson.suspected ? (await unpacked(lesson.suspected, count)).map((level) => 2 * level) : null;
    const response = await fetch(`/static/annotate/${lesson.file}`);
    const task = {
      lease: null, image: { id: `practice-${at + 1}`, width, height, prompt: lesson.prompt, category: `practice ${at + 1} of ${lessons.length}` },
      map: confidence && { detector: "the practice detector", threshold: 0.5 }, classes, revision: 0, comments: 0, tools: [],
    };
    return {
      task, width, height, confidence, heat: confidence && (await heatBitmap(confidence, height, width)),
      bitmap: await createImageBitmap(await response.blob()), labels: new LabelMap(height, width), seconds: 0,
      restored: false, waited: [], lesson: { ...lesson, truth },
    };
  }));
}

// Feedback on an answer to a practice image, and whether it is good enough.
export function verdict({ lesson, labels }, clean) {
  let both = 0, either = 0, alike = 0, label = 0;
  for (let at = 0; at < lesson.truth.length; at++) {
    const mine = labels.pixels[at] > 0, right = lesson.truth[at] > 0;
    both += mine && right;
    alike += right && labels.pixels[at] === lesson.truth[at];
    label = Math.max(label, lesson.truth[at]);
    either += mine || right;
  }
  if (!either) return { good: clean, text: "Correct: this image is clean. Clean images teach the detector as much as flawed ones." };
  if (clean) return { good: false, text: `Look again: ${lesson.hint}` };
  const overlap = both / either, share = Math.round(100 * overlap);
  const otherClass = 2 * alike < both ? ` Its class is ${label}: press I for the guideline.` : "";
  if (overlap >= 0.5) return { good: true, text: `Good: your mask and ours overlap by ${share} % (IoU).${otherClass}` };
  return { good: false, text: `Your mask and ours overlap by ${share} % (IoU). ${lesson.hint}` };
}
