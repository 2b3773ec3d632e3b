// Agreement between annotators, their scores on gold images, and their comments.
import { get, post } from "../api.js";
import { h, nothing, panel, tell } from "../dom.js";
import { count, number, percent, when } from "../format.js";
import { thumbnail } from "../images.js";

export async function people(root) {
  const [agreement, gold, feedback] = await Promise.all(["agreement", "gold", "comments"].map((name) => get(`/api/curate/people/${name}`)));
  root.append(
    panel("Agreement between annotators", h("p", { class: "hint" },
      "IoU is the overlap of two annotators’ masks of one image, 1 if both say clean. Krippendorff’s alpha is computed over pixels and corrected for chance: 1 is perfect, 0 is chance; above 0.8 is reliable, below 0.67 suggests the guideline needs work."),
      agreement.images ? h("div", { class: "line figures-line" }, h("div", { class: "figures" }, figure(count(agreement.images), "images with several labels"), figure(number(agreement.overall.iou), "mean pairwise IoU"), figure(number(agreement.overall.alpha), "Krippendorff's alpha")))
        : nothing("No image has several labels yet. Set “Annotators per image” to 2 or more when you send images."),
      agreement.images ? h("div", { class: "two" }, table("By category", agreement.categories), table("By annotator", agreement.people)) : null),
    panel("Gold images", gold.images.length || gold.people.length ? goldTable(gold) : nothing("No gold images yet. In Review or on an image, press “Use as gold” next to a label that you are sure of.")),
    panel("Comments", feedback.comments.length ? h("div", { class: "comments" }, feedback.comments.map((one) => comment(one))) : nothing("No comments yet.")));
}

const figure = (value, label) => h("div", {}, h("b", {}, value), h("span", {}, label));

function table(title, rows) {
  return h("div", {}, h("h3", {}, title), h("table", {}, h("thead", {}, h("tr", {}, [title[3].toUpperCase() + title.slice(4), "Compared", "IoU", "Alpha"].map((name) => h("th", {}, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, row.name), h("td", { class: "figure" }, count(row.compared)), h("td", { class: "figure" }, meter(row.iou)), h("td", { class: row.alpha !== null && row.alpha < 0.67 ? "figure warn" : "figure" }, number(row.alpha)))))));
}

const meter = (value) => h("span", { class: "inline-meter", style: { "--value": String(value ?? 0) } }, number(value));

function goldTable(gold) {
  return h("div", {}, h("p", { class: "hint" }, `${count(gold.images.length)} gold image${gold.images.length === 1 ? "" : "s"}. Every annotator gets each one once, unmarked; only curators see the scores.`),
    h("div", { class: "goldens" }, gold.images.map((one) => h("a", { href: `?view=images&image=${one.id}`, title: `${one.clean ? "clean" : "drawn"}, chosen by ${one.by}` }, h("img", { src: thumbnail(one.id), alt: `Gold image chosen by ${one.by}`, loading: "lazy" })))),
    gold.people.length ? h("table", {}, h("thead", {}, h("tr", {}, ["Annotator", "Labelled", "Mean IoU", "Right class", "Lowest IoU"].map((name) => h("th", {}, name)))),
      h("tbody", {}, gold.people.map((one) => h("tr", {}, h("td", {}, one.name), h("td", { class: "figure" }, count(one.answered)), h("td", { class: "figure" }, meter(one.iou)), h("td", { class: "figure" }, percent(one.right_class)), h("td", { class: "figure" }, number(one.lowest)))))) : nothing("No annotator has seen a gold image yet."));
}

function comment(one) {
  const answer = h("input", { type: "text", maxlength: "2000", placeholder: "Reply", "aria-label": `Reply to ${one.author}` });
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    if (answer.value.trim() && await tell(post("/api/curate/people/comments", { image: one.image, text: answer.value.trim() }), "Reply sent.")) answer.value = "";
  } }, answer, h("button", { class: "button quiet" }, "Send"));
  return h("article", {}, h("a", { href: `?view=images&image=${one.image}` }, h("img", { src: thumbnail(one.image), alt: `Image that ${one.author} commented on` })), h("div", {}, h("b", {}, one.author), h("span", {}, ` ${when(one.created)}`), h("p", {}, one.text), form));
}
