// Review: a list of labels, and for one image the prediction, the label and the merged label side by side.
import { get, post } from "../api.js";
import { address, h, nothing, select, tell } from "../dom.js";
import { count, number, percent, when } from "../format.js";
import { drawHeat, drawLabels, forget, labelOf, mergedOf, pixels, thumbnail } from "../images.js";
import { openCanvas } from "./assign.js";
import { goldMark, makeGold } from "./gold.js";
import { workButton } from "./work.js";

const STATES = [["unreviewed", "To review"], ["approved", "Approved"], ["returned", "Returned"]];
const VERDICT = { accepted: "approved", rejected: "returned", corrected: "replaced" };
const FILTERS = ["state", "by", "author", "category", "round"];
const ANY = "any";
let place = 0;  // where in the list the reviewer was when it was loaded again

export async function review(root, { choices, asked, go }) {
  const filters = Object.fromEntries(FILTERS.filter((name) => asked[name]).map((name) => [name, asked[name]]));
  if (!["by", "author", "category", "round"].some((name) => filters[name])) Object.assign(filters, { by: "people", round: choices.newest_round ?? ANY });
  filters.state ??= "unreviewed";
  const desk = new Desk(root, filters, go, choices.may_judge);
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "State" });
  const change = () => go({ view: "review", ...filters, ...Object.fromEntries(new FormData(form)) });
  const anyOf = (values, word = "any") => [[ANY, word], ...values.map((value) => [value, value])];
  const form = h("form", { class: "filters slim", onsubmit: (event) => event.preventDefault() },
    select("by", "Made by", [["anyone", "anyone"], ["people", "people"]], filters.by ?? "anyone", change),
    select("author", "Author", anyOf(choices.people, "anyone"), filters.author ?? ANY, change),
    select("category", "Category", anyOf(choices.categories), filters.category ?? ANY, change),
    select("round", "Round", anyOf(choices.label_rounds), filters.round ?? ANY, change));
  root.append(h("div", { class: "line head" }, tabs, h("span", { class: "gap" }), form),
    h("div", { class: "columns" }, h("aside", { class: "card list" }, desk.bulk, desk.list, desk.more), desk.stage));
  await desk.load();
  tabs.append(...STATES.map(([state, name]) => h("button", { type: "button", role: "tab", "aria-selected": String(state === filters.state),
    onclick: () => { place = 0; go({ view: "review", ...filters, state }); } }, name, h("span", {}, count(desk.counts[state])))));
}

const asRequest = (filters) => Object.fromEntries(Object.entries(filters).filter(([, value]) => value !== ANY));
const keyOf = (row) => `${row.image_id} ${row.author} ${row.revision}`;

class Desk {
  constructor(root, filters, go, mayJudge) {
    Object.assign(this, { root, filters, go, mayJudge, rows: [], counts: {}, shown: null, notes: new Map() });
    this.list = h("div", { class: "labels", role: "list", "aria-label": "Labels" });
    this.more = h("div", { class: "more" });
    this.stage = h("section", { class: "card stage-of-three", "aria-label": "Review" });
    this.note = h("textarea", { rows: "2", maxlength: "2000", placeholder: "What should change? The annotator will see this note.", "aria-label": "Note", "aria-describedby": "note-keys",
      oninput: () => this.notes.set(keyOf(this.shown), this.note.value), onkeydown: (event) => this.noteKey(event) });
    this.all = h("input", { type: "checkbox", "aria-label": "Select all", onchange: () => this.list.querySelectorAll("input").forEach((box) => { box.checked = this.all.checked; }) });
    this.bulk = mayJudge && h("div", { class: "bulk" }, this.all,
      h("button", { type: "button", class: "button quiet", onclick: () => this.decide(this.chosen(), "accepted", false, "") }, "Approve selected"),
      h("button", { type: "button", class: "button quiet", onclick: () => this.returnMany() }, "Return selected"));
    this.keys = (event) => this.key(event);
    document.addEventListener("keydown", this.keys);
  }

  async load(after = null) {
    const page = await get(`/api/curate/reviews${address({ ...asRequest(this.filters), after })}`);
    this.counts = page.counts;
    this.rows.push(...page.labels);
    this.list.append(...page.labels.map((row) => this.line(row)));
    this.more.replaceChildren(page.after ? h("button", { type: "button", class: "button quiet", onclick: () => tell(this.load(page.after)) }, "More") : this.hidden(page));
    if (!this.rows.length) {
      this.list.append(...this.empty(page.all));
      this.stage.replaceChildren(nothing("Select a label on the left to compare the prediction, the label and the merged label."));
    } else if (!after) await this.show(this.rows[Math.min(place, this.rows.length - 1)]);
  }

  // Labels that the filters leave out are not taken for reviewed.
  hidden({ all, counts }) {
    const { state } = this.filters, number = all[state] - counts[state];
    return number > 0 && this.rows.length ? h("a", { class: "hint", href: address({ view: "review", state, by: "anyone" }) }, `${count(number)} more without these filters`) : "";
  }

  empty(all) {
    const elsewhere = all[this.filters.state];
    if (!Object.values(all).some(Boolean)) return [nothing("No labels yet. Send images to people, or import masks with your images.", workButton("send", {}), h("a", { class: "button quiet", href: "/import" }, "Import masks"))];
    const text = this.filters.state === "unreviewed" ? "Nothing to review." : "No labels match.";
    if (!elsewhere) return [nothing(text)];
    return [nothing(`${text.slice(0, -1)} with these filters; ${count(elsewhere)} without them.`),
      h("p", {}, h("a", { href: address({ view: "review", state: this.filters.state, by: "anyone" }) }, "Show all"))];
  }

  line(row) {
    row.node = h("div", { class: "entry", role: "listitem", "data-image": row.image_id, "data-author": row.author },
      h("input", { type: "checkbox", "aria-label": `Select ${row.author}'s label` }),
      h("button", { type: "button", class: "row", onclick: () => this.show(row) }, h("img", { src: thumbnail(row.image_id), alt: "", loading: "lazy" }),
        h("span", {}, h("b", {}, row.category ?? "no category"), h("span", {}, `${row.author} · ${row.clean ? "clean" : "drawn"} · r${row.revision}`), row.verdict ? h("em", { class: `verdict ${row.verdict}` }, VERDICT[row.verdict]) : null)));
    return row.node;
  }

  chosen() {
    return this.rows.filter((row) => row.node.querySelector("input").checked);
  }

  async show(row) {
    if (!row) return;
    this.shown?.node.querySelector(".row").removeAttribute("aria-current");
    this.shown = row;
    place = this.rows.indexOf(row);
    row.node.querySelector(".row").setAttribute("aria-current", "true");
    row.node.scrollIntoView({ block: "nearest" });
    const review = await tell(get(`/api/curate/reviews/${row.image_id}`));
    if (!review || this.shown !== row) return;
    const heat = h("canvas", { class: "heat drawn" });
    const label = h("canvas", { class: "labels" });
    const merged = h("canvas", { class: "labels" });
    const view = (title, sub, ...over) => h("figure", {}, h("figcaption", {}, h("b", {}, title), h("span", { title: sub }, sub)), h("div", { class: "stage" }, h("img", { src: pixels(row.image_id), alt: "" }), over));
    const counted = review.opinions.filter((one) => one.counts).length;
    this.note.value = this.notes.get(keyOf(row)) ?? "";
    const { predicted } = review;
    const by = predicted ? `by ${predicted.name}, maximum ${number(predicted.max)}` : "not diagnosed";
    const unpredicted = predicted?.map ? null : h("p", { class: "unpredicted" }, predicted ? "This detector gives no map." : "No detector has predicted this image.");
    this.stage.replaceChildren(...[
      h("header", {}, h("h2", {}, row.category ?? "No category"), h("p", { class: "prompt" }, row.prompt || "No prompt.")),
      h("div", { class: "three" }, view("Predicted", by, heat, unpredicted), view("Labelled", `${row.author}, revision ${row.revision}${row.clean ? ", clean" : ""}`, label),
        view("Merged", counted ? `majority of ${counted} label${counted === 1 ? "" : "s"}` : "no label counts", merged)),
      this.mayJudge && h("div", { class: "line decide" }, this.note,
        h("button", { type: "button", class: "button", id: "approve", onclick: () => this.decide([row], "accepted") }, "Approve ", h("kbd", {}, "A")),
        review.opinions.length > 1 ? h("button", { type: "button", class: "button quiet", onclick: () => this.decide([row], "accepted", true) }, "Approve only this label") : null,
        h("button", { type: "button", class: "button quiet bad", id: "return", onclick: () => this.decide([row], "rejected") }, "Return with note ", h("kbd", {}, "R")),
        h("button", { type: "button", class: "button quiet", id: "edit", onclick: () => openCanvas(row.image_id, row.author) }, "Edit on the canvas ", h("kbd", {}, "E")),
        h("span", { class: "hint", id: "note-keys" }, "In the note: Ctrl+Enter returns the label, Esc leaves.")),
      review.gold?.chosen ? goldMark(row.image_id, review.gold, () => this.show(row)) : null,
      this.opinions(review, label),
      h("p", { class: "hint" }, "Training sets take approved labels, and unreviewed ones unless the recipe sets publish.labels to “approved”. Returned and replaced labels never count. A new revision has to be reviewed again."),
    ].filter(Boolean));
    if (predicted?.map) drawHeat(heat, row.image_id, predicted.detector);
    drawLabels(label, labelOf(row.image_id, row.author));
    if (counted) drawLabels(merged, mergedOf(row.image_id));
    this.stage.dataset.image = row.image_id;
  }

  opinions(review, canvas) {
    const disputed = review.disagreement === null ? "" : `, disagreement ${percent(review.disagreement)}`;
    return h("details", { class: "opinions", open: review.opinions.length > 1 || review.gold !== null }, h("summary", {}, `${review.opinions.length} label${review.opinions.length === 1 ? "" : "s"}${disputed}`),
      h("ul", { class: "history" }, review.opinions.map((one) => h("li", {},
        h("button", { type: "button", class: "link", onclick: () => drawLabels(canvas, labelOf(review.image, one.author)) }, `${one.author}, revision ${one.revision}`),
        h("span", {}, `${one.clean ? "clean" : "drawn"} · ${when(one.created)} · ${number(one.seconds, 0)} s · ${one.counts ? "counts" : "does not count"}`),
        one.regions.length ? h("ul", { class: "regions", "aria-label": `What ${one.author} says of regions` }, one.regions.map((region) => h("li", {},
          region.importance === null ? null : h("b", { title: "Importance, 1 to 100" }, region.importance), ` ${region.reason || "no reason given"}`))) : null,
        review.gold && !review.gold.chosen && one.counts ? makeGold(review.image, one.author, () => this.show(this.shown)) : null,
        one.verdict ? h("em", { class: `verdict ${one.verdict.verdict}` }, `${VERDICT[one.verdict.verdict]} by ${one.verdict.by}${one.verdict.note ? `: ${one.verdict.note}` : ""}`) : null))));
  }

  returnMany() {
    const note = this.chosen().length ? prompt("Note to the annotators: what should change?") : "";
    if (note) this.decide(this.chosen(), "rejected", false, note);
  }

  // A note belongs to the label that is shown: labels ticked in the list are judged without it.
  async decide(rows, verdict, alone = false, note = rows.length === 1 && rows[0] === this.shown ? this.note.value : "") {
    if (!rows.length) return tell(Promise.reject(new Error("Select labels first.")));
    if (verdict === "rejected" && !note.trim()) {
      this.note.focus();
      return tell(Promise.reject(new Error("Describe in the note what should change.")));
    }
    const labels = rows.map((row) => ({ image: row.image_id, author: row.author, revision: row.revision }));
    const done = await tell(post("/api/curate/reviews", { labels, verdict, note: note.trim(), alone }), `${rows.length === 1 ? "Label" : `${rows.length} labels`} ${VERDICT[verdict]}.`);
    if (!done) return undefined;
    rows.forEach((row) => forget(row.image_id));
    if (rows.length > 1) place = 0;
    return this.go({ view: "review", ...this.filters });
  }

  noteKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.decide([this.shown], "rejected");
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.shown.node.querySelector(".row").focus();
    }
  }

  key(event) {
    if (!this.root.isConnected) return document.removeEventListener("keydown", this.keys);
    if (event.target.matches("input:not([type=checkbox]), textarea, select") || event.ctrlKey || event.metaKey || event.altKey || !this.shown) return undefined;
    const at = this.rows.indexOf(this.shown);
    const tick = () => { const box = this.shown.node.querySelector("input"); box.checked = !box.checked; };
    const act = { ...this.mayJudge && { a: () => this.decide([this.shown], "accepted"), r: () => this.note.focus(), e: () => openCanvas(this.shown.image_id, this.shown.author), x: tick },
      arrowdown: () => this.show(this.rows[at + 1]), arrowup: () => this.show(this.rows[at - 1]) }[event.key.toLowerCase()];
    if (!act) return undefined;
    event.preventDefault();
    return act();
  }
}
