"""A corpus as something to publish: gate, card, Croissant, licences, provenance, checksums.

Nothing here changes a shard; what is not allowed to be redistributed is refused, or left out by
whole licence classes.
"""

from stbuild.publish.release import PublishOptions, PublishSummary, publish_release

__all__ = ["PublishOptions", "PublishSummary", "publish_release"]
