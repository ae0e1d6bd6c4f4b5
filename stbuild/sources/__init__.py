"""Readers of foreign files, one format a module; each returns a :class:`stbuild.slices.Slice`."""
