// From a treated generator back to every label under it.
import { get } from "../api.js";
import { h, select } from "../dom.js";
import { count, when } from "../format.js";
import { names } from "./format.js";

const counted = (values) => Object.entries(values).map(([name, number]) => `${count(number)} ${name}`).join(", ");
const short = (id) => h("code", { title: id }, id.length > 14 ? `${id.slice(0, 12)}…` : id);

function node(kind, title, id, ...more) {
  return h("div", { class: `node ${kind}` }, h("span", { class: "kind" }, kind), h("div", {}, h("b", {}, title), " ", short(id), more));
}

function detector(one) {
  const set = one.snapshot;
  return h("li", {}, node("detector", one.name, one.id, h("p", {}, `${one.role}${one.round ? `, trained in ${one.round_name}` : ""}`)),
    set ? h("ul", {}, h("li", {}, node("training set", `${count(set.rows)} images`, set.id, h("p", {}, counted(set.kinds))),
      Object.keys(set.authors).length ? h("ul", {}, h("li", {}, h("div", { class: "node labels" }, h("span", { class: "kind" }, "labels"), h("div", {}, h("b", {}, `by ${names(Object.keys(set.authors))}`), h("p", {}, counted(set.authors))))))
        : null)) : null);
}

function step(one) {
  return h("li", {}, node("generator", one.generator.name, one.generator.id),
    h("ul", {}, h("li", {}, node("treatment", when(one.treatment.created), one.treatment.id,
      h("p", {}, [one.treatment.round ? `in ${one.treatment.round_name}` : "standalone", one.treatment.updates ? `kept update ${one.treatment.kept} of ${one.treatment.updates}` : ""].filter(Boolean).join(", "))),
    h("ul", {}, one.detectors.map(detector)))));
}

export async function lineage(root, { asked, go }) {
  const { treated } = await get("/api/rounds");
  root.append(h("h1", {}, "Lineage"), h("p", { class: "lead" }, "Everything a treated generator was built from: the detector it was treated against, that detector’s training set, and the people who labelled it."));
  const chosen = asked.generator ?? treated[0]?.id;
  if (!chosen) return root.append(h("p", { class: "soft" }, "No generator has been treated yet."));
  root.append(h("div", { class: "line top" }, select("generator", "Treated generator", treated.map((one) => [one.id, one.name]), chosen, (event) => go({ view: "lineage", generator: event.target.value }))));
  const chain = await get(`/api/rounds/lineage/${encodeURIComponent(chosen)}`);
  root.append(
    h("div", { class: "home-figures card" }, [[count(chain.labels), "labels used"], [String(Object.keys(chain.authors).length), "authors"], [String(chain.snapshots), "training sets"], [String(chain.steps.length), chain.steps.length === 1 ? "treatment" : "treatments"]].map(([value, label]) => h("div", {}, h("b", {}, value), h("span", {}, label)))),
    h("section", { class: "card panel" },
      h("div", { class: "line" }, h("h2", {}, "Chain"), h("span", { class: "gap" }), h("a", { class: "button quiet", href: `/api/rounds/lineage/${encodeURIComponent(chosen)}/labels.csv`, download: "" }, "All labels (CSV)")),
      h("ul", { class: "tree" }, chain.steps.map(step), h("li", {}, node("base", chain.base.name, chain.base.id, h("p", {}, [chain.base.location, chain.base.licence].filter(Boolean).join(" · ")))))));
  return null;
}
