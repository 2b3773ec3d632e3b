// Formats durations and states.
import { h } from "../dom.js";

export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export function ago(moment) {
  const seconds = Math.max(0, Date.now() / 1000 - moment);
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} d ago`;
}

export const state = (word) => h("span", { class: `state ${word.replaceAll(" ", "-")}` }, word);
export const names = (list) => (list.length > 1 ? `${list.slice(0, -1).join(", ")} and ${list.at(-1)}` : list.join(""));

// Replaces a node's children only when their HTML has changed, so that nothing flickers or scrolls.
export function renew(node, ...children) {
  const made = h(node.tagName, {}, ...children);
  if (made.innerHTML !== node.dataset.html) {
    node.dataset.html = made.innerHTML;
    node.replaceChildren(...made.childNodes);
  }
}
