// Which view an address shows. Links that begin with "?" stay on the page; a view that is slower than the
// next click is never shown.
import { h, say } from "/static/dom.js";

// `home` is the page's address, `name` what a person calls it; `choose` gives the view's function.
export function route(home, name, choose) {
  const place = document.getElementById("view");
  let turn = 0;

  async function show() {
    const mine = ++turn;
    const root = h("div", { class: "view" });
    delete place.dataset.ready;
    try {
      await choose()(root);
      if (mine === turn) place.replaceChildren(root);
    } catch (error) {
      if (error.status === 401) return location.assign(`/login?next=${home}`);
      if (mine === turn) place.replaceChildren(h("p", { class: "crumb" }, h("a", { href: home }, `← ${name}`)), h("p", { class: "note bad" }, error.message));
    }
    if (mine === turn) place.dataset.ready = "yes";
  }

  place.addEventListener("click", (event) => {
    const link = event.target.closest(`a[href^='?'], a[href='${home}']`);
    if (!link || event.metaKey || event.ctrlKey || event.button) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    show();
    scrollTo(0, 0);
  });
  addEventListener("popstate", show);
  addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong.", true));
  show();
  return show;
}
