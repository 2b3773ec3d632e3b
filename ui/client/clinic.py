"""A clinic's server."""

import os
from types import TracebackType
from typing import Any, Self

import httpx

from ui.client.annotation import Labels, Queue
from ui.client.images import Images
from ui.client.jobs import Jobs
from ui.client.results import Exports, Studies
from ui.client.training import Detectors, Generators, Snapshots, Training, Treating
from ui.client.transport import ATTEMPTS, Transport
from ui.client.uploads import Uploads

URL, TOKEN = "CLINIC_URL", "CLINIC_TOKEN"


class Clinic:
    """A clinic's server, as the person or program whose token this is.

    Address and token default to the variables CLINIC_URL and CLINIC_TOKEN. Every failure is a `ClinicError`
    with the server's sentence. `http` is an httpx client with settings of your own (proxy, certificates);
    `attempts` is how often a request is tried.

        clinic = Clinic("https://clinic.example.org", token)
        for image in clinic.images.list(category="hand", state="unlabelled"):
            print(image.id, image.prompt, image.max)
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        http: httpx.Client | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        given = os.environ.get(URL, "") if url is None else url
        secret = os.environ.get(TOKEN, "") if token is None else token
        self._transport = transport = Transport(given, secret, http=http, attempts=attempts)
        self.jobs = Jobs(transport)
        self.images = Images(transport, self.jobs)
        self.uploads = Uploads(transport)
        self.queue = Queue(transport)
        self.labels = Labels(transport, self.queue)
        self.snapshots = Snapshots(transport)
        self.training = Training(transport)
        self.treating = Treating(transport)
        self.detectors = Detectors(transport, self.jobs)
        self.generators = Generators(transport, self.jobs)
        self.studies = Studies(transport)
        self.exports = Exports(transport, self.jobs)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.url

    def whoami(self) -> dict[str, Any]:
        """The name and roles of the account."""
        return dict(self._transport.get("/session"))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
