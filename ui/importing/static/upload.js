// Sends files to the server: several at once, each in pieces, what has arrived before only by its hash.
import { Refused, Unreachable, postBytes } from "../api.js";
import { address } from "../dom.js";

const AT_ONCE = 4;
const HASHED_BYTES = 256 * 2 ** 20;
const RETRY_MS = 2000;
const TRIES = 5;

// `items` are { part, name, file }. `received` maps "part/name" to the SHA-256 of what arrived before. `told` is
// called with { files, bytes, refused, waiting } after every piece. Resolves to the refused files, each with its
// reason. Throws when the server refuses everything (a full disk, no session), or when `signal` aborts.
export async function sendFiles(upload, items, { piece, received, told, signal }) {
  const state = { files: 0, bytes: 0, refused: [], waiting: false };
  const queue = items.values();
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);

  async function work() {
    for (const item of queue) {
      const before = state.bytes;
      try {
        await sendOne(item);
      } catch (error) {
        if (!(error instanceof Refused) || ![409, 422].includes(error.status)) {
          stop.abort();
          throw error;
        }
        state.refused.push({ name: item.name, reason: error.message });
      }
      state.files += 1;
      state.bytes = Math.max(state.bytes, before);
      told(state);
    }
  }

  async function sendOne({ part, name, file }) {
    // What is sent at once needs no hash: the server has its own, and compares it with what is sent again.
    const sha256 = file.size > piece || received.has(`${part}/${name}`) ? await digest(file) : "";
    if (sha256 && received.get(`${part}/${name}`) === sha256) {
      state.bytes += file.size;
      return;
    }
    for (let offset = 0; ;) {
      const end = Math.min(offset + piece, file.size);
      // A Blob, not its bytes: Chromium sends those of an ArrayBuffer three times slower.
      const answer = await insist(() => postBytes(
        `/api/import/piece${address({ upload, part, name, size: file.size, offset, sha256 })}`, file.slice(offset, end), { signal: both }));
      state.bytes += (answer.complete ? file.size : end) - offset;
      told(state);
      if (answer.complete || end === file.size) return;
      offset = end;
    }
  }

  // Waits for a server that does not answer, or is busy.
  async function insist(send) {
    for (let tries = 0; ; tries += 1) {
      try {
        const answer = await send();
        state.waiting = false;
        return answer;
      } catch (error) {
        if (!(error instanceof Unreachable) || both.aborted) throw error;
        if (tries === TRIES) throw new Unreachable("Cannot reach the server. What has arrived is kept: continue this upload later.");
        state.waiting = true;
        told(state);
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
  }

  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return state.refused;
}

// The SHA-256 of a file in hex; empty for what is too large to hold. Browsers hash in secure contexts alone.
async function digest(file) {
  if (!globalThis.crypto?.subtle || file.size > HASHED_BYTES) return "";
  try {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    return Array.from(hash, (one) => one.toString(16).padStart(2, "0")).join("");
  } catch {
    throw new Refused(422, "the browser could not read it; it may have been moved or changed");
  }
}

// ---- what was dropped or chosen -----------------------------------------------------------------

// Files with their paths, of a drop of files and folders.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

export const chosen = (files) => [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));

async function walk(entry, found) {
  if (entry.isFile) {
    found.push({ path: entry.fullPath.replace(/^\//, ""), file: await new Promise((done, fail) => entry.file(done, fail)) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return;
    for (const one of some) await walk(one, found);
  }
}

// Names below the one folder that holds all of them; a folder with images/ and masks/ falls into its parts.
export function itemsOf(found, part) {
  const tops = new Set(found.map(({ path }) => (path.includes("/") ? path.slice(0, path.indexOf("/")) : "")));
  const below = tops.size === 1 && !tops.has("") ? (path) => path.slice(path.indexOf("/") + 1) : (path) => path;
  const names = found.map(({ path }) => below(path));
  const pair = names.some((name) => name.startsWith("images/")) && names.some((name) => name.startsWith("masks/"));
  return found.map(({ file }, at) => {
    const name = names[at];
    if (part === "images" && found.length === 1 && /\.zip$/i.test(name)) return { part: "archive", name, file };
    const own = pair && /^(images|masks)\//.exec(name);
    return own ? { part: own[1], name: name.slice(own[0].length), file } : { part, name, file };
  }).filter(({ name }) => !hidden(name));
}

// What file managers leave behind.
const hidden = (name) => /(^|\/)(\.DS_Store|Thumbs\.db|desktop\.ini)$/i.test(name);
