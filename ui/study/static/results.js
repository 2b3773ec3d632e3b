// One study for its makers: progress, results, raters, invitations, closing.
import { urlOf } from "../root.js";
import { get, post } from "../api.js";
import { h, say, tell } from "../dom.js";
import { percent, when } from "../format.js";
import { QUESTIONS, signed } from "./format.js";

const interval = (pair) => (pair ? `${percent(pair[0])} to ${percent(pair[1])}` : "–");
const chance = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function balance({ after, before, ties, pairs }) {
  const part = (count, name) => h("i", { class: name, style: { "--value": pairs ? count / pairs : 0 }, title: `${count} of ${pairs} pairs` });
  return h("div", { class: "balance" }, part(before, "before"), part(ties, "tie"), part(after, "after"));
}

function outcome(one, study, margin) {
  const rate = one.interval ? h("div", { class: "whisker", style: { "--low": one.interval[0], "--high": one.interval[1], "--at": one.win_rate } }, h("i"), h("b")) : null;
  return h("section", { class: "card panel outcome", "data-question": one.question },
    h("h2", {}, QUESTIONS[one.question].name),
    h("p", { class: "big" }, percent(one.win_rate), h("span", {}, one.win_rate === null ? " no pair decided yet" : ` of decided pairs for ${study.after}`)), rate,
    balance(one),
    h("p", { class: "legend" }, h("span", { class: "before" }, `${study.before}: ${one.before}`), h("span", { class: "tie" }, `no winner: ${one.ties}`), h("span", { class: "after" }, `${study.after}: ${one.after}`)),
    h("dl", { class: "facts" },
      h("dt", {}, "95 % interval (Wilson)"), h("dd", {}, interval(one.interval)),
      h("dt", {}, "Sign test, two-sided"), h("dd", {}, chance(one.p_value)),
      h("dt", {}, "Mean opinion, −1 to 1"), h("dd", { "data-figure": "mos" }, signed(one.mean_opinion)),
      h("dt", {}, `Improves / degrades (by ${margin} votes)`), h("dd", { "data-figure": "margin" }, one.pairs ? `${percent(one.improves / one.pairs)} / ${percent(one.degrades / one.pairs)}` : "–"),
      h("dt", {}, "Agreement (Krippendorff’s α)"), h("dd", { "data-figure": "alpha" }, one.agreement === null ? "–" : signed(one.agreement))));
}

function byCategory(results) {
  const rows = results.categories.flatMap(({ category, questions }) => questions.map((one, place) => h("tr", { class: place ? "more" : "" }, h("td", {}, place ? "" : category), h("td", {}, QUESTIONS[one.question].name), h("td", { class: "figure" }, String(one.pairs)), h("td", { class: "wide" }, balance(one)), h("td", { class: "figure" }, percent(one.win_rate)), h("td", { class: "figure" }, interval(one.interval)), h("td", { class: "figure" }, signed(one.mean_opinion)))));
  return h("section", { class: "card panel" }, h("h2", {}, "By category"), h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Category", "Question", "Pairs", "Verdicts", "Wins", "95 % interval", "Mean opinion"].map((name) => h("th", {}, name)))), h("tbody", {}, rows))));
}

function raters(results, { code }) {
  if (!results.raters.length) return h("section", { class: "card panel" }, h("h2", {}, "Raters"), h("p", { class: "soft" }, "No votes yet."));
  const rows = results.raters.map((one) => h("tr", { class: one.counted ? "" : "left-out" }, h("td", {}, one.rater), h("td", { class: "figure" }, String(one.pairs)), h("td", { class: "figure" }, one.median_seconds === null ? "–" : `${one.median_seconds.toFixed(1)} s`), h("td", { class: "figure" }, `${one.checks[0]} / ${one.checks[1]}`), h("td", {}, one.counted ? "yes" : "no, too many checks failed"), ...(code ? [h("td", {}, one.code || "not finished")] : [])));
  return h("section", { class: "card panel" }, h("h2", {}, "Raters"), h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Rater", "Pairs", "Median time", "Checks passed", "Counts", ...(code ? ["Completion code"] : [])].map((name) => h("th", {}, name)))), h("tbody", {}, rows))));
}

function invitations(study, desk, again) {
  if (study.state !== "open") return null;
  const state = study.invited_until ? `An invitation link is open until ${when(study.invited_until)}.` : "No invitation link is open.";
  const invited = h("p", { class: "soft" }, `${state} ${study.guests} rater${study.guests === 1 ? "" : "s"} joined by invitation.`);
  if (!desk.inviter) return h("section", { class: "card panel" }, h("h2", {}, "Invitations"), invited, h("p", { class: "soft" }, "An admin can create a link for raters without an account."));
  const hours = h("input", { type: "number", value: "72", min: 1, max: 720 });
  const places = h("input", { type: "number", value: String(study.design.raters_a_pair), min: 1, max: 500 });
  const link = h("p", { class: "link", id: "link", hidden: true });
  async function invite() {
    const made = await tell(post("/api/invitations", { study: study.id, hours: Number(hours.value), places: Number(places.value) }));
    if (!made) return;
    link.hidden = false;
    link.replaceChildren(h("code", {}, new URL(urlOf(made.path), location.href).href), h("span", { class: "soft" }, ` Copy it now; it will not be shown again. Expires ${when(made.expires)}. For Prolific or Mechanical Turk append `), h("code", {}, "&participant=ID"), h("span", { class: "soft" }, " with their placeholder for the person’s id."));
  }
  return h("section", { class: "card panel" }, h("h2", {}, "Invitations"), invited,
    h("div", { class: "line" }, h("label", { class: "field slim" }, h("span", {}, "Hours"), hours), h("label", { class: "field slim" }, h("span", {}, "Raters"), places),
      h("button", { class: "button quiet", type: "button", id: "invite", onclick: invite }, "Create link"),
      study.invited_until ? h("button", { class: "button quiet bad", type: "button", onclick: async () => { await tell(post("/api/invitations/end", { study: study.id }), "All links ended."); again(); } }, "End all links") : null), link);
}

// Blind pairs as a spreadsheet for people without this server, and their answers back.
function sheets(study, again) {
  if (study.state !== "open") return null;
  const name = h("input", { name: "outside", maxlength: 48, placeholder: "anna" });
  const file = h("input", { type: "file", accept: ".csv,text/csv", "aria-label": "Filled sheet" });
  const given = () => {
    const rater = name.value.trim();
    if (!/^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$/.test(rater)) say("Give the rater a name: letters, digits, - and _.", true);
    else return rater;
    return "";
  };
  function download() {
    const rater = given();
    if (rater) location.assign(urlOf(`/api/studies/${study.id}/sheet.zip?rater=${encodeURIComponent(rater)}`));
  }
  async function upload() {
    const rater = given();
    if (!rater) return;
    if (!file.files.length) return say("Choose the filled sheet.csv first.", true);
    const csv = await file.files[0].text();
    const stored = await tell(post(`/api/studies/${study.id}/sheet`, { rater, csv }), (one) => `${one.pairs} pairs stored as votes of ${rater}.`);
    if (stored) again();
  }
  return h("section", { class: "card panel", id: "sheets" }, h("h2", {}, "Raters without this server"),
    h("p", { class: "soft" }, "Each rater gets an own spreadsheet with images, blind as here. The filled sheet.csv comes back under the same name."),
    h("div", { class: "line" }, h("label", { class: "field" }, h("span", {}, "Name of the rater"), name),
      h("button", { class: "button quiet", type: "button", onclick: download }, "Download sheet (ZIP)")),
    h("div", { class: "line" }, file, h("button", { class: "button quiet", type: "button", onclick: upload }, "Store filled sheet")));
}

export async function results(root, { desk, asked, go }) {
  const id = asked.study ?? "";
  const study = await get(`/api/studies/${encodeURIComponent(id)}`);
  const results = study.results;
  const again = () => go({ view: "results", study: id });
  async function close() {
    if (!confirm("Close this study? It will accept no more votes.")) return;
    if (await tell(post(`/api/studies/${study.id}/close`), "Study closed.")) again();
  }
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "/study" }, "All studies")),
    h("header", { class: "line" }, h("div", {}, h("h1", {}, study.name, " ", h("span", { class: `state ${study.state}` }, study.state)),
      h("p", { class: "lead" }, `${study.before} vs. ${study.after}. ${study.complete} of ${study.pairs} pairs have ${study.design.raters_a_pair} rater${study.design.raters_a_pair === 1 ? "" : "s"}${results.left_out.length ? " that count" : ""}; ${study.raters} rater${study.raters === 1 ? "" : "s"} gave ${study.votes} answers.`)),
    h("span", { class: "gap" }),
    h("a", { class: "button quiet", href: `/api/studies/${study.id}/results.csv`, download: "" }, "Results CSV"),
    h("a", { class: "button quiet", href: `/api/studies/${study.id}/votes.csv`, download: "" }, "Votes CSV"),
    study.state === "open" ? h("button", { class: "button quiet bad", type: "button", id: "close", onclick: close }, "Close") : null),
    ...(results.left_out_text ? [h("p", { class: "note", id: "left-out" }, results.left_out_text)] : []),
    h("progress", { class: "whole", value: study.share, max: 1, "aria-label": "Judged" }),
    h("div", { class: "outcomes" }, results.questions.map((one) => outcome(one, study, results.margin))));
  if (results.questions.length > 1) root.append(h("p", { class: "card minimum" }, h("b", { id: "minimum" }, signed(results.minimum)), h("span", {}, " mean over prompts of the lowest mean opinion across questions: a gain in one cannot offset a loss in another.")));
  root.append(...[byCategory(results), raters(results, study.design), invitations(study, desk, again), sheets(study, again)].filter(Boolean));
}
