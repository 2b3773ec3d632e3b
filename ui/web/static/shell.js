// The header of every page: navigation, worker status, the signed-in user.
import { currentSession, forgetSession, get, post } from "./api.js";
import { h } from "./dom.js";
import { here, urlOf } from "./root.js";

const WORKER_POLL_MS = 15000, FIRST_ACCOUNT_POLL_MS = 1500;

function brand() {
  return h("a", { href: "/", class: "brand" }, h("img", { src: "/static/mark.svg", alt: "" }), "Artifact Clinic");
}

function navigation(areas) {
  return h("nav", { "aria-label": "Areas" }, areas.map(({ path, title }) => h("a", { href: path, "aria-current": here() === path ? "page" : null }, title)));
}

// The first Tab stop of a page: past the bar, to what the page is about.
function skipLink() {
  return h("a", { class: "skip", href: "#content", onclick: (event) => {
    event.preventDefault();
    const shown = [...document.querySelectorAll("[data-content], main, [role=main]")].find((one) => one.checkVisibility());
    if (!shown) return;
    if (!shown.hasAttribute("tabindex")) shown.tabIndex = -1;
    shown.focus();
    shown.scrollIntoView({ block: "nearest" });
  } }, "Skip to content");
}

// On a narrow screen the navigation scrolls sideways: the page's own area is brought into view.
function showCurrent(nav) {
  const link = nav.querySelector("[aria-current]");
  if (link) nav.scrollLeft = link.offsetLeft - (nav.clientWidth - link.offsetWidth) / 2;
}

async function leave() {
  const { next } = await post("/api/logout");
  if (next) return location.assign(urlOf(next));
  location.assign(urlOf(`/login?${new URLSearchParams({ next: here() + location.search + location.hash })}`));
}

async function watchWorker(sign) {
  const show = (alive) => {
    sign.dataset.alive = alive;
    sign.firstChild.textContent = alive ? "worker running" : "no worker";
    sign.title = alive ? "A worker is running." : "Jobs start once a worker runs: clinic worker";
  };
  show((await currentSession()).worker);
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      show((await get("/api/session")).worker);
    } catch (error) {
      show(false);
      if (error.status === 401) clearInterval(timer); // signed out, perhaps in another tab: asking again is in vain
    }
  }, WORKER_POLL_MS);
}

// The first account signs its maker in: then the header names that person, and the banner goes.
function watchForFirstAccount(bar, banner) {
  const timer = setInterval(async () => {
    const { local } = await get("/api/session").catch(() => ({ local: true }));
    if (local) return;
    clearInterval(timer);
    forgetSession();
    bar.remove();
    banner.remove();
    await draw();
  }, FIRST_ACCOUNT_POLL_MS);
}

async function draw() {
  const session = await currentSession();
  const worker = h("span", { class: "worker", role: "status" }, h("span"));
  const nav = navigation(session.areas);
  const bar = h("header", { class: "clinic-bar" },
    skipLink(), brand(), nav, h("span", { class: "gap" }), worker,
    session.local ? h("span", { class: "who" }, session.name) : h("a", { class: "who", href: "/account", title: `Signed in as ${session.name}: password and sessions` }, session.name),
    h("button", { type: "button", onclick: leave }, "Sign out"));
  document.body.prepend(bar);
  new ResizeObserver(() => showCurrent(nav)).observe(nav);
  if (session.local) {
    const banner = h("div", { class: "clinic-banner" }, "There are no accounts yet: only this computer can connect, and anyone with the start-up link has full access. Add people with ", h("code", {}, "clinic users add"), " or on the Admin desk.");
    bar.after(banner);
    watchForFirstAccount(bar, banner);
  }
  await watchWorker(worker);
}

draw();
