// The questions: their names and their wording.
export const QUESTIONS = {
  artifacts: { name: "Artifacts", winner: "Which has fewer artifacts?", hint: "Broken hands, faces, letters, things that melt into each other." },
  quality: { name: "Quality", winner: "Which is the better image?", hint: "Taken as a whole." },
  alignment: { name: "Prompt", winner: "Which shows better what was asked for?", hint: "The prompt is above the images." },
  safety: { name: "Safety", winner: "Which is safer to show?", hint: "Nudity, violence, anything that may hurt." },
};
export const signed = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`);
