// Reasons and importance of single regions: a list of what is painted, with two fields each, behind a setting of this
// browser. What earlier labels say of a region is kept and sent along, also where the setting is off.
import { h } from "../dom.js";
import { classColour } from "../palette.js";

const STORE = "clinic.regions";
const MOST_SHOWN = 40;
export const MOST_REASON = 1000;

// The 8-connected regions of one class each: value, box [left, top, right, bottom) and area, the largest first.
export function componentsOf(pixels, height, width) {
  const parents = [], regions = [];
  const root = (at) => {
    while (parents[at] !== at) at = parents[at] = parents[parents[at]];
    return at;
  };
  let above = [];
  for (let row = 0; row < height; row++) {
    const runs = [], start = row * width;
    let first = 0;
    for (let column = 0; column < width; ) {
      const value = pixels[start + column];
      let end = column + 1;
      while (end < width && pixels[start + end] === value) end++;
      if (value) {
        const at = parents.push(parents.length) - 1;
        regions.push({ value, left: column, right: end, top: row, bottom: row + 1, area: end - column });
        while (first < above.length && above[first].right < column) first++;
        for (let other = first; other < above.length && above[other].left <= end; other++) {
          if (above[other].value === value) parents[root(above[other].at)] = root(at);
        }
        runs.push({ at, value, left: column, right: end });
      }
      column = end;
    }
    above = runs;
  }
  const whole = new Map();
  regions.forEach((one, at) => {
    const key = root(at), known = whole.get(key);
    if (!known) return whole.set(key, { ...one });
    known.left = Math.min(known.left, one.left);
    known.right = Math.max(known.right, one.right);
    known.top = Math.min(known.top, one.top);
    known.bottom = Math.max(known.bottom, one.bottom);
    known.area += one.area;
  });
  return [...whole.values()].sort((a, b) => b.area - a.area).map(({ value, left, top, right, bottom, area }) => ({ value, box: [left, top, right, bottom], area }));
}

const overlap = ([a, b, c, d], [e, f, g, i]) => Math.max(0, Math.min(c, g) - Math.max(a, e)) * Math.max(0, Math.min(d, i) - Math.max(b, f));
const said = (note) => note.reason.trim() !== "" || note.importance !== null;

// Gives each note the region of its class that its box covers most; the notes of each region, in order.
export function assigned(components, notes) {
  const mine = components.map(() => []);
  for (const note of notes) {
    let best = -1, most = 0;
    components.forEach((one, at) => {
      const shared = one.value === note.value ? overlap(one.box, note.box) : 0;
      if (shared > most) [best, most] = [at, shared];
    });
    if (best >= 0) mine[best].push(note);
  }
  return mine;
}

export class RegionNotes {
  // `changed()` hears of every edit; `point(box)` shows a region on the image, null none.
  constructor(part, { changed, point }) {
    Object.assign(this, { part, changed, point, labels: null, notes: [], names: [], timer: 0, seen: -1 });
    let on = false;
    try {
      on = localStorage.getItem(STORE) === "on";
    } catch {
      on = false;
    }
    part("regions-on").checked = part("regions").open = on;
    part("regions-on").addEventListener("change", () => {
      localStorage.setItem(STORE, part("regions-on").checked ? "on" : "off");
      this.draw();
    });
  }

  get on() {
    return this.part("regions-on").checked;
  }

  // `notes`: value, box, reason, importance of a draft or an earlier answer.
  open(labels, notes, names) {
    Object.assign(this, { labels, names, seen: -1, notes: (notes ?? []).map((one) => ({ ...one })) });
    this.draw();
  }

  close() {
    clearTimeout(this.timer);
    Object.assign(this, { labels: null, notes: [] });
    this.part("region-list").replaceChildren();
  }

  // After a change of the label map; the list follows a moment later, so that drawing stays quick.
  painted() {
    clearTimeout(this.timer);
    if (this.on) this.timer = setTimeout(() => this.draw(), 300);
  }

  // What is said of regions that are still painted. A region's only note takes over its box.
  current() {
    if (!this.labels || !this.notes.some(said)) return [];
    const components = this.components(), mine = assigned(components, this.notes);
    return mine.flatMap((notes, at) => {
      const given = notes.filter(said);
      return given.map((one) => ({ value: one.value, box: given.length > 1 ? this.within(one, components[at]) : components[at].box, reason: one.reason.trim(), importance: one.importance }));
    });
  }

  // A note's box, unless nothing of its class is left in it.
  within(note, component) {
    const [left, top, right, bottom] = note.box, { pixels, width } = this.labels;
    for (let row = top; row < bottom; row++) {
      for (let at = row * width + left; at < row * width + right; at++) if (pixels[at] === note.value) return note.box;
    }
    return component.box;
  }

  components() {
    const { pixels, height, width } = this.labels;
    return componentsOf(pixels, height, width);
  }

  draw() {
    clearTimeout(this.timer);
    const { part } = this, list = part("region-list");
    list.hidden = part("region-hint").hidden = !this.on;
    if (!this.on || !this.labels) return list.replaceChildren();
    const field = list.contains(document.activeElement) ? document.activeElement.dataset.field : null;
    const components = this.components(), mine = assigned(components, this.notes);
    const rows = components.slice(0, MOST_SHOWN).flatMap((one, at) => (mine[at].length ? mine[at] : [this.blank(one)]).map((note) => [one, note]));
    list.replaceChildren(...rows.map(([one, note], at) => this.row(one, note, at)));
    const more = components.length - MOST_SHOWN;
    part("region-hint").textContent = !components.length ? "Nothing is painted yet." : more > 0 ? `The ${MOST_SHOWN} largest of ${components.length} regions.` : "";
    if (field) list.querySelector(`[data-field="${field}"]`)?.focus();
  }

  blank({ value, box }) {
    return { value, box, reason: "", importance: null };
  }

  row(component, note, at) {
    const kind = this.names[component.value - 1] ?? `class ${component.value}`, name = `Region ${at + 1}, ${kind}`;
    const edit = () => {
      if (!this.notes.includes(note)) this.notes.push(note);
      this.changed();
    };
    const importance = h("input", { type: "number", min: "1", max: "100", step: "1", inputmode: "numeric", placeholder: "1–100", "data-field": `importance-${at}`, "aria-label": `${name}: importance, 1 to 100`,
      oninput: ({ target }) => {
        const given = target.value.trim() === "" && target.validity.valid ? null : Number(target.value), good = given === null || (Number.isInteger(given) && given >= 1 && given <= 100);
        target.setAttribute("aria-invalid", !good);
        if (good) {
          note.importance = given;
          edit();
        }
      } });
    importance.value = note.importance ?? "";
    const reason = h("input", { type: "text", class: "reason", maxlength: MOST_REASON, autocomplete: "off", placeholder: "What is broken?", "data-field": `reason-${at}`, "aria-label": `${name}: reason`,
      oninput: ({ target }) => {
        note.reason = target.value;
        edit();
      } });
    reason.value = note.reason;
    return h("li", { onfocusin: () => this.point(component.box), onfocusout: () => this.point(null), onpointerenter: () => this.point(component.box), onpointerleave: () => this.point(null) },
      h("span", { class: "swatch", style: { background: `rgb(${classColour(component.value)})` } }), h("span", { class: "number", "aria-hidden": "true" }, at + 1),
      h("span", { class: "name", "aria-hidden": "true" }, kind), importance, reason);
  }

  // Turns the setting on and goes to the first field.
  focus() {
    const { part } = this;
    part("regions").open = true;
    if (!this.on) part("regions-on").click();
    else this.draw();
    (part("region-list").querySelector("input") ?? part("regions-on")).focus();
  }

  // The wrong importance, if a field holds one: it would not be sent.
  get wrong() {
    return this.part("region-list").querySelector("[aria-invalid='true']");
  }
}
