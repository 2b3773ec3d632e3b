// Small helpers of the curation desk: elements, addresses, messages. Text is only ever written as text.

import { post } from "/static/api.js";

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const query = () => Object.fromEntries(new URLSearchParams(location.search));

export function address(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `?${new URLSearchParams(kept)}`;
}

export const say = (text, bad = false) => {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.className = bad ? "toast bad" : "toast";
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, bad ? 9000 : 4000);
};

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

export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
export const count = (value) => value.toLocaleString("en");
export const when = (seconds) => new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

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

export function nothing(text) {
  return h("p", { class: "nothing" }, text);
}

export function people(names, label = "Who may take them") {
  if (!names.length) return h("p", { class: "hint" }, "Everybody who may annotate takes these images.");
  return h("fieldset", { class: "people" }, h("legend", {}, `${label} (nobody ticked: everybody)`),
    names.map((name) => h("label", {}, h("input", { type: "checkbox", name: "people", value: name }), name)));
}

export const ticked = (root) => [...root.querySelectorAll("input[name=people]:checked")].map((box) => box.value);

// The annotation page takes an image once it waits for this person; the label's map comes along as a draft.
export async function draw(image, author = null) {
  const opened = await tell(post("/api/curate/open", { image, author }));
  if (opened) location.assign(opened.url);
}
