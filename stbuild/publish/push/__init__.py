"""Sending a release to the Hugging Face Hub, Zenodo or an object store: thin, resumable, dry run first."""
