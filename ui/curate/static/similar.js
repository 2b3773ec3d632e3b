// The images most alike one, or the button that makes them findable.
import { get } from "../api.js";
import { h, nothing } from "../dom.js";
import { count, number } from "../format.js";
import { thumbnail } from "../images.js";
import { indexJob } from "./index_job.js";

// `grid` takes the tiles that `tile(card)` makes.
export async function similar(root, { id, go, again, grid, tile }) {
  const path = `/api/curate/similar/${id}`;
  const found = await get(path);
  const back = h("button", { type: "button", class: "link", onclick: () => go({ view: "images" }) }, "Back to all images");
  const head = h("div", { class: "line like" }, h("img", { src: thumbnail(id), alt: "The image compared with" }), h("b", {}, "More like this"), back);
  root.append(head);
  if (found.unreadable) {
    root.append(nothing("The file of this image cannot be read, so nothing can be compared with it."));
    return {};
  }
  if (!found.indexed) {
    const job = indexJob({
      text: `To find similar images, ${count(found.missing)} image${found.missing === 1 ? " has" : "s have"} to be indexed by colours and edges first. This needs no model and takes about a minute for 10,000 images; this page then shows the result.`,
      label: "Build similarity index",
      path: "/api/curate/features",
    });
    await job.show(found.job);
    root.append(job.node);
    return { refresh: async () => {
      const now = await get(path);
      if (now.indexed || now.unreadable) again();
      else await job.show(now.job);
    } };
  }
  const missing = found.missing ? `, ${count(found.missing)} newer ones are not indexed yet` : "";
  root.append(
    h("p", { class: "hint" }, `The most alike of ${count(found.compared)} images, by colours and edges${missing}. 1.00 is the same picture, 0.00 is no more alike than any two images.`),
    grid);
  grid.append(...found.cards.map((card) => tile(card)));
  if (found.missing) {
    const job = indexJob({ text: "Index the newer images as well:", label: "Update similarity index", path: "/api/curate/features" });
    await job.show(found.job);
    root.append(job.node);
    return { refresh: async () => {
      const now = await get(path);
      if (now.missing) await job.show(now.job);
      else again();
    } };
  }
  return {};
}

export const similarity = (card) => (card.rank === undefined ? null : `#${card.rank} · alike ${number(Math.max(0, card.similarity))}`);
