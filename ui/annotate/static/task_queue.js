// Leases live on while somebody works, and are given back when the page goes, but for what is drawn on.

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

// Images to work on: the one in hand and two that are fetched, decoded and ready to be painted.
import { get, post } from "/static/api.js";
import { LabelMap } from "/static/annotate/label_map.js";
import { resized } from "/static/annotate/geometry.js";
import { unpacked, unrun } from "/static/annotate/codec.js";
import { heatPicture } from "/static/annotate/view.js";
import { drafts, outbox } from "/static/annotate/draft_store.js";

export const AHEAD = 2;
const MOST_NAMED = 16;

// Everything of a task that the desk shows, decoded; its label map holds the newest draft.
export async function load(task, person) {
  const { width, height } = task.image;
  const picture = fetchPicture(task.image.url);
  const [image, map, begun] = await Promise.all([picture, task.map ? fetchMap(task.map, height, width) : null, begin(task, person)]);
  return { task, width, height, picture: image, ...map, ...begun, waited: [] };
}

async function fetchPicture(url) {
  const response = await fetch(url);
  if (!response.ok) throw Object.assign(new Error("The image cannot be loaded."), { status: response.status });
  return createImageBitmap(await response.blob());
}

// Confidence as raw bytes, one per pixel; the browser has already inflated them. An image without is shown still.
async function fetchMap(map, height, width) {
  const response = await fetch(map.url);
  if (!response.ok) return null;
  const bytes = new Uint8Array(await response.arrayBuffer());
  const size = ["X-Height", "X-Width"].map((name) => Number(response.headers.get(name)));
  const confidence = resized(bytes, ...size, height, width);
  return { confidence, heat: await heatPicture(confidence, height, width) };
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

export class Tasks {
  constructor(person) {
    Object.assign(this, { person, waiting: [], filling: null, current: null });
  }

  // Asks for images until two are ahead; one request at a time. Resolves when that is so, or nothing is left.
  fill(prefer) {
    this.filling ??= this.ask(prefer).finally(() => (this.filling = null));
    return this.filling;
  }

  // Loading ahead: what goes wrong is told when the image's turn comes.
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
