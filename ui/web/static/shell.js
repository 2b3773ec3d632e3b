// The header of every page: navigation, worker status, the signed-in user.
import { currentSession, get, post } from "/static/api.js";
import { h } from "/static/dom.js";

const WORKER_POLL_MS = 15000;

function brand() {
  return h("a", { href: "/", class: "brand" }, h("img", { src: "/static/mark.svg", alt: "" }), "Artifact Clinic");
}

function navigation(areas) {
  const here = location.pathname.replace(/\/$/, "");
  return h("nav", { "aria-label": "Areas" }, areas.map(({ path, title }) => h("a", { href: path, "aria-current": here === path ? "page" : null }, title)));
}

async function leave() {
  await post("/api/logout");
  location.assign("/login");
}

async function watchWorker(sign) {
  const show = (alive) => {
    sign.dataset.alive = alive;
    sign.firstChild.textContent = alive ? "worker running" : "no worker";
    sign.title = alive ? "A worker is running." : "Jobs start once a worker runs: clinic worker";
  };
  show((await currentSession()).worker);
  setInterval(async () => {
    if (!document.hidden) await get("/api/session").then(({ worker }) => show(worker), () => show(false));
  }, WORKER_POLL_MS);
}

async function draw() {
  const session = await currentSession();
  const worker = h("span", { class: "worker", role: "status" }, h("span"));
  const bar = h("header", { class: "clinic-bar" },
    brand(), navigation(session.areas), h("span", { class: "gap" }), worker,
    h("span", { class: "who" }, session.name), h("button", { type: "button", onclick: leave }, "Sign out"));
  document.body.prepend(bar);
  if (session.local) {
    bar.after(h("div", { class: "clinic-banner" }, "There are no accounts yet: only this computer can connect, and anyone with the start-up link has full access. Add people with ", h("code", {}, "clinic users add"), " or on the Admin desk."));
  }
  await watchWorker(worker);
}

draw();
