"""What each kind of registered endpoint is for, and a test of one."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataengine.errors import InputRefused, ServiceAbsent
from dataengine.outgoing import Network, checked_client
from dataengine.records import Endpoint, EndpointKind
from pipelines.services.endpoints import HUB_ID, SERVICES, check_webhook, checked_endpoint, permitted
from pipelines.services.operation.webhooks import send_test
from storage.workspace import Workspace

SECONDS = 5.0
FILES_READ = 10_000


@dataclass(frozen=True, slots=True)
class KindHelp:
    """What a kind is for, what its location looks like, and a file that shows that a folder holds one."""

    purpose: str
    location: str
    shown_by: tuple[str, ...] = ()


KIND_HELP: Mapping[EndpointKind, KindHelp] = {
    "generator": KindHelp(
        "A text-to-image model that rounds, treatments and studies may draw with.",
        "a folder with model_index.json, or a hub id: /models/flux, black-forest-labs/FLUX.1-dev",
        ("model_index.json", "*.safetensors"),
    ),
    "detector": KindHelp(
        "An artifact detector that trainings may start from and forms may name.",
        "a folder with its weights, or a hub id: /models/detector, owner/name",
        ("*.safetensors", "*.pt", "*.pth", "*.onnx"),
    ),
    "encoder": KindHelp(
        "Pre-trained weights that a new detector starts from.",
        "a file or folder on the server: /models/encoder.safetensors",
        ("*.safetensors", "*.bin", "*.pt", "*.pth"),
    ),
    "vqa": KindHelp(
        "A vision-language model that sorts images into categories and answers questions about them.",
        "a folder, a hub id, or an OpenAI-compatible server with the model's name: https://HOST/v1#MODEL",
        ("config.json",),
    ),
    "scorer": KindHelp(
        "A model that scores images: CLIP, PickScore, HPSv2, a classifier, LPIPS or Inception weights.",
        "a folder or a hub id: /models/clip, openai/clip-vit-large-patch14",
        ("config.json", "*.safetensors", "*.pth", "*.pt"),
    ),
    "segmenter": KindHelp(
        "A Segment Anything model for the annotators' click tool.",
        "a folder with its checkpoint: /models/sam",
        ("config.json", "*.safetensors", "*.pth"),
    ),
    "llm": KindHelp(
        "A language model that writes prompts for a category.",
        "a folder, a hub id, or an OpenAI-compatible server with the model's name: https://HOST/v1#MODEL",
        ("config.json",),
    ),
    "label-studio": KindHelp(
        "A Label Studio server that images and labels are exchanged with.",
        "its URL: https://label-studio.example.org",
    ),
    "folder": KindHelp(
        "A folder on the server that curators may import images from.",
        "an absolute path: /data/photos",
        ("*",),
    ),
    "webhook": KindHelp(
        "An address that is told of events, such as when people are needed or a job has failed.",
        "an https URL, or http on this machine: https://hooks.example.org/clinic",
    ),
}
"""Help by kind, in the words of the form."""


def check_registered(workspace: Workspace, endpoint_id: str, allowed_networks: Sequence[str] = ()) -> str:
    """Test a registered endpoint; returns what was found. Raises as `check_endpoint`, and `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        endpoint = catalog.endpoints.get(endpoint_id)
    if endpoint.kind == "webhook":
        sent = send_test(workspace, endpoint_id)
        return f"The signed test message was taken in {(sent.finished or sent.created) - sent.created:.1f} s."
    return check_endpoint(endpoint.kind, endpoint.name, endpoint.location, allowed_networks)


def check_endpoint(kind: str, name: str, location: str, allowed_networks: Sequence[str] = ()) -> str:
    """Test what a form holds, or what is registered: look into a folder, ask a service.

    Returns what was found in one sentence. Raises `InputRefused` for what may not be registered or holds no
    such model, `ServiceAbsent` where a service does not answer.
    """
    endpoint = checked_endpoint(kind, name or "test", location, allowed_networks)
    if endpoint.kind == "webhook":
        return check_webhook_answers(endpoint, permitted(allowed_networks))
    if endpoint.kind in SERVICES or "://" in endpoint.location:
        return check_service(endpoint, permitted(allowed_networks))
    if HUB_ID.fullmatch(endpoint.location) and not Path(endpoint.location).exists():
        return (
            "This is a hub id: workers fetch it when they first need it. Nothing was fetched for this test."
        )
    return check_path(endpoint)


def check_path(endpoint: Endpoint) -> str:
    """What a folder or file holds. Raises `InputRefused` if nothing in it looks like its kind."""
    path, wanted = Path(endpoint.location), KIND_HELP[endpoint.kind].shown_by
    if path.is_file():
        return f"The file is there, {path.stat().st_size / 1e6:.1f} MB."
    found = next((one for pattern in wanted for one in path.glob(pattern)), None)
    if found is None:
        raise InputRefused(
            f"{path} holds none of {', '.join(wanted)}, so it is no {endpoint.kind}; check the folder"
        )
    if endpoint.kind == "folder":
        count = sum(1 for _, one in zip(range(FILES_READ), path.rglob("*"), strict=False) if one.is_file())
        return f"The folder is there; it holds {'more than ' if count >= FILES_READ else ''}{count:,} files."
    return f"The folder is there and holds {found.name}."


def check_service(endpoint: Endpoint, networks: Sequence[Network] = ()) -> str:
    """What a service answers to a request that changes nothing. Raises `ServiceAbsent` and as `ask`."""
    address, _, model = endpoint.location.partition("#")
    asked = f"{address.rstrip('/')}/{'api/version' if endpoint.kind == 'label-studio' else 'models'}"
    status, body, seconds = ask("GET", asked, networks)
    if status >= 500:
        raise ServiceAbsent(f"{asked} answered {status}; check that the service is well")
    if status in (401, 403):
        return f"It answers in {seconds:.1f} s and wants a token, which workers take from their environment."
    if status >= 400:
        return f"It answers in {seconds:.1f} s, with {status} to {asked}; check the address."
    named = not model or f'"{model}"' in body
    return f"It answers in {seconds:.1f} s" + ("." if named else f", but does not list the model {model}.")


def check_webhook_answers(endpoint: Endpoint, networks: Sequence[Network] = ()) -> str:
    """Send a test notice. Raises `ServiceAbsent` unless it is taken."""
    check_webhook(endpoint.location)
    notice = {"id": "test", "event": "test", "subject": "", "text": "A test by an admin.", "at": time.time()}
    status, _, seconds = ask("POST", endpoint.location, networks, notice)
    if not 200 <= status < 300:
        raise ServiceAbsent(f"the webhook answered {status}; check its address")
    return f"The test notice was taken in {seconds:.1f} s."


def ask(
    method: str, url: str, networks: Sequence[Network], body: dict[str, object] | None = None
) -> tuple[int, str, float]:
    """Status, the start of the body, and seconds. Redirects are not followed.

    Raises `ServiceAbsent`, which does not name the address, as a webhook's may be a secret, and
    `AddressRefused` for an address that is neither public nor in `networks`.
    """
    import httpx

    began = time.monotonic()
    try:
        with (
            checked_client(networks, timeout=SECONDS) as client,
            client.stream(method, url, json=body) as response,
        ):
            start = next(response.iter_text(65536), "") if method == "GET" else ""
            return response.status_code, start, time.monotonic() - began
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceAbsent(
            f"it does not answer ({type(error).__name__}); check the address and the service"
        ) from error
