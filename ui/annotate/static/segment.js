// Segment anything: a box or clicks prompt the model; each mask replaces the one before.
import { post } from "/static/api.js";
import { unpacked } from "/static/annotate/codec.js";

export class Segmenter {
  // `act` runs one action at a time and shows errors.
  constructor(desk, view, tasks, act) {
    Object.assign(this, { desk, view, tasks, act });
    this.forget();
  }

  forget() {
    Object.assign(this, { points: [], box: null, answer: null });
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

  ask() {
    const { desk, view } = this, { current } = this.tasks;
    return this.act(async () => {
      const segment = await post("/api/annotate/assist", { image: current.task.image.id, points: this.points, box: this.box });
      if (this.tasks.current !== current) return;
      const mask = await unpacked(segment.label_map, desk.labels.pixels.length);
      if (this.answer && this.answer === desk.labels.done.at(-1)) view.touch(desk.labels.undo());
      desk.labels.begin();
      view.touch(desk.labels.fill(mask, desk.labels.whole, desk.value));
      desk.labels.end();
      this.answer = desk.labels.done.at(-1);
      desk.changed();
      desk.say("Click to add, Shift-click to exclude. Draw a new box to start over. Ctrl+Z undoes it.");
    });
  }
}
