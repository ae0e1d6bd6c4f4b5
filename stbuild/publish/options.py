"""What a publisher says of a release."""

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import CorpusDocument, Document


def _require_day(text: str) -> str:
    date.fromisoformat(text)  # its own words say what is wrong
    return text


class PublishOptions(Document):
    """What a publisher says of a release; none of it changes a shard."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    title: str | None = None
    """Title of the card, else the corpus's name."""
    description: str | None = None
    """One or two sentences on what it is."""
    authors: tuple[str, ...] = ()
    """Who publishes it."""
    url: str | None = None
    """Where it will be found."""
    citation: str | None = None
    """How it is cited, such as BibTeX; else made from title, authors and corpus id."""
    date: (
        Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_require_day)] | None
    ) = None
    """Day of publication, YYYY-MM-DD; left out without it."""
    release_version: str = "1.0.0"
    """Version of the release."""
    leave_out: tuple[str, ...] = ()
    """Licences, or classes, to leave out."""
    stated: tuple[str, ...] = ()
    """Licences, or classes, that the publisher states to be allowed to redistribute."""

    def digest(self) -> str:
        """Return the digest of all of it: what a rerun compares."""
        return sha256_json(self.model_dump(mode="json"))

    def cite_as(self, document: CorpusDocument) -> str:
        """Return the citation: the given one, or one made of what is known."""
        if self.citation is not None:
            return self.citation
        who = f"{', '.join(self.authors)}. " if self.authors else ""
        year = f" ({self.date[:4]})" if self.date else ""
        where = f" {self.url}." if self.url else ""
        return (
            f"{who}{self.title or document.name}{year}, version {self.release_version}.{where} "
            f"Corpus {document.corpus_id}."
        )
