// Register a detector or a generator: one that an admin allowed, or one that is shipped.
import { get, post } from "../api.js";
import { h, input, select, tell } from "../dom.js";
import { followJob } from "./job.js";
import { openDialog } from "./dialog.js";

// A button that opens the form; `done` is called once a model was registered.
export function registerButton(kind, done, quiet = true) {
  return h("button", { type: "button", class: `button${quiet ? " quiet" : ""}`, onclick: () => tell(openForm(kind, done)) }, `Register a ${kind}`);
}

async function openForm(kind, done) {
  const { models, may_allow: mayAllow } = await get(`/api/models/${kind}`);
  const place = h("div", {});
  const form = h("form", { class: "stackform", onsubmit: async (event) => {
    event.preventDefault();
    place.replaceChildren();
    const asked = await tell(post("/api/models/register", { kind, ...Object.fromEntries(new FormData(form)) }));
    if (!asked) return;
    form.hidden = true;
    place.replaceChildren(followJob(asked.job, (job) => {
      if (job.state !== "succeeded") { form.hidden = false; return; }
      place.append(h("p", {}, h("b", {}, job.result.name), " is registered."), job.result.note ? h("p", { class: "hint" }, `Note: ${job.result.note}.`) : "",
        h("div", { class: "line" }, h("button", { type: "button", class: "button", onclick: () => { dialog.close(); done(job.result); } }, "Continue")));
    }));
  } },
    select("location", kind === "detector" ? "Detector" : "Generator", models.map((one) => [one.location, one.name]), ""),
    input("name", "Name (empty for its own)", "text", "", { maxlength: "100" }),
    input("licence", "Licence", "text", "", { maxlength: "200", placeholder: "for model cards and exports" }),
    h("p", { class: "hint" }, mayAllow ? h("span", {}, "Other folders and hub ids are allowed under ", h("a", { href: "/admin" }, "Admin → Models and endpoints"), `, as kind ${kind}.`)
      : `Not listed? An admin allows other folders and hub ids under Admin → Models and endpoints, as kind ${kind}.`),
    h("div", { class: "line" }, h("button", { class: "button" }, "Register")));
  const dialog = openDialog(`Register a ${kind}`, form, place);
}
