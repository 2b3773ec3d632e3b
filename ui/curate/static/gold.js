// Gold images: a label that a curator is sure of, mixed in among others' work without a word.
import { del, post } from "/static/api.js";
import { h, tell } from "/static/dom.js";

const WHY = "Gold images come to every annotator once, looking like any other; how they do is seen under Agreement, by curators alone.";

// Makes one person's label the known answer; `changed` is told afterwards.
export const makeGold = (image, author, changed) => h("button", { type: "button", class: "link use-as-gold", title: WHY,
  onclick: async () => (await tell(post("/api/annotate/gold", { image, author }), `${author}'s label is gold now.`)) && changed() }, "Use as gold");

// Says that an image is gold, and ends it.
export const goldMark = (image, gold, changed) => h("p", { class: "gold" }, h("b", {}, "Gold image"), ` chosen by ${gold.by}. `,
  h("button", { type: "button", class: "link", onclick: async () => (await tell(del(`/api/annotate/gold/${image}`), "It is an ordinary image again; scores that were given stay.")) && changed() }, "No longer gold"));
