// Requests to the server: JSON, same origin, the session's CSRF token on everything that changes state.

import { urlOf } from "./root.js";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// No answer: the server is down or the network is.
export class Unreachable extends Error {}

let session = null;

export async function currentSession() {
  session ??= await read(await request("/api/session", { headers: { Accept: "application/json" } }));
  return session;
}

// After signing in again the token has changed.
export function forgetSession() {
  session = null;
}

export async function get(path) {
  return read(await request(path, { headers: { Accept: "application/json" } }));
}

export const post = (path, body = {}, options = {}) => change("POST", path, body, options);

export const del = (path) => change("DELETE", path, {}, {});

// Sends bytes as they are.
export async function postBytes(path, bytes, options = {}) {
  const { csrf } = await currentSession();
  return read(await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", Accept: "application/json", "X-Clinic-CSRF": csrf },
    body: bytes,
    ...options,
  }));
}

async function change(method, path, body, options) {
  const { csrf } = await currentSession();
  return read(await request(path, {
    method,
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-Clinic-CSRF": csrf },
    body: JSON.stringify(body),
    ...options,
  }));
}

// `fetch`, which names what happened when there is no answer.
export async function request(path, options) {
  try {
    return await fetch(urlOf(path), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable("Cannot reach the server. Please try again.");
  }
}

async function read(response) {
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.error ?? `The server returned status ${response.status}.`);
  return answer;
}
