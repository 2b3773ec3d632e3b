// Segment anything: a box, clicks or a word prompt the model; each mask replaces the one before.
import { post } from "../api.js";
import { h } from "../dom.js";
import { unpacked } from "./codec.js";

export class Segmenter {
  // `act` runs one action at a time and shows errors.
  constructor(desk, view, tasks, act) {
    Object.assign(this, { desk, view, tasks, act });
    this.word = h("input", { type: "text", maxlength: "200", placeholder: "such as hand", autocomplete: "off", "aria-label": "Word for what to segment" });
    this.words = h("form", { class: "row", id: "assist-word", hidden: true, onsubmit: (event) => {
      event.preventDefault();
      this.find(this.word.value.trim());
    } }, this.word, h("button", { type: "submit" }, "Find"));
    document.getElementById("size-row")?.after(this.words);
    this.forget();
  }

  forget() {
    Object.assign(this, { points: [], box: null, answer: null });
    this.words.hidden = !(this.desk.tool === "assist" && this.tasks.current?.task.tools.includes("words"));
  }

  // Everything that the word names.
  find(word) {
    if (!word) return this.word.focus();
    Object.assign(this, { points: [], box: null });
    return this.ask({ word });
  }

  // `inside`: whether the place belongs to the object.
  click({ x, y }, inside) {
    this.points.push({ x, y, inside });
    return this.ask();
  }

  // A box starts another object.
  surround(from, to) {
    const { width, height } = this.desk.labels;
    const within = (value, most) => Math.min(most, Math.max(0, value));
    this.forget();
    this.box = [
      within(Math.min(from.x, to.x), width), within(Math.min(from.y, to.y), height),
      within(Math.max(from.x, to.x), width), within(Math.max(from.y, to.y), height),
    ];
    return this.ask();
  }

  ask(prompt = { points: this.points, box: this.box }) {
    const { desk, view } = this, { current } = this.tasks;
    return this.act(async () => {
      const segment = await post("/api/annotate/assist", { image: current.task.image.id, ...prompt });
      if (this.tasks.current !== current) return;
      const mask = await unpacked(segment.label_map, desk.labels.pixels.length);
      if (prompt.word && !mask.some(Boolean)) return desk.say(`No “${prompt.word}” was found. Try another word, or draw a box.`);
      if (this.answer && this.answer === desk.labels.done.at(-1)) view.touch(desk.labels.undo());
      desk.labels.begin();
      view.touch(desk.labels.fill(mask, desk.labels.whole, desk.value));
      desk.labels.end();
      this.answer = desk.labels.done.at(-1);
      desk.changed();
      if (prompt.word) return desk.say(`Marked every “${prompt.word}” found. Ctrl+Z undoes it.`);
      desk.say("Click to add, Shift-click to exclude. Draw a new box to start over. Ctrl+Z undoes it.");
    });
  }
}
