// The rounds desk: four views, every state of them in the address; what runs is looked at every few seconds.
import { address, h, query, say } from "/static/dom.js";
import { figures } from "./figures.js";
import { jobs } from "./jobs.js";
import { lineage } from "./lineage.js";
import { rounds } from "./timeline.js";

const VIEWS = { rounds, figures, lineage, jobs };
const POLL_MS = 3000;
const view = document.getElementById("view");
let turn = 0;
let timer = null;

async function show() {
  const asked = query();
  const name = Object.hasOwn(VIEWS, asked.view) ? asked.view : "rounds";
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const mine = ++turn;
  clearTimeout(timer);
  try {
    const root = h("div", { class: `view ${name}` });
    const again = await VIEWS[name](root, { asked, go });
    if (mine !== turn) return;
    view.replaceChildren(root);
    const look = async () => {
      if (mine !== turn) return;
      if (!document.hidden) await again().catch(() => {});
      if (mine === turn) timer = setTimeout(look, POLL_MS);
    };
    if (again) timer = setTimeout(look, POLL_MS);
  } catch (error) {
    if (error.status === 401) location.assign("/login?next=/rounds");
    else if (mine === turn) view.replaceChildren(h("p", { class: "note bad" }, error.message));
  }
  if (mine === turn) view.dataset.ready = name;
}

function go(values) {
  delete view.dataset.ready;
  history.pushState(null, "", address(values));
  return show();
}

document.querySelector(".desk").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-view], a[data-go]");
  if (!link || event.metaKey || event.ctrlKey || event.button) return;
  event.preventDefault();
  go(Object.fromEntries(new URL(link.href).searchParams));
});
addEventListener("popstate", show);
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong.", true));
show();
