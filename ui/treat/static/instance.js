// An instance for a generator to learn (DreamBooth): the form, and its run up to “Treat these layers”.
import { currentSession, get, post } from "../api.js";
import { h, nothing, panel, say } from "../dom.js";
import { form, labelled } from "../runs/form.js";
import { drawChecks, runView, starter } from "../runs/run.js";

const API = "/api/treat/instances";
const FIRST = ["generator", "images", "ids", "instance_prompt", "class_prompt", "class_images", "encoder", "name", "learning.updates"];
const GROUPS = [{ name: "loss", figures: ["loss", "offline"], label: "update" }, { name: "gradient", figures: ["grad_norm"], label: "update" }];

export async function learn(root, { go }) {
  const described = await get(`${API}/form`);
  const preflight = panel("Preflight", nothing("Name the images and both prompts."));
  let turn = 0, timer = null;
  const start = starter("Learn the instance", begin);
  const made = form(described.fields, {
    first: FIRST,
    changed: () => { clearTimeout(timer); timer = setTimeout(look, 400); },
    replace: { generator: (field) => generators(field, described.choices.generator), ids: selection },
  });

  async function begin() {
    try {
      const { run } = await post(`${API}/start`, { settings: made.read() });
      await go({ instance: run });
    } catch (error) { say(error.message, true); made.mark(error.message); }
  }

  async function look() {
    const settings = made.read();
    if (!(settings.images || settings.ids) || !settings.instance_prompt || !settings.class_prompt) return;
    const mine = ++turn;
    try {
      const { checks } = await post(`${API}/checks`, { settings });
      if (mine !== turn) return;
      drawChecks(preflight, "Preflight", checks);
      start.allow(checks);
    } catch (error) {
      if (mine !== turn) return;
      preflight.replaceChildren(h("h2", {}, "Preflight"), h("p", { class: "note bad" }, error.message));
      made.mark(error.message);
      start.refuse("Correct the marked setting first.");
    }
  }

  root.append(h("p", { class: "crumb" }, h("a", { href: "/treat" }, "← Treat")), h("h1", {}, "Learn an instance"),
    h("p", { class: "lead" }, "DreamBooth: trains a LoRA on a few images of one thing or person, together with images of its class that the generator draws. The layers can then be treated."),
    h("div", { class: "two wide" }, h("section", { class: "card panel" }, made.node), h("div", { class: "side" }, preflight, start.node)));
}

function generators(field, choices) {
  const control = h("select", {}, choices.map(([value, text]) => h("option", { value }, text)));
  return { node: labelled({ kind: "choice", label: "Generator", help: "The generator that learns the instance." }, control), read: () => control.value || null };
}

// The selection in words, as `clinic inject --images` takes it.
function selection() {
  const control = h("input", { type: "text", placeholder: "none: the folder above", autocomplete: "off", spellcheck: false });
  return { node: labelled({ kind: "text", label: "Images of the catalog", help: "Instead of a folder: filters such as “source=imported category=dog”, or a link to the Curate page." }, control), read: () => control.value.trim() };
}

export async function instance(root, { asked }) {
  const session = await currentSession();
  const at = `${API}/runs/${encodeURIComponent(asked.instance)}`;
  const { settings } = await get(at);
  await runView(root, {
    api: API, kind: "dreambooth", id: asked.instance, back: "Treat", groups: GROUPS, admin: session.roles.includes("admin"),
    gallery: { title: "Images of the instance", draw: (place) => place.replaceChildren(h("h2", {}, "Images of the instance"),
      h("img", { class: "strip", src: `${at}/instance.png`, alt: `Images of ${settings.instance_prompt}` }),
      h("p", { class: "hint" }, `Instance: “${settings.instance_prompt}”. Class: “${settings.class_prompt}”.`)) },
    done: async (place, found) => place.append(learned(asked.instance, found.result)),
  });
}

function learned(run, result) {
  const refused = result.refused ?? [];
  return h("section", { class: "card panel" }, h("h2", {}, result.name),
    h("p", { class: "hint" }, "Learned and registered as a generator."),
    refused.length ? h("p", { class: "note" }, `Not used: ${refused.join("; ")}`) : null,
    h("div", { class: "line next" }, h("a", { class: "button", href: `?new=1&instance=${encodeURIComponent(run)}` }, "Treat these layers")));
}
