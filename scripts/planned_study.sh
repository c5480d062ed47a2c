#!/usr/bin/env bash
# All runs of docs/preregistration.md in one resumable command: scripts/planned_study.sh [PART ...]
#
#   PART    mnist, mnist_h256, imdb, theory, document. Default: all of them, in this order
#
# What has finished is not run again, and a part that was stopped continues. RUNS is the folder of the networks (default
# runs), DOCS that of the tables and of controls.md (default docs). FLAGS are further flags of the sweeps, such as
# "--seeds 11 12 13 14 15". TINY=1 tries everything in minutes, with few images, two seeds and one draw in ten.
# MNIST and IMDB are folders in Hub layout in place of the Hub's data. PYTHON chooses the interpreter.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
RUNS=${RUNS:-runs}
DOCS=${DOCS:-docs}
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
read -ra further <<< "${FLAGS:-}"
mnist=() imdb=() tiny=() few=() theory=() seeds=()
if [ -n "${MNIST:-}" ]; then mnist=(--dataset_name "$MNIST"); theory=(--mnist "$MNIST"); fi
if [ -n "${IMDB:-}" ]; then imdb=(--dataset_name "$IMDB"); fi
if [ "${TINY:-0}" = 1 ]; then
  tiny=(--max_train_samples 300 --max_test_samples 100 --num_train_epochs 2 --train_batch_size 20 --learning_rate 0.01)
  few=(--num_chains 2 --num_draws 20 --seeds 11 12)
  theory+=(--max_train_samples 300 --num_draws 20 --batch_size 100 --step_sizes 1e-5 5e-6)
  seeds=(11 12)
else
  seeds=(11 12 13 14 15)
fi

selfmod() { "$PYTHON" -m selfmod_hf "$@"; }

# other NAME FLAG...: the other network, unless it is there
other() {
  local folder="$RUNS/$1"
  shift
  [ -e "$folder/model.safetensors" ] || selfmod train --aux_weight 0 --quiet --output_dir "$folder" "$@" "${tiny[@]}"
}

# study NAME FILE FLAG...: the networks of a file of examples/, and their tables
study() {
  local folder="$RUNS/preregistered-$1" file="$RUNS/$2"
  sed "s#network:runs/#network:$RUNS/#" "$ROOT/examples/$2" > "$file"
  shift 2
  selfmod sweep --quiet --config "$file" --output_dir "$folder" "$@" "${tiny[@]}" "${few[@]}" "${further[@]}"
  selfmod report "$folder" --tables_dir "$DOCS/results/$(basename "$folder")" > /dev/null
}

run_mnist() {
  other other-h64-a --task mnist --seed 91 "${mnist[@]}"
  other other-h64-b --task mnist --seed 92 "${mnist[@]}"
  study h64 preregistered_mnist.yaml "${mnist[@]}"
}

run_mnist_h256() {
  other other-h256 --task mnist --hidden_sizes 256 --seed 91 "${mnist[@]}"
  study h256 preregistered_mnist_h256.yaml "${mnist[@]}"
}

run_imdb() {
  other other-imdb --task imdb --seed 91 "${imdb[@]}"
  study imdb preregistered_imdb.yaml "${imdb[@]}"
}

run_theory() {
  "$PYTHON" "$ROOT/scripts/theory_rlct.py" "$RUNS/preregistered-h64" --seeds "${seeds[@]}" \
    --file "$RUNS/theory-h64/estimates.jsonl" "${theory[@]}" \
    --arms baseline own-1 own-5 own-10 as-own-10 other-a-10 shuffled-10 decay-last-3e-3 units-32
  cp "$RUNS/theory-h64/estimates.jsonl" "$DOCS/results/theory-h64.jsonl"
}

# the document of the tables that there are
run_document() {
  local folders=() estimates=() name
  for name in h64 h256 imdb; do
    [ ! -e "$DOCS/results/preregistered-$name/results.parquet" ] || folders+=("$DOCS/results/preregistered-$name")
  done
  [ ! -e "$DOCS/results/theory-h64.jsonl" ] || estimates=(--theory "$DOCS/results/theory-h64.jsonl" --theory_seeds "${seeds[@]}")
  "$PYTHON" "$ROOT/scripts/controls.py" "${folders[@]}" "${estimates[@]}" --write "$DOCS/controls.md"
}

[ $# -gt 0 ] || set -- mnist mnist_h256 imdb theory document
mkdir -p "$RUNS" "$DOCS/results"
for part in "$@"; do
  case $part in
    mnist | mnist_h256 | imdb | theory | document) "run_$part" ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
done
