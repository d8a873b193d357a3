"""What goes wrong between this server and the model hub, as errors that say what can be done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from atelier.core.errors import Forbidden, HubOffline, HubUnavailable, NotFound, StorageFull


@contextmanager
def hub_errors(repository: str = "", revision: str = "") -> Iterator[None]:
    """Convert the errors of huggingface_hub within a context.

    Raises NotFound if there is no such repository or revision, Forbidden if it is gated, HubOffline, StorageFull if
    the disk is full, and HubUnavailable for anything else that the hub or the network does.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubOffline from error
    except GatedRepoError as error:
        raise Forbidden(
            f"repository: {repository!r} is gated. Accept its terms on its page, and start the server with the token "
            "of that account in HF_TOKEN.",
            param="repository",
        ) from error
    except RevisionNotFoundError as error:
        raise NotFound(
            f"revision: the repository {repository!r} has no revision {revision!r}.", param="revision"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"repository: the hub has no repository {repository!r}, or it is private and HF_TOKEN is not that of an "
            "account that may read it.",
            param="repository",
        ) from error
    except LocalEntryNotFoundError as error:
        # huggingface_hub looks for files on this machine when the hub cannot be reached.
        raise HubUnavailable(f"The model hub cannot be reached: {error.__cause__ or error}.") from error
    except HfHubHTTPError as error:
        raise HubUnavailable(f"The model hub answers with status {error.response.status_code}.") from error
    except httpx2.HTTPError as error:
        raise HubUnavailable(f"The model hub cannot be reached: {error}.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull from error
        raise
