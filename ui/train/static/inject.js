// Artifacts injected into clean images: the form, with a sample of each kind of operation on pixels.
import { get, post } from "../api.js";
import { h, importButton, nothing, panel, say } from "../dom.js";
import { form, labelled } from "../runs/form.js";

const API = "/api/train/inject";
const FIRST = ["images", "source", "generator", "copies", "injection.kinds", "injection.seed"];

export async function inject(root) {
  const described = await get(`${API}/form`);
  const samples = panel("Samples"), side = h("div", { class: "side" }, samples);
  const start = h("button", { type: "button", class: "button", onclick: begin }, "Inject artifacts");
  const made = form(described.fields, { first: FIRST, replace: { images, generator: (field) => generators(field, described.choices.generator) }, changed: draw });
  let shown = "";

  async function draw() {
    const { images: words, source, injection } = made.read();
    const key = JSON.stringify([words, source, injection.kinds, injection.seed]);
    if (key === shown) return;
    shown = key;
    const put = (...children) => { if (key === shown) samples.replaceChildren(h("h2", {}, "Samples"), ...children); };
    try {
      const { clean } = await get(`${API}/clean?${new URLSearchParams({ images: words })}`);
      if (key !== shown) return;
      start.disabled = !clean;
      if (!clean) return put(nothing("No clean image is selected. Artifacts are injected into real images and into images labelled “clean”, of the training split unless you name another.", importButton(true), h("a", { class: "button quiet", href: "/annotate" }, "Label images")));
      if (source !== "operations") return put(h("p", { class: "hint" }, "Redraws are shown once they are made: Curate, source “injected”."));
      const asked = new URLSearchParams({ seed: String(injection.seed ?? 0), images: words });
      put(h("p", { class: "hint" }, "One artifact of each kind in a clean image: before and after."),
        h("div", { class: "injections" }, injection.kinds.map((kind) => sample(kind, `${API}/samples/${kind}?${asked}`))));
    } catch (error) { put(h("p", { class: "note bad" }, error.message)); }
  }

  async function begin() {
    start.disabled = true;
    try {
      await post(`${API}/start`, { settings: made.read() });
      say("Injection queued. Rounds → Jobs and workers shows its progress.");
    } catch (error) { say(error.message, true); made.mark(error.message); } finally { start.disabled = false; }
  }

  root.append(h("p", { class: "crumb" }, h("a", { href: "/train" }, "← Train")), h("h1", {}, "Inject artifacts"),
    h("p", { class: "lead" }, "Makes new images with exact label maps from real images and from images labelled “clean”. A training takes them only if it asks for them (“injected limit” under New training); they count in no other figure."),
    h("p", { class: "note", id: "no-start" }, described.note),
    h("p", { class: "hint" }, `${described.injected.toLocaleString("en")} injected so far. `, h("a", { href: "/curate?source=injected" }, "Show them")),
    h("div", { class: "two wide" }, h("section", { class: "card panel" }, made.node), side));
  side.append(start);
  draw();
}

// The selection in words, as `clinic inject --images` takes it.
function images(field) {
  const control = h("input", { type: "text", placeholder: "all clean images of the training split", autocomplete: "off", spellcheck: false });
  return { node: labelled({ kind: "text", label: "Clean images", help: "Filters such as “source=real category=hand”, or a link to the Curate page. Images that are not known to be clean are left out." }, control), read: () => control.value.trim() };
}

function generators(field, choices) {
  const control = h("select", {}, [["", "none"], ...choices].map(([value, text]) => h("option", { value }, text)));
  return { node: labelled({ kind: "choice", label: "Generator", help: field.help }, control), read: () => control.value || null };
}

function sample(kind, address) {
  const figure = h("figure", {}, h("img", { src: address, alt: `${kind}, before and after`, loading: "lazy" }), h("figcaption", {}, kind));
  figure.querySelector("img").addEventListener("error", () => figure.replaceChildren(h("figcaption", {}, `${kind}: no clean image shows it`)));
  return figure;
}
