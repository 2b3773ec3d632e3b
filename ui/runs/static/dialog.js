// A dialog with a title; it removes itself when it is closed.
import { h } from "../dom.js";

export function openDialog(title, ...children) {
  const dialog = h("dialog", { class: "work card", "aria-label": title, onclose: () => dialog.remove() },
    h("header", {}, h("h2", {}, title), h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×")),
    children);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
