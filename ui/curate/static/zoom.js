// One zoom and one place for several panes that show the same image: wheel, drag, and the keys + − 0.
import { h } from "../dom.js";

const MOST = 40, STEP = 1.3;
const EDITABLE = "input, select, textarea";

export class Zoom {
  // `panes` holds elements .stage of equal size, each with an element .zoomed.
  constructor(panes) {
    Object.assign(this, { panes, scale: 1, x: 0, y: 0 });
    panes.tabIndex = 0;
    panes.setAttribute("role", "group");
    panes.setAttribute("aria-label", "Image with zoom");
    panes.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    panes.addEventListener("pointerdown", (event) => this.drag(event));
    panes.addEventListener("dblclick", () => this.fit());
    // Keys work wherever the focus is in the dialog.
    queueMicrotask(() => panes.closest("dialog")?.addEventListener("keydown", (event) => this.key(event)));
  }

  size() {
    const box = this.panes.querySelector(".stage").getBoundingClientRect();
    return [box.width, box.height];
  }

  apply() {
    const [width, height] = this.size();
    this.x = Math.min(0, Math.max(width * (1 - this.scale), this.x));
    this.y = Math.min(0, Math.max(height * (1 - this.scale), this.y));
    for (const one of this.panes.querySelectorAll(".zoomed")) one.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.panes.dataset.scale = this.scale.toFixed(2);
    if (this.shown) this.shown.textContent = `${Math.round(100 * this.scale)} %`;
  }

  // `(x, y)` in the pane stays where it is.
  by(factor, x = this.size()[0] / 2, y = this.size()[1] / 2) {
    const scale = Math.min(MOST, Math.max(1, this.scale * factor)), share = scale / this.scale;
    Object.assign(this, { scale, x: x - (x - this.x) * share, y: y - (y - this.y) * share });
    this.apply();
  }

  fit() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.apply();
  }

  wheel(event) {
    const stage = event.target.closest(".stage");
    if (!stage) return;
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    this.by(STEP ** (-event.deltaY / 100), event.clientX - box.left, event.clientY - box.top);
  }

  drag(event) {
    if (event.button || !event.target.closest(".stage") || this.scale === 1) return;
    event.preventDefault();
    const start = { x: this.x - event.clientX, y: this.y - event.clientY }, stop = new AbortController();
    const move = (at) => { Object.assign(this, { x: start.x + at.clientX, y: start.y + at.clientY }); this.apply(); };
    addEventListener("pointermove", move, { signal: stop.signal });
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => stop.abort(), { signal: stop.signal });
  }

  key(event) {
    if (event.target.closest(EDITABLE) || event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = event.shiftKey ? { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key] : null;
    if (pan) Object.assign(this, { x: this.x + pan[0], y: this.y + pan[1] });
    if (pan) this.apply();
    else if (event.key === "+" || event.key === "=") this.by(STEP);
    else if (event.key === "-") this.by(1 / STEP);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  buttons() {
    this.shown = h("output", { class: "scale", "aria-live": "off" }, "100 %");
    const button = (text, label, shortcut, action) => h("button", { type: "button", class: "button quiet", title: `${label} (${shortcut})`, "aria-label": label, onclick: action }, text);
    return h("span", { class: "line zoom" }, button("−", "Zoom out", "−", () => this.by(1 / STEP)), this.shown, button("+", "Zoom in", "+", () => this.by(STEP)), button("Fit", "Fit", "0", () => this.fit()));
  }
}
