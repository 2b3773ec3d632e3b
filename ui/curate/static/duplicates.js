// Near-duplicates: the groups that the import found, and what becomes of their images.
import { get, post } from "../api.js";
import { address, h, nothing, say, tell } from "../dom.js";
import { count } from "../format.js";
import { thumbnail } from "../images.js";
import { openImage } from "./large_view.js";

export async function duplicates(root, { choices, asked, go, again, current }) {
  const list = h("div", { class: "duplicates" }), more = h("div", { class: "more" });
  const marked = new Map();
  const found = await get("/api/curate/duplicates");
  const erase = choices.may_judge && found.total ? eraseBar(marked, again) : null;
  root.append(
    h("p", { class: "hint" }, found.total
      ? `${count(found.images)} images in ${count(found.total)} group${found.total === 1 ? "" : "s"} look almost alike: recompressed, scaled or slightly cropped copies, found at import by a perceptual hash (dHash). All images of a group are in one split, so none leaks from training into a benchmark.`
      : ""),
    erase?.node ?? "", list, more);
  if (!found.total) list.append(nothing("No near-duplicates: no two imported images look almost alike."));
  append(found);
  if (asked.image && current()) openImage(asked.image, { go });

  function append(page) {
    list.append(...page.groups.map((group) => groupRow(group, { marked, go, changed: erase?.changed })));
    more.replaceChildren(page.after ? h("button", { type: "button", class: "button quiet", onclick: async (event) => {
      event.target.disabled = true;
      const next = await tell(get(`/api/curate/duplicates${address({ after: page.after })}`));
      if (next) append(next);
      else event.target.disabled = false;
    } }, "More") : "");
  }
  return { leave: () => document.querySelectorAll("dialog.detail, dialog.confirm").forEach((one) => one.remove()) };
}

function groupRow({ count: size, cards }, { marked, go, changed }) {
  const boxes = [];
  const tiles = cards.map((card, at) => {
    const box = changed ? h("input", { type: "checkbox", "aria-label": `Mark to erase: ${card.width} × ${card.height}`, onchange: () => mark(card, box.checked) }) : null;
    if (box) boxes.push([card, box]);
    return h("figure", { class: "twin" },
      h("button", { type: "button", class: "plain", "data-id": card.id, title: card.prompt, onclick: () => openImage(card.id, { go }) }, h("img", { src: thumbnail(card.id), alt: card.prompt || card.category || "image", loading: "lazy" })),
      h("figcaption", {}, h("label", {}, box, ` ${card.width} × ${card.height}`), h("span", {}, [at === 0 ? "largest" : null, card.labelled ? "labelled" : null, card.split].filter(Boolean).join(" · "))));
  });
  function mark(card, on) {
    if (on) marked.set(card.id, card);
    else marked.delete(card.id);
    changed();
  }
  const keepLargest = changed ? h("button", { type: "button", class: "link", onclick: () => boxes.forEach(([card, box], at) => {
    box.checked = at > 0 && !card.labelled;
    mark(card, box.checked);
  }) }, "Mark all but the largest") : null;
  return h("section", { class: "card group" }, h("header", { class: "line" }, h("b", {}, `${count(size)} images`), size > cards.length ? h("span", { class: "soft" }, `the first ${cards.length} are shown`) : null, h("span", { class: "gap" }), keepLargest), h("div", { class: "twins" }, tiles));
}

// Erasing: what is marked, and a question that says what goes with it.
function eraseBar(marked, again) {
  const told = h("span", { role: "status" });
  const button = h("button", { type: "button", class: "button quiet bad", disabled: true, onclick: () => ask() }, "Erase marked images…");
  const changed = () => {
    button.disabled = !marked.size;
    told.textContent = marked.size ? `${count(marked.size)} marked to erase; labelled images are not marked by “all but the largest”.` : "";
  };
  async function ask() {
    const images = [...marked.keys()], chosen = { ids: images };
    const going = await tell(post("/api/curate/selected/erasure", { chosen }));
    if (!going) return;
    const dialog = h("dialog", { class: "card confirm", "aria-label": "Erase images", onclose: () => dialog.remove() },
      h("h2", {}, `Erase ${count(going.images)} image${going.images === 1 ? "" : "s"}?`),
      h("p", {}, `${going.labels ? `${count(going.labels)} label${going.labels === 1 ? " goes" : "s go"} with them. ` : ""}This cannot be undone.`),
      ...kept(going).map((text) => h("p", { class: "hint" }, text)),
      h("div", { class: "line" },
        h("button", { type: "button", class: "button quiet", autofocus: true, onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "button", class: "button quiet bad", onclick: async (event) => {
          event.target.disabled = true;
          const gone = await tell(post("/api/curate/selected/erase", { chosen, expected: images.length }));
          dialog.close();
          if (!gone) return;
          say(`${count(gone.images)} image${gone.images === 1 ? "" : "s"} erased.`);
          again();
        } }, "Erase")));
    document.body.append(dialog);
    dialog.showModal();
  }
  return { node: h("div", { class: "line marked" }, button, told), changed };
}

const kept = (going) => [["snapshots", "training set"], ["detectors", "detector"], ["benchmarks", "frozen benchmark"]]
  .filter(([name]) => going[name].length)
  .map(([name, noun]) => `${count(going[name].length)} ${noun}${going[name].length === 1 ? "" : "s"} already made from them ${going[name].length === 1 ? "is" : "are"} kept.`);
