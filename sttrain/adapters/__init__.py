"""Published models as rows of our tables: read natively, or run through their own packages.

scGPT and scGPT-spatial are read from their true checkpoint layout and computed here; STAGATE and
Novae run through their packages where these are installed. Everything else comes as a file, see
``manifests/methods/README.md``. What there is stands in :mod:`sttrain.adapters.published`.
"""
