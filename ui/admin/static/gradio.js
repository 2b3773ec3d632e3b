// Panels of the desks. Values come as JSON and are written as text; nothing in them is ever markup.
(() => {
  const node = (tag, text = "", name = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  const STATES = new Set(["queued", "running", "waiting", "paused", "succeeded", "done", "failed", "cancelled", "champion"]);
  const state = (word) => node("span", word, STATES.has(word) ? `state ${word}` : "state");

  const draw = {
    figures: (items) => items.map(({ value, label }) => {
      const cell = node("div");
      cell.append(node("b", value), node("span", label));
      return cell;
    }),
    stages: (items) => items.map(({ name, state: word, note }) => {
      const step = node("div", "", `step ${STATES.has(word) ? word : "ahead"}`);
      step.append(node("i"), node("b", name), node("span", note ?? ""));
      return step;
    }),
    rows: (items) => items.map(({ title, sub, state: word, progress, note }) => {
      const row = node("div", "", "row");
      const words = node("div", "", "words");
      words.append(node("b", title), node("span", sub ?? ""));
      row.append(words, node("span", note ?? "", "note"));
      if (word === "running" && typeof progress === "number") {
        const bar = node("progress");
        bar.value = progress;
        row.append(bar);
      }
      if (word) row.append(state(word));
      return row;
    }),
    facts: (pairs) => pairs.map(([key, value]) => {
      const fact = node("div");
      fact.append(node("dt", key), node("dd", value));
      return fact;
    }),
    text: (lines) => (lines.length ? [node("pre", lines.join("\n"))] : []),
  };

  window.clinicPanel = (kind, element, props, watch) => {
    const show = () => {
      const items = props.value ?? { items: [] };
      const body = element.querySelector(".body");
      if (!body) return;
      const made = draw[kind](items.items ?? []);
      body.replaceChildren(...(made.length ? made : [node("p", items.empty ?? "Nothing here yet.", "nothing")]));
      const title = element.querySelector("h2");
      if (items.title !== undefined) title.textContent = items.title;
      title.hidden = !title.textContent;
      const log = body.querySelector("pre");
      if (log) log.scrollTop = log.scrollHeight;
    };
    show();
    watch("value", show);
  };
})();
