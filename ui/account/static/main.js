// The own account: change the password, see and end sessions, create and revoke API tokens.
import { currentSession, forgetSession, get, post } from "/static/api.js";
import { $, h, input, panel, query, select, tell } from "/static/dom.js";
import { when } from "/static/format.js";

const SHORTEST = 10;

// Where to go on after a forced change: a path of this server, else the home page.
function target() {
  const next = new URL(query().next ?? "/", location.origin);
  return next.origin === location.origin ? next.pathname + next.search + next.hash : "/";
}

function passwordForm(account) {
  const problem = h("p", { class: "note bad", role: "alert", hidden: true });
  const field = (name, label, complete, more = {}) => input(name, label, "password", "", { autocomplete: complete, maxlength: "1024", required: true, ...more });
  const form = h("form", { onsubmit: change },
    h("input", { type: "text", name: "username", autocomplete: "username", value: account.name, hidden: true }),
    field("current", "Current password", "current-password"),
    field("password", `New password (${SHORTEST} characters or more)`, "new-password", { minlength: String(SHORTEST) }),
    field("again", "New password again", "new-password"),
    problem, h("button", { class: "button" }, "Change password"));

  const show = (text) => { problem.textContent = text; problem.hidden = !text; };

  async function change(event) {
    event.preventDefault();
    const { current, password, again } = form.elements;
    if (password.value !== again.value) return show("The two new passwords differ.");
    try {
      await post("/api/account/password", { current: current.value, password: password.value });
    } catch (error) {
      return show(`${error.message[0].toUpperCase()}${error.message.slice(1)}.`);
    }
    if (account.must_change) return location.assign(target());
    await draw();
    await tell(Promise.resolve(), "Password changed. Other browsers are signed out.");
  }
  return form;
}

function sessionRow(session, again) {
  const end = () => tell(post("/api/account/sessions/end", { id: session.id }), "Signed out there.").then(again);
  return h("tr", {},
    h("td", {}, session.client || "unknown browser", session.current ? h("b", { class: "here" }, "this browser") : null),
    h("td", {}, when(session.created)), h("td", {}, when(session.expires)),
    h("td", {}, session.current ? null : h("button", { class: "button quiet small", type: "button", onclick: end }, "Sign out")));
}

function sessionsPanel({ sessions }) {
  const others = () => tell(post("/api/account/sessions/end"), ({ ended }) => `Signed out of ${ended} other ${ended === 1 ? "browser" : "browsers"}.`).then(draw);
  return panel("Signed in",
    h("div", { class: "wide" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Browser", "Since", "Until"].map((name) => h("th", { scope: "col" }, name)), h("td"))),
      h("tbody", {}, sessions.map((session) => sessionRow(session, draw))))),
    sessions.length > 1 ? h("p", {}, h("button", { class: "button quiet", type: "button", onclick: others }, "Sign out everywhere else")) : null);
}

function tokenRow(token) {
  const revoke = () => tell(post("/api/account/tokens/revoke", { id: token.id }), `API token ${token.name} revoked.`).then(draw);
  return h("tr", { class: token.ended ? "ended" : "" },
    h("td", {}, token.name), h("td", {}, token.roles.join(", ")), h("td", {}, token.used ? when(token.used) : "never"),
    h("td", {}, token.ended ?? (token.expires ? when(token.expires) : "never")),
    h("td", {}, token.ended ? null : h("button", { class: "button quiet small", type: "button", onclick: revoke }, "Revoke")));
}

function tokenForm({ roles, days }) {
  const problem = h("p", { class: "note bad", role: "alert", hidden: true });
  const made = h("div", { class: "made", role: "status", hidden: true });
  const terms = [30, days, 365].map((each) => [String(each), `after ${each} days`]).concat([["never", "never"]]);
  const form = h("form", { onsubmit: create },
    input("name", "Name, such as the program’s", "text", "", { maxlength: "64", required: true, autocomplete: "off" }),
    h("fieldset", {}, h("legend", {}, "Roles"), roles.map((role) => h("label", {}, h("input", { type: "checkbox", name: "role", value: role, checked: roles.length === 1 }), ` ${role}`))),
    select("days", "Expires", terms, days),
    problem, h("button", { class: "button" }, "Create API token"), made);

  async function create(event) {
    event.preventDefault();
    problem.hidden = true;
    const chosen = [...form.querySelectorAll("[name=role]:checked")].map((box) => box.value);
    const term = form.elements.days.value;
    const until = term === "never" ? term : Number(term);
    try {
      const { token } = await post("/api/account/tokens", { name: form.elements.name.value, roles: chosen, days: until });
      await draw();
      const shown = $("view").querySelector(".made");
      shown.replaceChildren(h("p", {}, "Copy the token now; it is not shown again."), h("code", {}, token));
      shown.hidden = false;
    } catch (error) {
      problem.textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
      problem.hidden = false;
    }
  }
  return form;
}

function tokensPanel(listed) {
  const table = h("div", { class: "wide" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Name", "Roles", "Last used", "Until"].map((name) => h("th", { scope: "col" }, name)), h("td"))),
    h("tbody", {}, listed.tokens.map(tokenRow))));
  return panel("API tokens",
    h("p", {}, "Programs send one as ", h("code", {}, "Authorization: Bearer …"), "; what they can ask for is under ", h("a", { href: "/api/docs" }, "API"), "."),
    listed.tokens.length ? table : null, tokenForm(listed));
}

async function draw() {
  const view = $("view");
  try {
    forgetSession();
    await currentSession();
    const [account, tokens] = await Promise.all([get("/api/account"), get("/api/account/tokens").catch(() => null)]);
    view.replaceChildren(h("h1", {}, account.local ? "No accounts yet" : account.name), ...body(account, tokens));
    view.dataset.ready = "account";
  } catch (error) {
    if (error.status === 401) return location.assign("/login?next=/account");
    view.replaceChildren(h("p", { class: "note bad" }, error.message));
  }
}

function body(account, tokens) {
  if (account.local) return [h("p", { class: "lead" }, "Add the first account, an admin’s, on the Admin desk; it will be yours.")];
  const roles = h("p", { class: "lead" }, account.roles.length === 1 ? `Role: ${account.roles[0]}` : `Roles: ${account.roles.join(", ")}`);
  if (account.guest) return [roles, h("p", {}, "You joined by a link and have no password. The account ends with the link.")];
  const due = account.must_change ? h("p", { class: "note" }, "An admin chose your password. Choose one that only you know, then continue.") : null;
  return [roles, due, panel("Password", passwordForm(account)), account.must_change ? null : sessionsPanel(account), account.must_change || !tokens ? null : tokensPanel(tokens)].filter(Boolean);
}

draw();
