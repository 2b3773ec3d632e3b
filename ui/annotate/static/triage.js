// Triage: a dozen images of one category; click the flawed ones, Enter confirms the rest as clean.
import { get, post } from "/static/api.js";
import { $, h } from "/static/dom.js";

export class Triage {
  constructor(sender, timer, say, left) {
    Object.assign(this, { sender, timer, say, left, grid: null, flawed: new Set() });
    $("triage-confirm").addEventListener("click", () => this.confirm());
    $("triage-leave").addEventListener("click", () => this.leave());
    $("triage-grid").addEventListener("keydown", (event) => this.arrows(event));
  }

  get open() {
    return !$("triage").hidden;
  }

  async enter() {
    $("triage").hidden = false;
    $("bench").hidden = true;
    await this.more();
  }

  async more() {
    this.flawed.clear();
    this.grid = null;
    $("triage-grid").replaceChildren();
    $("triage-title").textContent = "Loading images…";
    // Confirmed images must reach the server first, or they would be leased again.
    await this.sender.flush();
    this.grid = await get("/api/annotate/triage");
    if (!this.grid) {
      $("triage-title").textContent = "Nothing to triage right now";
      $("triage-confirm").disabled = true;
      return;
    }
    this.timer.reset(0);
    $("triage-confirm").disabled = false;
    $("triage-title").textContent = `Which of these are flawed? (${this.grid.category}, ${this.grid.waiting} waiting)`;
    $("triage-grid").replaceChildren(...this.grid.images.map((image, at) => {
      const button = h("button", { type: "button", "aria-pressed": "false", "aria-label": `Image ${at + 1}: ${image.prompt || "no prompt"}`, title: image.prompt,
        onclick: () => this.toggle(button, image) }, h("img", { src: image.url, alt: "", draggable: "false" }), h("span", {}, "flawed"));
      return button;
    }));
    $("triage-grid").firstChild.focus();
    this.count();
  }

  toggle(button, image) {
    if (!this.flawed.delete(image.lease)) this.flawed.add(image.lease);
    button.setAttribute("aria-pressed", this.flawed.has(image.lease));
    this.count();
  }

  count() {
    const clean = this.grid.images.length - this.flawed.size;
    $("triage-confirm-text").textContent = `${clean} clean, ${this.flawed.size} to draw`;
  }

  arrows(event) {
    const buttons = [...$("triage-grid").children], at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const across = getComputedStyle($("triage-grid")).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    if (!step) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, at + step))].focus();
  }

  async confirm() {
    if (!this.grid) return;
    const { images } = this.grid, flawed = [...this.flawed];
    const clean = images.map(({ lease }) => lease).filter((lease) => !this.flawed.has(lease));
    this.grid = null;
    $("triage-title").textContent = "Sending…";
    await this.sender.add("/api/annotate/triage", { clean, flawed, seconds: this.timer.seconds });
    this.say(`${clean.length} clean, ${flawed.length} queued for drawing.`);
    await this.more().catch((error) => this.say(error.message, "bad"));
  }

  async leave() {
    const leases = this.grid?.images.map(({ lease }) => lease) ?? [];
    this.grid = null;
    $("triage").hidden = true;
    $("bench").hidden = false;
    await Promise.all(leases.map((lease) => post("/api/annotate/release", { lease }).catch(() => {})));
    this.left();
  }
}
