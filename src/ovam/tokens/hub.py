"""Read and write TokenSets as a folder or a Hub repository, with `tokens.safetensors` and a card."""

import tempfile
from pathlib import Path

from ovam.errors import TokenFileError
from ovam.tensor_file import replacing
from ovam.tokens.card import model_card
from ovam.tokens.store import load_tokens, save_tokens
from ovam.tokens.token_set import TokenSet

FILE = "tokens.safetensors"


def save_pretrained(tokens: TokenSet, folder: str | Path) -> None:
    """Write the set and its card, `README.md`, to a folder, as in a Hub repository.

    Raises:
        TokenFileError: the folder can't be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TokenFileError(
            f"folder {folder} can't be made ({error}): expected a new or an existing folder"
        ) from error
    save_tokens(tokens, folder / FILE)
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(model_card(tokens), encoding="utf-8")


def from_pretrained(
    name: str | Path,
    *,
    filename: str = FILE,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> TokenSet:
    """Read a set from a folder or a repository of the Hub.

    Args:
        name: A folder, or `owner/name` of a repository.
        filename: Name of the file in it.
        revision: Branch, tag or commit of the repository.
        cache_dir: Where downloads are kept.
        token: Access token for the Hub.
        local_files_only: Download nothing.

    Raises:
        TokenFileError: there is no such file, or it is not a readable set.
    """
    if Path(name).is_dir():
        return load_tokens(Path(name) / filename)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            str(name),
            filename,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
    except (OSError, ValueError) as error:  # all of the Hub's errors derive from these
        raise TokenFileError(
            f"tokens {str(name)!r} could not be read ({_reason(error)}): expected a folder with {filename}, or the "
            "name owner/repository of one on the Hub"
        ) from error
    return load_tokens(path)


def push_to_hub(
    tokens: TokenSet,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload tokens",
    create_pr: bool = False,
) -> str:
    """Upload a set and its card to a repository, which is created if needed.

    Args:
        tokens: The set; the card names its licence.
        repo_id: `owner/name`.
        private: Whether a new repository is private.
        token: Access token for the Hub.
        revision: Branch to commit to.
        commit_message: Message of the commit.
        create_pr: Open a pull request instead of committing.

    Returns:
        Address of the commit.

    Raises:
        TokenFileError: the Hub refuses the name, the token or the files, or can't be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(tokens, folder)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
    except (OSError, ValueError) as error:  # all of the Hub's errors derive from these
        raise TokenFileError(
            f"tokens could not be uploaded to {repo_id!r} ({_reason(error)}): expected a name owner/repository that "
            "you may write to, and to be logged in (`hf auth login`, or token=...)"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
