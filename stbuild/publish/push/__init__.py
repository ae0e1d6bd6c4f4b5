"""Sending what is finished to the Hugging Face Hub, Zenodo or an object store, resumably."""
