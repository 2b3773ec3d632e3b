// Leases live on while somebody works, and are given back when the page goes, but for what is drawn on.
import { post } from "/static/api.js";

const RENEW_MS = 60000;
const AT_WORK_SECONDS = 300;

export function keepLeases(tasks, clock, say, leaving) {
  setInterval(async () => {
    const { leases } = tasks;
    if (!leases.length || clock.idle > AT_WORK_SECONDS) return;
    const answered = await post("/api/annotate/renew", { leases }).catch(() => null);
    if (!answered?.lost.length) return;
    tasks.waiting = tasks.waiting.filter(({ task }) => !answered.lost.includes(task.lease));
    if (answered.lost.includes(tasks.current?.task.lease)) say("Somebody else has this image by now; your answer will be kept as another opinion.");
  }, RENEW_MS);

  addEventListener("pagehide", () => {
    leaving();
    const keep = tasks.current?.labels.painted ? tasks.current.task.lease : null;
    for (const lease of tasks.leases) {
      if (lease !== keep) post("/api/annotate/release", { lease }, { keepalive: true }).catch(() => {});
    }
  });
  // A page that comes back from the browser's cache has lost its leases.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
