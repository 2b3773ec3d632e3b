// Assignment of images: to the people selected in a form, or to oneself on the annotation page.
import { here, urlOf } from "../root.js";
import { post } from "../api.js";
import { h, tell } from "../dom.js";

export function peoplePicker(names, legend = "Assign to (none selected = everyone)") {
  if (!names.length) return h("p", { class: "hint" }, "All annotators can take these images.");
  return h("fieldset", { class: "people" }, h("legend", {}, legend),
    names.map((name) => h("label", {}, h("input", { type: "checkbox", name: "people", value: name }), name)));
}

export const selectedPeople = (root) => [...root.querySelectorAll("input[name=people]:checked")].map((box) => box.value);

// Reserves the image for this person and opens it on the annotation page, with that author's label as a draft.
export async function openCanvas(image, author = null) {
  const opened = await tell(post("/api/curate/open", { image, author }));
  const back = here() + location.search + location.hash;
  if (opened) location.assign(urlOf(`${opened.url}&back=${encodeURIComponent(back)}`));
}
