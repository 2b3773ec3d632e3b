// A label map as bytes and back: the form of masks.pack_label_map, zlib over runs in row order. A run is its
// length as a LEB128 varint and then the class.

export function runs(pixels) {
  let bytes = new Uint8Array(4096), size = 0;
  const count = pixels.length;
  for (let start = 0; start < count; ) {
    const value = pixels[start];
    let end = start + 1;
    while (end < count && pixels[end] === value) end++;
    if (size + 8 > bytes.length) {
      const grown = new Uint8Array(2 * bytes.length);
      grown.set(bytes);
      bytes = grown;
    }
    let length = end - start;
    for (; length > 127; length >>>= 7) bytes[size++] = (length & 127) | 128;
    bytes[size++] = length;
    bytes[size++] = value;
    start = end;
  }
  return bytes.slice(0, size);
}

export function unrun(bytes, count) {
  const pixels = new Uint8Array(count);
  let at = 0;
  for (let position = 0; position < bytes.length; ) {
    let length = 0, scale = 1, byte;
    do {
      byte = bytes[position++];
      length += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    const value = bytes[position++];
    if (value) pixels.fill(value, at, at + length);
    at += length;
  }
  if (at !== count) throw new Error(`A label map of ${at} pixels for an image of ${count}.`);
  return pixels;
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

const STORED_BYTES = 32768;
const BLOCK_BYTES = 65535;

// Few runs go into zlib's stored form, at once; only many are worth the way to the compressor and back.
export async function packed(pixels) {
  const bytes = runs(pixels);
  return base64(bytes.length <= STORED_BYTES ? stored(bytes) : await through(new CompressionStream("deflate"), bytes));
}

// The same without waiting for the compressor, however many runs there are.
export const packedAtOnce = (pixels) => base64(stored(runs(pixels)));

// A zlib stream of stored blocks (RFC 1950, RFC 1951).
function stored(bytes) {
  const blocks = Math.max(1, Math.ceil(bytes.length / BLOCK_BYTES));
  const out = new Uint8Array(bytes.length + 5 * blocks + 6);
  out.set([0x78, 0x01]);
  let size = 2;
  for (let block = 0; block < blocks; block++) {
    const part = bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES), { length } = part;
    out.set([block === blocks - 1 ? 1 : 0, length & 255, length >> 8, ~length & 255, (~length >> 8) & 255], size);
    out.set(part, size + 5);
    size += 5 + length;
  }
  let low = 1, high = 0;
  for (const byte of bytes) {
    low = (low + byte) % 65521;
    high = (high + low) % 65521;
  }
  out.set([high >> 8, high & 255, low >> 8, low & 255], size);
  return out;
}

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

export async function unpacked(text, count) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return unrun(await through(new DecompressionStream("deflate"), bytes), count);
}
