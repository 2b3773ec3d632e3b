// Saved views of the grid: the filter and the order under a name.
import { del, post } from "../api.js";
import { address, h, input, tell } from "../dom.js";
import { ask } from "./dialog.js";

// `filters` are the grid's. The list is kept in `choices`, so that it outlives the grid.
export function viewsMenu(choices, filters, current) {
  const list = h("div", { class: "views-list" });
  const details = h("details", { class: "views-menu" }, h("summary", { class: "button quiet" }, "Views"), h("div", { class: "card popup" }, list,
    h("button", { type: "button", class: "button", onclick: () => save() }, "Save this view…")));
  const take = (answer) => {
    if (!answer) return;
    choices.views = answer.views;
    draw();
  };
  const share = (checked) => h("label", { class: "switch" }, h("input", { type: "checkbox", name: "shared", checked }), "Share with the team");
  const save = async () => take(await ask("Save this view", [
    h("p", { class: "hint" }, "Filters and order are kept, not the images: a view always shows what matches today."),
    input("name", "Name", "text", "", { maxlength: 80, required: true, placeholder: "hands to send" }), share(false),
  ], "Save", (form) => post("/api/curate/views", { name: form.elements.name.value, query: filters, shared: form.elements.shared.checked }), "View saved."));
  const change = async (view) => take(await ask("Change this view", [input("name", "Name", "text", view.name, { maxlength: 80, required: true }), share(view.shared)], "Save",
    (form) => post(`/api/curate/views/${view.id}`, { name: form.elements.name.value, shared: form.elements.shared.checked }), "View changed."));
  const draw = () => list.replaceChildren(...(choices.views.length ? choices.views.map((view) => h("div", { class: "line view-line" },
    h("a", { href: address({ view: "images", ...view.query }), "aria-current": view.id === current ? "true" : null }, view.name),
    h("span", { class: "hint" }, view.own ? (view.shared ? "shared" : "") : `by ${view.owner}`), h("span", { class: "gap" }),
    view.own ? h("button", { type: "button", class: "link", "aria-label": `Rename or share ${view.name}`, onclick: () => change(view) }, "Edit") : null,
    view.own ? h("button", { type: "button", class: "link", "aria-label": `Delete ${view.name}`, onclick: async () => confirm(`Delete the view “${view.name}”?`) && take(await tell(del(`/api/curate/views/${view.id}`), "View deleted.")) }, "Delete") : null))
    : [h("p", { class: "hint" }, "No saved views yet.")]));
  draw();
  return details;
}
