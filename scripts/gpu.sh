#!/usr/bin/env bash
# What needs a GPU, in one command, on a machine without a network: scripts/gpu.sh FILES OUT
#
#   FILES   mnist.safetensors.gz, perhaps cifar10.safetensors.gz (python scripts/gpu.py pack FILES writes both, 52 MB),
#           and perhaps wheels/*.whl of packages that the machine lacks
#   OUT     the results. Each part that has finished is skipped when the command runs again, and a study continues.
#           OUT/tables has the tables of all studies, OUT/log.txt what was printed
#
# MINUTES is the time for everything (default 28). TINY=1 tries it in a minute on a CPU. PYTHON chooses the interpreter.
set -euo pipefail
[ -e "${1:-}/mnist.safetensors.gz" ] && [ $# -eq 2 ] || { sed -n '2,9p' "$0"; exit 2; }
mkdir -p "$2/done" "$2/data" "$2/tables"
FILES=$(cd "$1" && pwd)
OUT=$(cd "$2" && pwd)
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
END=$((SECONDS + 60 * ${MINUTES:-28}))
export PYTHONPATH="$ROOT:$OUT/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

if compgen -G "$FILES/wheels/*.whl" > /dev/null && [ ! -d "$OUT/site" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$OUT/site" "$FILES"/wheels/*.whl
fi
for packed in "$FILES"/*.safetensors.gz; do
  file="$OUT/data/$(basename "$packed" .gz)"
  [ -e "$file" ] || { gunzip --stdout "$packed" > "$file.part" && mv "$file.part" "$file"; }
done

tables() {
  for study in "$OUT"/*/results.parquet; do
    [ -e "$study" ] || continue
    folder=$(dirname "$study")
    mkdir -p "$OUT/tables/$(basename "$folder")"
    cp "$folder"/{results.parquet,curves.parquet,run.json} "$OUT/tables/$(basename "$folder")/"
  done
}

# part NAME COMMAND...: run a part if it has not finished, for as long as there is time
part() {
  local name=$1 left=$((END - SECONDS)) code=0
  shift
  [ ! -e "$OUT/done/$name" ] || return 0
  [ "$left" -gt 5 ] || { echo "$name: no time left" | tee -a "$OUT/log.txt"; return 0; }
  echo "== $name, $left s left" | tee -a "$OUT/log.txt"
  timeout --kill-after=20 "$left" "$@" 2>&1 | tee -a "$OUT/log.txt" || code=$?
  [ "$code" -ne 0 ] || touch "$OUT/done/$name"
  [ "$code" -eq 0 ] || echo "$name ended with exit code $code" | tee -a "$OUT/log.txt"
  case $code in 0 | 124 | 137) ;; *) failed=1 ;; esac  # a part that was cut by the clock has not failed
  tables
}

sweep() { echo "$PYTHON" -m selfmod_hf sweep --quiet --dataset_name "$OUT/data/$1.safetensors" --recipe "$1"; }

failed=0
figure=(--members_per_population 60)
small=(--hidden_sizes 64 --aux_weights 0 10 --seeds 1 2 --num_train_epochs 2 --num_draws 400)
cifar=(--seeds 1 --num_train_epochs 20 --max_test_samples 2000)
limits=()
if [ "${TINY:-0}" = 1 ]; then
  figure=(--hidden_sizes 8 --aux_weights 0 10 --seeds 1 --num_draws 6 --num_train_epochs 1 --max_train_samples 64)
  small=(--hidden_sizes 8 --aux_weights 0 10 --seeds 1 --num_train_epochs 1 --num_draws 6 --max_train_samples 64)
  limits=(--tiny)
fi

part cpu $(sweep mnist) "${small[@]}" --use_cpu True --output_dir "$OUT/cpu"
part gpu $(sweep mnist) "${small[@]}" --output_dir "$OUT/gpu"
part compare "$PYTHON" "$ROOT/scripts/gpu.py" compare "$OUT" "${limits[@]}"
part figure2 $(sweep mnist) "${figure[@]}" --output_dir "$OUT/figure2"
part ground_truth "$PYTHON" "$ROOT/scripts/gpu.py" ground_truth "$OUT" "${limits[@]}"
part benchmark "$PYTHON" "$ROOT/scripts/gpu.py" benchmark "$OUT" "${limits[@]}"
if [ -e "$OUT/data/cifar10.safetensors" ]; then
  part cifar10 $(sweep cifar10) "${cifar[@]}" --output_dir "$OUT/cifar10"
fi
tables
echo "finished: $(ls "$OUT/done" | tr '\n' ' ')" | tee -a "$OUT/log.txt"
exit "$failed"
