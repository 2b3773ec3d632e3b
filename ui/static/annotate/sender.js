// Sends what is in the outbox, one after another, until it is empty; says how it stands.
import { Refused, forgetSession, currentSession, post } from "/static/api.js";
import { outbox } from "/static/annotate/store.js";

const PAUSES_MS = [1000, 2000, 4000, 8000, 15000];

export class Sender {
  // `tell({waiting, refused, state})` after every change; state is "", "offline" or "signed-out".
  constructor(person, tell, confirmed) {
    Object.assign(this, { person, tell, confirmed, state: "", tries: 0, running: null, timer: 0 });
    addEventListener("online", () => this.flush());
    addEventListener("focus", () => this.state && this.flush());
  }

  async add(path, body, image) {
    await outbox.put({ key: body.key ?? crypto.randomUUID(), person: this.person, at: Date.now(), path, body, image });
    this.flush();
  }

  // Resolves when nothing more can be sent now.
  flush() {
    clearTimeout(this.timer);
    this.running ??= this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    for (;;) {
      const entries = await outbox.of(this.person);
      const next = entries.find((entry) => !entry.refused);
      this.tell({ waiting: entries.filter((entry) => !entry.refused).length, refused: entries.filter((entry) => entry.refused), state: this.state });
      if (!next) return;
      try {
        const answer = await this.send(next);
        await outbox.drop(next.key);
        this.state = "";
        this.tries = 0;
        this.confirmed(next, answer);
      } catch (error) {
        if (!(await this.keep(next, error))) return;
      }
    }
  }

  async send(entry) {
    try {
      return await post(entry.path, entry.body);
    } catch (error) {
      if (error.status !== 403) throw error;
      // Another session may have begun meanwhile, with a token of its own; of somebody else it must not be used.
      forgetSession();
      if ((await currentSession()).name !== this.person) throw new Refused(401, "Somebody else is signed in.");
      return post(entry.path, entry.body);
    }
  }

  // Whether to go on with the next entry: yes after a refusal, which is final and is shown; no while the server
  // cannot be asked.
  async keep(entry, error) {
    const final = error instanceof Refused && error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
    if (final) {
      await outbox.put({ ...entry, refused: error.message });
      return true;
    }
    this.state = error.status === 401 ? "signed-out" : "offline";
    if (error.status === 401) forgetSession();
    const entries = await outbox.of(this.person);
    this.tell({ waiting: entries.filter((one) => !one.refused).length, refused: entries.filter((one) => one.refused), state: this.state });
    this.timer = setTimeout(() => this.flush(), PAUSES_MS[Math.min(this.tries++, PAUSES_MS.length - 1)]);
    return false;
  }
}
