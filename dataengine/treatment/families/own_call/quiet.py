"""Loading and trying of networks without the messages of the libraries."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of diffusers and transformers."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(each, each.get_verbosity()) for each in (of_diffusers, of_transformers)]
    for library, _ in before:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in before:
            library.enable_progress_bar()
            library.set_verbosity(verbosity)
