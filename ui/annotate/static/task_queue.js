// The task queue: the current image and two prefetched, decoded ones, all leased.
import { get, post, request } from "../api.js";
import { unpacked, unrun } from "./codec.js";
import { drafts, outbox } from "./draft_store.js";
import { resized } from "./geometry.js";
import { LabelMap } from "./label_map.js";
import { heatBitmap } from "./view.js";

const AHEAD = 2;
const MOST_NAMED = 16;
const RENEW_MS = 60000;
const ACTIVE_SECONDS = 300;

// A task's image, map and label map, decoded; the label map holds the newest draft.
export async function load(task, person) {
  const { width, height } = task.image;
  const bitmap = fetchBitmap(task.image.url);
  const [image, map, begun] = await Promise.all([bitmap, task.map ? fetchMap(task.map, height, width) : null, begin(task, person)]);
  return { task, width, height, bitmap: image, ...map, ...begun, waited: [] };
}

async function fetchBitmap(url) {
  const response = await request(url);
  if (!response.ok) throw Object.assign(new Error("The image could not be loaded."), { status: response.status });
  return createImageBitmap(await response.blob());
}

// Confidence as raw bytes, one per pixel; the browser has already inflated them. An image without a map is shown all the same.
async function fetchMap(map, height, width) {
  const response = await request(map.url);
  if (!response.ok) return null;
  const bytes = new Uint8Array(await response.arrayBuffer());
  const size = ["X-Height", "X-Width"].map((name) => Number(response.headers.get(name)));
  const confidence = resized(bytes, ...size, height, width);
  return { confidence, heat: await heatBitmap(confidence, height, width) };
}

// The newest earlier label map: a draft in this browser, a draft on the server, or an answer.
async function begin(task, person) {
  const { width, height, id } = task.image, count = width * height;
  const local = await drafts.get(person, id).catch(() => null);
  const remote = task.draft ?? task.answer;
  if (local && local.saved / 1000 >= (remote?.saved ?? 0) - 1) {
    return { labels: new LabelMap(height, width, unrun(local.runs, count)), regions: local.regions ?? [], seconds: local.seconds, restored: true };
  }
  if (remote) return { labels: new LabelMap(height, width, await unpacked(remote.label_map, count)), regions: remote.regions ?? [], seconds: task.answer ? 0 : remote.seconds, restored: !task.answer };
  return { labels: new LabelMap(height, width), regions: [], seconds: 0, restored: false };
}

export class TaskQueue {
  constructor(person) {
    Object.assign(this, { person, waiting: [], filling: null, current: null });
  }

  // Prefetches images, one request at a time. Resolves when two are ahead or none are left.
  fill(prefer) {
    this.filling ??= this.ask(prefer).finally(() => (this.filling = null));
    return this.filling;
  }

  // Loads ahead; an error is reported when the image's turn comes.
  begin(task) {
    const loaded = load(task, this.person);
    loaded.catch(() => {});
    return { task, loaded };
  }

  async ask(prefer) {
    while (this.waiting.length < AHEAD) {
      const unsent = (await outbox.of(this.person)).filter((entry) => !entry.refused).map((entry) => entry.image);
      const known = [this.current?.task.image.id, ...this.waiting.map(({ task }) => task.image.id), ...unsent];
      const query = new URLSearchParams([...new Set(known)].filter(Boolean).slice(0, MOST_NAMED).map((id) => ["besides", id]));
      if (prefer) query.set("prefer", prefer);
      prefer = null;
      const task = await get(`/api/annotate/next?${query}`);
      if (!task || known.includes(task.image.id)) return;
      this.waiting.push(this.begin(task));
    }
  }

  // The next image, loaded; null when the queue is empty. An image that cannot be loaded is skipped.
  async next(prefer) {
    for (;;) {
      if (!this.waiting.length) await this.fill(prefer);
      const entry = this.waiting.shift();
      if (!entry) return null;
      try {
        return await entry.loaded;
      } catch (error) {
        if (!error.status || error.status >= 500 || error.status === 401) {
          this.waiting.unshift(this.begin(entry.task));
          throw error;
        }
        await post("/api/annotate/skip", { lease: entry.task.lease, reason: `not loadable: ${error.message}` }).catch(() => {});
      }
    }
  }

  get leases() {
    return [this.current?.task, ...this.waiting.map(({ task }) => task)].map((task) => task?.lease).filter(Boolean);
  }
}

// Renews leases while the annotator is active; releases them when the page closes, except for a painted image.
export function keepLeases(tasks, timer, say, leaving) {
  setInterval(async () => {
    const { leases } = tasks;
    if (!leases.length || timer.idle > ACTIVE_SECONDS) return;
    const renewed = await post("/api/annotate/renew", { leases }).catch(() => null);
    if (!renewed?.lost.length) return;
    tasks.waiting = tasks.waiting.filter(({ task }) => !renewed.lost.includes(task.lease));
    if (renewed.lost.includes(tasks.current?.task.lease)) say("Someone else is labelling this image now. Your answer will still be stored, as a second opinion.");
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
