"""A slice or a patch as picture or text."""
