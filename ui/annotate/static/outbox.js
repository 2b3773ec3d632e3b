// Sends the entries of the outbox one after another until it is empty, and reports how many are left.
import { Refused, forgetSession, currentSession, post } from "../api.js";
import { outbox } from "./draft_store.js";

const PAUSES_MS = [1000, 2000, 4000, 8000, 15000];

export class OutboxSender {
  // `tell({waiting, refused, state})` after every change; state is "", "offline" or "signed-out".
  constructor(person, tell, confirmed) {
    Object.assign(this, { person, tell, confirmed, state: "", tries: 0, asked: false, entries: [], running: null, timer: 0 });
    addEventListener("online", () => this.flush());
    addEventListener("focus", () => this.state && this.flush());
  }

  async add(path, body, image) {
    const entry = { key: body.key ?? crypto.randomUUID(), person: this.person, at: Date.now(), path, body, image };
    await outbox.put(entry);
    this.stand([...this.entries, entry]);
    this.flush();
  }

  async report() {
    return this.stand(await outbox.of(this.person));
  }

  stand(entries) {
    const refused = entries.filter((entry) => entry.refused);
    this.entries = entries;
    this.tell({ waiting: entries.length - refused.length, refused, state: this.state });
    return entries;
  }

  // Resolves when nothing more can be sent now.
  flush() {
    clearTimeout(this.timer);
    this.asked = true;
    this.running ??= this.loop();
    return this.running;
  }

  // Entries added while the last one is being sent set `asked` again, so that none is left behind.
  async loop() {
    try {
      while (this.asked) {
        this.asked = false;
        await this.run();
      }
    } finally {
      this.running = null;
    }
  }

  async run() {
    for (;;) {
      const next = (await this.report()).find((entry) => !entry.refused || !entry.again);
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
      // A new session may have replaced the old one, with another token; another person's must not be used.
      forgetSession();
      if ((await currentSession()).name !== this.person) throw new Refused(401, "Another account is signed in.");
      return post(entry.path, entry.body);
    }
  }

  // Whether to continue with the next entry: yes after a refusal, which is shown; no while the server is unreachable.
  // A conflict is final the second time: what another tab sends at the same moment is stored, and found then.
  async keep(entry, error) {
    const final = error instanceof Refused && error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
    if (final) {
      const refused = error.status !== 409 || entry.again ? error.message : "";
      await outbox.put({ ...entry, refused, again: true });
      return true;
    }
    this.state = error.status === 401 ? "signed-out" : "offline";
    if (error.status === 401) forgetSession();
    await this.report();
    this.timer = setTimeout(() => this.flush(), PAUSES_MS[Math.min(this.tries++, PAUSES_MS.length - 1)]);
    return false;
  }
}
