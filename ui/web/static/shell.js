// The bar on top of every page: where this person may go, whether a worker lives, who is signed in.
import { currentSession, get, post } from "/static/api.js";

const WORKER_POLL_MS = 15000;

function element(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function brand() {
  const link = element("a", "", { href: "/", class: "brand" });
  link.append(element("img", "", { src: "/static/mark.svg", alt: "" }), "Artifact Clinic");
  return link;
}

function navigation(areas) {
  const nav = element("nav", "", { "aria-label": "Areas" });
  for (const { path, title } of areas) {
    const link = element("a", title, { href: path });
    if (location.pathname.replace(/\/$/, "") === path) link.setAttribute("aria-current", "page");
    nav.append(link);
  }
  return nav;
}

async function leave() {
  await post("/api/logout");
  location.assign("/login");
}

async function watchWorker(sign) {
  const show = (alive) => {
    sign.dataset.alive = alive;
    sign.firstChild.textContent = alive ? "worker running" : "no worker";
    sign.title = alive ? "Jobs are being worked on." : "Jobs wait until a worker starts: clinic worker";
  };
  show((await currentSession()).worker);
  setInterval(async () => {
    if (!document.hidden) await get("/api/session").then(({ worker }) => show(worker), () => show(false));
  }, WORKER_POLL_MS);
}

async function draw() {
  const session = await currentSession();
  const bar = element("header", "", { class: "clinic-bar" });
  const worker = element("span", "", { class: "worker", role: "status" });
  worker.append(element("span"));
  const out = element("button", "Sign out", { type: "button" });
  out.addEventListener("click", leave);
  bar.append(
    brand(), navigation(session.areas), element("span", "", { class: "gap" }), worker,
    element("span", session.name, { class: "who" }), out,
  );
  document.body.prepend(bar);
  if (session.local) {
    const banner = element("div", "There are no accounts yet: only this computer can connect, and whoever has the start-up link may do everything. Add people with ", { class: "clinic-banner" });
    banner.append(element("code", "clinic users add"), " or on the Admin desk.");
    bar.after(banner);
  }
  await watchWorker(worker);
}

draw();
