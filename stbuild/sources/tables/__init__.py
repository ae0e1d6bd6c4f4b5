"""Tables of counts as text, with whatever tables lie beside them; :mod:`~.reader` is the way in."""
