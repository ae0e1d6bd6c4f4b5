"""Suites of data sets, methods and tasks: run, stored and summarised as one."""
