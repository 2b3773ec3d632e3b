// Time on task: only what lies between two inputs less than IDLE_MS apart, and only while the page is visible.
const IDLE_MS = 30000;

export class ActiveTimer {
  constructor() {
    this.reset(0);
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => this.input(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => (this.last = document.hidden ? null : performance.now()));
  }

  reset(seconds) {
    this.before = 1000 * seconds;
    this.last = performance.now();
    this.sum = 0;
  }

  input() {
    const now = performance.now();
    if (this.last !== null && now - this.last < IDLE_MS) this.sum += now - this.last;
    this.last = now;
  }

  get idle() {
    return this.last === null ? Infinity : (performance.now() - this.last) / 1000;
  }

  get seconds() {
    const now = performance.now(), open = this.last !== null && now - this.last < IDLE_MS ? now - this.last : 0;
    return Math.min(86400, (this.before + this.sum + open) / 1000);
  }
}
