#!/usr/bin/env bash
# Runs linter, type checker and tests.  Arguments are passed on to pytest:
#   ./scripts/test.sh -m slow
source "$(dirname "$0")/environment.sh" "[dev,data]"

ruff check .
ruff format --check .
pyright
# Two processes.  The tests of a file stay in one, because they share fixtures.
# Files start in order of their names: in the default order, by number of tests,
# the slowest would start last.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
