// Pilots: some images that several people label, and what a campaign would take by their pace.
import { get } from "../api.js";
import { address, h, nothing, panel } from "../dom.js";
import { count, number, percent, when } from "../format.js";

const images = (n) => `${count(n)} image${n === 1 ? "" : "s"}`;
const figure = (value, label) => h("div", {}, h("b", {}, value), h("span", {}, label));
const hours = (value) => (value === null || value === undefined ? "–" : value < 10 ? number(value, 1) : count(Math.round(value)));

export async function pilots(root, { asked, go }) {
  const { pilots: all } = await get("/api/curate/pilots");
  const chosen = all.find((one) => one.id === asked.pilot) ?? all[0];
  if (!chosen) {
    root.append(panel("Pilots", h("p", {}, "A pilot has a few images labelled by several people before a campaign begins. One page then shows seconds per label, agreement by category, and the hours for the number of images that you want."),
      nothing("No pilot yet."), h("a", { class: "button", href: "?view=images&state=unlabelled" }, "Choose images"),
      h("p", { class: "hint" }, "Select images, or all that match a filter (Ctrl+A), and press “Pilot”.")));
    return;
  }
  root.append(h("div", { class: "columns wide" },
    h("aside", {}, panel("Pilots", h("div", { class: "versions" }, all.map((one) => h("a", { href: address({ view: "pilots", pilot: one.id }), "aria-current": one === chosen ? "true" : null },
      h("b", {}, one.name), h("em", { class: one.done >= one.wanted ? "frozen" : "draft" }, percent(one.done / Math.max(1, one.wanted))), h("span", {}, when(one.created))))),
      h("p", { class: "hint" }, h("a", { href: "?view=images&state=unlabelled" }, "Choose images for another one")))),
    h("div", { class: "stacked-panels" }, await page(chosen.id, Number(asked.target) || 1000, go))));
}

async function page(id, target, go) {
  const found = await get(`/api/curate/pilots/${id}${address({ target })}`);
  const field = h("input", { type: "number", min: "1", max: "100000000", value: String(found.target), "aria-label": "Target number of images",
    onchange: () => field.checkValidity() && go({ view: "pilots", pilot: id, target: field.value }) });
  const plan = found.plan;
  return [
    panel(found.name, h("p", { class: "hint" }, `${images(found.images)}, each for ${count(found.annotations_per_image)} ${found.annotations_per_image === 1 ? "person" : "people"}; started by ${found.created_by} on ${when(found.created)}.`),
      h("progress", { max: String(found.wanted || 1), value: String(found.done), "aria-label": "Answers" }),
      h("div", { class: "figures" }, figure(`${count(found.done)} / ${count(found.wanted)}`, "answers"), figure(number(found.seconds, 1), "seconds per label (mean)"), figure(number(found.median, 1), "median"),
        figure(number(found.an_hour, 0), "labels per hour and person"), figure(number(found.flawed.seconds, 1), "seconds, with a mask"), figure(number(found.clean.seconds, 1), "seconds, clean"), figure(number(found.agreement.overall.iou), "mean pairwise IoU")),
      found.timed < found.labels ? h("p", { class: "hint" }, `${count(found.labels - found.timed)} labels without a usable time (none, or a pause of more than 30 minutes) are left out of the pace.`) : null),
    panel("What a campaign would take", h("div", { class: "line" }, h("label", { class: "switch" }, "Images to label", field), h("span", {}, `× ${count(found.annotations_per_image)} label${found.annotations_per_image === 1 ? "" : "s"} each`)),
      plan ? h("div", { class: "figures" }, figure(count(plan.labels), "labels"), figure(hours(plan.hours), "hours of work"), figure(`${hours(plan.low)} to ${hours(plan.high)}`, "95 % interval"), figure(hours(plan.hours / 6), "person-days of 6 hours"))
        : nothing("Nobody has labelled an image of this pilot yet."),
      plan && found.timed < 30 ? h("p", { class: "note" }, `Only ${count(found.timed)} timed labels: the interval assumes that they are typical.`) : null),
    panel("By person", table(["Annotator", "Labelled", "Skipped", "Seconds (mean)", "Median", "Labels per hour"], found.people.map((one) => [one.name, count(one.answered), count(one.skipped), number(one.seconds, 1), number(one.median, 1), number(one.an_hour, 0)]))),
    panel("Agreement by category", found.agreement.images ? table(["Category", "Compared", "IoU", "Alpha"], found.agreement.categories.map((one) => [one.name, count(one.compared), number(one.iou), number(one.alpha)]))
      : nothing(found.annotations_per_image > 1 ? "No image has labels of two people yet." : "Every image goes to one person, so there is nothing to compare.")),
  ];
}

function table(heads, rows) {
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((name) => h("th", {}, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, at) => h("td", { class: at ? "figure" : null }, value)))))));
}
