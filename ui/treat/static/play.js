// An image's sampling, step by step: x̂0, its change, what was abnormal, what was corrected.
import { urlOf } from "../root.js";
import { get, post } from "../api.js";
import { h, panel, say, tell } from "../dom.js";
import { figure, percent } from "../format.js";
import { drawHeatAt, drawRegions, pixels } from "../images.js";

const API = "/api/treat/playback", POLL_MS = 1000, FRAME_MS = 400;
const OVERLAYS = [["", "nothing"], ["change", "change since the step before"], ["abnormal", "what was abnormal"], ["corrected", "what was corrected"]];
const COLOURS = { abnormal: [213, 94, 0], corrected: [15, 156, 139] }; // as the marks: --side-1 and --side-2
const OPEN = ["queued", "running"];

export async function play(root, { asked, current }) {
  const id = asked.play, at = `${API}/${encodeURIComponent(id)}`;
  const place = h("div", {});
  root.append(h("p", { class: "crumb" }, h("a", { href: "/treat" }, "← Treat")), h("h1", {}, "Sampling, step by step"),
    h("p", { class: "lead" }, "From noise to the image: what the generator predicts at each step, what changed since the step before, what was abnormal, and what was corrected."), place);
  async function look() {
    const found = await get(at);
    if (found.steps.length) return place.replaceChildren(...player(found, at));
    const open = OPEN.includes(found.state);
    place.replaceChildren(h("section", { class: "card panel" }, h("p", {}, found.prompt || "No prompt is recorded."), h("img", { class: "played", src: pixels(id), alt: "the image" }),
      found.state === "failed" ? h("p", { class: "note bad" }, found.message) : null,
      open ? [h("progress", { value: found.progress, max: 1 }), h("p", { class: "hint", role: "status" }, found.state === "queued" ? "Waiting for a worker." : found.message || "Drawing the image again.")]
        : h("div", { class: "line" }, h("button", { type: "button", class: "button", onclick: async () => { if (await tell(post(at))) { await look(); follow(); } } }, "Draw it again, step by step"), h("span", { class: "hint" }, "A worker draws the image again from its prompt and seed."))));
    return open;
  }
  async function follow() {
    await new Promise((go) => setTimeout(go, POLL_MS));
    if (!current()) return;
    try { if ((await look()) === true) follow(); } catch (error) { say(error.message, true); }
  }
  if ((await look()) === true) follow();
}

function player({ image, prompt, seed, generator, correction, steps, difference }, at) {
  const frame = h("img", { alt: "" }), heat = h("canvas", { class: "heat" });
  const slider = h("input", { type: "range", min: "0", max: String(steps.length - 1), step: "1", value: "0", "aria-label": "Step", oninput: show });
  const overlay = h("select", { "aria-label": "Shown over the prediction", onchange: show }, OVERLAYS.filter(([name]) => !name || steps.some((one) => one[name])).map(([name, text]) => h("option", { value: name }, text)));
  const words = h("p", { class: "hint", role: "status" });
  const button = h("button", { type: "button", class: "button quiet", onclick: () => run(!timer) }, "Play");
  let timer = null, turn = 0;
  const to = (step) => { slider.value = String(Math.max(0, Math.min(steps.length - 1, step))); show(); };

  function run(on) {
    clearInterval(timer);
    timer = null;
    button.textContent = on ? "Pause" : "Play";
    if (!on) return;
    if (Number(slider.value) === steps.length - 1) to(0);
    timer = setInterval(() => {
      if (!button.isConnected || Number(slider.value) === steps.length - 1) return run(false);
      return to(Number(slider.value) + 1);
    }, FRAME_MS);
  }

  async function show() {
    const mine = ++turn, place = Number(slider.value), step = steps[place], ref = overlay.value ? step[overlay.value] : null;
    frame.src = urlOf(`${at}/frames/${step.clean}`);
    frame.alt = `The predicted image at step ${place + 1} of ${steps.length}`;
    const facts = [`Step ${place + 1} of ${steps.length}, noise level ${figure(step.level)}.`];
    if (step.abnormal_share !== null) facts.push(`${percent(step.abnormal_share)} of the image changed abnormally.`);
    if (step.corrected_share !== null) facts.push(step.corrected_share ? `Corrected before this step: ${percent(step.corrected_share)} of the image.` : "No region needed correction here.");
    if (overlay.value && !ref) facts.push({ change: "The first step has none before it to compare with.", abnormal: "This step is outside the window in which changes are judged.", corrected: "Nothing was corrected at this step." }[overlay.value]);
    words.textContent = facts.join(" ");
    const url = `${at}/maps/${ref}`, colour = COLOURS[overlay.value];
    const drawn = ref ? await (colour ? drawRegions(heat, url, colour) : drawHeatAt(heat, url)) : false;
    if (mine === turn) heat.classList.toggle("drawn", Boolean(drawn));
  }

  function press(event) {
    const keys = { " ": () => run(!timer), ArrowLeft: () => to(Number(slider.value) - 1), ArrowRight: () => to(Number(slider.value) + 1), Home: () => to(0), End: () => to(steps.length - 1) };
    if (event.target.tagName === "SELECT" || event.target === button || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  const marks = h("div", { class: "marks", "aria-hidden": "true" }, steps.map((one) => h("i", { class: one.corrected_share ? "corrected" : one.abnormal_share ? "abnormal" : "" })));
  const stage = h("div", { class: "stage", tabIndex: 0, role: "group", "aria-label": "Player. Space plays and pauses, left and right arrow change the step.", onkeydown: press },
    h("span", { class: "frame big" }, frame, heat), h("div", { class: "line" }, button, slider), marks);
  show();
  return [h("p", { class: "lead" }, prompt), h("div", { class: "two" },
    panel("The image as predicted at each step", stage, h("div", { class: "line over" }, h("label", {}, "Show over it: ", overlay)), words,
      h("p", { class: "hint" }, "Marks under the slider: orange, some of the image changed abnormally; green, regions were corrected before the step.")),
    panel("The finished image", h("span", { class: "frame big" }, h("img", { src: pixels(image), alt: "the finished image" })),
      h("p", { class: "hint" }, `By ${generator ?? "a generator that is not registered"}, seed ${seed}. ${correction ? `Drawn with correction (${correction.method ?? "ttc"}).` : "Drawn without correction."} ${difference < 1 ? "Drawn again, it came out the same." : `Drawn again, it differs by ${figure(difference)} of 255 on average, so these steps are close to, but not, those of the stored image.`}`)))];
}
