// The timeline of one round, and the form that starts a new one.
import { currentSession, get, post } from "../api.js";
import { drawChecks } from "../runs/run.js";
import { h, input, panel, select, tell } from "../dom.js";
import { count, percent, when } from "../format.js";
import { lasting, names, state } from "./format.js";

const PARTS = [
  ["hard", "Generate more for hard categories", "additional prompts and images"],
  ["detector", "Labels and detector", "annotators label images, a detector is retrained, the better one is promoted"],
  ["treatment", "Treatment", "a generator is treated against the champion and compared before and after"],
];
const CORRECTIONS = [
  ["", "as in the recipe"],
  ["ttc", "where the prediction jumps (TTC)"],
  ["ttc-champion", "where the champion finds artifacts (TTC)"],
  ["ttc-champion-repeated", "the same, repeated at every step"],
  ["replacement", "state replacement"],
  ["clipping", "score clipping"],
  ["sargd", "SARGD, adapted"],
  ["everywhere", "everywhere (control)"],
];
const GUIDANCES = [
  ["", "as in the recipe"],
  ["clean", "by the champion, on the predicted image"],
  ["clean-regions", "the same, only inside its regions"],
  ["reward", "by the champion, through the generator"],
  ["reward-regions", "the same, only inside its regions"],
];
const BEST = 5; // the best question in the paper

function stage(one, longest) {
  const takes = one.state === "left out" || one.state === "ahead" ? null : h("span", { class: "takes" }, one.takes);
  return h("li", { class: `stage ${one.state.replaceAll(" ", "-")}`, "data-stage": one.name },
    h("i", { class: "dot" }),
    h("div", { class: "words" },
      h("div", { class: "line" }, h("b", {}, one.name.replaceAll("_", " ")), one.state === "done" || one.state === "ahead" ? null : state(one.state), one.attempts > 1 ? h("span", { class: "soft" }, `attempt ${one.attempts}`) : null, takes),
      one.gives ? h("p", { class: "gives" }, one.gives, one.links.map(({ text, href }) => [" ", h("a", { href }, text)])) : null,
      one.message ? h("p", { class: "message" }, one.message) : null,
      one.progress !== null ? h("progress", { value: one.progress, max: 1 }) : null),
    h("div", { class: "time" },
      h("span", {}, one.state === "ahead" || one.state === "left out" ? "" : lasting(one.seconds)),
      one.seconds && !one.people ? h("i", { class: "bar", style: { "--value": Math.max(0.01, one.seconds / longest) } }) : null,
      one.job ? h("a", { href: `?view=jobs&job=${encodeURIComponent(one.job)}` }, "log") : null));
}

function waitingNote(waiting, mayLabel) {
  const { reserved, free, able } = waiting;
  const people = Object.entries(reserved).map(([name, images]) => `${name} (${images})`);
  const parts = [];
  if (people.length) parts.push(`Assigned to ${names(people)}.`);
  if (free) parts.push(able.length ? `${free} can be taken by ${able.length > 8 ? `any of ${able.length} annotators` : names(able)}.` : `${free} can be taken by anyone, but there are no accounts yet.`);
  return h("div", { class: "note waitnote", id: "waiting" }, h("b", {}, "Waiting for annotators. "), waiting.message, ". ", parts.join(" "), mayLabel ? [" ", h("a", { href: "/annotate" }, "Annotate")] : null);
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function draw(round, act, mayLabel) {
  const worked = round.stages.filter((one) => !one.people).map((one) => one.seconds ?? 0);
  const longest = Math.max(1, ...worked);
  const spent = worked.reduce((sum, one) => sum + one, 0);
  const open = round.state === "running" || round.state === "waiting";
  return [
    h("header", { class: "line" },
      h("div", {}, h("h1", { title: round.round }, capital(round.name), " ", state(round.state)), h("p", { class: "lead" }, `Recipe “${round.recipe}”, started ${when(round.created)}${spent ? `, ${lasting(spent)} of work${open ? " so far" : ""}` : ""}.`)),
      h("span", { class: "gap" }),
      open ? h("button", { class: "button quiet bad", type: "button", id: "cancel", onclick: () => act("cancel") }, "Cancel") : null,
      round.state === "failed" || round.state === "cancelled" ? h("button", { class: "button", type: "button", id: "resume", onclick: () => act("resume") }, "Resume") : null),
    round.waiting ? waitingNote(round.waiting, mayLabel) : null,
    round.state === "failed" || round.state === "cancelled" ? h("p", { class: "note bad" }, `Stopped at ${round.stage.replaceAll("_", " ")}. Resume repeats this stage; earlier results are kept.`) : null,
    h("div", { class: "home-figures card" }, [
      [count(Object.values(round.images).reduce((sum, one) => sum + one, 0)), "images"],
      [round.hard.join(", ") || "–", "hard categories"],
      [`${round.answered} / ${round.queued}`, "images labelled"],
      [count(round.pseudo_labels), "pseudo-labels"],
    ].map(([value, label]) => h("div", {}, h("b", {}, value), h("span", {}, label)))),
    h("div", { class: "split" },
      panel("Stages", h("ol", { class: "timeline" }, round.stages.map((one) => stage(one, longest)))),
      panel("Annotators", round.people.length
        ? h("table", {}, h("thead", {}, h("tr", {}, ["Annotator", "Images", "Clean", "Time"].map((name) => h("th", {}, name)))), h("tbody", {}, round.people.map((one) => h("tr", {}, h("td", {}, one.name), h("td", { class: "figure" }, String(one.images)), h("td", { class: "figure" }, percent(one.clean / one.images)), h("td", { class: "figure" }, lasting(one.seconds))))))
        : h("p", { class: "soft" }, "No labels yet."))),
  ].filter(Boolean);
}

// An image-level detector: a VQA model that an admin registered, with one yes/no question.
function asking({ vqa, questions }) {
  if (!vqa.length) return h("p", { class: "asking soft" }, "To check every image with a VQA model, ask an admin to register one (kind “vqa”).");
  const texts = Object.fromEntries(questions);
  const text = h("p", { class: "soft" }, texts[BEST]);
  const show = (event) => { text.textContent = texts[event.target.value]; };
  return h("div", { class: "asking" },
    h("div", { class: "two halves" },
      select("vqa", "Ask a VQA model whether an image is broken", [["", "no"], ...vqa.map((one) => [one.location, one.name])], ""),
      select("question", "Question (“clinic ask” ranks them)", questions.map(([number, words]) => [number, `${number} · ${words}`]), BEST, show)),
    text);
}

// Detectors whose disagreement with the champion selects images for annotators.
function secondDetectors({ vqa, detectors }) {
  return [["", "as in the recipe"], ["dynamics", "score dynamics"], ...(vqa.length ? [["question", "the VQA model’s answer"]] : []), ...detectors.map((one) => [one.id, one.name])];
}

// What the round draws with: those ticked, at first the untreated ones that read prompts.
function generatorBoxes(generators) {
  if (!generators.length) return h("p", { class: "soft" }, "No generator is registered yet.");
  return h("fieldset", { class: "ticks", id: "generators" }, h("legend", {}, "Generators"), generators.map((one) => h("label", {},
    h("input", { type: "checkbox", name: "generator", value: one.id, checked: one.unasked }),
    h("span", {}, h("b", {}, one.name), one.treated ? h("span", { class: "soft" }, " treated") : one.unasked ? null : h("span", { class: "soft" }, " reads no prompts")))));
}

const NUMBERS = [
  ["prompts", "Prompts per category"],
  ["images", "Images per prompt and generator"],
  ["hard_prompts", "Further prompts per hard category"],
  ["budget", "Images to label"],
  ["steps", "Training updates"],
  ["updates", "Treatment updates"],
];

function costs({ cost, seconds, measured_in: source }) {
  const parts = [[cost.survey, "survey images"], [cost.hard, "images of hard categories at most"], [cost.labels, "images to label at most"], [cost.steps, "training updates"], [cost.updates, "treatment updates"], [cost.judged, "images to compare before and after at most"]];
  return [h("dl", { class: "costs" }, parts.filter(([value]) => value).map(([value, text]) => h("div", {}, h("dt", {}, text), h("dd", {}, count(value))))),
    h("p", { class: "soft" }, seconds === null ? "No earlier round tells how long this takes here." : `About ${lasting(seconds)} of work at the speed of ${source}, without waiting for annotators.`)];
}

function starting({ recipes, generators, ...offered }, go) {
  const form = h("form", { class: "card panel start", id: "start" });
  const preflight = h("div", {}), cost = h("div", { class: "cost" });
  const run = h("button", { class: "button", disabled: true, "aria-describedby": "reason" }, "Run");
  const reason = h("span", { class: "soft", id: "reason" });
  const number = ([name, label]) => input(name, label, "number", "", { min: 1, placeholder: "as in the recipe" });
  form.append(
    h("h2", {}, "Run a round"),
    h("div", { class: "two halves" }, select("recipe", "Recipe", recipes.map((name) => [name, name]), "demo"), input("seed", "Seed", "number", 0, { min: 0 })),
    generatorBoxes(generators),
    h("div", { class: "two" }, NUMBERS.map(number)),
    h("fieldset", { class: "ticks" }, h("legend", {}, "Parts after the survey"), PARTS.map(([name, title, hint]) => h("label", {}, h("input", { type: "checkbox", name: "part", value: name, checked: true }), h("span", {}, h("b", {}, title), h("br"), h("span", { class: "soft" }, hint))))),
    h("details", {}, h("summary", {}, "Sampling and additional detectors"),
      h("div", { class: "two halves" }, select("correction", "Correction during sampling", CORRECTIONS, ""), select("guidance", "Guidance during sampling", GUIDANCES, "")),
      h("fieldset", { class: "ticks" }, h("legend", {}, "Additional detectors"), h("label", {}, h("input", { type: "checkbox", name: "dynamics" }), h("span", {}, h("b", {}, "Score dynamics"), h("br"), h("span", { class: "soft" }, "Maps without a trained detector. Regenerates each image, so it is slow."))), asking(offered), h("div", { class: "asking two halves" }, select("second_detector", "Send images where the champion disagrees with", secondDetectors(offered), "")))),
    h("div", { class: "two halves before" }, preflight, cost),
    h("div", { class: "line" }, run, h("button", { class: "button quiet", type: "button", onclick: () => { form.hidden = true; } }, "Close"), reason, h("span", { class: "gap" }), h("span", { class: "soft" }, "All other settings: clinic round --recipe … --set NAME=VALUE")));
  const wanted = () => {
    const field = (name) => form.elements.namedItem(name)?.value ?? "";
    const ticked = (name) => [...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value);
    const numbers = Object.fromEntries(NUMBERS.map(([name]) => [name, field(name) === "" ? null : Number(field(name))]));
    return { recipe: field("recipe"), seed: Number(field("seed")), parts: ticked("part"), generators: ticked("generator"), ...numbers, correction: field("correction"), guidance: field("guidance"), second_detector: field("second_detector"), dynamics: form.elements.namedItem("dynamics").checked, ...(form.elements.namedItem("vqa") ? { vqa: field("vqa"), question: Number(field("question")) } : {}) };
  };
  let turn = 0;
  async function look() {
    const mine = ++turn;
    let problem = "";
    try {
      const found = await post("/api/rounds/checks", wanted());
      if (mine !== turn) return;
      drawChecks(preflight, "Preflight", found.checks);
      cost.replaceChildren(h("h2", {}, "Cost"), ...costs(found));
      problem = found.checks.find(({ verdict }) => verdict === "bad")?.text ?? "";
      if (generators.length && !wanted().generators.length) problem = "Choose at least one generator.";
    } catch (error) {
      if (mine !== turn) return;
      problem = error.message;
      preflight.replaceChildren(h("h2", {}, "Preflight"), h("p", { class: "note bad" }, error.message));
    }
    run.disabled = Boolean(problem);
    reason.textContent = problem;
  }
  form.addEventListener("change", look);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await tell(post("/api/rounds/round", wanted()), "Round started.");
    if (made) go({ view: "rounds", round: made.round });
  });
  form.look = look;
  return form;
}

// What a round needs, and where images that exist already are worked on without one.
const firstRound = () => h("div", {},
  h("p", { class: "soft" }, "A round generates images, finds artifacts, asks people, retrains the detector and treats the generator. It needs a generator and a detector. Images that exist already need no round."),
  h("div", { class: "line" }, h("a", { class: "button quiet", href: "/import" }, "Import images"), h("a", { class: "button quiet", href: "/curate" }, "Find artifacts in images"), h("a", { class: "button quiet", href: "/treat" }, "Register a generator")));

export async function rounds(root, { asked, go }) {
  const { rounds: all, ...offered } = await get("/api/rounds");
  const form = starting(offered, go);
  form.hidden = all.length > 0 && asked.new === undefined;
  if (!form.hidden) form.look();
  const newest = [...all].reverse();
  const chosen = asked.round ?? newest[0]?.round;
  root.append(h("div", { class: "line top" },
    all.length ? select("round", "Round", newest.map((one) => [one.round, [`Round ${one.number}`, one.recipe, when(one.created), one.state].filter(Boolean).join(" · ")]), chosen, (event) => go({ view: "rounds", round: event.target.value })) : h("h1", {}, "No rounds yet"),
    h("span", { class: "gap" }),
    h("button", { class: "button", type: "button", id: "new", onclick: () => { form.hidden = false; form.look(); form.querySelector("select").focus(); } }, "Run a round")), chosen ? "" : firstRound(), form);
  if (!chosen) return null;
  const mayLabel = (await currentSession()).areas.some(({ path: area }) => area === "/annotate");
  const place = h("div", { class: "round" });
  root.append(place);
  const path = `/api/rounds/round/${encodeURIComponent(chosen)}`;
  const act = async (what) => {
    if (what === "cancel" && !confirm("Cancel this round? Results of completed stages are kept, and it can be resumed.")) return;
    if (await tell(post(`${path}/${what}`))) await look();
  };
  let drawn = "";
  async function look() {
    const round = await get(path);
    const text = JSON.stringify({ ...round, stages: round.stages.map((one) => ({ ...one, seconds: Math.round(one.seconds ?? 0) })) });
    if (text === drawn) return;
    drawn = text;
    place.replaceChildren(...draw(round, act, mayLabel));
  }
  await look();
  return { refresh: look };
}
