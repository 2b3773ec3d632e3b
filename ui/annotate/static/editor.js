// The canvas and its tools: image, artifact map, label map; brush, suggestions, classes, undo, zoom, keys. It
// knows no server and no queue, and several may stand on one page.
import { h, partsOf } from "../dom.js";
import { classColour } from "../palette.js";
import { actionOf, keyOf } from "./keys.js";
import { PointerTools } from "./pointer_tools.js";
import { Suggestions } from "./suggestions.js";
import { Looks } from "./looks.js";
import { View } from "./view.js";

const REPEATING = ["smaller", "larger", "undo", "redo", "zoom-in", "zoom-out", "next-region", "previous-region"];

export class Editor {
  // `root` holds the stage and the tools; `changed()` hears of every change of the label map.
  constructor(root, { changed, worker }) {
    Object.assign(this, { root, part: partsOf(root), told: changed, current: null });
    const { part } = this;
    this.view = new View(part("stage"));
    this.looks = new Looks(this.view, part);
    for (const kind of ["pointerdown", "wheel"]) part("stage").addEventListener(kind, () => this.say("", "", "bad"), { passive: true });
    this.suggestions = new Suggestions(() => {
      this.view.request();
      this.showTools();
    }, worker);
    this.desk = {
      labels: null, tool: "brush", value: 1, radius: 4, tolerance: 24, pressure: false, hidden: false, tools: [], segmenter: null,
      changed: () => this.changed(), say: (...message) => this.say(...message),
      accept: (index) => this.accept(index), reject: (index) => this.reject(index), rgba: () => this.rgba(),
    };
    this.pointer = new PointerTools(this.view, this.suggestions, this.desk);
    this.view.overlayPainter = (context, pixel) => {
      if (!this.desk.hidden) this.suggestions.paint(context, pixel, this.desk.value);
      this.pointer.paint(context, pixel);
      this.hint?.(context, pixel);
    };
    for (const id of ["size", "opacity", "tolerance"]) part(id).addEventListener("input", () => this.showTools());
    part("threshold").addEventListener("input", () => {
      part("threshold").dataset.moved = "yes";
      this.suggestions.move(part("threshold").value / 100);
      this.showTools();
    });
    part("pressure").addEventListener("change", () => (this.desk.pressure = part("pressure").checked));
    for (const button of root.querySelectorAll("button[data-tool]")) button.addEventListener("click", () => this.takeTool(button.dataset.tool));
  }

  // With `instead`, only a message of that kind is replaced.
  say(text, kind = "", instead = null) {
    if (instead !== null && this.part("message").dataset.kind !== instead) return;
    this.part("message").textContent = text;
    this.part("message").dataset.kind = kind;
  }

  // After every change of the label map.
  changed() {
    this.suggestions.judge();
    this.view.request();
    this.showTools();
    this.told();
  }

  // ---- showing ----

  // Shows an image: its `width`, `height`, `bitmap`, `labels`, and where there is a map `confidence` and `heat`;
  // regions of confidence ≥ `threshold` are suggested. Only the `offered` classes, by number, can be drawn.
  open(loaded, { image, classes, offered = classes.map((_, at) => at + 1), threshold, tools = [] }) {
    const { width, height, labels } = loaded, { desk, part } = this, side = Math.min(width, height);
    this.current = loaded;
    this.hint = null;
    Object.assign(desk, { labels, tools });
    desk.segmenter?.forget();
    this.pointer.abort();
    this.view.open(loaded);
    this.suggestions.open(image, loaded.confidence, labels, threshold);
    part("size").max = Math.max(12, Math.round(side / 3));
    if (Number(part("size").dataset.side) !== side) part("size").value = Math.max(3, Math.round(side / 16));
    part("size").dataset.side = side;
    part("map-group").classList.toggle("none", !loaded.confidence);
    part("assist-tool").hidden = !tools.includes("assist");
    const drawn = [...classes, ...offered].join("\n");
    if (part("classes").dataset.drawn !== drawn) {
      part("classes").dataset.drawn = drawn;
      this.drawClasses(classes, offered);
    }
    if (!offered.includes(desk.value)) desk.value = offered[0];
    this.view.layers.dataset.image = image;
    part("tools").classList.remove("idle");
    const useless = (desk.tool === "assist" && !tools.includes("assist")) || (desk.tool === "eraser" && !labels.painted);
    this.takeTool(useless ? "brush" : desk.tool);
  }

  close() {
    this.current = this.desk.labels = null;
    this.view.close();
    this.suggestions.close();
    this.part("tools").classList.add("idle");
    this.showTools();
  }

  rgba() {
    const { current } = this;
    if (!current.rgba) {
      const context = new OffscreenCanvas(current.width, current.height).getContext("2d");
      context.drawImage(current.bitmap, 0, 0, current.width, current.height);
      current.rgba = context.getImageData(0, 0, current.width, current.height).data;
    }
    return current.rgba;
  }

  showTools() {
    const { desk, part, suggestions, view } = this;
    for (const button of this.root.querySelectorAll("button[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === desk.tool);
    desk.radius = Number(part("size").value) / 2;
    desk.tolerance = Number(part("tolerance").value);
    part("size-value").textContent = `${part("size").value} px`;
    part("tolerance-value").textContent = part("tolerance").value;
    part("opacity-value").textContent = `${part("opacity").value} %`;
    part("threshold-value").textContent = `${part("threshold").value} %`;
    // One of the two rows always stands there, so that nothing below it moves.
    part("tolerance-row").hidden = desk.tool !== "wand";
    part("size-row").hidden = desk.tool === "wand";
    part("size").disabled = !["brush", "eraser"].includes(desk.tool);
    view.canvases.heat.style.opacity = desk.hidden ? 0 : part("opacity").value / 100;
    view.canvases.labels.style.opacity = desk.hidden ? 0 : 1;
    part("hide").setAttribute("aria-pressed", desk.hidden);
    part("undo").disabled = !desk.labels?.done.length;
    part("redo").disabled = !desk.labels?.undone.length;
    view.stage.dataset.tool = desk.tool;
    view.stage.dataset.regions = suggestions.regions.length;
    view.stage.dataset.ready = suggestions.ready;
    const left = suggestions.open_, all = suggestions.regions.length;
    part("suggestion-count").textContent = all ? `${all} suggestion${all === 1 ? "" : "s"}, ${left} open` : "No suggestions at this threshold";
    for (const id of ["accept", "reject", "accept-all"]) part(id).disabled = !all;
    for (const button of part("classes").children) {
      const value = Number(button.dataset.value), count = desk.labels?.counts[value] ?? 0;
      button.setAttribute("aria-checked", value === desk.value);
      button.querySelector(".count").textContent = count ? `${count.toLocaleString("en")} px` : "";
    }
  }

  // Buttons of the offered classes, each with the key of its place; a retired class only colours earlier labels.
  drawClasses(names, offered) {
    this.part("classes").replaceChildren(...offered.map((value, at) => h("button", { type: "button", role: "radio", "data-value": value, onclick: () => this.choose(value) },
      h("span", { class: "swatch", style: { background: `rgb(${classColour(value)})` } }), h("span", { class: "name" }, names[value - 1]), h("span", { class: "count" }),
      at < 9 ? h("kbd", {}, at + 1) : null)));
  }

  // ---- tools ----

  valueAt(place) {
    return Number(this.part("classes").children[place - 1]?.dataset.value ?? 0);
  }

  choose(value) {
    const { desk } = this;
    if (!value) return;
    desk.value = value;
    if (desk.tool === "eraser") desk.tool = "brush";
    this.view.request();
    this.showTools();
  }

  takeTool(tool) {
    const { desk } = this;
    if (tool === "assist" && !desk.tools.includes("assist")) return;
    desk.tool = tool;
    desk.segmenter?.forget();
    this.pointer.dropLoop();
    this.view.cursor.hidden = true;
    this.showTools();
  }

  resize(step) {
    const size = this.part("size");
    size.value = Number(size.value) + step * Math.max(1, Math.round(size.value / 8));
    this.showTools();
  }

  step(direction) {
    if (this.pointer.busy) return;
    const box = this.desk.labels?.[direction]();
    if (box) {
      this.view.touch(box);
      this.changed();
    }
  }

  // Takes over another label map's pixels, as one step.
  replace(pixels) {
    this.view.touch(this.desk.labels.replace(pixels));
    this.changed();
  }

  hide() {
    this.desk.hidden = !this.desk.hidden;
    this.view.request();
    this.showTools();
  }

  accept(index) {
    const { desk, suggestions } = this;
    if (index < 0 || this.pointer.busy) return;
    suggestions.chosen = index;
    desk.labels.begin();
    this.view.touch(suggestions.accept(index, desk.value));
    desk.labels.end();
    this.changed();
    this.say(`Accepted: ${suggestions.regions[index].area.toLocaleString("en")} pixels.`);
  }

  reject(index) {
    const { desk, suggestions } = this;
    if (index < 0 || this.pointer.busy) return;
    suggestions.chosen = index;
    desk.labels.begin();
    const box = suggestions.reject(index);
    if (box) this.view.touch(box);
    desk.labels.end();
    this.changed();
    this.say("Rejected.");
  }

  acceptAll() {
    const { desk, suggestions } = this;
    desk.labels.begin();
    suggestions.regions.forEach((region, index) => region.rejected || region.accepted || this.view.touch(suggestions.accept(index, desk.value)));
    desk.labels.end();
    this.changed();
  }

  walk(direction) {
    const { suggestions } = this, region = suggestions.walk(direction);
    if (!region) return;
    const how = region.accepted ? "accepted" : region.rejected ? "rejected" : "open";
    this.say(`Suggestion ${suggestions.chosen + 1} of ${suggestions.regions.length}: ${region.area.toLocaleString("en")} pixels, ${how}.`);
  }

  // ---- keys and buttons ----

  // What the actions of the canvas do, by name; a page adds its own.
  get actions() {
    const { suggestions, view } = this;
    const onChosen = (judge) => () => {
      judge(suggestions.chosen < 0 ? suggestions.walkOpen() : suggestions.chosen);
      suggestions.walkOpen();
    };
    const zoom = (factor) => () => {
      const box = view.stage.getBoundingClientRect();
      view.zoom(box.left + box.width / 2, box.top + box.height / 2, factor);
    };
    return {
      accept: onChosen((index) => this.accept(index)), reject: onChosen((index) => this.reject(index)),
      "accept-all": () => this.acceptAll(), "next-region": () => this.walk(1), "previous-region": () => this.walk(-1),
      smaller: () => this.resize(-1), larger: () => this.resize(1), undo: () => this.step("undo"), redo: () => this.step("redo"),
      hide: () => this.hide(), smooth: () => this.looks.toggleSmooth(), fit: () => view.fit(), "zoom-in": zoom(1.4), "zoom-out": zoom(1 / 1.4),
      ...Object.fromEntries(["select", "brush", "eraser", "lasso", "fill", "wand", "assist"].map((tool) => [tool, () => this.takeTool(tool)])),
    };
  }

  showKeys() {
    for (const place of this.root.querySelectorAll("kbd[data-key]")) place.textContent = keyOf(place.dataset.key).replace("Shift+", "⇧");
  }

  // Takes a key. `onStage`: whether it belongs to the image; `run(action)`: does one of the page's actions.
  keydown(event, onStage, known, run) {
    const { pointer, suggestions } = this, action = actionOf(event);
    if (event.key === "Escape") return void (pointer.dropLoop() || this.part("brush-tool").focus());
    if (!action || !(action === "pan" || action.startsWith("class-") || action in known)) return;
    if (/region$/.test(action) && (!onStage || !suggestions.regions.length)) return;
    if (["submit", "pan"].includes(action) && !onStage && event.target.matches?.('button:not([data-do="submit"]), a, input')) return;
    if (event.repeat && !REPEATING.includes(action)) return event.preventDefault();
    event.preventDefault();
    if (action === "pan") pointer.space = true;
    else if (action.startsWith("class-")) this.choose(this.valueAt(Number(action.slice(6))));
    else run(action);
    this.view.stage.classList.toggle("panning", pointer.space);
  }

  keyup(event) {
    if (event.key === " ") this.pointer.space = false;
    this.view.stage.classList.toggle("panning", this.pointer.space);
  }
}
