// Blind studies: judging for raters; creating, monitoring and closing for makers.
import { get } from "../api.js";
import { router } from "../router.js";
import { judge } from "./judge.js";
import { list } from "./list.js";
import { make } from "./make.js";
import { results } from "./results.js";

router({
  home: "/study",
  title: "All studies",
  views: { list, judge, make, results },
  prepare: async () => ({ desk: await get("/api/study") }),
});
