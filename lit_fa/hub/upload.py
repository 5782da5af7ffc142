"""The upload of a folder to a model hub, by its own client; every failure is one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_fa.checkpoints.pushed import WEIGHTS
from lit_fa.errors import UserError, one_line


def check_target(repo: str, endpoint: str | None) -> Any:
    """The hub's client, with a token.

    Raises:
        UserError: a name that no repository can have, or no token.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--repo {repo}: {one_line(error)}") from None
    if "/" not in repo:
        raise UserError(f"--repo {repo}: write owner/name")
    if not get_token():
        raise UserError("push: there is no token; set HF_TOKEN or run hf auth login, or give --dry-run")
    return HfApi(endpoint=endpoint)


def upload(api: Any, folder: Path, repo: str, *, private: bool, overwrite: bool) -> str:
    """Upload a folder as one commit; returns the address of the repository.

    Args:
        api: of `check_target`.
        folder: of `write_module`, with its card.
        repo: owner/name; it is made if there is none.
        private: make it visible to its owner only; an existing one stays as it is.
        overwrite: replace weights that are there.

    Raises:
        UserError: the hub refuses, cannot be reached, or has weights there already.
    """
    with _one_line(api.endpoint, repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if not overwrite and api.file_exists(repo, WEIGHTS):
            raise UserError(f"{repo} has {WEIGHTS} already: give --overwrite, or another --repo")
        message = f"Weights, config, record and card, by lit-fa push ({folder.name})"
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    return f"{api.endpoint}/{repo}"


@contextmanager
def _one_line(endpoint: str, repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("push: HF_HUB_OFFLINE is set: unset it, or give --dry-run") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"{endpoint} refuses {repo} ({status}): the token may not write there") from None
        raise UserError(f"{endpoint} has answered {status} for {repo}; nothing is pushed, try it again") from None
    except (HTTPError, OSError) as error:
        raise UserError(f"{endpoint} cannot be reached ({one_line(error, most=100)}): see --endpoint") from None
