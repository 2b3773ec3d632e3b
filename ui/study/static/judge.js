// Judging pairs by keyboard or pointer. Both images pan and zoom together.
import { urlOf } from "../root.js";
import { get, post } from "../api.js";
import { h, say, tell } from "../dom.js";
import { QUESTIONS } from "./format.js";

const SIDES = ["left", "tie", "right"];
const KEYS = { ArrowLeft: "left", "1": "left", ArrowDown: "tie", "2": "tie", ArrowRight: "right", "3": "right" };
const MAX_ZOOM = 16;

// Labels of the three answers. With scores, +1 marks the better side; the other gets −1.
function answerWords(scale) {
  return scale === "score"
    ? { left: "Left +1", tie: "0", right: "Right +1" }
    : { left: "Left", tie: "No difference", right: "Right" };
}

class Camera {
  constructor(stages) {
    this.stages = stages;
    this.reset();
    for (const stage of stages) this.listen(stage);
  }

  reset() { this.zoom = 1; this.x = 0; this.y = 0; this.apply(); }

  apply() {
    const limit = (this.zoom - 1) / (2 * this.zoom);
    this.x = Math.min(limit, Math.max(-limit, this.x));
    this.y = Math.min(limit, Math.max(-limit, this.y));
    for (const stage of this.stages) {
      stage.style.setProperty("--zoom", this.zoom);
      stage.style.setProperty("--x", `${100 * this.x}%`);
      stage.style.setProperty("--y", `${100 * this.y}%`);
      stage.dataset.zoom = this.zoom.toFixed(2);
    }
  }

  by(factor) { this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor)); this.apply(); }

  move(x, y) { this.x += x / this.zoom; this.y += y / this.zoom; this.apply(); }

  listen(stage) {
    stage.addEventListener("wheel", (event) => { event.preventDefault(); this.by(event.deltaY < 0 ? 1.2 : 1 / 1.2); }, { passive: false });
    stage.addEventListener("pointerdown", (event) => stage.setPointerCapture(event.pointerId));
    stage.addEventListener("pointermove", (event) => {
      if (event.buttons) this.move(event.movementX / stage.clientWidth, event.movementY / stage.clientHeight);
    });
    stage.addEventListener("dblclick", () => this.reset());
  }
}

export async function judge(root, { asked, go, current }) {
  const base = `/api/study/${encodeURIComponent(asked.study ?? "")}`;
  let pair = null;
  let answers = {};
  let at = 0;
  let began = 0;
  let sending = false;
  let shown = null; // the side that a blink comparison shows; null while both are side by side
  const judged = (await get(`${base}/judged`)).tasks;
  let place = judged.length; // of the pair on screen among the judged ones; behind the last for a new one

  const prompt = h("p", { class: "prompt", role: "heading", "aria-level": "1" });
  const count = h("span", { class: "soft", id: "count", role: "status" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const images = { left: h("img", { alt: "Left image", draggable: "false" }), right: h("img", { alt: "Right image", draggable: "false" }) };
  const stages = ["left", "right"].map((side) => h("div", { class: "stage", id: `stage-${side}` }, images[side], h("span", { class: "side" }, side === "left" ? "Left" : "Right")));
  const camera = new Camera(stages);
  const asking = h("div", { class: "asking", id: "asking" });
  const next = h("button", { class: "button", type: "button", id: "next", onclick: () => send() }, "Next pair ", h("kbd", {}, "Enter"));
  const earlier = h("button", { class: "button quiet", type: "button", id: "earlier", onclick: () => back() }, "Earlier pair");
  const swap = h("button", { class: "button quiet", type: "button", id: "blink", "aria-pressed": "false", onclick: () => blink() }, "Blink ", h("kbd", {}, "B"));
  const aside = h("button", { class: "button quiet", type: "button", id: "aside", hidden: true, onclick: () => apart() }, "Both ", h("kbd", {}, "Esc"));
  const pairing = h("div", { class: "pair" }, stages);
  const bench = h("div", { class: "bench" },
    h("header", { class: "line" }, prompt, h("span", { class: "gap" }), count, bar),
    pairing,
    h("div", { class: "dock" }, asking,
      h("footer", { class: "line" },
        h("p", { class: "keys" }, h("kbd", {}, "←"), " left ", h("kbd", {}, "↓"), " no difference ", h("kbd", {}, "→"), " right · ", h("kbd", {}, "⌫"), " back · ", h("kbd", {}, "+"), h("kbd", {}, "−"), h("kbd", {}, "0"), " zoom · ", h("kbd", {}, "Shift"), " + arrows move"),
        h("span", { class: "gap" }), earlier, swap, aside, next)));
  const last = h("button", { class: "button quiet", type: "button", id: "last", onclick: () => back() }, "Back to the last pair");
  const done = h("p", { class: "code" });
  const over = h("div", { class: "card over", hidden: true }, h("h1", {}, "All done. Thank you."), h("p", {}, "You have judged every pair."), done, h("div", { class: "line" }, last, h("a", { class: "button quiet", href: "/study" }, "All studies")));
  root.append(bench, over);

  function draw() {
    const words = answerWords(pair.scale);
    asking.replaceChildren(...pair.questions.map((name, index) => {
      const { name: title, winner, hint } = QUESTIONS[name];
      return h("div", { class: "question", "data-question": name, "aria-current": index === at ? "true" : null },
        h("div", { class: "put" }, h("b", {}, pair.scale === "score" ? title : winner), h("span", {}, hint)),
        h("div", { class: "answers", role: "radiogroup", "aria-label": winner }, SIDES.map((side) => h("button", {
          type: "button", role: "radio", "data-side": side, "aria-checked": String(answers[name] === side),
          onclick: () => { at = index; answer(side); },
        }, words[side]))));
    }));
    next.disabled = sending || pair.questions.some((name) => !answers[name]);
  }

  function answer(side) {
    if (at >= pair.questions.length) return;
    answers[pair.questions[at]] = side;
    at = Math.min(at + 1, pair.questions.length);
    draw();
  }

  // Swap the two images in place; both are zoomed alike, so that only what differs moves.
  function blink() {
    shown = shown === "left" ? "right" : "left";
    view();
  }

  function apart() {
    shown = null;
    view();
  }

  function view() {
    pairing.classList.toggle("blink", shown !== null);
    stages.forEach((stage, index) => stage.classList.toggle("shown", SIDES[2 * index] === shown));
    swap.setAttribute("aria-pressed", String(shown !== null));
    aside.hidden = shown === null;
  }

  async function back() {
    if (sending || !place) return;
    place -= 1;
    await tell(load());
  }

  async function load() {
    const found = await get(place < judged.length ? `${base}/judged/${judged[place]}` : `${base}/next`);
    if (!current()) return;
    pair = found;
    earlier.disabled = !place;
    last.hidden = !place;
    bench.hidden = pair === null;
    over.hidden = pair !== null;
    bench.dataset.task = pair?.task ?? "";
    if (pair === null) {
      const { code } = await get(`${base}/completion`);
      done.replaceChildren(...(code ? ["Your completion code: ", h("code", { id: "code" }, code)] : []));
      return;
    }
    answers = { ...pair.answers };
    at = 0;
    apart();
    prompt.textContent = pair.prompt;
    count.textContent = place < judged.length ? `Judged ${place + 1} of ${judged.length}; a new answer replaces it` : `${pair.remaining} left`;
    bar.value = pair.done / (pair.done + pair.remaining);
    camera.reset();
    for (const side of ["left", "right"]) images[side].src = urlOf(pair[side]);
    draw();
    await Promise.allSettled(Object.values(images).map((image) => image.decode()));
    began = performance.now();
    bench.dataset.ready = pair.task;
  }

  async function send() {
    if (!pair || sending || pair.questions.some((name) => !answers[name])) return;
    sending = true;
    next.disabled = true;
    try {
      await post(`${base}/answer`, { task: pair.task, answers, seconds: Math.min(86400, (performance.now() - began) / 1000), corrects: judged.includes(pair.task) });
      if (!judged.includes(pair.task)) judged.push(pair.task);
      place = judged.indexOf(pair.task) + 1;
      sending = false;
      await load();
    } catch (error) {
      sending = false;
      say(error.status === 409 ? error.message : `Not sent: ${error.message} Press Enter to try again.`, true);
      if (error.status === 409) go({});
      else draw();
    }
  }

  function key(event) {
    if (event.key === "Backspace" && !pair) return back();
    if (!pair || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.shiftKey && arrows[event.key]) camera.move(...arrows[event.key]);
    else if (event.key === "+" || event.key === "=") camera.by(1.5);
    else if (event.key === "-") camera.by(1 / 1.5);
    else if (event.key === "0") camera.reset();
    else if (KEYS[event.key]) answer(KEYS[event.key]);
    else if (event.key === "b" || event.key === "B") blink();
    else if (event.key === "Escape") apart();
    else if (event.key === "Backspace" && !at) back();
    else if (event.key === "Backspace") { at = Math.max(0, at - 1); delete answers[pair.questions[at]]; draw(); }
    else if (event.key === "Enter" && !event.target.closest?.("button, a")) send();
    else return;
    event.preventDefault();
  }
  document.addEventListener("keydown", key);
  await load();
  return { leave: () => document.removeEventListener("keydown", key) };
}
