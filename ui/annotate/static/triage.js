// Triage: a dozen images of one category; click the flawed ones, Enter confirms the rest as clean, once every image
// was on the screen for long enough. A confirmed batch can be taken back.
import { get, post } from "../api.js";
import { $, h } from "../dom.js";

const TICK_MS = 100;
const MOSTLY = 0.6;

export class Triage {
  constructor(sender, timer, say, left) {
    Object.assign(this, { sender, timer, say, left, grid: null, flawed: new Set(), done: null });
    // Seconds that each image was looked at, and those that are on the screen now.
    Object.assign(this, { looked: new Map(), visible: new Set(), ticking: 0 });
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, intersectionRatio } of entries) this.visible[intersectionRatio >= MOSTLY ? "add" : "delete"](target);
    }, { threshold: [0, MOSTLY, 1] });
    $("triage-confirm").addEventListener("click", () => this.confirm());
    $("triage-leave").addEventListener("click", () => this.leave());
    $("triage-undo").addEventListener("click", () => this.undo());
    $("triage-grid").addEventListener("keydown", (event) => this.arrows(event));
  }

  get open() {
    return !$("triage").hidden;
  }

  async enter() {
    $("triage").hidden = false;
    $("bench").hidden = true;
    clearInterval(this.ticking);
    this.ticking = setInterval(() => this.tick(), TICK_MS);
    this.showDone(null);
    await this.more();
  }

  async more() {
    this.flawed.clear();
    this.grid = null;
    this.observer.disconnect();
    this.looked.clear();
    this.visible.clear();
    $("triage-grid").replaceChildren();
    $("triage-title").textContent = "Loading images…";
    $("triage-confirm").disabled = true;
    // Confirmed images must reach the server first, or they would be leased again.
    await this.sender.flush();
    this.grid = await get("/api/annotate/triage");
    for (const id of ["triage-confirm", "triage-hint", "triage-seen"]) $(id).hidden = !this.grid;
    if (!this.grid) {
      $("triage-title").textContent = "Nothing to triage right now";
      return;
    }
    this.timer.reset(0);
    $("triage-title").textContent = `Which of these are flawed? (${this.grid.category}, ${this.grid.waiting} waiting)`;
    $("triage-grid").replaceChildren(...this.grid.images.map((image, at) => {
      const button = h("button", { type: "button", "aria-pressed": "false", "data-seen": "no", "aria-label": `Image ${at + 1}: ${image.prompt || "no prompt"}`, title: image.prompt,
        onclick: () => this.toggle(button, image) }, h("img", { src: image.url, alt: "", draggable: "false", onerror: () => this.unloadable(button, image) }), h("span", {}, "flawed"));
      this.looked.set(button, 0);
      this.observer.observe(button);
      return button;
    }));
    $("triage-grid").firstChild.focus({ preventScroll: true });
    this.count();
  }

  // An image that nobody can see is nobody's to confirm.
  unloadable(button, image) {
    if (!this.grid?.images.includes(image)) return;
    this.grid.images = this.grid.images.filter((one) => one !== image);
    this.flawed.delete(image.lease);
    this.looked.delete(button);
    this.visible.delete(button);
    button.remove();
    post("/api/annotate/skip", { lease: image.lease, reason: "not loadable in triage" }).catch(() => {});
    if (this.grid.images.length) this.count();
    else this.refill();
  }

  // Nobody looks at two images at once: the time that passes is shared among those on the screen.
  tick() {
    if (!this.grid || document.hidden) return;
    const each = this.grid.seconds_each;
    const now = [...this.visible].filter((button) => this.looked.get(button) < each && button.querySelector("img").naturalWidth);
    if (!now.length) return;
    for (const button of now) {
      this.looked.set(button, this.looked.get(button) + TICK_MS / 1000 / now.length);
      if (this.looked.get(button) >= each) button.dataset.seen = "yes";
    }
    this.count();
  }

  get unseen() {
    return [...this.looked.values()].filter((seconds) => seconds < this.grid.seconds_each).length;
  }

  toggle(button, image) {
    if (!this.flawed.delete(image.lease)) this.flawed.add(image.lease);
    button.setAttribute("aria-pressed", this.flawed.has(image.lease));
    this.count();
  }

  count() {
    const { unseen } = this, all = this.grid.images.length, clean = all - this.flawed.size;
    $("triage-confirm-text").textContent = `${clean} clean, ${this.flawed.size} to draw`;
    $("triage-confirm").disabled = unseen > 0;
    const text = unseen ? `Look at every image first: ${all - unseen} of ${all} seen. Scroll to those that are not on the screen.` : "All images were on the screen.";
    if ($("triage-seen").textContent !== text) $("triage-seen").textContent = text;
  }

  keydown(event) {
    const undo = event.key === "Backspace" || (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey));
    if (event.key === "Enter") {
      event.preventDefault();
      if (event.target === $("triage-leave")) this.leave();
      else if (event.target === $("triage-undo")) this.undo();
      else if (!event.repeat) this.confirm();
    } else if (event.key === "Escape") this.leave();
    else if (undo && this.done) {
      event.preventDefault();
      this.undo();
    }
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
    if (!this.grid || this.unseen) return;
    const { images } = this.grid, flawed = [...this.flawed];
    const clean = images.map(({ lease }) => lease).filter((lease) => !this.flawed.has(lease));
    // Time that only this page has seen pass counts as well, such as that before another tab was in front.
    const watched = [...this.looked.values()].reduce((sum, seconds) => sum + seconds, 0);
    this.grid = null;
    $("triage-title").textContent = "Sending…";
    await this.sender.add("/api/annotate/triage", { clean, flawed, seconds: Math.max(watched, this.timer.seconds) });
    this.showDone(images.map(({ lease }) => lease), `${clean.length} confirmed clean, ${flawed.length} queued for drawing.`);
    await this.refill();
  }

  // The last batch, which can be taken back until the next one is confirmed; null for none.
  showDone(leases, text = "") {
    this.done = leases;
    $("triage-done").hidden = !text;
    $("triage-undo").hidden = !leases;
    $("triage-done-text").textContent = text;
  }

  async undo() {
    const leases = this.done;
    if (!leases) return;
    this.showDone(null, "Taking the last batch back…");
    try {
      await this.sender.flush();
      await this.release();
      const { undone, kept } = await post("/api/annotate/triage/undo", { leases });
      this.showDone(null, kept.length ? `${undone} taken back; ${kept.length} stay: not accepted, or reviewed or drawn since.` : `${undone} taken back.`);
    } catch (error) {
      this.showDone(leases, error.message);
    }
    await this.refill();
  }

  refill() {
    return this.more().catch((error) => {
      $("triage-title").textContent = "Cannot load more images";
      this.showDone(this.done, `${error.message} Your answers are safe on this device.`);
    });
  }

  async release() {
    const leases = this.grid?.images.map(({ lease }) => lease) ?? [];
    this.grid = null;
    await Promise.all(leases.map((lease) => post("/api/annotate/release", { lease }).catch(() => {})));
  }

  async leave() {
    clearInterval(this.ticking);
    $("triage").hidden = true;
    $("bench").hidden = false;
    await this.release();
    this.left();
  }
}
