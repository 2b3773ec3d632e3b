"""Who gets in and who does not: API and tokens, strangers, proxies, sign-on, addresses, the client, MCP.

`make bench-access` writes `build/bench/access.json`; `PART=NAME` measures one part alone. Every refusal has
its control in the same run.
"""

from tests.bench.modules import measure_parts

if __name__ == "__main__":
    measure_parts("access")
