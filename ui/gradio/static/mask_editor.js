// The mask editor as a Gradio component. Gradio calls this for every editor on the page; its value is JSON with
// the image and the artifact map as files and the label map packed.
import { packedAtOnce, unpacked } from "../annotate/codec.js";
import { Editor } from "../annotate/editor.js";
import { LabelMap } from "../annotate/label_map.js";
import { heatBitmap } from "../annotate/view.js";

export function mount({ element, props, trigger, watch }, workerSource) {
  const address = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
  const worker = new Worker(address);
  URL.revokeObjectURL(address);
  const root = element.querySelector(".mask-editor");
  const editor = new Editor(root, { changed: () => setting || send(), worker }), { desk, pointer, view } = editor;
  const slider = editor.part("threshold");
  let value = null, turn = 0, setting = false;

  // Gradio reads the value when a button is pressed, so it must be there when the stroke ends.
  function send() {
    if (!desk.labels) return;
    // The slider has whole percents only.
    const threshold = slider.dataset.moved ? slider.value / 100 : value.threshold;
    value = { ...value, label_map: packedAtOnce(desk.labels.pixels), threshold };
    props.value = value;
    trigger("input");
  }

  // Shows a value that Python has set. What is drawn on the same image stays in the history; a stroke that is
  // being drawn stays on top.
  async function show(set) {
    const mine = ++turn, next = JSON.parse(JSON.stringify(set || null)), before = value;
    if (!next?.image) {
      value = null;
      editor.close();
      editor.say("No image.");
      return;
    }
    const same = Boolean(desk.labels) && before?.image.url === next.image.url;
    if (!same) {
      pointer.abort();
      desk.labels = null;
    }
    try {
      const { height, width } = next, sameMap = same && next.confidence?.url === before.confidence?.url;
      const [bitmap, map, pixels] = await Promise.all([
        same ? editor.current.bitmap : bitmapOf(next.image.url), sameMap ? null : confidenceOf(next), pixelsOf(next),
      ]);
      if (mine !== turn) return;
      value = { ...next, label_map: next.label_map ?? null };
      if (!same) return open({ height, width, bitmap, ...map, labels: new LabelMap(height, width, pixels) });
      setting = true;
      editor.replace(pixels);
      setting = false;
      const settings = ({ classes, threshold }) => JSON.stringify([classes, threshold]);
      if (map || settings(before) !== settings(next)) {
        while (pointer.busy) await new Promise(requestAnimationFrame);
        if (mine === turn) open({ ...editor.current, ...map });
      }
    } catch (error) {
      if (mine === turn) editor.say(`The image cannot be shown: ${error.message}`, "bad");
    }
  }

  function open(loaded) {
    slider.dataset.moved = "";
    slider.value = Math.round(100 * value.threshold);
    editor.open(loaded, { image: value.image.url, classes: value.classes, threshold: value.threshold });
    editor.say("");
  }

  const actions = { ...editor.actions, submit };
  const run = (action) => desk.labels && actions[action]();

  function submit() {
    if (pointer.loop) return pointer.closeLoop(false);
    if (!pointer.busy) trigger("submit");
  }

  root.addEventListener("keydown", (event) => editor.keydown(event, event.target === view.stage, actions, run));
  root.addEventListener("keyup", (event) => editor.keyup(event));
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => run(button.dataset.do));
  slider.addEventListener("change", send);
  // An element that leaves the page is resized to nothing.
  new ResizeObserver(() => element.isConnected || worker.terminate()).observe(element);
  editor.showKeys();
  watch("value", () => show(props.value));
  show(props.value);
}

async function bitmapOf(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the server answered ${response.status}.`);
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
}

function pixelsOf({ label_map, width, height }) {
  return label_map ? unpacked(label_map, width * height) : new Uint8Array(width * height);
}

// The confidence map's bytes from its grey file.
async function confidenceOf({ confidence, width, height }) {
  if (!confidence) return { confidence: null, heat: null };
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(await bitmapOf(confidence.url), 0, 0);
  const { data } = context.getImageData(0, 0, width, height), bytes = new Uint8Array(width * height);
  for (let at = 0; at < bytes.length; at++) bytes[at] = data[4 * at];
  return { confidence: bytes, heat: await heatBitmap(bytes, height, width) };
}
