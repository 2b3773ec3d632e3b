// My answers: a person's own answers, searched by prompt, class and state; one is opened again while it may be changed.
import { get } from "../api.js";
import { $, h } from "../dom.js";
import { when } from "../format.js";
import { classColour } from "../palette.js";

const STATES = { unreviewed: "not reviewed", returned: "returned", approved: "approved" };
const PAUSE_MS = 250;

export class OwnAnswers {
  // `open(image)` shows that answer on the canvas.
  constructor(open) {
    Object.assign(this, { open, turn: 0, after: null, timer: 0, names: [] });
    $("answer-text").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.search(), PAUSE_MS);
    });
    for (const id of ["answer-class", "answer-state"]) $(id).addEventListener("change", () => this.search());
    $("answer-filters").addEventListener("submit", (event) => event.preventDefault());
    $("answer-more").addEventListener("click", () => this.search(this.after));
  }

  // Lists them once `sent` is done, so that the last answer is among them; `names` are the classes.
  async show(sent, names) {
    this.names = names;
    const chosen = $("answer-class").value;
    $("answer-class").replaceChildren(...[["", "Any"], ...names.map((name, at) => [at + 1, name]), [0, "Clean"]]
      .map(([value, name]) => h("option", { value: String(value), selected: String(value) === chosen }, name)));
    $("answers").showModal();
    $("answer-text").focus();
    $("answer-note").textContent = "Loading…";
    await sent;
    await Promise.all([this.sum(), this.search()]);
  }

  async sum() {
    const mine = await get("/api/annotate/mine").catch(() => null);
    const count = mine?.done_ever.toLocaleString("en");
    $("answer-sum").textContent = mine?.done_ever ? `${count} image${mine.done_ever === 1 ? "" : "s"} labelled, ${mine.done_today} today; ${Math.round(mine.median_seconds)} s per image (median).` : "";
  }

  async search(after = null) {
    const turn = ++this.turn, asked = { text: $("answer-text").value, shows: $("answer-class").value, state: $("answer-state").value, after: after ?? "" };
    const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value !== ""));
    try {
      const { answers, after: next } = await get(`/api/annotate/answers?${query}`);
      if (turn !== this.turn) return;
      const rows = answers.map((one) => this.row(one));
      if (after === null) $("answer-list").replaceChildren(...rows);
      else $("answer-list").append(...rows);
      this.after = next;
      $("answer-more").hidden = !next;
      const found = $("answer-list").children.length;
      $("answer-note").textContent = found ? `${found} answer${found === 1 ? "" : "s"}${next ? ", more below" : ""}.` : "No answer matches.";
    } catch (error) {
      if (turn === this.turn) $("answer-note").textContent = error.message;
    }
  }

  row({ image, prompt, classes, created, state, note, editable }) {
    const marks = classes.map((value) => h("span", { class: "swatch", title: this.names[value - 1] ?? `class ${value}`, style: { background: `rgb(${classColour(value)})` } }));
    const what = classes.length ? classes.map((value) => this.names[value - 1] ?? `class ${value}`).join(", ") : "clean";
    const text = h("span", { class: "what" }, h("b", {}, prompt || "No prompt"), h("small", {}, ...marks, ` ${what} · ${STATES[state]} · ${when(created)}`),
      note ? h("small", { class: "note" }, `“${note}”`) : null);
    const picture = h("img", { src: `/api/images/${encodeURIComponent(image)}/thumbnail`, alt: "", loading: "lazy" });
    return h("li", {}, h("button", { type: "button", disabled: !editable, title: editable ? "Open it again" : "A curator has approved it, so it can no longer be changed",
      onclick: () => {
        $("answers").close();
        this.open(image);
      } }, picture, text));
  }
}
