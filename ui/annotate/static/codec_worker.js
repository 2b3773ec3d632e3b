// Finds the connected components of an artifact map in a worker: it gets the map once, then one threshold at a time.
import { components } from "./geometry.js";

let map = null;

onmessage = ({ data }) => {
  if (data.confidence) map = data;
  const { numbers, regions } = components(map.confidence, map.height, map.width, data.threshold, data.smallest);
  postMessage({ image: map.image, turn: data.turn, numbers, regions }, [numbers.buffer]);
};
