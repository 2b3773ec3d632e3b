// The rounds desk: four views, refreshed every few seconds while something is running.
import { router } from "../router.js";
import { figures } from "./figures.js";
import { jobs } from "./jobs.js";
import { lineage } from "./lineage.js";
import { rounds } from "./timeline.js";

router({ home: "/rounds", title: "Rounds", views: { rounds, figures, lineage, jobs } });
