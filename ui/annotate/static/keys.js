// Keyboard shortcuts: actions, recognition on any keyboard layout, and remapping, stored in this browser.
//
// Letters follow the keyboard layout (AZERTY, QWERTZ), or the key's position if the layout has no Latin letters.
// Digits and brackets match either, because some layouts need Shift or AltGr for them.

export const ACTIONS = [
  ["next-region", "Tab", "Next suggestion (while the image has focus)"],
  ["previous-region", "Shift+Tab", "Previous suggestion"],
  ["accept", "A", "Accept the suggestion"],
  ["reject", "X", "Reject the suggestion"],
  ["accept-all", "Shift+A", "Accept all open suggestions"],
  ["class-1", "1", "Class 1, likewise 2, 3 …"],
  ["select", "V", "Suggestions: click accepts, right-click rejects"],
  ["brush", "B", "Brush"],
  ["eraser", "E", "Eraser"],
  ["lasso", "L", "Lasso: draw around an area, or click its corners"],
  ["fill", "F", "Fill a closed outline"],
  ["wand", "W", "Magic wand: draw a loop around an area"],
  ["assist", "G", "Segment anything: click an object, or drag a box around it (if a model is registered)"],
  ["smaller", "[", "Smaller brush"],
  ["larger", "]", "Larger brush"],
  ["undo", "Ctrl+Z", "Undo"],
  ["redo", "Ctrl+Shift+Z", "Redo"],
  ["hide", "H", "Show or hide map, outlines and labels"],
  ["smooth", "P", "Smooth or crisp pixels"],
  ["pan", "Space", "Hold and drag to pan"],
  ["zoom-in", "+", "Zoom in (also wheel or pinch)"],
  ["zoom-out", "-", "Zoom out"],
  ["fit", "0", "Fit image"],
  ["submit", "Enter", "Submit, then next image"],
  ["clean", "C", "Clean (no artifacts), then next image"],
  ["skip", "S", "Skip, giving a reason"],
  ["previous", "Backspace", "Back to the previous image"],
  ["triage", "T", "Triage: many images at a glance"],
  ["answers", "O", "My answers: find one and open it again"],
  ["regions", "R", "Importance and reason of each region; Escape returns to the image"],
  ["comment", "M", "Comment on the image"],
  ["guide", "I", "What counts as an artifact"],
  ["help", "?", "All keys"],
];

const STORE = "clinic.keys";
const CODES = { "[": "BracketLeft", "]": "BracketRight", "-": "Minus", "+": "Equal" };

// A page inside another site's may have no storage; its keys are the default ones.
let chosen = {};
try {
  chosen = JSON.parse(localStorage.getItem(STORE) ?? "{}");
} catch {
  chosen = {};
}

export const keyOf = (action) => chosen[action] ?? ACTIONS.find(([name]) => name === action)[1];

// The key combination as text: "Ctrl+Shift+Z", "A", "[", "Space".
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
  const bound = ACTIONS.find(([action]) => keyOf(action) === press);
  if (bound && !/^class-/.test(bound[0])) return bound[0];
  if (classes) return `class-${classes[1]}`;
  // Brackets and signs by key position, for layouts that have them elsewhere.
  const byPosition = ACTIONS.find(([action]) => CODES[keyOf(action)] && CODES[keyOf(action)] === event.code);
  return byPosition && !press.startsWith("Ctrl+") && !/^[A-Z0-9?]$/.test(press) ? byPosition[0] : null;
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
