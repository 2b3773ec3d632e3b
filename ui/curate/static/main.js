// The curation desk: one page, six views, every state of them in the address.
import { get } from "/static/api.js";
import { address, h, query, say } from "/static/dom.js";
import { benchmark } from "./benchmark.js";
import { balance, categories } from "./categories.js";
import { images } from "./grid.js";
import { people } from "./people.js";
import { review } from "./review.js";

const VIEWS = { images, categories, review, benchmark, balance, people };
const view = document.getElementById("view");
let choices = null;
let turn = 0;

async function show() {
  const asked = query();
  const name = Object.hasOwn(VIEWS, asked.view) ? asked.view : "images";
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const mine = ++turn;
  view.dataset.view = name;
  try {
    choices ??= await get("/api/curate/choices");
    const root = h("div", { class: `view ${name}` });
    await VIEWS[name](root, { choices, asked, go, current: () => mine === turn });
    if (mine === turn) view.replaceChildren(root);
  } catch (error) {
    if (error.status === 401) location.assign(`/login?next=/curate`);
    else if (mine === turn) view.replaceChildren(h("p", { class: "note bad" }, error.message));
  }
  if (mine === turn) view.dataset.ready = name;
}

function go(values, keepChoices = true) {
  if (!keepChoices) choices = null;
  delete view.dataset.ready;
  history.pushState(null, "", address(values));
  return show();
}

document.getElementById("views").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-view]");
  if (!link || event.metaKey || event.ctrlKey || event.button) return;
  event.preventDefault();
  go({ view: link.dataset.view });
});
addEventListener("popstate", show);
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong.", true));
show();
