// Where this server's pages begin: "" at the top of its host, "/clinic" behind a proxy that puts it there.
// Paths in our code and in the server's answers begin below it.

const home = document.querySelector("link#clinic-root");

export const root = home ? new URL(home.href).pathname.replace(/\/$/, "") : "";

// The address of a path of ours.
export const urlOf = (path) => (/^\/(?!\/)/.test(path) ? root + path : path);

// The path of the page that is shown.
export const here = () => (root && location.pathname.startsWith(root) ? location.pathname.slice(root.length) : location.pathname).replace(/(.)\/$/, "$1") || "/";
