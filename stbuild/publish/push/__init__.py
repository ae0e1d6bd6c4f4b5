"""Sending a release to the Hugging Face Hub or to Zenodo: thin, resumable, dry run first."""

from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.report import PushReport, SentFile
from stbuild.publish.push.run import push_release

__all__ = ["PushOptions", "PushReport", "SentFile", "push_release"]
