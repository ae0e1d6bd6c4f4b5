"""Released weights on the Hugging Face Hub; needs the extra ``publish``.

The one module that imports huggingface_hub. What comes down is read as any other release is, with
all its checks; what goes up are the files of a release and nothing else.
"""

from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save as save_tensors

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.errors import PlatformError, RemoteError
from sttrain.errors import DivergedError, Problem
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.encoder_info import EncoderInfo
from sttrain.release.card import LIBRARY, TAGS
from sttrain.release.document import FILES, ReleaseDocument, seal_document
from sttrain.release.files import encode_genes, encode_release, write_files
from sttrain.release.loading import HUB, Release, find_misfits, locate, read_release

try:
    from huggingface_hub import PyTorchModelHubMixin, snapshot_download
except ImportError as error:
    raise PlatformError(
        Problem(
            code="E009",
            subject="huggingface_hub",
            what="it is not installed, and models come from the Hub with it",
            fix="pip install 'stcorpus[publish]', or give a folder of released weights",
        )
    ) from error


def download(name: str, **options: Any) -> Path:  # noqa: ANN401 - those of snapshot_download
    """Download the files of a release, all of one commit, and return their folder.

    Parameters
    ----------
    name
        ``OWNER/NAME`` on the Hub.
    options
        Of ``snapshot_download``: revision, cache_dir, token, force_download, local_files_only.

    Raises
    ------
    RemoteError
        The Hub cannot be reached, or has no such model or revision.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), **options))
    except (OSError, ValueError) as error:
        raise RemoteError(
            Problem(
                code="T05",
                subject=f"model '{name}'",
                what=f"cannot be had from the Hub: {str(error).strip()[:300]}",
                fix="check the name, the revision and the connection; `hf auth login` for a "
                "private model",
            )
        ) from error


class HubAutoencoder(
    MaskedAutoencoder,
    PyTorchModelHubMixin,
    library_name=LIBRARY,
    tags=list(TAGS),
):
    """A released model with the three methods of the Hub.

    ``HubAutoencoder.from_pretrained("OWNER/NAME")``, ``model.save_pretrained("folder")`` and
    ``model.push_to_hub("OWNER/NAME")``. Weights that were changed in memory are released as such.

    Parameters
    ----------
    release
        A release, from :func:`sttrain.release.loading.read_release`.
    """

    # Nothing of the constructor's arguments becomes the Hub's config.json: it is the release's.
    _hub_mixin_config: dict[str, Any] | None = {}  # noqa: RUF012 - the mixin's own annotation
    document: ReleaseDocument
    info: EncoderInfo

    def __init__(self, release: Release) -> None:
        document = release.document
        super().__init__(document.model, len(release.genes), torch.Generator(), document.pretext)
        self.load_state_dict(release.model.state_dict())
        self.document, self.info = document, release.info
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Load a folder of released weights, or a model of the Hub.

        Parameters
        ----------
        pretrained_model_name_or_path
            A folder, or ``OWNER/NAME``; a folder of that name is preferred.
        options
            Of ``snapshot_download``: revision, cache_dir, token, force_download, local_files_only.

        Raises
        ------
        StError
            As :func:`sttrain.release.loading.load_released`.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).exists() or name.startswith(HUB):
            return cls(read_release(locate(name)))
        return cls(read_release(download(name, **options)))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: object = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,  # noqa: ANN401
    ) -> str | None:
        """Write the files of a release; `config` and `model_card_kwargs` change nothing of them.

        Returns
        -------
        str or None
            Where the commit is to be seen, if the model was pushed.

        Raises
        ------
        ConflictError
            The folder holds another release, or something else.
        DivergedError
            A weight is not finite.
        """
        folder = Path(save_directory)
        write_files(folder, self._files())
        if not push_to_hub:
            return None
        return str(self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs))

    def _files(self) -> dict[str, bytes]:
        tensors = {
            key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()
        }
        misfits = find_misfits(tensors, tensors)
        if misfits:
            fix = "release weights of an earlier step"
            raise DivergedError(
                *(Problem(code="T09", subject="model", what=what, fix=fix) for what in misfits)
            )
        weights = save_tensors(tensors, metadata={"format": "pt"})
        document = self.document
        if sha256_bytes(weights) != document.weights.sha256:
            changed = {"bytes": len(weights), "sha256": sha256_bytes(weights), "kind": "changed"}
            document = seal_document(
                **{name: getattr(document, name) for name in type(document).model_fields}
                | {"weights": document.weights.model_copy(update=changed)}
            )
        return encode_release(document, weights, encode_genes(self.info.genes))
