// The rounds desk: four views; what is running is refreshed every few seconds.
import { router } from "/static/router.js";
import { figures } from "./figures.js";
import { jobs } from "./jobs.js";
import { lineage } from "./lineage.js";
import { rounds } from "./timeline.js";

router({ home: "/rounds", title: "Rounds", views: { rounds, figures, lineage, jobs } });
