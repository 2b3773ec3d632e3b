// A form built from the server's description of a configuration (ui/web/settings_form.py), and read back with its nesting.
import { h } from "/static/dom.js";

// fields → { node, read() → values, mark(path, message) }. `first` names the paths shown at the top;
// `replace` renders some paths differently: path → (field) → { node, read }.
export function form(fields, { first = [], replace = {}, changed = () => {} } = {}) {
  const parts = fields.map((field) => part(field, field.name, replace));
  const node = h("div", { class: "settings" });
  const chosen = first.map((path) => find(parts, path)).filter(Boolean);
  const rest = h("div", { class: "rest" });
  for (const one of parts) rest.append(one.node);
  for (const one of chosen) node.append(one.node);
  node.append(h("details", { class: "all" }, h("summary", {}, "All settings"), rest));
  for (const group of rest.querySelectorAll("fieldset.group:not(.list)")) if (!group.querySelector(":scope > .fields > *")) group.remove();
  node.addEventListener("change", () => { for (const bad of node.querySelectorAll(".wrong")) bad.classList.remove("wrong"); changed(); });
  return { node, read: () => collect(parts), mark: (message) => mark(parts, message) };
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
  for (let up = field.node.parentElement; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  field.node.classList.add("wrong");
  field.node.scrollIntoView({ block: "center" });
}

function part(field, path, replace) {
  const made = replace[path] ? replace[path](field) : KINDS[field.kind](field, path, replace);
  made.name = field.name;
  made.node.dataset.path = path;
  return made;
}

function labelled(field, control, extra = "") {
  return h("label", { class: `setting ${field.kind} ${extra}`, title: "" }, h("span", { class: "name" }, field.label), control, field.help ? h("small", {}, field.help) : null);
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
    const control = h("input", { type: "text", inputmode: "decimal", value: field.value === null ? "" : String(field.value), placeholder: field.optional ? "not set" : "", autocomplete: "off" });
    return simple(field, control, number);
  },
  text(field) {
    const control = h("input", { type: "text", value: field.value ?? "", placeholder: field.optional ? "not set" : "", autocomplete: "off" });
    return simple(field, control, (text) => (text === "" && field.optional ? null : text));
  },
  choice(field) {
    const options = [...(field.optional ? [["", "not set"]] : []), ...field.options.map((one) => [one, String(one)])];
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
    const node = h("div", { class: "setting several" }, h("span", { class: "name" }, field.label), control, h("small", {}, field.help));
    return { node, read: () => boxes.filter((box) => box.checked).map((box) => box.value) };
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
    const node = h("div", { class: "setting shares" }, h("span", { class: "name" }, field.label), control, h("small", {}, field.help));
    return { node, read: () => Object.fromEntries(field.options.map((key, i) => [key, number(inputs[i].value.trim())]).filter(([, value]) => value !== null)) };
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
