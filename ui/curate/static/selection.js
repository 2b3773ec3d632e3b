// Images selected in the grid, across pages, and what can be done to them.
import { post } from "../api.js";
import { h, input, select, tell } from "../dom.js";
import { count } from "../format.js";
import { peoplePicker, selectedPeople } from "./assign.js";
import { ask } from "./dialog.js";

const MOST_IDS = 5000;
const MOST_EXPORTED = 1000;  // by id, in an address
const counted = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
const images = (n) => counted(n, "image");

// `filters` are the grid's, `matches()` is the number of images that match them (null while it is unknown),
// `again()` reloads the grid. `listed` says that it shows a list instead of what a filter matches. Tiles are
// added as they are drawn.
export class Selection {
  constructor({ grid, filters, choices, matches, again, go, listed }) {
    Object.assign(this, { grid, filters, choices, matches, again, go, listed, ids: new Set(), all: false, anchor: null, tiles: [] });
    this.bar = h("div", { class: "selection card", role: "region", "aria-label": "Selected images", hidden: true });
    this.keys = (event) => this.key(event);
    document.addEventListener("keydown", this.keys);
  }

  leave() {
    document.removeEventListener("keydown", this.keys);
  }

  add(tile) {
    this.tiles.push(tile);
    this.mark(tile);
  }

  has(id) {
    return this.all || this.ids.has(id);
  }

  mark(tile) {
    const on = this.has(tile.dataset.id);
    tile.classList.toggle("selected", on);
    tile.querySelector(".pick").checked = on;
  }

  // A tile's box was clicked: with Shift everything from the last one to this.
  pick(tile, range) {
    if (this.all) this.clear();
    const at = this.tiles.indexOf(tile), from = this.tiles.indexOf(this.anchor);
    if (range && from >= 0) {
      for (const one of this.tiles.slice(Math.min(at, from), Math.max(at, from) + 1)) this.ids.add(one.dataset.id);
    } else if (!this.ids.delete(tile.dataset.id)) this.ids.add(tile.dataset.id);
    if (!range) this.anchor = tile;
    this.show();
  }

  everything() {
    this.all = !this.listed;
    this.ids = new Set(this.listed ? this.tiles.map((tile) => tile.dataset.id) : []);
    this.show();
  }

  clear() {
    this.all = false;
    this.ids.clear();
    this.show();
  }

  get size() {
    return this.all ? this.matches() : this.ids.size;
  }

  // The images as the server takes them.
  get chosen() {
    if (!this.all) return { ids: [...this.ids] };
    const { sort, ...rest } = this.filters;
    return { images: rest };
  }

  show() {
    this.tiles.forEach((tile) => this.mark(tile));
    const empty = !this.all && !this.ids.size;
    this.bar.hidden = empty;
    document.body.classList.toggle("selecting", !empty);
    if (empty) return this.bar.replaceChildren();
    const matching = this.matches(), judge = this.choices.may_judge;
    const button = (text, act, more = {}) => h("button", { type: "button", class: "button quiet", onclick: act, ...more }, text);
    this.bar.replaceChildren(
      h("b", { role: "status" }, this.all ? `All ${matching === null ? "" : `${images(matching)} `}that match` : `${images(this.ids.size)} selected`),
      !this.all && matching !== null && matching > this.ids.size ? h("button", { type: "button", class: "link", onclick: () => this.everything() }, `Select all ${count(matching)} that match`) : "",
      h("span", { class: "gap" }),
      button("Send", () => this.send(), { title: "Send to annotators" }), button("Assign", () => this.assign(), { title: "Say who may annotate those that wait" }), button("Tag", () => this.tag()),
      button("Split", () => this.split(), { title: "Move to the training or the validation split" }),
      button("Export", () => tell(this.export())),
      judge ? button("Pilot", () => this.pilot(), { title: "Have some of them labelled to plan a campaign" }) : "",
      judge ? button("Erase", () => this.erase(), { class: "button quiet bad" }) : "",
      h("button", { type: "button", class: "link", onclick: () => this.clear() }, "Clear"));
    return undefined;
  }

  // Asks in a dialog and posts the answer; reloads the grid afterwards.
  async act(title, action, fields, submit, body, success) {
    if (!this.all && this.ids.size > MOST_IDS) return tell(Promise.reject(new Error(`At most ${count(MOST_IDS)} images can be selected one by one; use a filter and select all that match.`)));
    const done = await ask(title, fields, submit, (form) => post(`/api/curate/selected/${action}`, { chosen: this.chosen, ...body(form) }), success);
    if (done) this.again();
    return done;
  }

  get many() {
    return this.size === null ? "all that match" : images(this.size);
  }

  send() {
    return this.act(`Send ${this.many} to annotators`, "send", [
      h("p", { class: "hint" }, "Images that are labelled, queued or part of a benchmark stay where they are."),
      input("opinions", "Annotators per image", "number", 1, { min: "1", max: "9", required: true }),
      input("priority", "Priority", "number", 0.5, { min: "0", max: "10", step: "0.1", required: true }),
      input("limit", "Maximum images", "number", 1000, { min: "1", max: "20000", required: true }),
      peoplePicker(this.choices.annotators),
    ], "Send", (form) => ({ ...numbers(form, "opinions", "priority", "limit"), people: selectedPeople(form) }),
    (found) => `${images(found.sent)} sent to annotators.${found.left_out ? ` ${count(found.left_out)} left out: labelled, queued, in a benchmark, or beyond the maximum.` : ""}`);
  }

  assign() {
    return this.act(`Assign ${this.many}`, "assign", [
      h("p", { class: "hint" }, "Applies to those that wait for annotators; their earlier assignment is replaced."),
      peoplePicker(this.choices.annotators),
    ], "Assign", (form) => ({ people: selectedPeople(form) }), (found) => `${images(found.assigned)} of ${count(found.selected)} assigned; the others do not wait for annotators.`);
  }

  tag() {
    const known = h("datalist", { id: "known-tags" }, this.choices.tags.map((value) => h("option", { value })));
    let add = [];
    return this.act(`Tag ${this.many}`, "tag", [
      input("add", "Add tags (separate by commas)", "text", "", { list: "known-tags", maxlength: 1000, autocomplete: "off" }),
      input("remove", "Remove tags", "text", "", { list: "known-tags", maxlength: 1000, autocomplete: "off" }), known,
    ], "Apply", (form) => {
      add = words(form.elements.add.value);
      return { add, remove: words(form.elements.remove.value) };
    }, (found) => {
      this.choices.tags = [...new Set([...this.choices.tags, ...add])].sort();
      return `${[found.added ? `${count(found.added)} added` : "", found.removed ? `${count(found.removed)} removed` : ""].filter(Boolean).join(", ") || "Nothing changed"}.`;
    });
  }

  split() {
    return this.act(`Move ${this.many} to a split`, "split", [
      h("p", { class: "hint" }, "Images of one group, such as near-duplicates, move together. Those of a benchmark or of a training set stay."),
      select("split", "Split", [["train", "train"], ["validation", "validation"]], "validation"),
    ], "Move", (form) => ({ split: form.elements.split.value }), (found) => `${images(found.moved)} moved${found.kept ? `; ${count(found.kept)} stay, because a benchmark or a training set contains them or their group` : ""}.`);
  }

  async export() {
    if (!this.all && this.ids.size > MOST_EXPORTED) throw new Error(`At most ${count(MOST_EXPORTED)} images are exported one by one; tag them, and export all with that tag.`);
    const { openExport } = await import("./export.js");
    const { ids, images: matching } = this.chosen;
    return openExport(matching ?? { ids: ids.join(",") });
  }

  async pilot() {
    const most = Math.min(this.size ?? 1000, 1000);
    const made = await ask(`Pilot on ${this.many}`, [
      h("p", { class: "hint" }, "Images are drawn at random from the selection, and everybody named labels all of them. One page then shows seconds per label, agreement, and the hours that a campaign would take."),
      input("name", "Name", "text", "", { maxlength: 100, placeholder: "hands, first try" }),
      input("images", "Images", "number", Math.min(20, most), { min: "1", max: String(most), required: true }),
      peoplePicker(this.choices.annotators, "Who labels them"),
    ], "Start pilot", (form) => post("/api/curate/pilots", { chosen: this.chosen, name: form.elements.name.value, ...numbers(form, "images"), people: selectedPeople(form) }), "Pilot started.");
    if (made) this.go({ view: "pilots", pilot: made.id });
  }

  async erase() {
    const chosen = this.chosen;
    const found = await tell(post("/api/curate/selected/erasure", { chosen }));
    if (!found) return undefined;
    return ask("Erase for good", [
      h("p", {}, `This deletes ${images(found.images)} with ${counted(found.labels, "label")} and ${counted(found.blobs, "file")}. It cannot be undone.`),
      report(found),
      input("typed", `Type ${found.images} to confirm`, "text", "", { autocomplete: "off", required: true, pattern: String(found.images), title: `Type ${found.images}` }),
    ], "Erase", () => post("/api/curate/selected/erase", { chosen, expected: this.size ?? found.images }), "", "bad").then(async (done) => {
      if (!done) return;
      await ask("Erased", [h("p", {}, `Deleted: ${images(done.images)}, ${counted(done.labels, "label")} and ${counted(done.blobs, "file")}.`), report(done)], "Close", async () => true);
      this.again();
    });
  }

  key(event) {
    if (!this.grid.isConnected) return this.leave();
    if (document.querySelector("dialog[open]")) return undefined;
    const typing = event.target.matches("input:not(.pick), textarea, select");
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a" && !typing) {
      event.preventDefault();
      return this.everything();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return undefined;
    if (event.key === "Escape" && (this.all || this.ids.size)) return this.clear();
    const tile = event.target.closest?.(".tile");
    if (!tile || !this.grid.contains(tile)) return undefined;
    const at = this.tiles.indexOf(tile), columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step !== undefined && this.tiles[at + step]) {
      event.preventDefault();
      if (event.shiftKey && !this.anchor) this.pick(tile, false);
      this.tiles[at + step].querySelector(".open").focus();
      if (event.shiftKey) this.pick(this.tiles[at + step], true);
    } else if (event.key === "x" || event.key === " ") {
      event.preventDefault();
      this.pick(tile, event.shiftKey);
    }
    return undefined;
  }
}

const words = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);
const numbers = (form, ...names) => Object.fromEntries(names.map((name) => [name, Number(form.elements[name].value)]));

// What an erasure leaves behind, and what was made of the images before.
function report(found) {
  const parts = ["snapshots", "detectors", "treatments", "generators", "benchmarks"].filter((name) => found[name].length);
  const lines = found.remains.map((one) => `${one.kind} ${one.name}: ${one.advice}`);
  if (!parts.length && !lines.length) return null;
  return h("div", {},
    parts.length ? h("p", { class: "hint" }, `What was made with them stays: ${parts.map((name) => `${count(found[name].length)} ${found[name].length === 1 ? name.slice(0, -1) : name}`).join(", ")}.`) : null,
    lines.length ? h("details", {}, h("summary", {}, `What still holds something of them (${count(lines.length)})`), h("ul", { class: "history" }, lines.map((line) => h("li", {}, line)))) : null);
}
