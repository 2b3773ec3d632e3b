// The import page: upload, a folder of the server, or the demo; then what to do with the images.
import { get, post } from "../api.js";
import { $, h, input, nothing, panel, say, select, tell } from "../dom.js";
import { count, when } from "../format.js";
import { router } from "../router.js";
import { followJob } from "../runs/job.js";
import { nextSteps } from "../curate/work.js";
import { chosen, dropped, itemsOf, sendFiles } from "./upload.js";

const SOON_MS = 100, LOOK_AGAIN_MS = 400;
const SOURCES = [["", "as the files say, else generated"], ["generated", "generated"], ["real", "real photos, free of artifacts"], ["imported", "imported"]];
const megabytes = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);
const files = (number) => `${count(number)} file${number === 1 ? "" : "s"}`;

async function main(root, { current }) {
  const [choices, { uploads }] = await Promise.all([get("/api/import/choices"), get("/api/import/uploads")]);
  const place = h("div", { class: "outcome" });
  root.append(
    h("h1", {}, "Import"),
    h("p", { class: "lead" }, choices.images ? `This workspace has ${count(choices.images)} image${choices.images === 1 ? "" : "s"}. Images that it knows already are not added again.` : "This workspace has no images yet. Upload some, use a folder of the server, or try the demo."),
    place,
    uploadPanel(choices, uploads.filter((one) => one.state !== "done"), place, current),
    h("div", { id: "folder" }, folderPanel(choices, place)),
    choices.images ? "" : demoPanel(choices, place));
  if (location.hash) requestAnimationFrame(() => document.getElementById(location.hash.slice(1))?.scrollIntoView());
}

// ---- upload -------------------------------------------------------------------------------------

function uploadPanel(choices, unfinished, place, current) {
  let items = [], resumed = null, sending = null;
  const summary = h("p", { class: "summary", role: "status" });
  const bar = h("progress", { max: "1", value: 0, hidden: true, "aria-label": "Upload" });
  const options = settingsForm(choices);
  const start = h("button", { type: "button", class: "button", id: "start", disabled: true, onclick: () => tell(upload()) }, "Upload and import");
  const stop = h("button", { type: "button", class: "button quiet", hidden: true, onclick: () => sending?.abort() }, "Stop");
  const clear = h("button", { type: "button", class: "button quiet", hidden: true, onclick: () => { items = []; show(); } }, "Clear list");
  const zones = h("div", { class: "zones" },
    zone("images", "Images", "Drop images or a folder here. PNG, JPEG, WebP, BMP or GIF; metadata.csv for prompts; or one dataset as .zip."),
    zone("masks", "Masks (optional)", "Drop one mask for each image, with the image’s name: hand.jpg and hand.png."));
  const leaving = (event) => event.preventDefault();

  function zone(part, title, text) {
    const add = async (found) => {
      const known = new Set(items.map((item) => `${item.part}/${item.name}`));
      items.push(...itemsOf(await found, part).filter((item) => !known.has(`${item.part}/${item.name}`)));
      show();
    };
    const files = h("input", { type: "file", multiple: true, hidden: true, "data-part": part, onchange: () => add(chosen(files.files)) });
    const folder = h("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => add(chosen(folder.files)) });
    const made = h("div", { class: "zone", role: "group", "aria-label": title }, h("b", {}, title), h("p", { class: "hint" }, text),
      h("div", { class: "line" },
        h("button", { type: "button", class: "button quiet", onclick: () => files.click() }, "Choose files"),
        h("button", { type: "button", class: "button quiet", onclick: () => folder.click() }, "Choose a folder")), files, folder);
    made.addEventListener("dragover", (event) => { event.preventDefault(); made.classList.add("over"); });
    made.addEventListener("dragleave", () => made.classList.remove("over"));
    made.addEventListener("drop", (event) => { event.preventDefault(); made.classList.remove("over"); tell(add(dropped(event.dataTransfer))); });
    return made;
  }

  function show() {
    const parts = ["images", "masks", "archive"].map((part) => [part, items.filter((item) => item.part === part).length]).filter(([, number]) => number);
    const bytes = items.reduce((sum, { file }) => sum + file.size, 0);
    summary.textContent = items.length ? `${parts.map(([part, number]) => (part === "archive" ? "one archive" : `${count(number)} in ${part}`)).join(", ")}; ${megabytes(bytes)}.` : "";
    options.archive(items.some((item) => item.part === "archive"), items.some((item) => item.part === "masks"));
    start.disabled = !items.length && !resumed?.files;
    start.textContent = items.length || !resumed ? "Upload and import" : "Import what has arrived";
    clear.hidden = !items.length;
  }

  async function upload() {
    const bytes = items.reduce((sum, { file }) => sum + file.size, 0);
    sending = new AbortController();
    place.replaceChildren();
    busy(true);
    try {
      const id = resumed?.id ?? (await post("/api/import/uploads", { total: bytes })).id;
      resumed ??= { id, files: 0 };
      const { files: before } = await get(`/api/import/uploads/${id}/files`);
      const received = new Map(before.map((one) => [`${one.part}/${one.name}`, one.sha256]));
      const refused = await sendFiles(id, items, { piece: choices.piece, received, signal: sending.signal, told: (state) => {
        bar.value = bytes ? state.bytes / bytes : 1;
        summary.textContent = `${count(state.files)} of ${files(items.length)}, ${megabytes(state.bytes)} of ${megabytes(bytes)} sent.${state.waiting ? " The server does not answer; trying again…" : ""}`;
      } });
      if (refused.length === items.length && !before.length) {
        place.replaceChildren(outcome({ added: 0, duplicates: 0, labels: 0, updated: 0, losses: [], alike: [], near_duplicates: 0 }, refused, null));
        await post(`/api/import/uploads/${id}/discard`);
      } else {
        await post(`/api/import/uploads/${id}/finish`, options.values());
        const ended = await importing(id);
        if (!ended) return;
        place.replaceChildren(outcome(ended.result, refused, ended.result.problems ? `/api/import/uploads/${id}/problems.csv` : null));
        if (ended.result.added) document.querySelectorAll(".importing .lead, .importing .demo").forEach((node) => node.remove());
      }
      resumed = null;
      items = [];
      place.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(h("p", { class: "note bad", role: "alert" }, error.message));
      else say("Stopped. What has arrived is kept: press the button again to continue.");
    } finally {
      busy(false);
      show();
    }
  }

  // Follows the import of an upload to its end; null when another page is shown instead.
  async function importing(id) {
    for (let wait = SOON_MS; ; wait = Math.min(2 * wait, LOOK_AGAIN_MS)) {
      const upload = await get(`/api/import/uploads/${id}`);
      if (!current()) return null;
      if (upload.state === "done") return upload;
      if (upload.error) throw new Error(upload.error);
      if (upload.state === "interrupted") throw new Error("The server was restarted during the import. Press “Import what has arrived” to continue.");
      bar.value = upload.progress;
      summary.textContent = `Importing: ${upload.message}`;
      stop.hidden = true;
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  function busy(on) {
    bar.hidden = stop.hidden = !on;
    start.disabled = on;
    zones.toggleAttribute("inert", on);
    if (on) addEventListener("beforeunload", leaving);
    else removeEventListener("beforeunload", leaving);
    if (!on) sending = null;
  }

  function continued(one, note) {
    resumed = one;
    note.remove();
    say(`Choose the same files again: ${files(one.files)} that arrived are not sent twice.`);
    show();
  }

  return panel("Upload",
    unfinished.map((one) => {
      const note = h("div", { class: "note unfinished" },
        h("span", {}, `${one.state === "importing" ? "An upload is being imported" : "An upload was not finished"}: ${files(one.files)}, ${megabytes(one.bytes)}, started ${when(one.created)}.${one.error ? ` ${one.error}` : ""} `),
        h("button", { type: "button", class: "button quiet", onclick: () => continued(one, note) }, "Continue"),
        h("button", { type: "button", class: "button quiet", onclick: async () => { if (await tell(post(`/api/import/uploads/${one.id}/discard`), "Upload discarded.")) note.remove(); } }, "Discard"));
      return note;
    }),
    zones, options.node, summary, bar, h("div", { class: "line" }, start, stop, clear));
}

// What is recorded with the images. `archive(zip, masks)` shows the fields that fit what was chosen.
function settingsForm(choices, formats = false) {
  const format = select("format", "Layout of the dataset", choices.formats.map((one) => [one.name, one.what]), "folder", () => { expects.textContent = expected(); });
  const expected = () => choices.formats.find((one) => one.name === format.querySelector("select").value)?.expects ?? "";
  const expects = h("p", { class: "hint" }, expected());
  const labels = [
    select("one_class", "Class of masks that name none", choices.classes.map((name, at) => [at ? name : "", name]), ""),
    h("label", { class: "field wide" }, h("span", {}, "Class names: theirs = ours, one per line"), h("textarea", { name: "classes", rows: "2", maxlength: "8000" })),
    select("coordinates", "How boxes are written (layout sdg)", [["", "as the file says"], ...choices.coordinates.map((name) => [name, name])], ""),
    check("clean", "Images without a mask or annotation are free of artifacts"),
    check("partial", "Keep the rest of a label of which a part was refused"),
  ];
  const form = h("form", { class: "settings", onsubmit: (event) => event.preventDefault() },
    format, expects,
    select("source", "Where the images come from", SOURCES, ""),
    input("licence", "Licence of the images", "text", "", { maxlength: "200", placeholder: "such as CC0" }),
    choices.generators.length ? select("generator", "Generator that made them", [["", "as the files say"], ...choices.generators.map((one) => [one.id, one.name])], "") : null,
    share("validation", "Share for validation, %", 15),
    share("benchmark", "Share for the benchmark, %", 0),
    check("update", "Give known images the prompts and categories of these files"),
    labels);
  const archive = (zip, masks) => {
    format.hidden = expects.hidden = !zip;
    for (const one of labels) one.hidden = !zip && !masks;
  };
  archive(formats, false);
  return { archive, values: () => settingsOf(form, formats || !format.hidden), node: h("details", { class: "more-settings" }, h("summary", {}, "Options"), form) };
}

const check = (name, text) => h("label", { class: "switch wide" }, h("input", { type: "checkbox", name }), text);
const share = (name, text, value) => input(name, text, "number", value, { min: "0", max: "100", step: "1" });

function settingsOf(form, formats) {
  const given = Object.fromEntries(new FormData(form));
  const pairs = (given.classes ?? "").split("\n").filter((line) => line.trim());
  const bad = pairs.find((line) => !/^[^=]+=[^=]+$/.test(line));
  if (bad) throw new Error(`“${bad}” is no pair of class names; write theirs = ours.`);
  return {
    ...(formats ? { format: given.format } : {}),
    ...(given.source ? { source: given.source } : {}),
    ...(given.generator ? { generator: given.generator } : {}),
    licence: given.licence.trim(),
    one_class: given.one_class ?? "",
    coordinates: given.coordinates ?? "",
    classes: Object.fromEntries(pairs.map((line) => line.split("=").map((word) => word.trim()))),
    clean: "clean" in given, partial: "partial" in given, update: "update" in given,
    validation: Number(given.validation) / 100, benchmark: Number(given.benchmark) / 100,
  };
}

// ---- the result ---------------------------------------------------------------------------------

function outcome(result, refused, list) {
  const all = [...refused, ...(result.refused ?? [])];
  const number = refused.length + (result.refusals ?? 0);
  const known = result.added + result.duplicates > 0;
  return panel(known ? "Imported" : "Nothing was imported",
    h("p", { class: "counts" }, [
      `${count(result.added)} added`, `${count(result.duplicates)} known already`, result.labels ? `${count(result.labels)} labels` : null, result.updated ? `${count(result.updated)} updated` : null,
      result.near_duplicates ? `${count(result.near_duplicates)} near-duplicate${result.near_duplicates === 1 ? "" : "s"}, in one split with what ${result.near_duplicates === 1 ? "it resembles" : "they resemble"}` : null, `${count(number)} refused`].filter(Boolean).join(" · ")),
    number ? h("div", { class: "scroll refusals" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "File"), h("th", {}, "Why it was refused"))),
      h("tbody", {}, all.map((one) => h("tr", {}, h("td", {}, one.name), h("td", {}, one.reason)))))) : null,
    number > all.length ? h("p", { class: "hint" }, `${count(number - all.length)} more are in the list.`) : null,
    list ? h("p", {}, h("a", { href: list, download: "" }, number ? "Download every problem as CSV" : "Download the near-duplicates as CSV")) : null,
    (result.losses ?? []).map((text) => h("p", { class: "hint" }, `Note: ${text}.`)),
    known ? nextSteps({}) : null);
}

// ---- a folder of the server, and the demo -------------------------------------------------------

function folderPanel(choices, place) {
  if (!choices.folders.length) {
    return panel("A folder of the server", nothing(choices.may_register ? "No folder is registered yet. Register one under Admin → Models and endpoints, as kind folder." : "No folder is registered yet. An admin can register one under Admin → Models and endpoints."),
      choices.may_register ? h("a", { class: "button quiet", href: "/admin" }, "Open Admin") : null);
  }
  const folder = select("folder", "Folder", choices.folders.map((one) => [one.id, `${one.name} (${one.location})`]), "");
  const options = settingsForm(choices, true);
  options.archive(true, true);
  const begin = h("button", { type: "button", class: "button", onclick: () => tell((async () => {
    const { job } = await post("/api/import/folder", { folder: folder.querySelector("select").value, settings: options.values() });
    follow(job, place, choices);
  })()) }, "Import the folder");
  return panel("A folder of the server", folder, options.node, h("div", { class: "line" }, begin));
}

function demoPanel(choices, place) {
  return h("div", { class: "demo", id: "demo" }, panel("The demo", h("p", { class: "hint" }, "Small drawn images with labels, a tiny generator and a detector: enough to try every desk on a machine without a GPU. Takes about half a minute. Use it in a workspace of its own."),
    h("div", { class: "line" }, h("button", { type: "button", class: "button quiet", onclick: () => tell((async () => {
      const { job } = await post("/api/import/demo");
      follow(job, place, choices);
    })()) }, "Import the demo"))));
}

function follow(job, place, choices) {
  const line = followJob(job, (ended) => {
    if (ended.state !== "succeeded") return;
    place.replaceChildren(ended.kind === "demo"
      ? panel("Imported", h("p", { class: "counts" }, `${count(ended.result.added)} images, a generator and a detector.`), h("div", { class: "line" }, h("a", { class: "button", href: "/rounds" }, "Run a round"), h("a", { class: "button quiet", href: "/curate" }, "See the images")))
      : outcome(ended.result, [], null));
  });
  place.replaceChildren(panel("Importing", choices.worker ? null : h("p", { class: "note" }, "No worker is running, so this waits. Start one with “clinic worker”."), line));
  $("view").scrollIntoView();
}

router({ home: "/import", title: "Import", views: { main } });
