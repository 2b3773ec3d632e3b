// Client-side routing. The whole state of a page is in its address, links that begin with "?" stay on the page,
// and a view that loads more slowly than the next click is never shown.
import { urlOf } from "./root.js";
import { $, address, h, query, say } from "./dom.js";

const REFRESH_MS = 3000;

// `home` is the page's address, `title` what its link is called. `views` maps names to functions that fill
// `root`: view(root, { asked, go, again, current, ...prepared }). The first view is shown when the query names
// no other; `nameOf(asked)` says what it names. `prepare()` resolves to further entries of every view's context.
//
// A view may resolve to { refresh, leave }: `refresh` is called every few seconds while the view is shown,
// `leave` once, when another takes its place.
export function router({ home, title, views, nameOf = (asked) => asked.view, prepare = async () => ({}) }) {
  const view = $("view"), tabs = $("views");
  const [first] = Object.keys(views);
  let turn = 0, timer = 0, leave = null;

  function named() {
    const name = nameOf(query());
    return Object.hasOwn(views, name) ? name : first;
  }

  async function show() {
    const mine = ++turn, asked = query(), name = named();
    const current = () => mine === turn;
    clearTimeout(timer);
    leave?.();
    leave = null;
    delete view.dataset.ready;
    for (const link of tabs?.querySelectorAll("a[data-view]") ?? []) {
      if (link.dataset.view === name) {
        link.setAttribute("aria-current", "page");
        tabs.scrollLeft = link.offsetLeft - (tabs.clientWidth - link.offsetWidth) / 2; // on a phone they scroll
      } else link.removeAttribute("aria-current");
    }
    try {
      const root = h("div", { class: `view ${name}` });
      const prepared = await prepare();
      const shown = await views[name](root, { asked, go, again: show, current, ...prepared });
      if (!current()) return shown?.leave?.();
      leave = shown?.leave ?? null;
      document.body.dataset.view = name;
      view.replaceChildren(root);
      if (shown?.refresh) keepFresh(shown.refresh, current);
    } catch (error) {
      if (error.status === 401) return location.assign(urlOf(`/login?next=${home}`));
      if (current()) view.replaceChildren(h("p", { class: "crumb" }, h("a", { href: home }, `← ${title}`)), h("p", { class: "note bad" }, error.message));
    }
    if (current()) view.dataset.ready = name;
  }

  function keepFresh(refresh, current) {
    timer = setTimeout(async () => {
      if (!document.hidden) await refresh().catch(() => {});
      if (current()) keepFresh(refresh, current);
    }, REFRESH_MS);
  }

  // Shows the view that these values name; a new view starts at its top.
  function go(values = {}, { replace = false } = {}) {
    const before = named(), to = address(values);
    history[replace ? "replaceState" : "pushState"](null, "", to === "?" ? urlOf(home) : to);
    if (named() !== before) scrollTo(0, 0);
    return show();
  }

  function follow(event) {
    const link = event.target.closest(`a[href^='?'], a[href='${urlOf(home)}']`);
    if (!link || event.defaultPrevented || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    scrollTo(0, 0);
    show();
  }

  view.addEventListener("click", follow);
  tabs?.addEventListener("click", follow);
  addEventListener("popstate", show);
  addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong.", true));
  show();
}
