// What a view shows while its data has yet to be computed: the button that asks for it, then the job's progress.
import { currentSession, post } from "../api.js";
import { h, tell } from "../dom.js";

// `text` says what is missing, `label` is the button, `path` asks for the job. `show(job)` takes the job from the
// view's own refresh: the open or failed one, or null.
export function indexJob({ text, label, path, more = null }) {
  const status = h("p", { class: "status", role: "status" });
  const bar = h("progress", { max: 1, "aria-label": "Progress", hidden: true });
  const button = h("button", { type: "button", class: "button", onclick: async () => {
    button.disabled = true;
    const asked = await tell(post(path));
    if (asked) await show({ state: "queued", progress: 0, message: "" });
    else button.disabled = false;
  } }, label);
  async function show(job) {
    const open = job && job.state !== "failed";
    button.hidden = Boolean(open);
    bar.hidden = !open || job.state === "queued";
    if (!open) {
      button.disabled = false;
      status.textContent = job ? `The last attempt failed: ${job.error}` : "";
      return;
    }
    if (job.state !== "queued") {
      bar.value = job.progress;
      status.textContent = `${Math.round(100 * job.progress)} %${job.message ? `: ${job.message}` : ""}`;
    } else {
      const { worker } = await currentSession();
      status.textContent = worker ? "Queued; a worker will start it in a moment." : "Queued. It starts once a worker runs: clinic worker";
    }
  }
  const node = h("section", { class: "card panel index-job" }, h("p", {}, text), bar, h("div", { class: "line" }, button, status), more);
  return { node, show };
}
