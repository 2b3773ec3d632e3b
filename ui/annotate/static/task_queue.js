// The images to work on: the current one and two more that are fetched and decoded, all under leases.
import { get, post } from "/static/api.js";
import { unpacked, unrun } from "/static/annotate/codec.js";
import { drafts, outbox } from "/static/annotate/draft_store.js";
import { resized } from "/static/annotate/geometry.js";
import { LabelMap } from "/static/annotate/label_map.js";
import { heatBitmap } from "/static/annotate/view.js";

const AHEAD = 2;
const MOST_NAMED = 16;
const RENEW_MS = 60000;
const ACTIVE_SECONDS = 300;

// Everything of a task that the desk shows, decoded; its label map holds the newest draft.
export async function load(task, person) {
  const { width, height } = task.image;
  const bitmap = fetchBitmap(task.image.url);
  const [image, map, begun] = await Promise.all([bitmap, task.map ? fetchMap(task.map, height, width) : null, begin(task, person)]);
  return { task, width, height, bitmap: image, ...map, ...begun, waited: [] };
}

async function fetchBitmap(url) {
  const response = await fetch(url);
  if (!response.ok) throw Object.assign(new Error("The image cannot be loaded."), { status: response.status });
  return createImageBitmap(await response.blob());
}

// Confidence as raw bytes, one per pixel; the browser has already inflated them. An image without a map is shown all the same.
async function fetchMap(map, height, width) {
  const response = await fetch(map.url);
  if (!response.ok) return null;
  const bytes = new Uint8Array(await response.arrayBuffer());
  const size = ["X-Height", "X-Width"].map((name) => Number(response.headers.get(name)));
  const confidence = resized(bytes, ...size, height, width);
  return { confidence, heat: await heatBitmap(confidence, height, width) };
}

// The newest of what was drawn already: here, on another machine, or as an answer.
async function begin(task, person) {
  const { width, height, id } = task.image, count = width * height;
  const here = await drafts.get(person, id).catch(() => null);
  const there = task.draft ?? task.answer;
  if (here && here.saved / 1000 >= (there?.saved ?? 0) - 1) {
    return { labels: new LabelMap(height, width, unrun(here.runs, count)), seconds: here.seconds, restored: true };
  }
  if (there) return { labels: new LabelMap(height, width, await unpacked(there.label_map, count)), seconds: task.answer ? 0 : there.seconds, restored: !task.answer };
  return { labels: new LabelMap(height, width), seconds: 0, restored: false };
}

export class TaskQueue {
  constructor(person) {
    Object.assign(this, { person, waiting: [], filling: null, current: null });
  }

  // Asks for images until two are ahead; one request at a time. Resolves when that is so, or nothing is left.
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

  // The next image, loaded; null when nothing waits. One that cannot be loaded is given back and passed over.
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

// Renews leases while somebody works; gives them back when the page goes, except for an image already drawn on.
export function keepLeases(tasks, timer, say, leaving) {
  setInterval(async () => {
    const { leases } = tasks;
    if (!leases.length || timer.idle > ACTIVE_SECONDS) return;
    const answered = await post("/api/annotate/renew", { leases }).catch(() => null);
    if (!answered?.lost.length) return;
    tasks.waiting = tasks.waiting.filter(({ task }) => !answered.lost.includes(task.lease));
    if (answered.lost.includes(tasks.current?.task.lease)) say("Somebody else has this image now; your answer will be kept as another opinion.");
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
