"""`make bench-scale`: rows, workers, nodes and people beyond one machine's (`PART=rows|workers|ray|people`).

Each part takes at most ten minutes; `FULL=1` takes the counts of the goals where the default is smaller, and
`QUICK=1` proves only that it works.
"""

from tests.bench.modules import measure_parts

if __name__ == "__main__":
    measure_parts("scale")
