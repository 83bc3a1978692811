#!/usr/bin/env bash
# Lint, types, tests.  Arguments go to pytest: ./scripts/test.sh -m slow
source "$(dirname "$0")/environment.sh" "[dev,data]"

ruff check .
ruff format --check .
pyright
# two processes, by files; by name, as by size the longest would come last
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
