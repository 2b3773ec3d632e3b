// Shapes on pixel grids: connected components and their outlines, filled polygons, floods, the magic wand.
// Plain arrays in, plain arrays out; also runs in the worker.

// The 8-connected regions of confidence ≥ threshold (bytes): `numbers` per pixel (0 outside, else 1 …), and for
// each region its number, area, box, brightest pixel, and outline as segments x1, y1, x2, y2 along pixel edges.
export function components(confidence, height, width, threshold, smallest = 1) {
  const numbers = new Int32Array(confidence.length);
  const stack = new Int32Array(confidence.length);
  const regions = [];
  for (let start = 0; start < confidence.length; start++) {
    if (numbers[start] || confidence[start] < threshold) continue;
    const number = regions.length + 1;
    let size = 0, area = 0, peak = start;
    let left = width, right = 0, top = height, bottom = 0;
    stack[size++] = start;
    numbers[start] = number;
    while (size) {
      const at = stack[--size];
      const y = (at / width) | 0, x = at - y * width;
      area++;
      if (confidence[at] > confidence[peak]) peak = at;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
      const first = x ? x - 1 : x, last = x < width - 1 ? x + 1 : x;
      for (let row = y ? y - 1 : y; row <= y + 1 && row < height; row++) {
        for (let column = first; column <= last; column++) {
          const next = row * width + column;
          if (!numbers[next] && confidence[next] >= threshold) {
            numbers[next] = number;
            stack[size++] = next;
          }
        }
      }
    }
    regions.push({ number, area, peak, box: { left, top, width: right - left + 1, height: bottom - top + 1 } });
  }
  const kept = regions.filter((region) => region.area >= smallest);
  for (const region of kept) region.outline = outline(numbers, width, height, region);
  return { numbers, regions: kept };
}

// The pixel edges around one numbered region, neighbouring ones joined.
export function outline(numbers, width, height, { number, box }) {
  const segments = [];
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && numbers[y * width + x] === number;
  const right = box.left + box.width, bottom = box.top + box.height;
  for (let y = box.top; y <= bottom; y++) {
    for (let x = box.left, from = -1; x <= right; x++) {
      const edge = x < right && at(x, y) !== at(x, y - 1);
      if (edge && from < 0) from = x;
      if (!edge && from >= 0) {
        segments.push(from, y, x, y);
        from = -1;
      }
    }
  }
  for (let x = box.left; x <= right; x++) {
    for (let y = box.top, from = -1; y <= bottom; y++) {
      const edge = y < bottom && at(x, y) !== at(x - 1, y);
      if (edge && from < 0) from = y;
      if (!edge && from >= 0) {
        segments.push(x, from, x, y);
        from = -1;
      }
    }
  }
  return Int32Array.from(segments);
}

// One byte per pixel of the box: 1 where the pixel carries that number.
export function regionMask(numbers, width, { number, box }) {
  const mask = new Uint8Array(box.width * box.height);
  for (let row = 0; row < box.height; row++) {
    const start = (box.top + row) * width + box.left;
    for (let column = 0; column < box.width; column++) {
      if (numbers[start + column] === number) mask[row * box.width + column] = 1;
    }
  }
  return mask;
}

// The inside of a closed polygon of points (x, y), even-odd, by pixel middles: {mask, box}, or null if empty.
export function polygon(points, height, width) {
  const xs = points.map((point) => point.x), ys = points.map((point) => point.y);
  const left = Math.max(0, Math.floor(Math.min(...xs))), right = Math.min(width, Math.ceil(Math.max(...xs)));
  const top = Math.max(0, Math.floor(Math.min(...ys))), bottom = Math.min(height, Math.ceil(Math.max(...ys)));
  if (points.length < 3 || left >= right || top >= bottom) return null;
  const box = { left, top, width: right - left, height: bottom - top };
  const mask = new Uint8Array(box.width * box.height);
  let any = false;
  for (let row = 0; row < box.height; row++) {
    const y = top + row + 0.5, crossings = [];
    for (let side = 0; side < points.length; side++) {
      const a = points[side], b = points[(side + 1) % points.length];
      if (a.y <= y === b.y <= y) continue;
      crossings.push(a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x));
    }
    crossings.sort((a, b) => a - b);
    for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
      const first = Math.max(left, Math.ceil(crossings[pair] - 0.5));
      const last = Math.min(right - 1, Math.ceil(crossings[pair + 1] - 0.5) - 1);
      if (first > last) continue;
      mask.fill(1, row * box.width + first - left, row * box.width + last - left + 1);
      any = true;
    }
  }
  return any ? { mask, box } : null;
}

// The 4-connected pixels around (x, y) for which `alike(index)` holds, within the box: {mask, box, area}.
export function flood(height, width, x, y, alike, box = { left: 0, top: 0, width, height }) {
  const mask = new Uint8Array(box.width * box.height);
  const inside = (column, row) =>
    column >= 0 && row >= 0 && column < box.width && row < box.height
    && !mask[row * box.width + column] && alike((box.top + row) * width + box.left + column);
  const stack = [[x - box.left, y - box.top]];
  let area = 0;
  while (stack.length) {
    const [column, row] = stack.pop();
    if (!inside(column, row)) continue;
    let first = column, last = column;
    while (inside(first - 1, row)) first--;
    while (inside(last + 1, row)) last++;
    mask.fill(1, row * box.width + first, row * box.width + last + 1);
    area += last - first + 1;
    for (const next of [row - 1, row + 1]) {
      for (let at = first, open = false; at <= last; at++) {
        const free = inside(at, next);
        if (free && !open) stack.push([at, next]);
        open = free;
      }
    }
  }
  return { mask, box, area };
}

// Grows from (x, y) over pixels of similar colour (RGBA bytes; distance per channel at most `tolerance` on
// average) without leaving the loop {mask, box} of `polygon`; small holes are closed.
export function wand(rgba, height, width, loop, x, y, tolerance) {
  const seed = meanColour(rgba, height, width, x, y);
  const limit = 3 * tolerance * tolerance;
  const { box } = loop;
  const alike = (index) => {
    const row = ((index / width) | 0) - box.top, column = (index % width) - box.left;
    if (!loop.mask[row * box.width + column]) return false;
    const at = 4 * index;
    const red = rgba[at] - seed[0], green = rgba[at + 1] - seed[1], blue = rgba[at + 2] - seed[2];
    return red * red + green * green + blue * blue <= limit;
  };
  const grown = flood(height, width, x, y, alike, box);
  return { ...grown, mask: withoutHoles(grown.mask, box, Math.max(16, grown.area / 50)) };
}

function meanColour(rgba, height, width, x, y) {
  const sum = [0, 0, 0];
  let count = 0;
  for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++) {
    for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column++, count++) {
      for (let channel = 0; channel < 3; channel++) sum[channel] += rgba[4 * (row * width + column) + channel];
    }
  }
  return sum.map((value) => value / count);
}

// The mask with every enclosed hole of at most `largest` pixels closed.
export function withoutHoles(mask, box, largest) {
  const numbered = components(mask.map((value) => (value ? 0 : 255)), box.height, box.width, 255);
  const closed = mask.slice();
  for (const hole of numbered.regions) {
    const { left, top, width, height } = hole.box;
    const open = left === 0 || top === 0 || left + width === box.width || top + height === box.height;
    if (open || hole.area > largest) continue;
    for (let at = 0; at < closed.length; at++) if (numbered.numbers[at] === hole.number) closed[at] = 1;
  }
  return closed;
}

// A pixel well inside a mask: the middle of a long run of a row, rather of one halfway down.
export function middle({ mask, box }) {
  let best = { worth: -1, x: box.left, y: box.top };
  for (let row = 0; row < box.height; row++) {
    const halfway = 1 - Math.abs(row + 0.5 - box.height / 2) / box.height;
    for (let column = 0, length = 0; column <= box.width; column++) {
      if (column < box.width && mask[row * box.width + column]) length++;
      else {
        if (length * halfway > best.worth) best = { worth: length * halfway, x: box.left + column - ((length + 1) >> 1), y: box.top + row };
        length = 0;
      }
    }
  }
  return { x: best.x, y: best.y };
}

// Bytes of a map at another size, by bilinear interpolation at pixel middles.
export function resized(bytes, fromHeight, fromWidth, height, width) {
  if (fromHeight === height && fromWidth === width) return bytes;
  const out = new Uint8Array(height * width);
  for (let row = 0; row < height; row++) {
    const y = Math.min(fromHeight - 1, Math.max(0, ((row + 0.5) * fromHeight) / height - 0.5));
    const top = y | 0, below = Math.min(fromHeight - 1, top + 1), v = y - top;
    for (let column = 0; column < width; column++) {
      const x = Math.min(fromWidth - 1, Math.max(0, ((column + 0.5) * fromWidth) / width - 0.5));
      const left = x | 0, right = Math.min(fromWidth - 1, left + 1), u = x - left;
      const upper = bytes[top * fromWidth + left] * (1 - u) + bytes[top * fromWidth + right] * u;
      const lower = bytes[below * fromWidth + left] * (1 - u) + bytes[below * fromWidth + right] * u;
      out[row * width + column] = Math.round(upper * (1 - v) + lower * v);
    }
  }
  return out;
}
