// Panels of the admin desk. Values come as JSON and are always written as text, never as markup.
import { h } from "/static/dom.js";

const STATES = new Set(["queued", "running", "waiting", "paused", "succeeded", "done", "failed", "cancelled", "champion"]);
const state = (word) => h("span", { class: STATES.has(word) ? `state ${word}` : "state" }, word);

const DRAW = {
  figures: (items) => items.map(({ value, label }) => h("div", {}, h("b", {}, value), h("span", {}, label))),
  stages: (items) => items.map(({ name, state: word, note }) => h("div", { class: `step ${STATES.has(word) ? word : "ahead"}` },
    h("i"), h("b", {}, name), h("span", {}, note))),
  rows: (items) => items.map(({ title, sub, state: word, progress, note }) => h("div", { class: "row" },
    h("div", { class: "words" }, h("b", {}, title), h("span", {}, sub)), h("span", { class: "note" }, note),
    word === "running" && typeof progress === "number" ? h("progress", { value: progress }) : null, word ? state(word) : null)),
  facts: (pairs) => pairs.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))),
  text: (lines) => (lines.length ? [h("pre", {}, lines.join("\n"))] : []),
};

// Fills a panel's element with its value, now and whenever that changes.
export function panel(kind, element, props, watch) {
  const show = () => {
    const items = props.value ?? { items: [] };
    const body = element.querySelector(".body");
    if (!body) return;
    const made = DRAW[kind](items.items ?? []);
    body.replaceChildren(...(made.length ? made : [h("p", { class: "nothing" }, items.empty ?? "Nothing here yet.")]));
    const title = element.querySelector("h2");
    if (items.title !== undefined) title.textContent = items.title;
    title.hidden = !title.textContent;
    const log = body.querySelector("pre");
    if (log) log.scrollTop = log.scrollHeight;
  };
  show();
  watch("value", show);
}
