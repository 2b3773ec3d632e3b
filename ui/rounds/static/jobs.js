// Jobs with their logs, and the workers.
import { get, post } from "../api.js";
import { h, panel, tell } from "../dom.js";
import { ago, renew, state } from "./format.js";

const OPEN = ["queued", "running"];
const AGAIN = ["paused", "failed", "cancelled"];

export async function jobs(root, { asked, go }) {
  const list = h("div", { class: "rows", id: "jobs" });
  const workers = h("div", { class: "rows", id: "workers" });
  const title = h("h2", {}, "Log");
  const buttons = h("div", { class: "line" });
  const log = h("pre", { id: "log", tabindex: "0", role: "region", "aria-label": "Log" });
  root.append(h("h1", { class: "over" }, "Jobs and workers"), h("div", { class: "split" },
    panel("Newest jobs", list),
    h("div", {}, panel("Workers", workers), h("section", { class: "card panel" }, h("div", { class: "line" }, title, h("span", { class: "gap" }), buttons), log))));
  let chosen = asked.job ?? null;

  function row(job) {
    return h("a", { class: "row", href: `?view=jobs&job=${encodeURIComponent(job.id)}`, "aria-current": job.id === chosen ? "true" : null },
      h("div", { class: "words" }, h("b", {}, job.title), h("span", { class: "soft" }, [job.of, job.state === "succeeded" ? "" : job.message].filter(Boolean).join(" · ")), job.state === "running" ? h("progress", { value: job.progress, max: 1 }) : null),
      h("span", { class: "soft nowrap" }, ago(job.at)), state(job.stopping ? "stopping" : job.pausing ? "pausing" : job.state));
  }

  async function look() {
    const overview = await get("/api/rounds/jobs");
    chosen ??= overview.jobs[0]?.id ?? null;
    renew(list, overview.jobs.length ? overview.jobs.map(row) : h("p", { class: "soft" }, "No jobs yet."));
    renew(workers, overview.workers.length
      ? overview.workers.map((one) => h("div", { class: "row" }, h("div", { class: "words" }, h("b", {}, `${one.host} · ${one.pid}`), h("span", { class: "soft" }, one.job ?? "idle")), h("span", { class: "soft" }, one.devices.join(", "))))
      : h("p", { class: "warn" }, "No worker is running, so jobs do not start. Start one with “clinic worker”."));
    if (!chosen) return log.replaceChildren("");
    const job = await get(`/api/rounds/jobs/${encodeURIComponent(chosen)}/log`);
    const act = (what) => async () => {
      if (what === "cancel" && !confirm(`Cancel “${job.title}”? It can be resumed.`)) return;
      const answer = await tell(post(`/api/rounds/jobs/${encodeURIComponent(chosen)}/${what}`));
      if (answer) go({ view: "jobs", job: answer.id });
    };
    title.textContent = `Log: ${job.title}`;
    const shownState = `${chosen} ${job.state} ${job.pausing}`;
    if (buttons.dataset.state !== shownState) {
      buttons.dataset.state = shownState;
      buttons.replaceChildren(...[
        job.pausable && OPEN.includes(job.state) ? h("button", { class: "button quiet", type: "button", id: "pause-job", disabled: job.pausing, onclick: act("pause") }, job.pausing ? "Pausing…" : "Pause") : null,
        OPEN.includes(job.state) || job.state === "paused" ? h("button", { class: "button quiet bad", type: "button", id: "cancel-job", onclick: act("cancel") }, "Cancel") : null,
        AGAIN.includes(job.state) ? h("button", { class: "button quiet", type: "button", id: "resume-job", onclick: act("resume") }, "Resume") : null,
      ].filter(Boolean));
    }
    const text = job.lines.join("\n") || "This job has no log yet.";
    if (log.textContent !== text) {
      log.textContent = text;
      log.scrollTop = log.scrollHeight;
    }
  }
  await look();
  return { refresh: look };
}
