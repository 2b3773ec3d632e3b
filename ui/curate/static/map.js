// The map: every image is a point, alike ones lie together. Pan, zoom, and a lasso that filters the grid.
import { get } from "../api.js";
import { address, h, nothing, say, select } from "../dom.js";
import { count } from "../format.js";
import { thumbnail } from "../images.js";
import { indexJob } from "./index_job.js";
import { openImage } from "./large_view.js";
import { corners, isInside } from "./lasso.js";
import { SIDE, Points, Scene } from "./points.js";

const KNOWN = new Set(["category", "generator", "detector", "low", "high", "class", "state", "split", "source", "round"]);
const COLOURS = [["category", "category"], ["max", "detector’s confidence"], ["status", "status"]];
const PAN = 80, STEP = 1.4, NEAR = 12, HOVER_MS = 80, CARD = 188;

export async function map(root, { asked, go, again, current }) {
  const filters = Object.fromEntries(Object.entries(asked).filter(([name]) => KNOWN.has(name)));
  const [state, found] = await Promise.all([get("/api/curate/map"), get(`/api/curate/map/points${address(filters)}`)]);
  if (!state.map) {
    const job = indexJob({
      text: `The map places every image so that those which look alike, by colours and edges, lie together. ${count(state.new)} image${state.new === 1 ? "" : "s"} will be placed; it takes about a minute for 10,000.`,
      label: "Build the map", path: "/api/curate/map",
    });
    root.append(state.new ? job.node : nothing("There are no images to map yet."));
    await job.show(state.job);
    return { refresh: async () => {
      const now = await get("/api/curate/map");
      if (now.map) again();
      else await job.show(now.job);
    } };
  }
  if (asked.image && current()) openImage(asked.image, { go, detector: filters.detector });
  return new MapView(root, { state, found, filters, go, again }).shown();
}

class MapView {
  constructor(root, { state, found, filters, go, again }) {
    Object.assign(this, { state, found, filters, go, again, lasso: null, near: -1 });
    this.points = new Points(found);
    this.canvas = h("canvas", { class: "points", "aria-hidden": "true" });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.card = h("div", { class: "card map-card", hidden: true });
    this.bubble = h("div", { class: "card map-bubble", hidden: true });
    this.help = h("p", { class: "hint", id: "map-help" }, "Drag to move, wheel to zoom, L or Shift-drag for a lasso, click to open an image. By keyboard: arrows, + − and 0; Enter opens the image at the centre, V shows the images in view as a grid.");
    this.field = h("div", { class: "map-field", tabindex: "0", role: "application", "aria-label": "Map of images", "aria-describedby": "map-help" },
      this.canvas, this.overlay, this.card, this.bubble);
    this.scene = new Scene(this.canvas, this.points);
    this.legend = h("ul", { class: "map-legend", "aria-label": "Colours" });
    this.said = h("p", { class: "visually-hidden", role: "status" });
    root.append(this.bar(), this.field, this.legend, this.help, this.said);
    this.listen();
    this.colourBy(localStorage.getItem("curate.map.colour") ?? "category");
  }

  shown() {
    const sized = new ResizeObserver(() => { this.scene.resize(); this.mark(); });
    sized.observe(this.field);
    const theme = matchMedia("(prefers-color-scheme: dark)"), recolour = () => this.colourBy(this.by);
    theme.addEventListener("change", recolour);
    return {
      refresh: this.update ? () => this.watch() : null,
      leave: () => {
        sized.disconnect();
        theme.removeEventListener("change", recolour);
        document.querySelector("dialog.detail")?.remove();
      },
    };
  }

  bar() {
    const { found, filters, state } = this;
    const button = (text, title, action) => h("button", { type: "button", class: "button quiet", title, onclick: action }, text);
    this.mode = h("button", { type: "button", class: "button quiet", "aria-pressed": "false", title: "Draw around images (L; or hold Shift)", onclick: () => this.setMode(!this.drawing) }, "Lasso");
    const chosen = Object.keys(filters).length;
    const told = `${count(found.count)} image${found.count === 1 ? "" : "s"}${found.all ? "" : ", the first of more"}${chosen ? " match the filters" : ""}`;
    const line = h("div", { class: "line map-bar" },
      h("b", { class: "total", role: "status" }, told),
      chosen ? h("button", { type: "button", class: "link", onclick: () => this.go({ view: "map" }) }, "Clear filters") : null,
      h("span", { class: "gap" }),
      select("colour", "Colour by", COLOURS, localStorage.getItem("curate.map.colour") ?? "category", (event) => this.colourBy(event.target.value)),
      this.mode,
      button("Show images in view", "Show the images in view as a grid (V)", () => this.showView()),
      h("span", { class: "line zoom" }, button("−", "Zoom out (−)", () => this.zoom(1 / STEP)), button("+", "Zoom in (+)", () => this.zoom(STEP)), button("All", "Show all (0)", () => this.fit())));
    if (!state.new) return line;
    this.update = indexJob({ text: `${count(state.new)} newer image${state.new === 1 ? " is" : "s are"} not on the map yet. Images may move when it is updated.`, label: "Update the map", path: "/api/curate/map" });
    this.update.node.classList.add("slim");
    this.update.show(state.job);
    return [line, this.update.node].reduce((box, one) => { box.append(one); return box; }, h("div", {}));
  }

  async watch() {
    const now = await get("/api/curate/map");
    if (now.map !== this.state.map) this.again();
    else await this.update.show(now.job);
  }

  // ---- colours ----

  colourBy(by) {
    this.by = COLOURS.some(([name]) => name === by) ? by : "category";
    localStorage.setItem("curate.map.colour", this.by);
    const legend = this.points.colourBy(this.by, matchMedia("(prefers-color-scheme: dark)").matches);
    this.legend.replaceChildren(...legend.map(({ colour, text, n }) => h("li", {}, h("i", { style: { background: colour } }), text, n === undefined ? null : h("span", { class: "soft" }, ` ${count(n)}`))));
    this.ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    this.scene.schedule();
  }

  // ---- what people do ----

  listen() {
    const { field } = this;
    field.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = this.at(event);
      this.zoom(STEP ** (-event.deltaY / 100), at.x, at.y);
    }, { passive: false });
    field.addEventListener("pointerdown", (event) => this.press(event));
    field.addEventListener("pointermove", (event) => event.buttons || this.hover(this.at(event)));
    field.addEventListener("pointerleave", () => this.hover(null));
    field.addEventListener("keydown", (event) => this.key(event));
    field.addEventListener("focus", () => field.matches(":focus-visible") && this.hover(this.centre(), true));
  }

  at(event) {
    const box = this.field.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  centre() {
    return { x: this.field.clientWidth / 2, y: this.field.clientHeight / 2 };
  }

  press(event) {
    if (event.button || event.target.closest(".map-bubble")) return;
    const lasso = this.drawing || event.shiftKey, start = this.at(event), stop = new AbortController();
    const path = [start];
    let moved = false, last = start;
    this.hover(null);
    this.forget();
    this.field.setPointerCapture(event.pointerId);
    const move = (next) => {
      const at = this.at(next);
      moved ||= Math.hypot(at.x - start.x, at.y - start.y) > 3;
      if (lasso) {
        path.push(at);
        this.trace(path);
      } else if (moved) {
        this.scene.pan(at.x - last.x, at.y - last.y);
      }
      last = at;
    };
    const end = (up) => {
      stop.abort();
      if (lasso) this.enclose(path);
      else if (!moved && up.type === "pointerup") this.open(this.at(up));
      this.mark();
    };
    this.field.addEventListener("pointermove", move, { signal: stop.signal });
    for (const name of ["pointerup", "pointercancel"]) this.field.addEventListener(name, end, { signal: stop.signal });
  }

  key(event) {
    if (event.target !== this.field || event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] }[event.key];
    const act = {
      "+": () => this.zoom(STEP), "=": () => this.zoom(STEP), "-": () => this.zoom(1 / STEP), 0: () => this.fit(),
      Enter: () => (this.lasso ? this.showLasso() : this.open(this.centre())), Escape: () => this.forget(), l: () => this.setMode(!this.drawing), v: () => this.showView(),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!pan && !act) return;
    event.preventDefault();
    if (pan) this.scene.pan(...pan);
    else act();
    if (pan || "+=-0".includes(event.key)) this.hover(this.centre(), true);
    this.mark();
  }

  zoom(factor, x = this.centre().x, y = this.centre().y) {
    this.scene.zoom(factor, x, y);
    this.mark();
  }

  fit() {
    this.scene.fit();
    this.mark();
  }

  setMode(drawing) {
    this.drawing = drawing;
    this.mode.setAttribute("aria-pressed", String(drawing));
    this.field.classList.toggle("drawing", drawing);
  }

  // ---- one image ----

  hover(at, spoken = false) {
    this.cross = spoken;
    const near = at ? this.points.nearest(this.scene.toMap(at), NEAR / this.scene.scale) : -1;
    if (near === this.near) return this.mark();
    this.near = near;
    this.card.hidden = true;
    this.mark();
    clearTimeout(this.timer);
    if (near >= 0) this.timer = setTimeout(() => this.tell(near, spoken), HOVER_MS);
  }

  async tell(near, spoken) {
    const { images } = await this.images(near);
    if (near !== this.near || !images.length) return;
    const [first] = images, more = images.length - 1;
    const facts = [first.category ?? "no category", this.points.maximum(near), more ? `${more} more here` : null].filter(Boolean).join(" · ");
    this.card.replaceChildren(h("img", { src: thumbnail(first.id), alt: first.prompt || "image" }), h("span", {}, facts));
    this.card.hidden = false;
    this.mark();
    if (spoken) this.said.textContent = `${first.prompt || "image"}, ${facts}`;
  }

  images(near) {
    const [x, y] = this.points.place(near);
    return get(`/api/curate/map/at${address({ x, y })}`);
  }

  async open(at) {
    const near = this.points.nearest(this.scene.toMap(at), NEAR / this.scene.scale);
    if (near < 0) return;
    const { images } = await this.images(near);
    if (images.length) openImage(images[0].id, { go: this.go, detector: this.filters.detector });
  }

  // ---- the lasso ----

  enclose(path) {
    const outline = corners(path.map((at) => this.scene.toMap(at)));
    if (!outline) {
      this.trace(null);
      return say("Draw around some images: press, move around them, and release.");
    }
    const inside = this.points.count((x, y) => isInside(outline, x, y));
    this.lasso = { outline, inside };
    this.setMode(false);
    this.bubble.replaceChildren(
      h("b", {}, `${count(inside)} image${inside === 1 ? "" : "s"} inside`),
      h("button", { type: "button", class: "button", disabled: !inside, onclick: () => this.showLasso() }, "Show in the grid"),
      h("button", { type: "button", class: "button quiet", onclick: () => this.forget() }, "Discard"));
    this.bubble.hidden = false;
    this.said.textContent = `${count(inside)} images inside. Enter shows them in the grid.`;
  }

  showLasso() {
    if (this.lasso?.inside) this.show(this.lasso.outline);
  }

  showView() {
    const [left, top] = this.scene.toMap({ x: 0, y: 0 }), [right, bottom] = this.scene.toMap({ x: this.field.clientWidth, y: this.field.clientHeight });
    const within = (value) => Math.min(SIDE, Math.max(0, Math.round(value)));
    // The far edges belong to the view, and the even-odd rule leaves them out.
    const edge = (value) => Math.min(SIDE, within(value) + 1);
    this.show([[within(left), within(top)], [edge(right), within(top)], [edge(right), edge(bottom)], [within(left), edge(bottom)]]);
  }

  show(outline) {
    this.go({ ...this.filters, view: "images", sort: "newest", lasso: `${this.found.map}:${outline.flat().join(",")}` });
  }

  forget() {
    this.lasso = null;
    this.bubble.hidden = true;
    this.mark();
  }

  // ---- what lies over the points ----

  trace(path) {
    const pen = this.clear();
    if (path) this.outline(pen, path);
  }

  outline(pen, path) {
    pen.beginPath();
    path.forEach(({ x, y }, at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.globalAlpha = 0.12;
    pen.fill();
    pen.globalAlpha = 1;
    pen.stroke();
  }

  clear() {
    const { overlay, field } = this, ratio = this.scene.ratio;
    const width = Math.round(field.clientWidth * ratio), height = Math.round(field.clientHeight * ratio);
    if (overlay.width !== width || overlay.height !== height) Object.assign(overlay, { width, height });
    const pen = overlay.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, field.clientWidth, field.clientHeight);
    Object.assign(pen, { lineWidth: 2, strokeStyle: this.ink, fillStyle: this.ink });
    return pen;
  }

  mark() {
    const pen = this.clear();
    if (this.lasso) this.outline(pen, this.lasso.outline.map(([x, y]) => this.scene.toScreen(x, y)));
    if (this.cross) {
      const { x, y } = this.centre();
      pen.strokeRect(x - 9, y - 9, 18, 18);
    }
    if (this.near < 0) return;
    const { x, y } = this.scene.toScreen(...this.points.place(this.near));
    pen.beginPath();
    pen.arc(x, y, 7, 0, 2 * Math.PI);
    pen.stroke();
    const width = this.field.clientWidth, right = x > width / 2, low = y > this.field.clientHeight / 2;
    const left = right ? x - 14 - CARD : x + 14;
    this.card.style.setProperty("left", `${Math.max(6, Math.min(width - CARD - 6, left))}px`);
    this.card.style.setProperty("top", low ? "auto" : `${y + 14}px`);
    this.card.style.setProperty("bottom", low ? `${this.field.clientHeight - y + 14}px` : "auto");
  }
}

