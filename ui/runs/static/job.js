// Follows a job that a page asked for: progress, why it waits, its end.
import { get, post } from "../api.js";
import { h, tell } from "../dom.js";
import { percent } from "../format.js";

const LOOK_AGAIN_MS = 700;
const OPEN = ["queued", "running"];

// A line that follows the job while it is on the page; `ended` gets the job once it has ended.
export function followJob(id, ended = () => {}) {
  const bar = h("progress", { max: "1", value: 0, "aria-label": "Progress" });
  const text = h("span", { class: "hint", role: "status" }, "Queued.");
  const cancel = h("button", { type: "button", class: "button quiet", onclick: () => tell(post(`/api/jobs/${id}/cancel`)) }, "Cancel");
  const line = h("div", { class: "job-line", "data-job": id }, bar, h("div", { class: "line" }, text, h("span", { class: "gap" }), cancel));

  async function look() {
    const job = await get(`/api/jobs/${id}`).catch((error) => ({ state: "unknown", error: error.message }));
    bar.value = job.progress ?? bar.value;
    text.textContent = words(job);
    line.dataset.state = job.state;
    if (job.state !== "unknown" && !OPEN.includes(job.state)) {
      cancel.remove();
      bar.hidden = true;
      if (job.state !== "succeeded") text.className = "note bad";
      ended(job, line);
    } else {
      setTimeout(() => line.isConnected && look(), LOOK_AGAIN_MS);
    }
  }

  setTimeout(look, 100);
  return line;
}

function words(job) {
  if (job.state === "unknown") return `${job.error} Trying again.`;
  if (job.state === "queued") return job.worker ? "Queued; a worker takes it next." : "Queued. No worker is running: start one with “clinic worker”.";
  if (job.state === "running") return `${job.message || "Running"}, ${percent(job.progress)}`;
  if (job.state === "succeeded") return "Done.";
  return job.error || `The job was ${job.state}.`;
}
