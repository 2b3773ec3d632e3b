// Export the images of a filter, or a published training set: a job writes one .zip, which is downloaded.
import { get, post } from "../api.js";
import { address, h, select, tell } from "../dom.js";
import { count, when } from "../format.js";
import { openDialog } from "../runs/dialog.js";
import { followJob } from "../runs/job.js";

// `filter` is a selection in the words of the page's address: { source: "imported", category: "hand", … }.
export async function openExport(filter = {}) {
  const choices = await get(`/api/curate/work/choices${address(numbers(filter))}`);
  const place = h("div", {});
  const hint = h("div", {});
  const format = select("format", "Format", choices.formats.map((one) => [one.name, `${one.name}: ${one.what}`]), "folder", show);
  const snapshot = select("snapshot", "Training set", choices.snapshots.map((one) => [one.id, `${one.id.slice(0, 8)}, ${when(one.created)}`]), "");
  const labelled = check("only_labelled", "Only labelled images", false);
  const pictures = check("pictures", "Image files (else tables and labels only)", true);
  const start = h("button", { class: "button" }, "Export");
  const form = h("form", { class: "stackform", onsubmit: submit },
    h("p", { class: "hint" }, `${count(choices.count)} image${choices.count === 1 ? "" : "s"} selected. Images with an injected artifact are exported only if the filter names their source.`),
    format, snapshot, labelled, pictures, hint, h("div", { class: "line" }, start));

  function show() {
    const one = choices.formats.find(({ name }) => name === format.querySelector("select").value);
    const hf = one.name === "hf";
    snapshot.hidden = !hf || !choices.snapshots.length;
    labelled.hidden = hf || one.labelled_only;
    pictures.hidden = hf || one.name === "predictions";
    start.disabled = hf ? !choices.snapshots.length : !choices.count;
    hint.replaceChildren(
      ...(hf && !choices.snapshots.length ? [h("p", { class: "note" }, "No training set is published yet: a training or a round publishes one. For these images choose “folder”, which load_dataset(\"imagefolder\") reads.")] : []),
      ...(!hf && !choices.count ? [h("p", { class: "note" }, "No image matches this filter.")] : []),
      ...one.losses.map((text) => h("p", { class: "hint" }, `Note: ${text}.`)));
  }

  async function submit(event) {
    event.preventDefault();
    place.replaceChildren();
    const name = format.querySelector("select").value, hf = name === "hf";
    const job = await tell(post("/api/curate/work/export", {
      format: name, images: hf ? {} : numbers(filter), snapshot: hf ? snapshot.querySelector("select").value : null,
      only_labelled: !labelled.hidden && labelled.querySelector("input").checked, pictures: pictures.hidden || pictures.querySelector("input").checked,
    }));
    if (!job) return;
    form.hidden = true;
    place.replaceChildren(followJob(job.job, (ended) => {
      if (ended.state !== "succeeded") { form.hidden = false; return; }
      const link = h("a", { class: "button", href: `/api/curate/work/export/${job.job}.zip`, download: "" }, `Download ${size(ended.result.bytes)}`);
      place.append(h("p", {}, `${count(ended.result.images)} images and ${count(ended.result.masks)} masks in one .zip; it is deleted ${when(ended.result.until)}.`),
        ...ended.result.losses.map((text) => h("p", { class: "hint" }, `Note: ${text}.`)), h("div", { class: "line" }, link));
      link.focus();
    }));
  }

  show();
  openDialog("Export", form, place);
}

export const exportButton = (filter) => h("button", { type: "button", class: "button quiet", onclick: () => tell(openExport(filter)) }, "Export");

const check = (name, text, on) => h("label", { class: "switch" }, h("input", { type: "checkbox", name, checked: on }), text);
const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);

// The filter as JSON: addresses hold text, and say more than which images are meant.
export function numbers(filter) {
  const { view, image, sort, after, limit, like, ...kept } = filter;
  return Object.fromEntries(Object.entries(kept).map(([name, value]) => [name, ["low", "high", "class"].includes(name) ? Number(value) : value]));
}
