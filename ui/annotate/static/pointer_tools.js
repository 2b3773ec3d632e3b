// Pointer tools on the stage: paint, erase, lasso, fill, wand, segment, accept and reject, pan, pinch.
import { flood, middle, polygon, wand } from "./geometry.js";
import { classColour } from "../palette.js";

const CORNER_PX = 4;
const PALM_PX = 60;
const PEN_MEMORY_MS = 2000;
const MOST_FLOODED = 0.5;

export class PointerTools {
  // `desk` gives: labels, tool, value, radius, tolerance, pressure, rgba(), and takes: changed(), say(text, kind),
  // accept(index), reject(index); its segmenter takes clicks and boxes.
  constructor(view, suggestions, desk) {
    Object.assign(this, { view, suggestions, desk, space: false, last: null, loop: null, dragging: false });
    Object.assign(this, { panning: null, frame: null, penAt: -Infinity, kept: null, pressureAt: 1 });
    // The event by which the one pointer acts that draws, pans or frames; fingers that may pinch; all others.
    Object.assign(this, { owner: null, latest: null, moved: false, pointers: new Map(), others: new Set() });
    const { stage } = view;
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.up(event));
    stage.addEventListener("pointercancel", (event) => this.cancel(event));
    stage.addEventListener("lostpointercapture", (event) => this.cancel(event));
    stage.addEventListener("pointerleave", () => (view.cursor.hidden = true));
    stage.addEventListener("dblclick", () => this.loop && this.closeLoop(false));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  get busy() {
    return this.last !== null || this.dragging || this.frame !== null;
  }

  // Palm rejection: touches while a pen is in use, and contacts wider than a finger.
  isPalm(event) {
    const resting = performance.now() - this.penAt < PEN_MEMORY_MS;
    return event.pointerType === "touch" && (resting || Math.max(event.width, event.height) > PALM_PX);
  }

  // One pointer acts at a time. A pen takes over from fingers, which are the hand that holds it.
  mayAct(event) {
    if (event.pointerType === "pen") {
      this.penAt = performance.now();
      if (this.owner?.pointerType === "touch") this.abort();
      for (const finger of this.pointers.keys()) this.others.add(finger);
      this.pointers.clear();
    }
    if (this.owner?.pointerId === event.pointerId) this.finish(this.latest);
    return !this.isPalm(event) && (!this.owner || (this.owner.pointerType === "touch" && event.pointerType === "touch"));
  }

  down(event) {
    this.others.delete(event.pointerId);
    if (!this.desk.labels || !this.mayAct(event)) return void this.others.add(event.pointerId);
    if (event.pointerType === "touch") {
      this.pointers.set(event.pointerId, event);
      if (this.pointers.size > 1) return this.abort();
    }
    this.view.stage.setPointerCapture(event.pointerId);
    const { tool } = this.desk, at = this.view.place(event);
    if (event.button === 1 || this.space) return this.startPan(event);
    if (event.button === 2) return this.rejectAt(at);
    if (event.button) return;
    if (tool === "select") {
      const index = this.suggestions.at(at);
      if (index >= 0) this.desk.accept(index);
      else this.startPan(event);
    } else if (tool === "brush" || tool === "eraser") {
      this.own(event);
      this.desk.labels.begin();
      this.pressureAt = this.pressure(event);
      this.last = at;
      this.paintTo(at, this.pressureAt);
    } else if (tool === "fill") this.fillAt(at);
    else if (tool === "assist") {
      this.own(event);
      this.frame = { from: at, to: at, started: { x: event.clientX, y: event.clientY } };
    } else this.corner(at, event);
  }

  own(event) {
    Object.assign(this, { owner: event, latest: event, moved: false });
  }

  move(event) {
    if (!this.desk.labels || this.others.has(event.pointerId)) return;
    if (event.pointerType === "pen") this.penAt = performance.now();
    if (this.pointers.size > 1) return this.pinch(event);
    if (this.owner) {
      if (event.pointerId !== this.owner.pointerId) return;
      this.latest = event;
      this.moved ||= Math.hypot(event.clientX - this.owner.clientX, event.clientY - this.owner.clientY) > CORNER_PX;
    }
    if (this.panning) return this.panTo(event);
    this.view.moveCursor(event, this.cursorSize());
    if (this.last) {
      const moments = event.getCoalescedEvents?.() ?? [];
      for (const moment of moments.length ? moments : [event]) this.paintTo(this.view.place(moment), this.pressure(moment));
    } else if (this.frame) {
      this.frame.to = this.view.place(event);
      this.view.request();
    } else if (this.loop) {
      const at = this.view.place(event), [before] = this.loop.points.slice(-1);
      if (this.dragging && Math.hypot(at.x - before.x, at.y - before.y) * this.view.scale >= 2) this.loop.points.push(at);
      this.loop.next = at;
      this.view.request();
    }
  }

  // Whether the pointer is the one that acts; it is gone in any case.
  gone({ pointerId }) {
    this.others.delete(pointerId);
    this.pointers.delete(pointerId);
    return this.owner?.pointerId === pointerId;
  }

  up(event) {
    if (this.gone(event)) this.finish(event);
  }

  // The system took a pointer away. What it has drawn stays and can be undone; a dab was the hand.
  cancel(event) {
    if (!this.gone(event)) return;
    if (this.moved && !this.frame) this.finish(this.latest);
    else this.abort();
  }

  finish(event) {
    this.owner = this.panning = null;
    if (this.last) {
      this.last = null;
      if (this.desk.labels.end()) this.desk.changed();
    } else if (this.frame) {
      this.endFrame(event);
    } else if (this.dragging) {
      this.dragging = false;
      if (!this.loop) return;
      const { points, started } = this.loop;
      const moved = Math.hypot(event.clientX - started.x, event.clientY - started.y) > CORNER_PX || points.length > 8;
      if (moved && this.loop.corners === 1) this.closeLoop(event.shiftKey);
    }
  }

  // Reverts the current stroke: a second finger touched, a pen took over, or another image comes.
  abort() {
    this.owner = this.panning = this.frame = null;
    this.dragging = false;
    if (this.last) {
      this.last = null;
      if (this.desk.labels.end()) {
        this.view.touch(this.desk.labels.undo());
        this.desk.labels.undone.pop();
      }
    }
    this.dropLoop();
  }

  dropLoop() {
    const had = this.loop !== null;
    this.loop = this.kept = null;
    this.view.request();
    return had;
  }

  // ---- brush ----

  cursorSize() {
    const { tool, radius } = this.desk;
    return tool === "brush" || tool === "eraser" ? 2 * radius : 0;
  }

  pressure(event) {
    if (!this.desk.pressure || event.pointerType !== "pen") return 1;
    return 0.25 + 0.75 * Math.min(1, event.pressure || 0.5);
  }

  paintTo(at, pressure) {
    const { labels, radius, tool, value } = this.desk;
    const box = labels.line(this.last, at, radius * this.pressureAt, tool === "brush" ? value : 0, radius * pressure);
    if (box) this.view.touch(box);
    this.last = at;
    this.pressureAt = pressure;
  }

  // ---- lasso, wand, fill ----

  corner(at, event) {
    const kept = this.kept;
    if (this.desk.tool === "wand" && kept && this.insideKept(at)) return this.grow(kept, at);
    this.kept = null;
    const [first] = this.loop?.points ?? [];
    if (first && Math.hypot(at.x - first.x, at.y - first.y) * this.view.scale < 10) return this.closeLoop(event.shiftKey);
    this.loop ??= { points: [], corners: 0 };
    this.loop.points.push(at);
    this.loop.corners++;
    this.loop.started = { x: event.clientX, y: event.clientY };
    this.dragging = this.loop.corners === 1;
    if (this.dragging) this.own(event);
    this.view.request();
  }

  closeLoop(erase) {
    const { height, width } = this.desk.labels, { points } = this.loop;
    this.loop = null;
    this.view.request();
    const loop = polygon(points, height, width);
    if (!loop) return this.desk.say("That loop contains no pixels.", "bad");
    if (this.desk.tool === "wand") return this.grow({ ...loop, points }, middle(loop));
    this.apply(loop, erase ? 0 : this.desk.value);
  }

  insideKept({ x, y }) {
    const { mask, box } = this.kept, column = Math.floor(x) - box.left, row = Math.floor(y) - box.top;
    return column >= 0 && row >= 0 && column < box.width && row < box.height && mask[row * box.width + column] > 0;
  }

  grow(loop, at) {
    const { labels, tolerance, value } = this.desk;
    this.kept = loop;
    const grown = wand(this.desk.rgba(), labels.height, labels.width, loop, Math.floor(at.x), Math.floor(at.y), tolerance);
    this.apply(grown, value);
    this.desk.say("Missing some? Click another spot inside the loop, or increase the tolerance.");
  }

  fillAt(at) {
    const { labels, value } = this.desk, x = Math.floor(at.x), y = Math.floor(at.y);
    if (x < 0 || y < 0 || x >= labels.width || y >= labels.height) return;
    const before = labels.pixels[y * labels.width + x];
    const region = flood(labels.height, labels.width, x, y, (index) => labels.pixels[index] === before);
    if (region.area > MOST_FLOODED * labels.pixels.length) {
      return this.desk.say("That would fill more than half of the image. Is the outline closed?", "bad");
    }
    this.apply(region, value);
  }

  apply({ mask, box }, value) {
    const { labels } = this.desk;
    labels.begin();
    this.view.touch(labels.fill(mask, box, value));
    if (labels.end()) this.desk.changed();
  }

  // A drag draws a box around the object, a click points at it.
  endFrame(event) {
    const { from, to, started } = this.frame;
    this.frame = null;
    this.view.request();
    const dragged = Math.hypot(event.clientX - started.x, event.clientY - started.y) > CORNER_PX;
    if (dragged) this.desk.segmenter.surround(from, to);
    else this.desk.segmenter.click(from, !event.shiftKey);
  }

  rejectAt(at) {
    const index = this.suggestions.at(at);
    if (index >= 0) this.desk.reject(index);
  }

  paint(context, pixel) {
    const { from, to } = this.frame ?? {};
    const corners = from && [from, { x: to.x, y: from.y }, to, { x: from.x, y: to.y }];
    for (const [points, next] of [[this.loop?.points, this.loop?.next], [this.kept?.points, null], [corners, null]]) {
      if (!points) continue;
      context.beginPath();
      for (const point of points) context.lineTo(point.x, point.y);
      if (next) context.lineTo(next.x, next.y);
      else context.closePath();
      for (const [width, style] of [[3.5, "rgb(0 0 0 / 70%)"], [1.6, `rgb(${classColour(this.desk.value)})`]]) {
        context.lineWidth = width * pixel;
        context.strokeStyle = style;
        context.stroke();
      }
    }
  }

  // ---- pan and zoom ----

  startPan(event) {
    this.own(event);
    this.panning = { x: event.clientX, y: event.clientY };
  }

  panTo(event) {
    this.view.pan(event.clientX - this.panning.x, event.clientY - this.panning.y);
    this.panning = { x: event.clientX, y: event.clientY };
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey && !event.ctrlKey) return this.view.pan(-lines * (event.deltaX || event.deltaY), 0);
    // A pinch on a touchpad comes as a wheel with Ctrl, in small steps.
    this.view.zoom(event.clientX, event.clientY, Math.exp(-lines * event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }

  pinch(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    const before = this.pointers.get(event.pointerId), [anchor] = others;
    const span = (one) => Math.hypot(one.clientX - anchor.clientX, one.clientY - anchor.clientY) || 1;
    const mid = (one) => [(one.clientX + anchor.clientX) / 2, (one.clientY + anchor.clientY) / 2];
    const [x, y] = mid(event), [fromX, fromY] = mid(before);
    this.view.pan(x - fromX, y - fromY);
    this.view.zoom(x, y, span(event) / span(before));
    this.pointers.set(event.pointerId, event);
  }
}
