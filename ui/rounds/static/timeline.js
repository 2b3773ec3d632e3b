// One round from top to bottom, and a new one.
import { get, post } from "/static/api.js";
import { h, input, panel, select, tell } from "/static/dom.js";
import { count, percent, when } from "/static/format.js";
import { lasting, names, state } from "./format.js";

const PARTS = [
  ["hard", "More of what is hard", "prompts and images for the hard categories"],
  ["detector", "Labels and detector", "people label, a detector learns from them, the better one is promoted"],
  ["treatment", "Treatment", "a generator is treated with the champion and judged before against after"],
];
const CORRECTIONS = [
  ["", "as the recipe says"],
  ["ttc", "where the prediction jumps (TTC)"],
  ["ttc-champion", "where the champion suspects (TTC)"],
  ["ttc-champion-repeated", "the same, again at every step"],
  ["replacement", "state replacement"],
  ["clipping", "score clipping"],
  ["sargd", "SARGD, adapted"],
  ["everywhere", "everywhere, as a control"],
];
const GUIDANCES = [
  ["", "as the recipe says"],
  ["clean", "by the champion, on the predicted image"],
  ["clean-regions", "the same, inside its regions only"],
  ["reward", "by the champion, through the generator"],
  ["reward-regions", "the same, inside its regions only"],
];
const BEST = 5; // the paper's best question

function stage(one, longest) {
  const takes = one.state === "left out" || one.state === "ahead" ? null : h("span", { class: "takes" }, one.takes);
  return h("li", { class: `stage ${one.state.replaceAll(" ", "-")}`, "data-stage": one.name },
    h("i", { class: "dot" }),
    h("div", { class: "words" },
      h("div", { class: "line" }, h("b", {}, one.name.replaceAll("_", " ")), one.state === "done" || one.state === "ahead" ? null : state(one.state), one.attempts > 1 ? h("span", { class: "soft" }, `attempt ${one.attempts}`) : null, takes),
      one.gives ? h("p", { class: "gives" }, one.gives) : null,
      one.message ? h("p", { class: "message" }, one.message) : null,
      one.progress !== null ? h("progress", { value: one.progress, max: 1 }) : null),
    h("div", { class: "time" },
      h("span", {}, one.state === "ahead" || one.state === "left out" ? "" : lasting(one.seconds)),
      one.seconds && !one.people ? h("i", { class: "bar", style: { "--value": Math.max(0.01, one.seconds / longest) } }) : null,
      one.job ? h("a", { href: `?view=jobs&job=${encodeURIComponent(one.job)}` }, "log") : null));
}

function waited(found) {
  const { reserved, free, able } = found;
  const people = Object.entries(reserved).map(([name, images]) => `${name} (${images})`);
  const parts = [];
  if (people.length) parts.push(`Reserved for ${names(people)}.`);
  if (free) parts.push(able.length ? `${free} may be taken by ${able.length > 8 ? `any of ${able.length} people` : names(able)}.` : `${free} may be taken by anybody, but there are no accounts yet.`);
  return h("div", { class: "note waitnote", id: "waiting" }, h("b", {}, "Waiting for people. "), found.message, ". ", parts.join(" "), " ", h("a", { href: "/annotate" }, "Annotate"));
}

function draw(found, act) {
  const worked = found.stages.filter((one) => !one.people).map((one) => one.seconds ?? 0);
  const longest = Math.max(1, ...worked);
  const spent = worked.reduce((sum, one) => sum + one, 0);
  const open = found.state === "running" || found.state === "waiting";
  return [
    h("header", { class: "line" },
      h("div", {}, h("h1", {}, found.round, " ", state(found.state)), h("p", { class: "lead" }, `Recipe “${found.recipe}”, begun ${when(found.created)}${spent ? `, ${lasting(spent)} of work so far` : ""}.`)),
      h("span", { class: "gap" }),
      open ? h("button", { class: "button quiet bad", type: "button", id: "cancel", onclick: () => act("cancel") }, "Cancel") : null,
      found.state === "failed" || found.state === "cancelled" ? h("button", { class: "button", type: "button", id: "resume", onclick: () => act("resume") }, "Resume") : null),
    found.waiting ? waited(found.waiting) : null,
    found.state === "failed" || found.state === "cancelled" ? h("p", { class: "note bad" }, `Stopped at ${found.stage.replaceAll("_", " ")}. Resume repeats this stage; what came before stays.`) : null,
    h("div", { class: "home-figures card" }, [
      [count(Object.values(found.images).reduce((sum, one) => sum + one, 0)), "images"],
      [found.hard.join(", ") || "–", "hard categories"],
      [`${found.answered} / ${found.queued}`, "images answered"],
      [count(found.pseudo_labels), "pseudo-labels"],
    ].map(([value, label]) => h("div", {}, h("b", {}, value), h("span", {}, label)))),
    h("div", { class: "split" },
      panel("Stages", h("ol", { class: "timeline" }, found.stages.map((one) => stage(one, longest)))),
      panel("Who labelled", found.people.length
        ? h("table", {}, h("thead", {}, h("tr", {}, ["Person", "Images", "Clean", "Time"].map((name) => h("th", {}, name)))), h("tbody", {}, found.people.map((one) => h("tr", {}, h("td", {}, one.name), h("td", { class: "figure" }, String(one.images)), h("td", { class: "figure" }, percent(one.clean / one.images)), h("td", { class: "figure" }, lasting(one.seconds))))))
        : h("p", { class: "soft" }, "Nobody yet."))),
  ].filter(Boolean);
}

// A detector of whole images: any VQA model that an admin registered, asked one yes/no question.
function asking({ vqa, questions }) {
  if (!vqa.length) return h("p", { class: "asking soft" }, "A VQA model could be asked about every image too, once an admin has registered one (kind “vqa”).");
  const texts = Object.fromEntries(questions);
  const text = h("p", { class: "soft" }, texts[BEST]);
  const show = (event) => { text.textContent = texts[event.target.value]; };
  return h("div", { class: "asking" },
    h("div", { class: "two halves" },
      select("vqa", "Ask a VQA model whether an image is broken", [["", "no"], ...vqa.map((one) => [one.location, one.name])], ""),
      select("question", "Question (clinic ask ranks them)", questions.map(([number, words]) => [number, `${number} · ${words}`]), BEST, show)),
    text);
}

// Detectors whose disagreement with the champion selects images for people.
function rivals({ vqa, detectors }) {
  return [["", "as the recipe says"], ["dynamics", "score dynamics"], ...(vqa.length ? [["question", "the VQA model’s verdict"]] : []), ...detectors.map((one) => [one.id, one.name])];
}

function starting({ recipes, ...offered }, go) {
  const form = h("form", { class: "card panel start", id: "start" });
  form.append(
    h("h2", {}, "Run a round"),
    h("div", { class: "two" }, select("recipe", "Recipe", recipes.map((name) => [name, name]), "demo"), input("seed", "Seed", "number", 0, { min: 0 }), input("budget", "Images for people (empty: the recipe’s)", "number", "", { min: 1 })),
    h("fieldset", { class: "ticks" }, h("legend", {}, "Beyond the survey"), PARTS.map(([name, title, hint]) => h("label", {}, h("input", { type: "checkbox", name: "part", value: name, checked: true }), h("span", {}, h("b", {}, title), h("br"), h("span", { class: "soft" }, hint))))),
    h("div", { class: "two halves" }, select("correction", "Correct while generating", CORRECTIONS, ""), select("guidance", "Guide while generating", GUIDANCES, "")),
    h("fieldset", { class: "ticks" }, h("legend", {}, "Further detectors"), h("label", {}, h("input", { type: "checkbox", name: "dynamics" }), h("span", {}, h("b", {}, "Score dynamics"), h("br"), h("span", { class: "soft" }, "Maps without a trained detector. Regenerates each image, so it is slow."))), asking(offered), h("div", { class: "asking two halves" }, select("rival", "Ask people where the champion disagrees with", rivals(offered), ""))),
    h("div", { class: "line" }, h("button", { class: "button" }, "Run"), h("button", { class: "button quiet", type: "button", onclick: () => { form.hidden = true; } }, "Cancel"), h("span", { class: "soft" }, "Every other setting: clinic round --recipe … --set NAME=VALUE")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = (name) => form.elements.namedItem(name).value;
    const parts = [...form.querySelectorAll("input[name=part]:checked")].map((box) => box.value);
    const made = await tell(post("/api/rounds/round", { recipe: field("recipe"), seed: Number(field("seed")), parts, budget: field("budget") ? Number(field("budget")) : null, correction: field("correction"), guidance: field("guidance"), rival: field("rival"), dynamics: form.elements.namedItem("dynamics").checked, ...(form.elements.namedItem("vqa") ? { vqa: field("vqa"), question: Number(field("question")) } : {}) }), "The round has begun.");
    if (made) go({ view: "rounds", round: made.round });
  });
  return form;
}

export async function rounds(root, { asked, go }) {
  const { rounds: all, ...offered } = await get("/api/rounds");
  const form = starting(offered, go);
  form.hidden = all.length > 0 && asked.new === undefined;
  const newest = [...all].reverse();
  const chosen = asked.round ?? newest[0]?.round;
  root.append(h("div", { class: "line top" },
    all.length ? select("round", "Round", newest.map((one) => [one.round, `${one.round} · ${one.state}`]), chosen, (event) => go({ view: "rounds", round: event.target.value })) : h("h1", {}, "No round yet"),
    h("span", { class: "gap" }),
    h("button", { class: "button", type: "button", id: "new", onclick: () => { form.hidden = false; form.querySelector("select").focus(); } }, "Run a round")), form);
  if (!chosen) return null;
  const place = h("div", { class: "round" });
  root.append(place);
  const path = `/api/rounds/round/${encodeURIComponent(chosen)}`;
  const act = async (what) => {
    if (what === "cancel" && !confirm("Cancel this round? What its stages recorded stays, and it can be resumed.")) return;
    if (await tell(post(`${path}/${what}`))) await look();
  };
  let said = "";
  async function look() {
    const found = await get(path);
    const text = JSON.stringify({ ...found, stages: found.stages.map((one) => ({ ...one, seconds: Math.round(one.seconds ?? 0) })) });
    if (text === said) return;
    said = text;
    place.replaceChildren(...draw(found, act));
  }
  await look();
  return { refresh: look };
}
