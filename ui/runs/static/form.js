// A form built from the server's description of a configuration (ui/web/settings_form.py), and read back with its nesting.
import { h } from "../dom.js";

// fields → { node, read() → values, mark(message) }. `first` names the paths shown at the top; `replace` renders
// some paths differently: path → (field) → { node, read }; `unused` hides some: path → (values) → whether.
export function form(fields, { first = [], replace = {}, unused = {}, changed = () => {} } = {}) {
  const parts = fields.map((field) => part(field, field.name, replace));
  const node = h("div", { class: "settings" });
  const chosen = first.map((path) => find(parts, path)).filter(Boolean);
  const rest = h("div", { class: "rest" });
  for (const one of parts) rest.append(one.node);
  for (const one of chosen) node.append(one.node);
  const reset = h("button", { type: "button", class: "link", onclick: () => { for (const one of leaves(parts)) one.reset(); settle(); changed(); } });
  const search = h("input", { type: "search", placeholder: "Search settings", "aria-label": "Search settings", oninput: () => filter(rest, search.value) });
  node.append(h("p", { class: "line resets", role: "status" }, reset), h("details", { class: "all" }, h("summary", {}, "All settings"), h("div", { class: "line" }, search), rest));
  for (const group of rest.querySelectorAll("fieldset.group:not(.list)")) if (!group.querySelector(":scope > .fields > *")) group.remove();
  const settle = () => {
    const values = collect(parts), edited = leaves(parts).filter((one) => one.compare());
    reset.parentElement.hidden = !edited.length;
    reset.textContent = `Reset ${edited.length} changed setting${edited.length === 1 ? "" : "s"} to the preset`;
    for (const [path, hides] of Object.entries(unused)) find(parts, path)?.node.classList.toggle("unused", hides(values));
  };
  node.addEventListener("input", () => settle());  // before the next click, which a moving page would lose
  node.addEventListener("change", () => { unmark(node); settle(); changed(); });
  settle();
  return { node, read: () => collect(parts), mark: (message) => { unmark(node); mark(parts, message); } };
}

function unmark(node) {
  for (const bad of node.querySelectorAll(".wrong")) bad.classList.remove("wrong");
  for (const text of node.querySelectorAll(".problem")) text.remove();
}

// Every single setting; lists and optional groups count as one.
const leaves = (parts) => parts.flatMap((one) => (one.compare ? [one] : leaves(one.parts ?? [])));

// Shows the settings that have every word in label, name or help.
function filter(rest, text) {
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of rest.querySelectorAll(".setting")) {
    const own = `${one.textContent} ${one.dataset.path ?? ""}`.toLowerCase();
    one.classList.toggle("unfound", !wanted.every((word) => own.includes(word)));
  }
  for (const group of [...rest.querySelectorAll("fieldset.group")].reverse()) {
    group.classList.toggle("unfound", wanted.length > 0 && ![...group.querySelectorAll(".setting")].some((one) => !one.classList.contains("unfound")));
  }
}

const collect = (parts) => Object.fromEntries(parts.map((one) => [one.name, one.read()]));

function find(parts, path) {
  const [name, ...more] = path.split(".");
  const found = parts.find((one) => one.name === name);
  return !found || !more.length ? found : find(found.parts ?? [], more.join("."));
}

// An error message starts with the path of its field.
function mark(parts, message) {
  const path = message.match(/^[\w.]+/)?.[0].split(".") ?? [];
  let field = null, level = parts;
  for (const name of path) {
    const next = (level ?? []).find((one) => one.name === name);
    if (!next) break;
    [field, level] = [next, next.parts];
  }
  if (!field) return;
  const reason = message.replace(/^[\w.]+(?: is .*?)?: /, "");
  field.node.append(h("span", { class: "problem" }, reason[0].toUpperCase() + reason.slice(1)));
  for (let up = field.node.parentElement; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  field.node.classList.add("wrong");
  field.node.scrollIntoView({ block: "center" });
}

function part(field, path, replace) {
  const build = () => (replace[path] ? replace[path](field) : KINDS[field.kind](field, path, replace));
  const made = build();
  made.name = field.name;
  made.node.dataset.path = path;
  if (!made.parts || field.optional || field.kind === "list") watchChange(made, build, path);
  return made;
}

// Marks a setting that differs from the preset, and takes it back to it.
function watchChange(made, build, path) {
  const before = JSON.stringify(made.read());
  const back = h("button", { type: "button", class: "link back", "aria-label": `Reset to the preset`, onclick: () => {
    made.reset();
    made.node.dispatchEvent(new Event("change", { bubbles: true }));
    made.node.querySelector("input, select, textarea")?.focus();
  } }, "Reset");
  made.compare = () => {
    const differs = JSON.stringify(made.read()) !== before;
    made.node.classList.toggle("changed", differs);
    if (differs && !back.isConnected) (made.node.querySelector(":scope > .name, :scope > legend") ?? made.node).append(" ", back);
    if (!differs) back.remove();
    return differs;
  };
  made.reset = () => {
    if (JSON.stringify(made.read()) === before) return;
    const again = build();
    again.node.dataset.path = path;
    made.node.replaceWith(again.node);
    Object.assign(made, again);
  };
}

const unitOf = (field) => (field.unit ? h("i", { class: "unit" }, field.unit) : null);

// What a number may be, in words.
function range({ low, high, above, below }) {
  const [least, most] = [low, high].map((value) => (value === undefined ? null : value.toLocaleString("en", { maximumFractionDigits: 6 })));
  if (least !== null && most !== null) return `${above ? "above " : ""}${least} to ${below ? "below " : ""}${most}`;
  if (least !== null) return `${above ? "more than" : "at least"} ${least}`;
  return most === null ? "" : `${below ? "less than" : "at most"} ${most}`;
}

let named = 0;

// Its label names a control, and its help describes it: a screen reader says the help after the name, and only
// where asked. The two ends of a range are named apart.
export function labelled(field, control, extra = "") {
  const id = `setting-${++named}`;
  const name = h("span", { class: "name", id }, field.label, unitOf(field)), help = field.help ? h("small", { id: `${id}-help` }, field.help) : null;
  const controls = [control, ...control.querySelectorAll("input, select, textarea")].filter((one) => one.matches("input, select, textarea"));
  const unnamed = controls.filter((one) => !one.hasAttribute("aria-label"));
  for (const [place, one] of unnamed.entries()) {
    if (unnamed.length === 1) one.setAttribute("aria-labelledby", id);
    else one.setAttribute("aria-label", `${field.label}, ${place ? "high" : "low"} end`);
  }
  for (const one of controls) {
    if (help) one.setAttribute("aria-describedby", help.id);
  }
  return h("label", { class: `setting ${field.kind} ${extra}`, title: "" }, name, control, help);
}

// Several controls under one name.
export function grouped(field, control) {
  const id = `setting-${++named}`;
  return h("div", { class: `setting ${field.kind}`, role: "group", "aria-labelledby": id }, h("span", { class: "name", id }, field.label, unitOf(field)), control, h("small", {}, field.help));
}

function simple(field, control, parse) {
  return { node: labelled(field, field.suggestions ? completed(field, control) : control), read: () => parse(control.value.trim()) };
}

let lists = 0;

// Completion of a field from its suggestions; in a list of words, of the last one.
function completed(field, control) {
  const list = h("datalist", { id: `suggestions-${++lists}` });
  const before = () => (field.kind === "words" ? control.value.match(/^.*,\s*/)?.[0] ?? "" : "");
  const fill = () => list.replaceChildren(...field.suggestions.map(([value, name]) => h("option", { value: before() + value }, name)));
  control.setAttribute("list", list.id);
  control.addEventListener("input", fill);
  fill();
  return h("span", { class: "completed" }, control, list);
}

const words = (text) => text.split(/[\n,]/).map((one) => one.trim()).filter(Boolean);
const number = (text) => (text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text));

const KINDS = {
  number(field) {
    const limits = { min: field.low, max: field.high };
    const control = h("input", { type: "number", step: field.whole ? "1" : "any", ...Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined).map(([name, value]) => [name, String(value)])), value: field.value === null ? "" : String(field.value), placeholder: field.optional ? "not set" : "", autocomplete: "off", title: range(field) });
    return simple(field, control, number);
  },
  text(field) {
    const control = h("input", { type: "text", value: field.value ?? "", placeholder: field.optional ? "not set" : "", autocomplete: "off" });
    return simple(field, control, (text) => (text === "" && field.optional ? null : text));
  },
  choice(field) {
    const options = [...(field.optional ? [["", "not set"]] : []), ...field.options.map((one) => [one, field.texts?.[one] ?? String(one)])];
    const control = h("select", {}, options.map(([value, text]) => h("option", { value: String(value), selected: String(value) === String(field.value ?? "") }, text)));
    return { node: labelled(field, control), read: () => field.options.find((one) => String(one) === control.value) ?? null };
  },
  switch(field) {
    const control = h("input", { type: "checkbox", checked: Boolean(field.value) });
    return { node: labelled(field, control), read: () => control.checked };
  },
  words(field) {
    const control = h("input", { type: "text", value: (field.value ?? []).join(", "), placeholder: "comma-separated", autocomplete: "off" });
    return simple(field, control, words);
  },
  several(field) {
    const boxes = field.options.map((one) => h("input", { type: "checkbox", value: one, checked: (field.value ?? []).includes(one) }));
    const control = h("span", { class: "boxes" }, boxes.map((box, i) => h("label", {}, box, field.options[i])));
    return { node: grouped(field, control), read: () => boxes.filter((box) => box.checked).map((box) => box.value) };
  },
  pair(field) {
    const given = field.value ?? ["", ""];
    const inputs = given.map((value) => h("input", { type: "text", inputmode: "decimal", value: String(value), autocomplete: "off" }));
    const control = h("span", { class: "pair" }, inputs[0], "–", inputs[1]);
    return { node: labelled(field, control), read: () => {
      const values = inputs.map((one) => number(one.value.trim()));
      return field.optional && values.every((one) => one === null) ? null : values;
    } };
  },
  shares(field) {
    const inputs = field.options.map((key) => h("input", { type: "text", inputmode: "decimal", value: field.value?.[key] === undefined ? "" : String(field.value[key]), placeholder: "–", autocomplete: "off" }));
    const control = h("span", { class: "shares" }, inputs.map((one, i) => h("label", {}, field.options[i], one)));
    return { node: grouped(field, control), read: () => Object.fromEntries(field.options.map((key, i) => [key, number(inputs[i].value.trim())]).filter(([, value]) => value !== null)) };
  },
  json(field) {
    const control = h("textarea", { rows: 3, spellcheck: false });
    control.value = field.value === null ? "" : JSON.stringify(field.value);
    return { node: labelled(field, control), read: () => {
      const text = control.value.trim();
      if (text === "") return field.optional ? null : text;
      try { return JSON.parse(text); } catch { return text; }
    } };
  },
  list(field, path, replace) {
    const parts = [], body = h("div", { class: "rows" });
    const number = () => parts.forEach((one, i) => { one.name = String(i); });
    const add = (fields) => {
      const inner = fields.map((one) => part(one, `${path}.${one.name}`, replace));
      const row = { parts: inner, read: () => collect(inner) };
      const remove = h("button", { type: "button", class: "button quiet", onclick: () => {
        parts.splice(parts.indexOf(row), 1);
        row.node.remove();
        number();
        body.dispatchEvent(new Event("change", { bubbles: true }));
      } }, "Remove");
      row.node = h("div", { class: "fields" }, inner.map(({ node }) => node), h("div", { class: "line" }, remove));
      parts.push(row);
      body.append(row.node);
      number();
    };
    field.rows.forEach(add);
    const more = h("button", { type: "button", class: "button quiet", onclick: () => add(field.fields) }, "Add");
    const node = h("fieldset", { class: "group list" }, h("legend", {}, field.label), field.help ? h("small", {}, field.help) : null, body, h("div", { class: "line" }, more));
    return { node, parts, read: () => parts.map((one) => one.read()) };
  },
  group(field, path, replace) {
    const parts = field.fields.map((one) => part(one, `${path}.${one.name}`, replace));
    const body = h("div", { class: "fields" }, parts.map(({ node }) => node));
    const on = field.optional ? h("input", { type: "checkbox", checked: field.value !== null, onchange: () => { body.hidden = !on.checked; } }) : null;
    body.hidden = on ? !on.checked : false;
    const title = on ? h("label", {}, on, " ", field.label) : field.label;
    const node = h("fieldset", { class: "group" }, h("legend", {}, title), field.help ? h("small", {}, field.help) : null, body);
    return { node, parts, read: () => (on && !on.checked ? null : collect(parts)) };
  },
};
