// The label map: one Uint8Array of height × width, 0 nothing, then classes. It is the truth; canvases only show
// it. Undo keeps the 64 × 64 tiles that a step changed, as they were on the other side of it.

const TILE = 64;
const HISTORY_BYTES = 96 << 20;

export class LabelMap {
  constructor(height, width, pixels = new Uint8Array(height * width)) {
    Object.assign(this, { height, width, pixels });
    this.across = Math.ceil(width / TILE);
    this.counts = countClasses(pixels);
    this.done = [];
    this.undone = [];
    this.step = null;
    this.changes = 0;
  }

  get painted() {
    return this.pixels.length - this.counts[0];
  }

  begin() {
    this.step ??= new Map();
  }

  // Ends the step; returns whether it changed anything. One that did not leaves no trace.
  end() {
    const step = this.step;
    this.step = null;
    if (!step?.size) return false;
    this.done.push(step);
    this.undone = [];
    let bytes = 0;
    for (let at = this.done.length - 1; at >= 0; at--) {
      bytes += this.done[at].size * TILE * TILE;
      if (bytes > HISTORY_BYTES && at < this.done.length - 1) {
        this.done.splice(0, at + 1);
        break;
      }
    }
    return true;
  }

  // Sets the pixels first … last (inclusive, clipped) of a row.
  span(row, first, last, value) {
    if (row < 0 || row >= this.height) return;
    const left = Math.max(0, first), right = Math.min(this.width - 1, last), start = row * this.width;
    const { pixels, counts } = this;
    for (let column = left; column <= right; ) {
      const end = Math.min(right, column - (column % TILE) + TILE - 1);
      let kept = false;
      for (let at = start + column; at <= start + end; at++) {
        const before = pixels[at];
        if (before === value) continue;
        if (!kept) kept = this.keep((row / TILE | 0) * this.across + (column / TILE | 0));
        counts[before]--;
        counts[value]++;
        pixels[at] = value;
        this.changes++;
      }
      column = end + 1;
    }
  }

  // The step remembers the tile as it is, once.
  keep(tile) {
    if (!this.step.has(tile)) this.step.set(tile, this.copy(tile));
    return true;
  }

  copy(tile) {
    const { left, top, width, height } = this.boxOf(tile);
    const kept = new Uint8Array(width * height);
    for (let row = 0; row < height; row++) {
      const start = (top + row) * this.width + left;
      kept.set(this.pixels.subarray(start, start + width), row * width);
    }
    return kept;
  }

  boxOf(tile) {
    const left = (tile % this.across) * TILE, top = Math.floor(tile / this.across) * TILE;
    return { left, top, width: Math.min(TILE, this.width - left), height: Math.min(TILE, this.height - top) };
  }

  // Paints the capsule between two points (x, y) in image pixels; a pixel is in when its middle is. Returns the
  // box that it may have changed, or null when it lies outside.
  line(from, to, radius, value, endRadius = radius) {
    const reach = Math.max(radius, endRadius);
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(from.x, to.x) + reach));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(from.y, to.y) + reach));
    if (left > right || top > bottom) return null;
    const dx = to.x - from.x, dy = to.y - from.y, length = Math.hypot(dx, dy);
    // A dot smaller than a pixel still marks the pixel that it is in.
    if (reach < 0.75) this.span(Math.floor(to.y), Math.floor(to.x), Math.floor(to.x), value);
    for (let row = top; row <= bottom; row++) {
      const y = row + 0.5;
      let low = Infinity, high = -Infinity;
      for (const [end, size] of [[from, radius], [to, endRadius]]) {
        const rest = size * size - (y - end.y) * (y - end.y);
        if (rest < 0) continue;
        const half = Math.sqrt(rest);
        low = Math.min(low, end.x - half);
        high = Math.max(high, end.x + half);
      }
      if (length > 0) {
        // The trapezoid between the discs, by its four corners.
        const nx = -dy / length, ny = dx / length;
        const corners = [
          [from.x + nx * radius, from.y + ny * radius], [to.x + nx * endRadius, to.y + ny * endRadius],
          [to.x - nx * endRadius, to.y - ny * endRadius], [from.x - nx * radius, from.y - ny * radius],
        ];
        for (let side = 0; side < 4; side++) {
          const [ax, ay] = corners[side], [bx, by] = corners[(side + 1) % 4];
          if ((ay - y) * (by - y) > 0 || ay === by) continue;
          const x = ax + ((y - ay) / (by - ay)) * (bx - ax);
          low = Math.min(low, x);
          high = Math.max(high, x);
        }
      }
      if (low <= high) this.span(row, Math.ceil(low - 0.5), Math.floor(high - 0.5), value);
    }
    return { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  // Sets every pixel whose entry in `chosen` (one byte per pixel of the box) is not 0.
  fill(chosen, box, value) {
    for (let row = 0; row < box.height; row++) {
      const start = row * box.width;
      for (let column = 0; column < box.width; ) {
        if (!chosen[start + column]) {
          column++;
          continue;
        }
        let end = column + 1;
        while (end < box.width && chosen[start + end]) end++;
        this.span(box.top + row, box.left + column, box.left + end - 1, value);
        column = end;
      }
    }
    return box;
  }

  get whole() {
    return { left: 0, top: 0, width: this.width, height: this.height };
  }

  // Takes over another label map's pixels as a step of its own; what a step under way has drawn stays on top of it.
  replace(pixels) {
    const drawing = this.step, drawn = [];
    for (const [tile, kept] of drawing ?? []) {
      const over = this.copy(tile), { left, top, width } = this.boxOf(tile);
      over.forEach((value, at) => value !== kept[at] && drawn.push([top + Math.floor(at / width), left + (at % width), value]));
      this.put(tile, kept);
    }
    this.step = new Map();
    this.take(pixels);
    this.end();
    if (drawing) this.begin();
    for (const [row, column, value] of drawn) this.span(row, column, column, value);
    return this.whole;
  }

  take(pixels) {
    for (let row = 0; row < this.height; row++) {
      const start = row * this.width;
      for (let first = 0; first < this.width; ) {
        let last = first;
        while (last + 1 < this.width && pixels[start + last + 1] === pixels[start + first]) last++;
        this.span(row, first, last, pixels[start + first]);
        first = last + 1;
      }
    }
  }

  undo() {
    return this.swap(this.done, this.undone);
  }

  redo() {
    return this.swap(this.undone, this.done);
  }

  // Exchanges a step's tiles with the present ones; returns the box that changed, or null at the end.
  swap(from, to) {
    const step = from.pop();
    if (!step) return null;
    const other = new Map();
    let changed = null;
    for (const [tile, kept] of step) {
      other.set(tile, this.copy(tile));
      changed = united(changed, this.put(tile, kept));
    }
    to.push(other);
    this.changes++;
    return changed;
  }

  // Writes a tile's pixels; returns its box.
  put(tile, kept) {
    const box = this.boxOf(tile);
    for (let row = 0; row < box.height; row++) {
      const start = (box.top + row) * this.width + box.left;
      for (let column = 0; column < box.width; column++) {
        const value = kept[row * box.width + column];
        this.counts[this.pixels[start + column]]--;
        this.counts[value]++;
        this.pixels[start + column] = value;
      }
    }
    return box;
  }
}

export function united(one, other) {
  if (!one || !other) return one ?? other;
  const left = Math.min(one.left, other.left), top = Math.min(one.top, other.top);
  return {
    left, top,
    width: Math.max(one.left + one.width, other.left + other.width) - left,
    height: Math.max(one.top + one.height, other.top + other.height) - top,
  };
}

function countClasses(pixels) {
  const counts = new Uint32Array(256);
  for (let at = 0; at < pixels.length; at++) counts[pixels[at]]++;
  return counts;
}
