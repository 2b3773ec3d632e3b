// The view: stacked canvases at the image's own size under one CSS transform, and outlines drawn on top at
// the screen's size. Nothing is ever read back from a canvas. All painting happens once per frame.
import { partsOf } from "/static/dom.js";
import { united } from "/static/annotate/label_map.js";
import { MAP_COLOUR, classTints } from "/static/palette.js";

const LARGEST_SCALE = 40;
const TINTS = new Uint32Array(classTints(165).buffer);

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
    this.canvases = Object.fromEntries(["image", "heat", "labels"].map((id) => [id, part(id)]));
    this.overlay = part("outlines");
    this.cursor = part("brush");
    this.overlayPainter = () => {};
    Object.assign(this, { labels: null, dirty: null, frame: 0, scale: 1, x: 0, y: 0, fitted: true });
    new ResizeObserver(() => (this.fitted ? this.fit() : this.request())).observe(stage);
  }

  open({ width, height, bitmap, heat, labels }) {
    for (const canvas of Object.values(this.canvases)) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      else canvas.getContext("2d").clearRect(0, 0, width, height);
    }
    this.layers.style.width = `${width}px`;
    this.layers.style.height = `${height}px`;
    this.canvases.image.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    if (heat) this.canvases.heat.getContext("2d").drawImage(heat, 0, 0, width, height);
    const same = this.labels?.width === width && this.labels?.height === height;
    this.labels = labels;
    this.layers.hidden = false;
    if (labels.painted) this.touch({ left: 0, top: 0, width, height });
    if (!same || this.fitted) this.fit();
    else this.request();
  }

  close() {
    this.layers.hidden = true;
    this.labels = null;
    this.request();
  }

  // ---- zoom and pan ----

  fit() {
    if (!this.labels) return;
    const { clientWidth, clientHeight } = this.stage, { width, height } = this.labels;
    const free = Math.min((clientWidth - 32) / width, (clientHeight - 32) / height);
    this.scale = free >= 2 ? Math.floor(free) : Math.max(free, 0.02);
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
    this.layers.classList.toggle("crisp", this.scale >= 2);
    this.request();
  }

  // The event's place in image pixels.
  place(event) {
    const box = (this.box ??= this.stage.getBoundingClientRect());
    return { x: (event.clientX - box.left - this.x) / this.scale, y: (event.clientY - box.top - this.y) / this.scale };
  }

  // ---- painting ----

  touch(box) {
    this.dirty = united(this.dirty, box);
    this.request();
  }

  request() {
    this.frame ||= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = 0;
    this.box = null;
    if (this.dirty && this.labels) this.paintLabels(this.dirty);
    this.dirty = null;
    const ratio = devicePixelRatio, { clientWidth, clientHeight } = this.stage;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    if (this.overlay.width !== width || this.overlay.height !== height) Object.assign(this.overlay, { width, height });
    const context = this.overlay.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.labels) return;
    context.setTransform(this.scale * ratio, 0, 0, this.scale * ratio, this.x * ratio, this.y * ratio);
    this.overlayPainter(context, 1 / this.scale);
  }

  paintLabels({ left, top, width, height }) {
    const data = new ImageData(width, height), out = new Uint32Array(data.data.buffer);
    for (let row = 0; row < height; row++) {
      const start = (top + row) * this.labels.width + left;
      for (let column = 0; column < width; column++) {
        const value = this.labels.pixels[start + column];
        if (value) out[row * width + column] = TINTS[value];
      }
    }
    this.canvases.labels.getContext("2d").putImageData(data, left, top);
  }

  moveCursor(event, diameter) {
    const box = (this.box ??= this.stage.getBoundingClientRect()), style = this.cursor.style;
    const side = Math.max(3, diameter * this.scale);
    style.transform = `translate(${event.clientX - box.left - side / 2}px, ${event.clientY - box.top - side / 2}px)`;
    style.width = style.height = `${side}px`;
    this.cursor.hidden = false;
  }
}
