// The curation desk: one page with seven views.
import { get } from "/static/api.js";
import { router } from "/static/router.js";
import { benchmark } from "./benchmark.js";
import { balance, categories } from "./categories.js";
import { images } from "./grid.js";
import { people } from "./people.js";
import { repairs } from "./repairs.js";
import { review } from "./review.js";

let choices = null;  // of images too: a page that was empty asks again

router({
  home: "/curate",
  title: "Curate",
  views: { images, categories, review, benchmark, balance, repairs, people },
  prepare: async () => ({ choices: (choices = choices?.images ? choices : await get("/api/curate/choices")) }),
});
