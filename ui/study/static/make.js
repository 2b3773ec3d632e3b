// A new study: which generators, which pairs, which questions.
import { get, post } from "../api.js";
import { h, input, say, select, tell } from "../dom.js";
import { QUESTIONS } from "./format.js";

const PRESETS = {
  DiffDoctor: { questions: ["artifacts", "quality"], scale: "winner" },
  "Focus-N-Fix": { questions: ["artifacts", "alignment", "safety"], scale: "score" },
};

export async function make(root, { desk, asked, go }) {
  if (!desk.maker) throw new Error("You need the engineer role to create studies. Ask an admin for access.");
  const { sides, detectors, defaults, help } = await get("/api/studies/choices");
  const treated = sides.find((one) => one.parent);
  const named = sides.map((one) => [one.id, one.images ? `${one.name} · ${one.images} images` : one.name]);
  const after = asked.after ?? treated?.id ?? sides[1]?.id ?? sides[0]?.id;
  const before = asked.before ?? sides.find((one) => one.id === after)?.parent ?? sides[0]?.id;
  if (sides.length < 2) root.append(h("p", { class: "note" }, "A study compares two ways of generating the same prompts and seeds: two generators, or one with other settings. This workspace has ", sides.length ? "one" : "none", ". Treat a generator, or register one, under ", h("a", { href: "/treat" }, "Treat"), "."));
  const shared = h("p", { class: "soft", id: "found", role: "status" });
  const categories = h("fieldset", { class: "ticks" });
  const purpose = h("select", { name: "purpose" });
  const form = h("form", { class: "card panel form" });
  const field = (name) => form.elements.namedItem(name);

  async function share() {
    const asking = new URLSearchParams({ before: field("before").value, after: field("after").value });
    const flawed = field("flawed_by").value;
    if (flawed) asking.set("flawed_by", flawed);
    const same = field("before").value === field("after").value;
    const answer = same ? { pairs: 0, shared: 0, categories: {}, purposes: {} } : await tell(get(`/api/studies/shared?${asking}`));
    if (!answer) { field("open").disabled = true; return; }
    shared.textContent = same ? "Both sides are the same; choose two different ones." : answer.shared
      ? `They share ${answer.shared} prompts and seeds.${flawed ? ` In ${answer.pairs} of them the detector flags the first image.` : ""}`
      : "They have no prompt and seed in common yet. Generate the same prompts with both first, as a round’s judge stage does.";
    shared.className = answer.pairs ? "soft" : "warn";
    categories.replaceChildren(h("legend", {}, "Categories (none selected = all)"), ...Object.entries(answer.categories).filter(([name]) => name !== "none").map(([name, count]) => h("label", {}, h("input", { type: "checkbox", name: "category", value: name }), `${name} `, h("span", { class: "soft" }, String(count)))));
    categories.hidden = categories.childElementCount < 2;
    purpose.replaceChildren(h("option", { value: "" }, "any"), ...Object.entries(answer.purposes).map(([name, count]) => h("option", { value: name }, `${name || "imported"} (${count})`)));
    field("open").disabled = !answer.pairs;
  }

  const ticks = h("fieldset", { class: "ticks" }, h("legend", {}, "Questions"), Object.entries(QUESTIONS).map(([name, { name: title, winner }]) => h("label", { title: winner }, h("input", { type: "checkbox", name: "question", value: name, checked: defaults.questions.includes(name) }), title)));
  const scale = select("scale", "Answers", [["winner", "the better one, or no difference"], ["score", "−1, 0, +1 for each"]], defaults.scale);
  const presets = h("div", { class: "line" }, h("span", { class: "soft" }, "As in"), Object.entries(PRESETS).map(([name, preset]) => h("button", {
    type: "button", class: "button quiet", onclick: () => {
      for (const box of ticks.querySelectorAll("input")) box.checked = preset.questions.includes(box.value);
      scale.querySelector("select").value = preset.scale;
    },
  }, name)));
  const number = (name, label, more) => h("div", {}, input(name, label, "number", defaults[name], more), h("p", { class: "help" }, help[name]));

  form.append(
    h("h2", {}, "What is compared"),
    h("div", { class: "two" }, select("before", "Before", named, before, share), select("after", "After", named, after, share)), shared,
    h("div", { class: "two" }, input("pairs", "Pairs", "number", 100, { min: 1, max: 5000 }), h("label", { class: "field" }, h("span", {}, "Generated for"), purpose)),
    categories,
    select("flawed_by", "Only pairs whose first image is flagged by", [["", "any pair"], ...detectors.map((one) => [one.id, `${one.name} (confidence ≥ ${one.threshold.toFixed(2)})`])], "", share),
    h("h2", {}, "What raters answer"), presets, ticks, scale,
    h("div", { class: "two" }, number("raters_a_pair", "Raters per pair", { min: 1, max: 99 }), number("checks", "Attention checks", { min: 0, max: 20 })),
    h("div", { class: "two" }, number("keep_from", "Checks to pass", { min: 0, max: 1, step: 0.05 }), number("margin", "Margin in votes", { min: 1, max: 99 })),
    h("h2", {}, "What raters see"), input("name", "Study name (raters see it; don’t reveal the sides)", "text", "", { required: true, maxlength: 100, placeholder: "Hands and faces, November" }),
    h("div", {}, input("code", "Completion code", "text", "", { maxlength: 64, pattern: "[A-Za-z0-9_.\\-]*" }), h("p", { class: "help" }, help.code)),
    h("div", { class: "line" }, h("button", { class: "button", name: "open" }, "Open the study"), h("a", { class: "button quiet", href: "/study" }, "Cancel")));

  const bound = () => {
    const raters = Math.max(1, Number(field("raters_a_pair").value) || 1);
    field("margin").max = String(raters);
    if (Number(field("margin").value) > raters) field("margin").value = String(raters);
  };
  field("raters_a_pair").addEventListener("input", bound);
  bound();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const ticked = (name) => [...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value);
    const value = (name) => Number(field(name).value);
    const wanted = {
      name: field("name").value.trim(), before: field("before").value, after: field("after").value,
      purpose: purpose.value || (purpose.selectedIndex > 0 ? "" : null), categories: ticked("category"), pairs: value("pairs"),
      flawed_by: field("flawed_by").value || null,
      design: { questions: ticked("question"), scale: field("scale").value, raters_a_pair: value("raters_a_pair"), checks: value("checks"), keep_from: value("keep_from"), margin: value("margin"), code: field("code").value.trim() },
    };
    if (!wanted.name) return say("Give the study a name.", true);
    const made = await tell(post("/api/studies", wanted), "Study opened.");
    if (made) go({ view: "results", study: made.id });
  });
  root.append(h("h1", {}, "New study"), h("p", { class: "lead" }, "Sides and order are re-randomised for every rater; images are re-encoded identically and given random names."), form);
  if (sides.length < 2) form.replaceChildren(h("p", {}, "A study needs two sides. Treat a generator, register another on the Admin desk, or generate the same prompts with other settings."));
  else await share();
}
