// Blind studies: judging for raters; making, watching and closing for makers. The address holds the view.
import { get } from "/static/api.js";
import { address, h, query, say } from "/static/dom.js";
import { judge } from "./judge.js";
import { list } from "./list.js";
import { make } from "./make.js";
import { results } from "./results.js";

const VIEWS = { list, judge, make, results };
const view = document.getElementById("view");
let turn = 0;
let leave = null;

async function show() {
  const asked = query();
  const name = Object.hasOwn(VIEWS, asked.view) ? asked.view : "list";
  const mine = ++turn;
  leave?.();
  leave = null;
  try {
    const desk = await get("/api/study");
    const root = h("div", { class: `view ${name}` });
    const end = await VIEWS[name](root, { desk, asked, go, current: () => mine === turn });
    if (mine !== turn) return end?.();
    leave = end ?? null;
    document.body.dataset.view = name;
    view.replaceChildren(root);
  } catch (error) {
    if (error.status === 401) location.assign("/login?next=/study");
    else if (mine === turn) view.replaceChildren(h("p", { class: "note bad" }, error.message), h("a", { href: "/study" }, "All studies"));
  }
  if (mine === turn) view.dataset.ready = name;
}

function go(values) {
  delete view.dataset.ready;
  history.pushState(null, "", address(values));
  scrollTo(0, 0);
  return show();
}

view.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-go]");
  if (!link || event.metaKey || event.ctrlKey || event.button) return;
  event.preventDefault();
  go(Object.fromEntries(new URL(link.href).searchParams));
});
addEventListener("popstate", show);
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong.", true));
show();
