// A form in a dialog.
import { h, say } from "../dom.js";

// Shows the fields and awaits `send(form)` when they are submitted. Stays open with the error if that fails;
// resolves to its answer, or to null when it was closed.
export function ask(title, fields, submit, send, success = "", kind = "") {
  return new Promise((resolve) => {
    let answer = null;
    const problem = h("p", { class: "note bad", role: "alert", hidden: true });
    const button = h("button", { class: `button ${kind}` }, submit);
    const form = h("form", { class: "stackform" }, h("h2", {}, title), fields, problem,
      h("div", { class: "line" }, h("span", { class: "gap" }), h("button", { type: "button", class: "button quiet", onclick: () => dialog.close() }, "Cancel"), button));
    const dialog = h("dialog", { class: "ask-dialog card", "aria-label": title, onclose: () => { dialog.remove(); resolve(answer); } }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        answer = await send(form);
        if (success) say(typeof success === "function" ? success(answer) : success);
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        button.disabled = false;
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
