// The studies waiting for this rater; for makers also all studies and their progress.
import { get } from "../api.js";
import { h } from "../dom.js";
import { percent, when } from "../format.js";
import { QUESTIONS } from "./format.js";

const names = (questions) => questions.map((one) => QUESTIONS[one].name.toLowerCase()).join(", ");

function waiting(study) {
  const over = study.left === 0;
  return h("article", { class: "card waiting" },
    h("div", {}, h("h2", {}, study.name), h("p", {}, over ? (study.done ? `You have judged all ${study.done}. Thank you.` : "This study has enough votes.") : `${study.left} pairs to judge${study.done ? `, ${study.done} done` : ""}: ${names(study.questions)}.`)),
    over ? null : h("a", { class: "button", href: `?view=judge&study=${study.id}` }, study.done ? "Continue" : "Start"));
}

function row(study) {
  return h("tr", {},
    h("td", {}, h("a", { href: `?view=results&study=${study.id}` }, study.name)),
    h("td", {}, `${study.before} → ${study.after}`),
    h("td", { class: "figure" }, `${study.complete} / ${study.pairs}`),
    h("td", {}, h("progress", { value: study.share, max: 1 }), " ", percent(study.share)),
    h("td", { class: "figure" }, String(study.raters)),
    h("td", {}, h("span", { class: `state ${study.state}` }, study.state)),
    h("td", { class: "soft" }, when(study.created)));
}

export async function list(root, { desk }) {
  root.append(h("header", { class: "line" }, h("div", {}, h("h1", {}, "Study"),
    h("p", { class: "lead" }, "Two images of the same prompt and seed, without their source. Choose the better one.")),
    h("span", { class: "gap" }),
    desk.maker ? h("a", { class: "button", href: "?view=make" }, "New study") : null));
  root.append(...desk.studies.map(waiting));
  if (!desk.studies.length) root.append(h("p", { class: "card nothing" }, "No studies are waiting for you."));
  if (!desk.maker) return;
  const all = await get("/api/studies");
  root.append(h("section", { class: "card panel" }, h("h2", {}, "All studies"),
    all.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Study", "Compared", "Pairs done", "Judged", "Raters", "State", "Opened"].map((name) => h("th", {}, name)))), h("tbody", {}, all.map(row)))) : h("p", { class: "soft" }, "No studies yet. “New study” compares two generators on the same prompts.")));
}
