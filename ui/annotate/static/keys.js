// Keys: what each does, how a press is recognised on any layout, and remapping, kept in this browser.
//
// Letters go by what is printed on the key (AZERTY, QWERTZ), or by place where the layout writes no Latin letters;
// digits and brackets go by either, since they need Shift or AltGr on some layouts.

export const ACTIONS = [
  ["next-region", "Tab", "next suggestion (while the image has the focus)"],
  ["previous-region", "Shift+Tab", "previous suggestion"],
  ["accept", "A", "accept the suggestion"],
  ["reject", "X", "reject the suggestion"],
  ["accept-all", "Shift+A", "accept all suggestions that are left"],
  ["class-1", "1", "class 1, likewise 2, 3 …"],
  ["select", "V", "suggestions: click accepts, right click rejects"],
  ["brush", "B", "brush"],
  ["eraser", "E", "eraser"],
  ["lasso", "L", "lasso: draw around it, or click corner by corner"],
  ["fill", "F", "fill an outline that is closed"],
  ["wand", "W", "magic wand: draw a loop around it"],
  ["assist", "G", "segment anything: click on it or drag a box around it (where a model is set up)"],
  ["smaller", "[", "smaller brush"],
  ["larger", "]", "larger brush"],
  ["undo", "Ctrl+Z", "undo"],
  ["redo", "Ctrl+Shift+Z", "redo"],
  ["hide", "H", "hide or show map, outlines and labels"],
  ["pan", "Space", "hold and drag to move the image"],
  ["zoom-in", "+", "closer (also the wheel and two fingers)"],
  ["zoom-out", "-", "further away"],
  ["fit", "0", "the whole image"],
  ["submit", "Enter", "submit and next"],
  ["clean", "C", "clean: no artifacts, and next"],
  ["skip", "S", "skip, with a reason"],
  ["previous", "Backspace", "back to the previous image"],
  ["triage", "T", "triage: many images at a glance"],
  ["comment", "M", "comment on the image"],
  ["guide", "I", "what counts as an artifact"],
  ["help", "?", "all keys"],
];

const STORE = "clinic.keys";
const CODES = { "[": "BracketLeft", "]": "BracketRight", "-": "Minus", "+": "Equal" };

let chosen = {};
try {
  chosen = JSON.parse(localStorage.getItem(STORE) ?? "{}");
} catch {
  localStorage.removeItem(STORE);
}

export const keyOf = (action) => chosen[action] ?? ACTIONS.find(([name]) => name === action)[1];

// The press as it is written down: "Ctrl+Shift+Z", "A", "[", "Space".
export function written(event) {
  let key = event.key === " " ? "Space" : event.key;
  const letter = /^Key([A-Z])$/.exec(event.code ?? "")?.[1], digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code ?? "")?.[1];
  const latin = /^[a-z]$/i.test(key);
  if (!latin && letter && !/^[\x20-\x7e]$/.test(key) && key.length === 1) key = letter;
  else if (digit && !event.getModifierState?.("AltGraph")) key = digit;
  if (key.length === 1) key = key.toUpperCase();
  const shifted = event.shiftKey && (/^[A-Z]$/.test(key) || key.length > 1);
  const held = (event.ctrlKey || event.metaKey) && !event.getModifierState?.("AltGraph");
  return `${held ? "Ctrl+" : ""}${shifted ? "Shift+" : ""}${key}`;
}

export function actionOf(event) {
  if (event.altKey && !event.getModifierState?.("AltGraph")) return null;
  const press = written(event);
  const classes = /^([1-9])$/.exec(press);
  const found = ACTIONS.find(([action]) => keyOf(action) === press);
  if (found && !/^class-/.test(found[0])) return found[0];
  if (classes) return `class-${classes[1]}`;
  // Brackets and signs by their place, where the layout has them elsewhere.
  const byPlace = ACTIONS.find(([action]) => CODES[keyOf(action)] && CODES[keyOf(action)] === event.code);
  return byPlace && !press.startsWith("Ctrl+") && !/^[A-Z0-9?]$/.test(press) ? byPlace[0] : null;
}

// Gives an action another key; returns the action that had it before, or null.
export function remap(action, press) {
  const before = ACTIONS.find(([name]) => name !== action && keyOf(name) === press)?.[0] ?? null;
  if (before) chosen[before] = keyOf(action);
  chosen[action] = press;
  localStorage.setItem(STORE, JSON.stringify(chosen));
  return before;
}

export function resetKeys() {
  chosen = {};
  localStorage.removeItem(STORE);
}
