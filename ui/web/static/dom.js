// Builds elements, reads and writes addresses, shows messages. Text is only ever written as text.

import { urlOf } from "./root.js";

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// Finds the parts of one of several alike things on a page: by id where there is one, by `data-id` in copies.
export const partsOf = (root) => (name) => root.querySelector(`#${name}, [data-id="${name}"]`);

const ADDRESSES = new Set(["href", "src", "action"]);

const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

// An HTML element: attributes, properties, `on…` listeners and a `style` object, then its children. Addresses are
// paths of ours.
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : ADDRESSES.has(name) ? urlOf(value) : value);
  }
  node.append(...present(children));
  return node;
}

// An SVG element.
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...present(children));
  return node;
}

// ---- addresses ----

export const query = () => Object.fromEntries(new URLSearchParams(location.search));

export function address(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `?${new URLSearchParams(kept)}`;
}

// ---- messages ----

export const say = (text, bad = false) => {
  const toast = $("toast");
  toast.textContent = text;
  toast.className = bad ? "toast bad" : "toast";
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, bad ? 9000 : 4000);
};

// Awaits a request; shows the error, or `success` (a text, or a function of the answer).
export async function tell(promise, success = "") {
  try {
    const answer = await promise;
    if (success) say(typeof success === "function" ? success(answer) : success);
    return answer;
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

// ---- shared components ----

export function select(name, label, values, chosen, change) {
  const options = values.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen ?? "") }, text));
  return h("label", { class: "field" }, h("span", {}, label), h("select", { name, onchange: change }, options));
}

export function input(name, label, type, value, more = {}) {
  return h("label", { class: "field" }, h("span", {}, label), h("input", { name, type, value: String(value), ...more }));
}

export function panel(title, ...children) {
  return h("section", { class: "card panel" }, title ? h("h2", {}, title) : null, children);
}

// What a place says while it is empty, with buttons for what fills it.
export function nothing(text, ...actions) {
  const said = h("p", { class: "nothing" }, text);
  return actions.length ? h("div", { class: "nothing-yet" }, said, h("div", { class: "line" }, actions)) : said;
}

// The buttons of an empty workspace.
export const importButton = (quiet = false) => h("a", { class: `button${quiet ? " quiet" : ""}`, href: "/import" }, "Import images");
