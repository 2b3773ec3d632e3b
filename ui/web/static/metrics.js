// What a figure means in a few words, and which way is better.
import { h } from "./dom.js";

const LOWER = "Lower is better.", HIGHER = "Higher is better.";
const METRICS = {
  mse: ["MSE", "Mean squared error of the predicted map against the label.", LOWER],
  kl: ["KL(P‖Q)", "Divergence of the label from the prediction: large where artifacts are missed.", LOWER],
  kl1m: ["KL(1−P‖1−Q)", "Divergence of the clean pixels from the prediction: large for false alarms.", LOWER],
  real_mse: ["MSE, real", "Mean squared error on photos, where every detection is a false alarm.", LOWER],
  real_kl1m: ["KL(1−P‖1−Q), real", "False alarms on photos.", LOWER],
  miss: ["misses", "Share of the flawed images that are not flagged, at the detector’s own threshold.", LOWER],
  false_alarm: ["false alarms", "Share of the images without a flaw that are flagged, at the detector’s own threshold.", LOWER],
  pixel_ap: ["pixel AP", "Average precision over pixels: how well flawed pixels rank above clean ones.", HIGHER],
  iou: ["IoU", "Overlap of the flagged pixels and the labelled ones.", HIGHER],
  auroc: ["AUROC", "Chance that a flawed image ranks above a clean one.", HIGHER],
  loss: ["loss", "What training minimises.", LOWER],
  lr: ["learning rate", "Step size of the optimizer by its schedule.", ""],
  grad_norm: ["gradient norm", "Length of the gradient before clipping; bursts mean instability.", ""],
  pixel: ["confidence of pixels", "The objective: the detector’s mean confidence in the images of an update.", LOWER],
  mean_confidence: ["mean confidence", "The detector’s mean confidence over an image’s pixels.", LOWER],
  max_confidence: ["max confidence", "The detector’s highest confidence in an image.", LOWER],
  frequency: ["artifact frequency, from 0.5", "Share of images with a pixel of confidence 0.5 or more, as in the paper.", LOWER],
  flagged: ["flagged by the detector", "Share of images that the detector flags at its own threshold.", LOWER],
  detail: ["detail", "Laplacian energy: blurring lowers it, noise raises it.", "Close to 1 is better."],
  diversity: ["diversity", "Mean distance between the images of one prompt.", "Close to 1 is better."],
  guard_change: ["change", "Mean absolute difference to the untreated images.", "Small is better."],
  guard_detail: ["detail", "Laplacian energy as a ratio to the untreated images.", "Close to 1 is better."],
  guard_diversity: ["diversity", "Distance between images of one prompt as a ratio to the untreated ones.", "Close to 1 is better."],
  guard_attributes: ["attributes", "Change of the share of prompted attributes that are shown.", HIGHER],
  offline: ["regularisation", "Diffusion loss on artifact-free images.", LOWER],
  region: ["region constraint", "Change outside the artifacts of the untreated image.", LOWER],
};

const known = (name) => METRICS[name] ?? METRICS[name.replace(/^validation_/, "")];

export const metricName = (name) => known(name)?.[0] ?? name.replace(/^(validation|guard)_/, "").replaceAll("_", " ");

export const meaning = (name) => (known(name) ?? []).slice(1).filter(Boolean).join(" ");

// The name with its meaning as a tooltip.
export const metric = (name) => (meaning(name) ? h("abbr", { title: meaning(name) }, metricName(name)) : metricName(name));

// What the names of a table mean, to unfold.
export function glossary(names) {
  const rows = names.filter((name) => meaning(name)).map((name) => [h("dt", {}, metricName(name)), h("dd", {}, meaning(name))]);
  return h("details", { class: "glossary" }, h("summary", {}, "What do these figures mean?"), h("dl", { class: "facts" }, rows));
}
