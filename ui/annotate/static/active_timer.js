// Time on task: only what lies between two signs of life less than IDLE apart, and only while the page is seen.
const IDLE_MS = 30000;

export class Clock {
  constructor() {
    this.reset(0);
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => this.sign(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => (this.last = document.hidden ? null : performance.now()));
  }

  reset(seconds) {
    this.before = 1000 * seconds;
    this.last = performance.now();
    this.sum = 0;
  }

  sign() {
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
