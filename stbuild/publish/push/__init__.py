"""Sending a release to the Hugging Face Hub or to Zenodo: thin, resumable, dry run first."""
