// A lasso as the server takes it: few whole-numbered corners, closed, by the even-odd rule.
import { SIDE } from "./points.js";

const MOST = 100, FINEST = 20;  // corners; units of the map that a corner may be off at first

// At most 100 corners [x, y] of a path of any length, or null for one that encloses nothing.
export function corners(path) {
  const within = (value) => Math.min(SIDE, Math.max(0, Math.round(value)));
  const all = path.map(([x, y]) => [within(x), within(y)]);
  let kept = all;
  for (let most = FINEST; kept.length > MOST; most *= 1.5) kept = simplified(all, most);
  if (kept.length < 3) return null;
  const [xs, ys] = [0, 1].map((axis) => kept.map((corner) => corner[axis]));
  return Math.max(...xs) > Math.min(...xs) && Math.max(...ys) > Math.min(...ys) ? kept : null;
}

// Ramer, Douglas and Peucker, without recursion.
function simplified(path, most) {
  const keep = new Uint8Array(path.length), open = [[0, path.length - 1]];
  keep[0] = keep[path.length - 1] = 1;
  while (open.length) {
    const [from, to] = open.pop(), [x0, y0] = path[from], dx = path[to][0] - x0, dy = path[to][1] - y0;
    const length = Math.hypot(dx, dy);
    let farthest = from, far = most;
    for (let at = from + 1; at < to; at++) {
      const [x, y] = [path[at][0] - x0, path[at][1] - y0];
      const distance = length ? Math.abs(x * dy - y * dx) / length : Math.hypot(x, y);
      if (distance > far) [farthest, far] = [at, distance];
    }
    if (farthest === from) continue;
    keep[farthest] = 1;
    open.push([from, farthest], [farthest, to]);
  }
  return path.filter((_, at) => keep[at]);
}

// As the server decides (storage/queries/lasso.py): a ray to the right crosses the outline an odd number of times.
export function isInside(outline, x, y) {
  let inside = false;
  for (let at = 0, before = outline.length - 1; at < outline.length; before = at++) {
    const [ax, ay] = outline[at], [bx, by] = outline[before];
    if ((ay <= y) !== (by <= y) && x < ax + ((y - ay) * (bx - ax)) / (by - ay)) inside = !inside;
  }
  return inside;
}
