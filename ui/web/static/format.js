// Formats numbers, shares and times; a dash for unknown values.

const unknown = (value) => value === null || value === undefined || !Number.isFinite(value);

export const number = (value, digits = 2) => (unknown(value) ? "–" : value.toFixed(digits));
export const percent = (value) => (unknown(value) ? "–" : `${Math.round(100 * value)} %`);
export const count = (value) => value.toLocaleString("en");
export const when = (seconds) => new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

// A measured value with so many significant digits.
export function figure(value, digits = 3) {
  if (unknown(value)) return "–";
  if (value === 0 || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 0.0001 && size < 100000 ? String(Number(value.toPrecision(digits))) : value.toExponential(1);
}
