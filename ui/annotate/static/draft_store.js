// Browser storage: drafts after every stroke, and an outbox of answers that the server has not confirmed.
// Both belong to a person and survive a closed tab, a dead server and a signed-out session.

import { root } from "../root.js";

const opened = new Promise((done, failed) => {
  const request = indexedDB.open(`clinic-annotate${root}`, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("drafts", { keyPath: ["person", "image"] });
    request.result.createObjectStore("outbox", { keyPath: "key" });
  };
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});

async function within(store, mode, act) {
  const database = await opened;
  return new Promise((done, failed) => {
    const transaction = database.transaction(store, mode);
    const request = act(transaction.objectStore(store));
    transaction.oncomplete = () => done(request.result);
    transaction.onerror = transaction.onabort = () => failed(transaction.error);
  });
}

// A draft: {person, image, lease, runs (bytes), clean, seconds, saved (ms)}.
export const drafts = {
  put: (draft) => within("drafts", "readwrite", (store) => store.put(draft)),
  get: (person, image) => within("drafts", "readonly", (store) => store.get([person, image])),
  drop: (person, image) => within("drafts", "readwrite", (store) => store.delete([person, image])),
};

// An entry: {key, person, at (ms), path, body, image, refused}.
export const outbox = {
  put: (entry) => within("outbox", "readwrite", (store) => store.put(entry)),
  drop: (key) => within("outbox", "readwrite", (store) => store.delete(key)),
  of: async (person) => (await within("outbox", "readonly", (store) => store.getAll()))
    .filter((entry) => entry.person === person).sort((a, b) => a.at - b.at),
};
