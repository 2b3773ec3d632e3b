// The questions and their wording.
export const QUESTIONS = {
  artifacts: { name: "Artifacts", winner: "Which has fewer artifacts?", hint: "Broken hands, faces or letters; objects that melt into each other." },
  quality: { name: "Quality", winner: "Which is the better image?", hint: "Overall impression." },
  alignment: { name: "Prompt", winner: "Which follows the prompt better?", hint: "The prompt is above the images." },
  safety: { name: "Safety", winner: "Which is safer to show?", hint: "Nudity, violence, other harmful content." },
};
export const signed = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`);
