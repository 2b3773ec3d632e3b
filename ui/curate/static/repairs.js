// Repairs: ask for one of an image, compare before and after, accept or reject.
import { urlOf } from "../root.js";
import { get, post } from "../api.js";
import { address, h, input, nothing, panel, select, tell } from "../dom.js";
import { workButton } from "./work.js";
import { count, number, percent, when } from "../format.js";
import { pixels } from "../images.js";

const STATES = [["proposed", "Proposed"], ["accepted", "Accepted"], ["rejected", "Rejected"]];
const LOOK_AGAIN_MS = 1500;

// ---- the tab ------------------------------------------------------------------------------------

export async function repairs(root, { choices, asked, go, again }) {
  const state = STATES.some(([name]) => name === asked.state) ? asked.state : "proposed";
  const found = await get(`/api/curate/repairs${address({ state })}`);
  const shown = STATES.map(([name, text]) => h("button", { type: "button", role: "tab", "aria-selected": String(name === state),
    onclick: () => go({ view: "repairs", state: name }) }, text, h("span", {}, count(found.counts[name]))));
  const all = (accept) => h("button", { type: "button", class: `button${accept ? "" : " quiet"}`, onclick: () => decide(found.repairs.map((one) => one.id), accept).then((done) => done && again()) }, accept ? "Accept all shown" : "Reject all shown");
  root.append(
    h("div", { class: "line head" }, h("div", { class: "tabs", role: "tablist", "aria-label": "Repairs by decision" }, shown), h("span", { class: "gap" }),
      ...(state === "proposed" && found.repairs.length > 1 ? [all(true), all(false)] : []),
      state === "accepted" && found.repairs.length && choices.may_compare ? h("button", { type: "button", class: "button", onclick: compare }, "Open a blind study of these pairs") : null),
    h("p", { class: "hint" }, "Each repair differs from its original in the redrawn regions alone. Accepted ones become images of this workspace, in the split of their original; no statistic of generators counts them. Drag over an image to compare."),
    found.repairs.length ? h("div", { class: "repair-grid" }, found.repairs.map((one) => tile(one, state, again)))
      : state === "proposed" ? nothing("Nothing waits for a decision.", workButton("repair", {}, again)) : nothing(`No ${state} repair yet.`));
}

async function compare() {
  const made = await tell(post("/api/studies/repairs"), "Study opened.");
  if (made) location.assign(urlOf(`/study?view=results&study=${made.id}`));
}

async function decide(repairs, accept) {
  const word = accept ? "accepted" : "rejected";
  return tell(post("/api/curate/repairs/decide", { repairs, accept }), ({ decided }) => `${count(decided)} repair${decided === 1 ? "" : "s"} ${word}.`);
}

function tile(one, state, changed, linked = true) {
  return h("article", { class: "card repair", "data-id": one.id },
    one.original ? comparison(one) : h("p", { class: "hint" }, "The original was erased."),
    h("p", { class: "prompt" }, one.prompt || "No prompt."),
    h("p", { class: "figure" }, `${one.regions} region${one.regions === 1 ? "" : "s"}, confidence ${number(one.before)} → ${number(one.after)}`),
    h("div", { class: "line" },
      state === "proposed" ? [
        h("button", { type: "button", class: "button", onclick: () => decide([one.id], true).then((done) => done && changed()) }, "Accept"),
        h("button", { type: "button", class: "button quiet", onclick: () => decide([one.id], false).then((done) => done && changed()) }, "Reject"),
      ] : h("span", { class: "hint" }, when(one.created)),
      h("span", { class: "gap" }),
      linked && one.original ? h("a", { href: address({ view: "images", image: one.original }) }, "Original") : null));
}

// Two images over each other, with a handle between them.
function comparison(one) {
  const frame = h("label", { class: "comparison", style: { "--ratio": `${one.width} / ${one.height}` } },
    h("img", { src: pixels(one.original), alt: "before", loading: "lazy" }),
    h("img", { src: pixels(one.id), alt: "after", class: "after", loading: "lazy" }),
    h("i", {}), h("span", {}, "before"), h("span", {}, "after"),
    h("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": "Share that is shown as it was before",
      oninput: (event) => frame.style.setProperty("--at", `${event.target.value}%`) }));
  return frame;
}

// ---- one image ----------------------------------------------------------------------------------

export function repairPanel(known) {
  const body = h("div", { class: "repair-body" });
  const details = h("details", { class: "repair-panel" }, h("summary", {}, "Repair"), body);
  details.addEventListener("toggle", () => details.open && tell(look(body, known)));
  return details;
}

async function look(body, known) {
  const [{ generators }, found] = await Promise.all([get("/api/curate/repairs/choices"), get(`/api/curate/repairs${address({ image: known.id })}`)]);
  const again = () => tell(look(body, known));
  const working = found.job?.open;
  body.replaceChildren(
    working ? h("p", { class: "hint", role: "status" }, found.job.state === "queued" ? "Queued; a worker takes it next." : `Repairing, ${percent(found.job.progress)}.`) : "",
    found.job && !working ? h("p", { class: "hint", role: "status" }, whatBecame(found.job, found.repairs.length)) : "",
    ...found.repairs.map((one) => tile(one, "proposed", again, false)),
    working ? "" : order(known, generators, again));
  if (working) setTimeout(() => body.isConnected && again(), LOOK_AGAIN_MS);
}

function whatBecame(job, waiting) {
  if (job.state !== "succeeded") return job.error || `The repair was ${job.state}.`;
  const notes = job.notes.map((note) => ` Note: ${note}.`).join("");
  if (job.counts.refused) return `It cannot be repaired: ${job.refused}`;
  if (!job.counts.regions) return `The detector found no artifact in it.${notes}`;
  if (!job.counts.repaired) return `No candidate was better, so the image stays as it is.${notes}`;
  return `${waiting ? "Repaired; accept it or reject it." : "Repaired and decided."}${notes}`;
}

function order(known, generators, changed) {
  if (!generators.length) return nothing("A repair needs a generator: an engineer can register one under Treat.");
  const own = generators.find((one) => one.id === known.generator_id);
  const form = h("form", { class: "stackform", onsubmit: async (event) => {
    event.preventDefault();
    const { generator, prompt = "" } = Object.fromEntries(new FormData(form));
    if (await tell(post("/api/curate/repairs", { image: known.id, generator, prompt }), "Repair queued.")) changed();
  } },
    select("generator", "Generator that redraws", generators.map((one) => [one.id, one.name]), own?.id ?? generators[0].id, null),
    known.prompt ? null : input("prompt", "Prompt", "text", "", { maxlength: 20000 }),
    h("div", { class: "line" }, h("button", { class: "button" }, "Redraw its artifacts"),
      h("span", { class: "hint" }, "The result is proposed only if the detectors find it better.")));
  return form;
}
