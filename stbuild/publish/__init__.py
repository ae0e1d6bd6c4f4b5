"""A corpus as something to publish: gate, card, Croissant, licences, provenance, checksums.

Nothing here changes a shard; what is not allowed to be redistributed is refused, or left out by
whole licence classes. Nothing is imported here: the command line looks at the options alone.
"""
