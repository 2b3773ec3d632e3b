// What Gradio's components leave for screen readers to stumble over: a name on an element that can have none, and
// a name that differs from the words on the button.
const EMPTY = ".empty[aria-label]:not([role])", UPLOAD = "button[aria-dropeffect][aria-label]";
let waiting = false;

function mend() {
  waiting = false;
  for (const node of document.querySelectorAll(EMPTY)) node.setAttribute("role", "img");
  for (const node of document.querySelectorAll(UPLOAD)) node.removeAttribute("aria-label");
}

new MutationObserver(() => {
  if (!waiting) requestAnimationFrame(mend);
  waiting = true;
}).observe(document.documentElement, { childList: true, subtree: true });
