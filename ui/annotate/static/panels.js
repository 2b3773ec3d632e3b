// Panels of the desk: keys and their remapping, skip reasons, comments, the guideline.
import { get, post } from "../api.js";
import { $, h } from "../dom.js";
import { when } from "../format.js";
import { ACTIONS, keyOf, remap, resetKeys, written } from "./keys.js";

// ---- keys ----

export function drawKeys(changed) {
  $("key-list").replaceChildren(...ACTIONS.map(([action, , text]) => {
    const button = h("button", { type: "button", class: "key", title: "Press to change", "aria-label": `${text}: ${keyOf(action)}. Press to change.`,
      onclick: () => listen(button, action, changed) }, h("kbd", {}, keyOf(action)));
    return h("div", {}, h("dt", {}, button), h("dd", {}, text));
  }));
}

function listen(button, action, changed) {
  button.replaceChildren(h("kbd", {}, "press …"));
  const take = (event) => {
    if (["Shift", "Control", "Alt", "Meta", "AltGraph"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    removeEventListener("keydown", take, true);
    const before = event.key === "Escape" ? null : remap(action, written(event));
    $("key-note").textContent = before ? `“${ACTIONS.find(([name]) => name === before)[2]}” is now on ${keyOf(before)}.` : "";
    drawKeys(changed);
    changed();
  };
  addEventListener("keydown", take, true);
}

export function wireKeys(changed) {
  $("keys-reset").addEventListener("click", () => {
    resetKeys();
    drawKeys(changed);
    changed();
  });
  drawKeys(changed);
}

// ---- skipping ----

const REASONS = ["I cannot tell whether it is broken", "Too many small artifacts to mark", "The image does not load or is damaged", "I do not want to see this image"];

// Resolves to the reason given, or null if the dialog was closed.
export function askReason() {
  const dialog = $("skip-dialog"), list = $("skip-reasons");
  return new Promise((done) => {
    const finish = (reason) => {
      dialog.removeEventListener("close", cancelled);
      dialog.removeEventListener("keydown", digits);
      dialog.close();
      done(reason);
    };
    const cancelled = () => finish(null);
    const digits = (event) => {
      const chosen = REASONS[Number(event.key) - 1];
      if (!chosen || event.target === $("skip-other")) return;
      event.preventDefault();
      finish(chosen);
    };
    list.replaceChildren(...REASONS.map((reason, at) => h("button", { type: "button", onclick: () => finish(reason) }, reason, h("kbd", {}, at + 1))));
    $("skip-other").value = "";
    $("skip-form").onsubmit = (event) => {
      event.preventDefault();
      finish($("skip-other").value.trim());
    };
    dialog.addEventListener("close", cancelled);
    dialog.addEventListener("keydown", digits);
    dialog.showModal();
    list.firstChild.focus();
  });
}

// ---- comments ----

export async function showComments(image, say) {
  const list = $("comment-list"), dialog = $("comments");
  const draw = (comments) => list.replaceChildren(...comments.map(({ author, created, text }) => h("li", {},
    h("b", {}, author), h("time", {}, when(created)), h("p", {}, text))));
  draw([]);
  $("comment-text").value = "";
  dialog.showModal();
  $("comment-text").focus();
  let comments = [];
  $("comment-text").onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("comment-form").requestSubmit();
  };
  $("comment-form").onsubmit = async (event) => {
    event.preventDefault();
    const text = $("comment-text").value.trim();
    if (!text) return;
    try {
      comments = [...comments, await post("/api/annotate/comments", { image, text })];
      draw(comments);
      $("comment-text").value = "";
      $("comment-count").textContent = comments.length;
    } catch (error) {
      say(error.message, "bad");
    }
  };
  try {
    comments = await get(`/api/annotate/comments?image=${encodeURIComponent(image)}`);
    draw(comments);
  } catch (error) {
    say(error.message, "bad");
  }
}

// ---- outbox ----

// Answers that the server does not have yet: how many and why, and those that it refused.
export function showOutbox({ waiting, refused, state }, { reopen, drop }) {
  const reasons = { offline: "Server unreachable, retrying…", "signed-out": "You are signed out." };
  const stuck = waiting && state;
  $("outbox").hidden = !stuck && !refused.length;
  $("outbox-text").textContent = stuck ? `${waiting} answer${waiting === 1 ? "" : "s"} saved on this device. ${reasons[state]}` : "";
  $("sign-in").hidden = !(stuck && state === "signed-out");
  $("outbox").dataset.waiting = waiting;
  $("refused").replaceChildren(...refused.map((entry) => h("li", {}, `Not accepted: ${entry.refused}`,
    entry.body.label_map ? h("button", { type: "button", class: "link", onclick: () => reopen(entry) }, "Restore to the canvas") : null,
    h("button", { type: "button", class: "link", onclick: () => drop(entry) }, "Discard"))));
}
