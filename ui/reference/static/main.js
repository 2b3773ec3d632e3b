// Filters the operations of the API's description, and opens the one that the address names.
const field = document.getElementById("find");
const sections = [...document.querySelectorAll("section")];

function filter() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of sections) {
    const operations = [...section.querySelectorAll("details")];
    for (const one of operations) {
      const text = one.textContent.toLowerCase();
      one.hidden = !words.every((word) => text.includes(word));
    }
    section.hidden = operations.every((one) => one.hidden);
  }
}

function openNamed() {
  const one = document.getElementById(location.hash.slice(1));
  if (one?.tagName === "DETAILS") one.open = true;
}

field.closest("label").hidden = false;
field.addEventListener("input", filter);
addEventListener("hashchange", openNamed);
openNamed();
