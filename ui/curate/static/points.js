// The map's points: their columns as the server sends them, colours, the nearest one, and how they are painted.
import { number } from "../format.js";

export const SIDE = 65535;
const CELLS = 256, UNKNOWN = 255;
const FEWEST_PIXELS = 3, MOST_PIXELS = 9, MOST_SCALE = 0.5;
// Told apart on light and dark ground; the first seven after Okabe and Ito.
const CATEGORIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9a7d0a", "#7c3aed", "#65a30d", "#db2777", "#a0522d", "#3b82f6"];
const OTHER = { light: "#9aa6a3", dark: "#6b7a76" };
const RAMP = ["#5b7bd5", "#8e6bbf", "#c05a98", "#e8604f", "#f59e0b"];
const STATUS = ["#9aa6a3", "#e69f00", "#0f9c8b"];

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const blend = (one, other, share) => one.map((value, at) => Math.round(value + share * (other[at] - value)));

export class Points {
  constructor(found) {
    this.size = found.count;
    this.names = found.categories;
    this.statuses = found.statuses;
    [this.x, this.y] = [found.x, found.y].map((column) => new Uint16Array(bytes(column).buffer));
    [this.category, this.max, this.status] = [found.category, found.max, found.status].map(bytes);
    this.shades = new Uint32Array(this.size);
    this.index();
  }

  // Points by the cell of a 256 × 256 grid: `starts[cell]` to `starts[cell + 1]` of `order`.
  index() {
    const cell = (at) => (this.y[at] >> 8) * CELLS + (this.x[at] >> 8);
    this.starts = new Uint32Array(CELLS * CELLS + 1);
    for (let at = 0; at < this.size; at++) this.starts[cell(at) + 1]++;
    for (let at = 0; at < CELLS * CELLS; at++) this.starts[at + 1] += this.starts[at];
    const next = this.starts.slice();
    this.order = new Uint32Array(this.size);
    for (let at = 0; at < this.size; at++) this.order[next[cell(at)]++] = at;
  }

  place(at) {
    return [this.x[at], this.y[at]];
  }

  maximum(at) {
    return this.max[at] === UNKNOWN ? "not diagnosed" : `max ${number(this.max[at] / 254)}`;
  }

  // The index of the point nearest to a place of the map and at most `reach` away, or −1.
  nearest([x, y], reach) {
    const low = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor((value - reach) / CELLS)));
    const high = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor((value + reach) / CELLS)));
    let nearest = -1, far = reach * reach;
    for (let row = low(y); row <= high(y); row++) {
      for (let at = this.starts[row * CELLS + low(x)]; at < this.starts[row * CELLS + high(x) + 1]; at++) {
        const one = this.order[at], distance = (this.x[one] - x) ** 2 + (this.y[one] - y) ** 2;
        if (distance <= far) [nearest, far] = [one, distance];
      }
    }
    return nearest;
  }

  count(inside) {
    let n = 0;
    for (let at = 0; at < this.size; at++) n += inside(this.x[at], this.y[at]);
    return n;
  }

  // Colours the points; returns the legend.
  colourBy(by, dark) {
    const other = OTHER[dark ? "dark" : "light"], tally = new Uint32Array(256), column = this[by], colours = new Array(256).fill(other);
    for (let at = 0; at < this.size; at++) tally[column[at]]++;
    const legend = this[`${by}Legend`](tally, colours, other);
    const shades = Uint32Array.from(colours, (colour) => packed(channels(colour)));
    for (let at = 0; at < this.size; at++) this.shades[at] = shades[column[at]];
    return legend;
  }

  categoryLegend(tally, colours, other) {
    const frequent = this.names.map((_, at) => at).filter((at) => tally[at]).sort((a, b) => tally[b] - tally[a]);
    const named = frequent.slice(0, CATEGORIES.length).map((at, rank) => ({ at, text: this.names[at], colour: CATEGORIES[rank], n: tally[at] }));
    for (const { at, colour } of named) colours[at] = colour;
    const rest = frequent.slice(CATEGORIES.length).reduce((sum, at) => sum + tally[at], 0);
    return [...named,
      ...(rest ? [{ text: `${frequent.length - CATEGORIES.length} other categories`, colour: other, n: rest }] : []),
      ...(tally[UNKNOWN] ? [{ text: "no category", colour: other, n: tally[UNKNOWN] }] : [])];
  }

  maxLegend(tally, colours, other) {
    const stops = RAMP.map(channels);
    for (let value = 0; value < UNKNOWN; value++) {
      const at = (value / 254) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(at));
      colours[value] = `#${blend(stops[low], stops[low + 1], at - low).map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
    }
    const marks = [0, 0.25, 0.5, 0.75, 1].map((value, at) => ({ text: number(value), colour: RAMP[at] }));
    return [...marks, ...(tally[UNKNOWN] ? [{ text: "not diagnosed", colour: other, n: tally[UNKNOWN] }] : [])];
  }

  statusLegend(tally, colours, other) {
    return this.statuses.map((text, at) => {
      colours[at] = at ? STATUS[at] : other;
      return { text, colour: colours[at], n: tally[at] };
    });
  }
}

// Paints the points into a canvas, each as a small square, pixel by pixel: 100,000 take a few milliseconds without
// a GPU. A place (x, y) of the map is shown at left + x · scale, top + y · scale.
export class Scene {
  constructor(canvas, points) {
    Object.assign(this, { canvas, points, scale: 0, left: 0, top: 0, ratio: 1, waiting: false });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    const first = !this.scale, middle = first ? null : this.toMap({ x: this.width / 2, y: this.height / 2 });
    this.ratio = Math.min(2, devicePixelRatio || 1);
    Object.assign(this, { width, height });
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    this.image = new ImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    if (first) return this.fit();
    this.left = width / 2 - middle[0] * this.scale;
    this.top = height / 2 - middle[1] * this.scale;
    this.schedule();
  }

  get smallest() {
    return Math.min(this.width, this.height) / SIDE;
  }

  fit() {
    this.scale = this.smallest;
    this.left = (this.width - SIDE * this.scale) / 2;
    this.top = (this.height - SIDE * this.scale) / 2;
    this.schedule();
  }

  pan(dx, dy) {
    // The middle of the field stays on the map, so that nobody gets lost.
    const within = (start, size) => Math.min(size / 2, Math.max(size / 2 - SIDE * this.scale, start));
    this.left = within(this.left + dx, this.width);
    this.top = within(this.top + dy, this.height);
    this.schedule();
  }

  zoom(factor, x, y) {
    const scale = Math.min(MOST_SCALE, Math.max(this.smallest, this.scale * factor)), share = scale / this.scale;
    this.left = x - (x - this.left) * share;
    this.top = y - (y - this.top) * share;
    this.scale = scale;
    if (scale === this.smallest) this.fit();
    else this.pan(0, 0);
  }

  toMap({ x, y }) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  toScreen(x, y) {
    return { x: this.left + x * this.scale, y: this.top + y * this.scale };
  }

  schedule() {
    if (this.waiting || !this.pixels) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const { points: { x, y, shades, size: total }, pixels } = this, { width, height } = this.canvas;
    const scale = this.scale * this.ratio, left = this.left * this.ratio, top = this.top * this.ratio;
    const growth = Math.sqrt(this.scale / this.smallest) * (total < 5000 ? 1.7 : 1);
    const side = Math.round(Math.min(MOST_PIXELS, FEWEST_PIXELS * growth) * this.ratio), half = side >> 1;
    pixels.fill(0);
    for (let at = 0; at < total; at++) {
      const px = Math.round(left + x[at] * scale) - half, py = Math.round(top + y[at] * scale) - half;
      if (px < 0 || py < 0 || px + side > width || py + side > height) continue;
      const shade = shades[at];
      for (let row = py * width + px, end = row + side * width; row < end; row += width) {
        for (let pixel = row; pixel < row + side; pixel++) pixels[pixel] = shade;
      }
    }
    this.canvas.getContext("2d").putImageData(this.image, 0, 0);
    this.canvas.dataset.painted = String(total);
  }
}
