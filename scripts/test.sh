#!/usr/bin/env bash
# Lint, types, tests.  Arguments go to pytest: ./scripts/test.sh -m slow
source "$(dirname "$0")/environment.sh" "[dev,data]"

ruff check .
ruff format --check .
pyright
python -m pytest -n 2 --dist loadfile "$@"  # two processes, by files
