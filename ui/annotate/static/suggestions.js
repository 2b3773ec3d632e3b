// The artifact map's connected components at a threshold: outlined, stepped through, accepted into the label map, rejected.
import { urlOf } from "../root.js";
import { regionMask } from "./geometry.js";
import { classColour } from "../palette.js";

const PAINTED_SHARE = 0.9;
const SMALLEST_SHARE = 0.00015;

export class Suggestions {
  // `worker` runs codec_worker.js.
  constructor(changed, worker = new Worker(urlOf("/static/annotate/codec_worker.js"), { type: "module" })) {
    Object.assign(this, { changed, worker });
    this.worker.addEventListener("message", ({ data }) => this.arrive(data));
    this.turn = 0;
    this.close();
  }

  close() {
    Object.assign(this, { labels: null, regions: [], numbers: null, chosen: -1, ready: true, image: null });
    this.rejected = new Set();
  }

  open(image, confidence, labels, threshold) {
    this.close();
    Object.assign(this, { image, labels });
    if (!confidence) return;
    const { height, width } = labels;
    this.ask({ confidence, height, width, image, smallest: Math.max(4, Math.round(SMALLEST_SHARE * height * width)) }, threshold);
  }

  // `threshold` is a share; the map's bytes are 255 where the detector is certain.
  ask(map, threshold) {
    this.ready = false;
    this.last = map.confidence ? map : this.last;
    this.worker.postMessage({ ...map, smallest: this.last.smallest, turn: ++this.turn, threshold: Math.max(1, Math.round(255 * threshold)) });
  }

  move(threshold) {
    if (this.last?.image === this.image) this.ask({}, threshold);
  }

  arrive({ image, turn, numbers, regions }) {
    if (image !== this.image || turn !== this.turn) return;
    const peak = this.regions[this.chosen]?.peak;
    this.numbers = numbers;
    // Reading order, in bands, so that walking through feels like reading.
    const band = Math.max(1, this.labels.height / 8);
    const middle = ({ box }) => [Math.floor((box.top + box.height / 2) / band), box.left + box.width / 2];
    this.regions = regions.sort((a, b) => middle(a)[0] - middle(b)[0] || middle(a)[1] - middle(b)[1]);
    for (const region of regions) {
      region.path = new Path2D();
      for (let at = 0; at < region.outline.length; at += 4) {
        region.path.moveTo(region.outline[at], region.outline[at + 1]);
        region.path.lineTo(region.outline[at + 2], region.outline[at + 3]);
      }
    }
    this.chosen = peak === undefined ? -1 : this.regions.findIndex((region) => numbers[peak] === region.number);
    this.ready = true;
    this.judge();
    this.changed();
  }

  // Reads from the label map which components are in it.
  judge() {
    if (!this.numbers) return;
    const { width, pixels } = this.labels;
    for (const region of this.regions) {
      const { left, top, width: across, height: down } = region.box;
      let painted = 0;
      for (let row = top; row < top + down; row++) {
        for (let at = row * width + left; at < row * width + left + across; at++) {
          if (pixels[at] && this.numbers[at] === region.number) painted++;
        }
      }
      region.accepted = painted >= PAINTED_SHARE * region.area;
      region.rejected = !region.accepted && [...this.rejected].some((peak) => this.numbers[peak] === region.number);
    }
  }

  at({ x, y }) {
    const { width, height } = this.labels ?? {};
    if (!this.numbers || x < 0 || y < 0 || x >= width || y >= height) return -1;
    const number = this.numbers[Math.floor(y) * width + Math.floor(x)];
    return number ? this.regions.findIndex((region) => region.number === number) : -1;
  }

  // Steps to the next component (or back); returns it.
  walk(step) {
    if (!this.regions.length) return null;
    const from = this.chosen < 0 && step < 0 ? 0 : this.chosen;
    this.chosen = (from + step + this.regions.length) % this.regions.length;
    this.changed();
    return this.regions[this.chosen];
  }

  // Steps to the next component that is neither accepted nor rejected.
  walkOpen() {
    for (let step = 1; step <= this.regions.length; step++) {
      const at = (this.chosen + step) % this.regions.length;
      if (!this.regions[at].accepted && !this.regions[at].rejected) return (this.chosen = at);
    }
    return this.chosen;
  }

  // Writes a component into the label map, or takes it out; returns its box.
  accept(index, value) {
    const region = this.regions[index];
    this.rejected.forEach((peak) => this.numbers[peak] === region.number && this.rejected.delete(peak));
    return this.labels.fill(regionMask(this.numbers, this.labels.width, region), region.box, value);
  }

  reject(index) {
    const region = this.regions[index];
    this.rejected.add(region.peak);
    return region.accepted ? this.labels.fill(regionMask(this.numbers, this.labels.width, region), region.box, 0) : null;
  }

  get open_() {
    return this.regions.filter((region) => !region.accepted && !region.rejected).length;
  }

  paint(context, pixel, value) {
    context.lineCap = "square";
    for (const [index, region] of this.regions.entries()) {
      const chosen = index === this.chosen;
      context.setLineDash(region.rejected ? [3 * pixel, 5 * pixel] : []);
      context.lineWidth = (chosen ? 5 : 3.5) * pixel;
      context.strokeStyle = "rgb(0 0 0 / 75%)";
      context.stroke(region.path);
      context.lineWidth = (chosen ? 3 : 1.6) * pixel;
      context.strokeStyle = region.rejected ? "rgb(160 160 160)" : region.accepted ? `rgb(${classColour(this.labels.pixels[region.peak] || value)})` : chosen ? "#fff" : "rgb(222 180 255)";
      context.stroke(region.path);
    }
    context.setLineDash([]);
  }
}
