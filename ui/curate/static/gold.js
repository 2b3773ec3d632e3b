// Gold images: labels that a curator is sure of, shown to annotators unmarked.
import { del, post } from "../api.js";
import { h, tell } from "../dom.js";

const WHY = "Every annotator gets each gold image once, unmarked. Only curators see the scores, under Agreement.";

// Makes one person's label the known answer; `changed` is called afterwards.
export const makeGold = (image, author, changed) => h("button", { type: "button", class: "link use-as-gold", title: WHY,
  onclick: async () => (await tell(post("/api/annotate/gold", { image, author }), `${author}'s label is now the gold answer.`)) && changed() }, "Use as gold");

// Shows that an image is gold, with a button to undo that.
export const goldMark = (image, gold, changed) => h("p", { class: "gold" }, h("b", {}, "Gold image"), ` chosen by ${gold.by}. `,
  h("button", { type: "button", class: "link", onclick: async () => (await tell(del(`/api/annotate/gold/${image}`), "No longer a gold image; existing scores are kept.")) && changed() }, "Remove from gold"));
