"""The commands of ``sttrain``, a file for each group; each is a thin client of one function."""
