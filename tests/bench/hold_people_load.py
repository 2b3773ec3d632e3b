"""The people of `hold_people`, in a process of their own: `URL SECONDS NAME…`.

Prints "begin" once all have signed in, and at the end one JSON object of what they sent and were told.
"""

import asyncio
import base64
import hashlib
import json
import random
import ssl
import sys
import time
import uuid
from collections import Counter
from typing import Any

import httpx

from tests.bench.annotate_server import PASSWORD
from tests.bench.hold_people import SIDE
from tests.power import strokes

THINK_S = (1.5, 4.5)
TWICE, CUT = 0.1, 0.1
CUT_AFTER_S = (0.0, 0.03)


class Diary:
    """What all people sent, and what they were told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str, str]] = []
        """Image, person, and SHA-256 of the label map, of each answer that was acknowledged."""
        self.given: list[tuple[str, str]] = []
        self.next_ms: list[float] = []
        self.submit_ms: list[float] = []
        self.wrong: Counter[str] = Counter()
        self.twice = self.cut = self.number = 0

    def judge(self, what: str, reply: httpx.Response | BaseException) -> Any | None:
        """The reply's content, None for a refusal or failure, which is counted."""
        if isinstance(reply, BaseException):
            self.wrong[f"{what} without a reply"] += 1
            return None
        if reply.status_code == 409:
            self.wrong["false 409s"] += 1
        elif reply.status_code >= 500:
            self.wrong["5xx"] += 1
        elif reply.status_code >= 400:
            self.wrong[f"{what} refused with {reply.status_code}"] += 1
        else:
            return reply.json() if reply.status_code != 204 else {}
        return None


class Worker:
    """One person at the annotation page."""

    def __init__(self, client: httpx.AsyncClient, name: str, diary: Diary) -> None:
        self.client, self.name, self.diary = client, name, diary
        self.chance = random.Random(name)

    async def sign_in(self) -> None:
        answer = await self.client.post("/api/login", json={"name": self.name, "password": PASSWORD})
        answer.raise_for_status()
        self.client.headers["X-Clinic-CSRF"] = answer.json()["csrf"]

    async def work(self, until: float) -> None:
        await asyncio.sleep(self.chance.uniform(0, THINK_S[1]))
        while time.monotonic() < until:
            began = time.perf_counter()
            task = self.diary.judge("next", await self.reply("GET", "/api/annotate/next"))
            self.diary.next_ms.append(1000 * (time.perf_counter() - began))
            if not task:
                await asyncio.sleep(1)
                continue
            self.diary.given.append((task["image"]["id"], self.name))
            self.diary.judge("image", await self.reply("GET", task["image"]["url"], parse=False))
            await asyncio.sleep(self.chance.uniform(*THINK_S))
            await self.answer(task)

    async def reply(
        self, method: str, path: str, body: Any = None, parse: bool = True
    ) -> httpx.Response | BaseException:
        """The server's reply; what kept it from coming where none came."""
        try:
            reply = await self.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            return error
        return reply if parse else httpx.Response(204 if reply.is_success else reply.status_code)

    async def submit(self, body: Any) -> httpx.Response | BaseException:
        began = time.perf_counter()
        reply = await self.reply("POST", "/api/annotate/submit", body)
        self.diary.submit_ms.append(1000 * (time.perf_counter() - began))
        return reply

    async def answer(self, task: Any) -> None:
        """Submit an answer: once, twice at once, or cut off and again."""
        self.diary.number += 1
        packed = strokes(self.diary.number, SIDE)
        body = {
            "lease": task["lease"],
            "image": task["image"]["id"],
            "revision": task["revision"],
            "label_map": packed,
            "seconds": 3.0,
            "key": uuid.UUID(int=self.chance.getrandbits(128)).hex,
        }
        kind = self.chance.random()
        if kind < TWICE:
            self.diary.twice += 1
            replies = await asyncio.gather(self.submit(body), self.submit(body))
        elif kind < TWICE + CUT:
            self.diary.cut += 1
            try:  # cancelling closes the connection, whatever the server was at
                patience = self.chance.uniform(*CUT_AFTER_S)
                await asyncio.wait_for(self.reply("POST", "/api/annotate/submit", body), patience)
            except TimeoutError:
                pass
            replies = [await self.submit(body)]
        else:
            replies = [await self.submit(body)]
        told = [self.diary.judge("submit", reply) for reply in replies]
        if all(told) and {one["revision"] for one in told if one} != {1}:
            self.diary.wrong["other revisions"] += 1
        if any(told):
            digest = hashlib.sha256(base64.b64decode(packed)).hexdigest()
            self.diary.answers.append((task["image"]["id"], self.name, digest))


async def main(url: str, seconds: float, names: list[str]) -> None:
    """All people from signing in to the end."""
    diary, context = Diary(), ssl.create_default_context()
    workers = [
        Worker(httpx.AsyncClient(base_url=url, timeout=60, verify=context), name, diary) for name in names
    ]
    for worker in workers:
        await worker.sign_in()
    print("begin", flush=True)
    until = time.monotonic() + seconds
    await asyncio.gather(*(worker.work(until) for worker in workers))
    for worker in workers:
        await worker.client.aclose()
    print(json.dumps(vars(diary)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
