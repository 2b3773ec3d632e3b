// The view: canvases of the stage's own size, never of the image's, which show the visible part of the image,
// map and labels. A stroke repaints only the part of the label canvas that it changed. Nothing is ever read back
// from a canvas. All painting happens once per frame.
import { partsOf } from "../dom.js";
import { united } from "./label_map.js";
import { MAP_COLOUR, classTints } from "../palette.js";

const LARGEST_SCALE = 40;
const OPAQUE = new Uint32Array(classTints(255).buffer);
const EDGE = new Uint32Array(Uint8Array.of(0, 0, 0, 190).buffer)[0];
const MARGIN_PX = 12;

// The artifact map as a bitmap: one colour, as opaque as the detector is sure.
export function heatBitmap(confidence, height, width) {
  const shades = new Uint32Array(256);
  for (let level = 0; level < 256; level++) {
    shades.set(new Uint32Array(Uint8Array.from([...MAP_COLOUR, level]).buffer), level);
  }
  const pixels = new Uint32Array(confidence.length);
  for (let at = 0; at < confidence.length; at++) pixels[at] = shades[confidence[at]];
  return createImageBitmap(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), { premultiplyAlpha: "premultiply" });
}

export class View {
  constructor(stage) {
    this.stage = stage;
    const part = partsOf(stage);
    this.layers = part("layers");
    this.canvases = Object.fromEntries(["image", "heat", "labels", "outlines"].map((id) => [id, part(id)]));
    this.cursor = part("brush");
    this.overlayPainter = () => {};
    this.moved = () => {};
    Object.assign(this, { labels: null, bitmap: null, heat: null, smooth: true, tints: OPAQUE });
    // What the next frame repaints: the visible part of the image, the outlines, a box of the label map.
    Object.assign(this, { stale: false, outdated: false, dirty: null });
    Object.assign(this, { frame: 0, scale: 1, x: 0, y: 0, fitted: true });
    new ResizeObserver(() => (this.fitted ? this.fit() : this.repaint())).observe(stage);
  }

  open({ width, height, bitmap, heat, labels }) {
    const same = this.labels?.width === width && this.labels?.height === height;
    Object.assign(this, { bitmap, heat, labels });
    this.layers.style.width = `${width}px`;
    this.layers.style.height = `${height}px`;
    this.layers.hidden = false;
    if (!same || this.fitted) this.fit();
    else this.repaint();
  }

  close() {
    this.layers.hidden = this.cursor.hidden = true;
    this.labels = this.bitmap = this.heat = null;
    this.repaint();
  }

  // Whether enlarged pixels are smoothed, and how opaque labels are inside their outline.
  look(smooth, opacity) {
    this.smooth = smooth;
    this.tints = new Uint32Array(classTints(Math.round(255 * opacity)).buffer);
    this.repaint();
  }

  // ---- zoom and pan ----

  fit() {
    if (!this.labels) return;
    const { clientWidth, clientHeight } = this.stage, { width, height } = this.labels;
    const free = Math.min((clientWidth - 2 * MARGIN_PX) / width, (clientHeight - 2 * MARGIN_PX) / height);
    this.scale = Math.min(LARGEST_SCALE, Math.max(free, 0.02));
    this.x = Math.round((clientWidth - width * this.scale) / 2);
    this.y = Math.round((clientHeight - height * this.scale) / 2);
    this.fitted = true;
    this.move();
  }

  // Zooms about a point of the window, which keeps its place.
  zoom(clientX, clientY, factor) {
    if (!this.labels) return;
    const box = this.stage.getBoundingClientRect(), x = clientX - box.left, y = clientY - box.top;
    const smallest = Math.min(1, 64 / Math.max(this.labels.width, this.labels.height));
    const scale = Math.min(LARGEST_SCALE, Math.max(smallest, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.move();
  }

  pan(dx, dy) {
    if (!this.labels) return;
    const margin = 48, width = this.labels.width * this.scale, height = this.labels.height * this.scale;
    this.x = Math.min(this.stage.clientWidth - margin, Math.max(margin - width, this.x + dx));
    this.y = Math.min(this.stage.clientHeight - margin, Math.max(margin - height, this.y + dy));
    this.fitted = false;
    this.move();
  }

  move() {
    this.layers.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.moved();
    this.repaint();
  }

  // The event's place in image pixels.
  place(event) {
    const box = (this.box ??= this.stage.getBoundingClientRect());
    return { x: (event.clientX - box.left - this.x) / this.scale, y: (event.clientY - box.top - this.y) / this.scale };
  }

  // ---- painting ----

  // A box of the label map changed.
  touch(box) {
    this.dirty = united(this.dirty, box);
    this.schedule();
  }

  // The outlines changed.
  request() {
    this.outdated = true;
    this.schedule();
  }

  // Everything changed.
  repaint() {
    this.stale = true;
    this.schedule();
  }

  schedule() {
    this.frame ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = 0;
    this.box = null;
    const ratio = devicePixelRatio, { clientWidth, clientHeight } = this.stage;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    for (const canvas of Object.values(this.canvases)) {
      if (canvas.width === width && canvas.height === height) continue;
      Object.assign(canvas, { width, height });
      this.stale = true;
    }
    if (this.stale) {
      this.paintPixels(this.canvases.image, this.bitmap, ratio);
      this.paintPixels(this.canvases.heat, this.heat, ratio);
      this.canvases.labels.getContext("2d").clearRect(0, 0, width, height);
    }
    const box = this.stale ? this.labels?.painted && this.labels.whole : this.dirty;
    if (box && this.labels) this.paintLabels(box, ratio);
    if (this.stale || this.outdated) this.paintOutlines(ratio);
    this.stale = this.outdated = false;
    this.dirty = null;
  }

  paintPixels(canvas, bitmap, ratio) {
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    // Without a GPU every canvas costs its part of every frame.
    canvas.hidden = !bitmap || !this.labels;
    if (canvas.hidden) return;
    const { width, height } = this.labels, scale = this.scale * ratio;
    // Only the visible part, or a large zoom would scale the whole image for nothing.
    const left = Math.max(0, Math.floor(-this.x / this.scale) - 1), top = Math.max(0, Math.floor(-this.y / this.scale) - 1);
    const right = Math.min(width, Math.ceil(left + 2 + canvas.width / scale)), bottom = Math.min(height, Math.ceil(top + 2 + canvas.height / scale));
    if (left >= right || top >= bottom) return;
    context.imageSmoothingEnabled = this.smooth || scale < 1;
    // Below a half bilinear filtering would alias; the better one costs twice the time.
    context.imageSmoothingQuality = scale < 0.5 && bitmap === this.bitmap ? "medium" : "low";
    context.setTransform(scale, 0, 0, scale, this.x * ratio, this.y * ratio);
    const across = bitmap.width / width, down = bitmap.height / height;
    context.drawImage(bitmap, left * across, top * down, (right - left) * across, (bottom - top) * down, left, top, right - left, bottom - top);
  }

  // Fill, and an outline of constant width on the screen: the class's colour inside, dark outside.
  paintLabels(box, ratio) {
    const canvas = this.canvases.labels, scale = this.scale * ratio, x = this.x * ratio, y = this.y * ratio;
    const left = Math.max(0, Math.floor(box.left * scale + x) - 2), top = Math.max(0, Math.floor(box.top * scale + y) - 2);
    const right = Math.min(canvas.width, Math.ceil((box.left + box.width) * scale + x) + 2);
    const bottom = Math.min(canvas.height, Math.ceil((box.top + box.height) * scale + y) + 2);
    if (left >= right || top >= bottom) return;
    const width = right - left, height = bottom - top;
    const values = sampled(this.labels, { left: left - 1, top: top - 1, width: width + 2, height: height + 2 }, scale, x, y);
    const data = new ImageData(width, height);
    shade(values, width, height, this.tints, new Uint32Array(data.data.buffer));
    canvas.getContext("2d").putImageData(data, left, top);
  }

  paintOutlines(ratio) {
    const canvas = this.canvases.outlines, context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.labels) return;
    context.setTransform(this.scale * ratio, 0, 0, this.scale * ratio, this.x * ratio, this.y * ratio);
    this.overlayPainter(context, 1 / this.scale);
  }

  moveCursor(event, diameter) {
    const box = (this.box ??= this.stage.getBoundingClientRect()), style = this.cursor.style;
    const side = Math.max(3, diameter * this.scale);
    style.transform = `translate(${event.clientX - box.left - side / 2}px, ${event.clientY - box.top - side / 2}px)`;
    style.width = style.height = `${side}px`;
    this.cursor.hidden = false;
  }
}

// The class at each screen pixel of a box: of the image pixel under its middle, or, where several image pixels share
// a screen pixel, of any that is labelled, so that no stroke is too thin to be seen.
function sampled(labels, { left, top, width, height }, scale, x, y) {
  const values = new Uint8Array(width * height), { pixels } = labels;
  const span = (from, size, origin, most) => {
    const firsts = new Int32Array(size), lasts = new Int32Array(size);
    for (let at = 0; at < size; at++) {
      const first = (from + at - origin) / scale, last = (from + at + 1 - origin) / scale, middle = Math.floor((first + last) / 2);
      firsts[at] = Math.max(0, scale < 1 ? Math.floor(first) : middle);
      lasts[at] = Math.min(most - 1, scale < 1 ? Math.ceil(last) - 1 : middle);
    }
    return [firsts, lasts];
  };
  const [firstColumns, lastColumns] = span(left, width, x, labels.width), [firstRows, lastRows] = span(top, height, y, labels.height);
  for (let row = 0; row < height; row++) {
    for (let line = firstRows[row]; line <= lastRows[row]; line++) {
      const start = line * labels.width, out = row * width;
      for (let column = 0; column < width; column++) {
        const last = start + lastColumns[column];
        for (let at = start + firstColumns[column]; at <= last; at++) {
          if (!pixels[at]) continue;
          values[out + column] = pixels[at];
          break;
        }
      }
    }
  }
  return values;
}

// RGBA of sampled classes, which have a border of one pixel around height × width.
function shade(values, width, height, tints, out) {
  const across = width + 2;
  for (let row = 0; row < height; row++) {
    for (let column = 0, at = (row + 1) * across + 1, to = row * width; column < width; column++, at++, to++) {
      const value = values[at];
      const left = values[at - 1], right = values[at + 1], above = values[at - across], below = values[at + across];
      if (value) out[to] = left === value && right === value && above === value && below === value ? tints[value] : OPAQUE[value];
      else if (left | right | above | below) out[to] = EDGE;
    }
  }
}
