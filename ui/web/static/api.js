// Requests to the server: JSON, same origin, the session's CSRF token on everything that changes state.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let session = null;

export async function currentSession() {
  session ??= await read(await fetch("/api/session", { headers: { Accept: "application/json" } }));
  return session;
}

// After signing in again the token has changed.
export function forgetSession() {
  session = null;
}

export async function get(path) {
  return read(await fetch(path, { headers: { Accept: "application/json" } }));
}

export const post = (path, body = {}, options = {}) => change("POST", path, body, options);

export const del = (path) => change("DELETE", path, {}, {});

async function change(method, path, body, options) {
  const { csrf } = await currentSession();
  return read(await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-Clinic-CSRF": csrf },
    body: JSON.stringify(body),
    ...options,
  }));
}

async function read(response) {
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.error ?? `The server answered ${response.status}.`);
  return answer;
}
