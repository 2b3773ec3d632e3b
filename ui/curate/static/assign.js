// Who gets an image: the people ticked in a form, or oneself in the annotation canvas.
import { post } from "/static/api.js";
import { h, tell } from "/static/dom.js";

export function peoplePicker(names, label = "Who may take them") {
  if (!names.length) return h("p", { class: "hint" }, "Everybody who may annotate takes these images.");
  return h("fieldset", { class: "people" }, h("legend", {}, `${label} (nobody ticked: everybody)`),
    names.map((name) => h("label", {}, h("input", { type: "checkbox", name: "people", value: name }), name)));
}

export const tickedPeople = (root) => [...root.querySelectorAll("input[name=people]:checked")].map((box) => box.value);

// Reserves the image for this person and opens it on the annotation page, with that author's label as a draft.
export async function openCanvas(image, author = null) {
  const opened = await tell(post("/api/curate/open", { image, author }));
  if (opened) location.assign(opened.url);
}
