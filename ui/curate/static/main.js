// The curation desk: one page with ten views.
import { get } from "../api.js";
import { router } from "../router.js";
import { benchmark } from "./benchmark.js";
import { balance, categories } from "./categories.js";
import { images } from "./grid.js";
import { people } from "./people.js";
import { pilots } from "./pilots.js";
import { repairs } from "./repairs.js";
import { review } from "./review.js";

let choices = null;  // of images too: a page that was empty asks again
// Loaded when it is first shown, so that the grid is there sooner.
const later = (file, view) => async (...given) => (await import(file))[view](...given);

router({
  home: "/curate",
  title: "Curate",
  views: { images, map: later("./map.js", "map"), duplicates: later("./duplicates.js", "duplicates"), categories, review, benchmark, balance, repairs, pilots, people },
  prepare: async () => ({ choices: (choices = choices?.images ? choices : await get("/api/curate/choices")) }),
});
