// The label map: one Uint8Array of height × width, 0 nothing, then classes. It is the truth; canvases only show it.

export class LabelMap {
  constructor(height, width) {
    this.height = height;
    this.width = width;
    this.pixels = new Uint8Array(height * width);
    this.counts = new Uint32Array(256);
    this.counts[0] = this.pixels.length;
    this.done = [];
    this.undone = [];
    this.stroke = null;
  }

  get painted() {
    return this.pixels.length - this.counts[0];
  }

  begin() {
    this.stroke = { indices: [], before: [], after: [] };
  }

  // Ends the stroke; a stroke that changed nothing leaves no trace.
  end() {
    if (this.stroke?.indices.length) {
      this.done.push(this.stroke);
      this.undone = [];
    }
    this.stroke = null;
  }

  // Paints the capsule between two points (x, y) in image pixels; returns the changed box or null.
  line(from, to, radius, value) {
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - radius));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(from.x, to.x) + radius));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(from.y, to.y) + radius));
    if (left > right || top > bottom) return null;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = dx * dx + dy * dy;
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const [px, py] = [column + 0.5 - from.x, row + 0.5 - from.y];
        const share = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        const [ex, ey] = [px - share * dx, py - share * dy];
        if (ex * ex + ey * ey <= radius * radius) this.set(row * this.width + column, value);
      }
    }
    return { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  set(index, value) {
    const before = this.pixels[index];
    if (before === value) return;
    this.counts[before]--;
    this.counts[value]++;
    this.pixels[index] = value;
    this.stroke.indices.push(index);
    this.stroke.before.push(before);
    this.stroke.after.push(value);
  }

  undo() {
    return this.move(this.done, this.undone, "before");
  }

  redo() {
    return this.move(this.undone, this.done, "after");
  }

  move(from, to, side) {
    const stroke = from.pop();
    if (!stroke) return false;
    const backwards = side === "before";
    for (let step = 0; step < stroke.indices.length; step++) {
      const at = backwards ? stroke.indices.length - 1 - step : step;
      const index = stroke.indices[at];
      this.counts[this.pixels[index]]--;
      this.pixels[index] = stroke[side][at];
      this.counts[this.pixels[index]]++;
    }
    to.push(stroke);
    return true;
  }

  // Runs in row order: length as LEB128 varint, then the class; the form of masks.pack_label_map before deflating.
  runs() {
    const bytes = [];
    for (let start = 0; start < this.pixels.length; ) {
      let end = start + 1;
      while (end < this.pixels.length && this.pixels[end] === this.pixels[start]) end++;
      let length = end - start;
      for (; length > 127; length >>>= 7) bytes.push((length & 127) | 128);
      bytes.push(length, this.pixels[start]);
      start = end;
    }
    return new Uint8Array(bytes);
  }

  // Base64 of the deflated runs, what the submit route takes.
  async packed() {
    const stream = new Blob([this.runs()]).stream().pipeThrough(new CompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return btoa(text);
  }
}
