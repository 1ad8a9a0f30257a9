#!/usr/bin/env bash
# The queue's figures in one run, beside tsp (alone, and running bwrap) and nq: durable submits, jobs per second end to
# end, CPU time of berthd, decisions, restart with a million waiting, growth of the database. As root, on a quiet machine: tests/bench/bench_queue.sh [BUILD] [JOBS]
set -euo pipefail
build=${1:-build/release}
jobs=${2:-2000}
build=$(realpath "$build")
folder=$(mktemp -d /srv/berth-bench-XXXXXX)
socket=$folder/run/berthd.sock
berthd=
cleanup() {
  [[ -z $berthd ]] || kill "$berthd" 2>/dev/null || true
  for name in "$folder"/run/runners/run-*.sock; do
    pid=${name##*/run-}
    kill "${pid%%-*}" 2>/dev/null || true
  done
  sleep 1
  rm -rf "$folder"
}
trap cleanup EXIT
cat >"$folder/berthd.json" <<JSON
{"socket": "$socket", "runtime_directory": "$folder/run", "state_directory": "$folder/state", "log_level": "warning"}
JSON
start() {
  "$build/scheduler/berthd" --config "$folder/berthd.json" &
  berthd=$!
  until "$build/scheduler/berth" slots --socket "$socket" >/dev/null 2>&1; do sleep 0.02; done
}
ticks() { awk '{print $14 + $15}' "/proc/$berthd/stat"; }
now() { date +%s.%N; }

start
echo "== jobs of /bin/true, submitted to ended"
before=$(ticks)
"$build/tests/bench_queue" --drain "$socket" "$jobs"
echo "berthd CPU per 1,000 jobs: $(awk -v t="$(($(ticks) - before))" -v n="$jobs" 'BEGIN {printf "%.3f s", t / 100 * 1000 / n}')"
# run_tsp WHAT JOBS COMMAND...: with as many slots as berthd has
run_tsp() {
  local what=$1 many=$2 from index
  shift 2
  export TS_SOCKET=$folder/tsp
  tsp -S "$(nproc)"
  from=$(now)
  for ((index = 0; index < many; ++index)); do tsp -n "$@" >/dev/null; done
  tsp -w
  while tsp | grep -qE 'queued|running'; do sleep 0.01; done
  echo "tsp: $(awk -v a="$from" -v b="$(now)" -v n="$many" 'BEGIN {printf "%.0f", n / (b - a)}') jobs/s ($what)"
  tsp -K
}
if command -v tsp >/dev/null; then
  run_tsp "no isolation, nothing durable" "$jobs" /bin/true
  if command -v bwrap >/dev/null; then
    run_tsp "each in bwrap, no limits, nothing durable" "$((jobs / 2))" bwrap --unshare-all --ro-bind / / --dev /dev \
      --proc /proc --tmpfs /tmp --cap-drop ALL /bin/true
  fi
fi
if command -v nq >/dev/null; then
  few=$((jobs / 4))
  mkdir "$folder/nq"
  from=$(now)
  for ((index = 0; index < few; ++index)); do NQDIR=$folder/nq nq -q /bin/true; done
  NQDIR=$folder/nq nq -w
  echo "nq: $(awk -v a="$from" -v b="$(now)" -v n="$few" 'BEGIN {printf "%.0f", n / (b - a)}') jobs/s (one at a time, no isolation)"
fi
echo "== durable submits"
"$build/tests/bench_queue" --submit "$socket" 1 3000
"$build/tests/bench_queue" --submit "$socket" 16 16000
"$build/tests/bench_queue" --submit "$socket" 1 10000 10000
# The runners stay, and serve the next berthd.
stop() {
  kill -9 "$berthd"
  wait "$berthd" 2>/dev/null || true
  berthd=
}
echo "== restart with a million waiting"
stop
rm -f "$folder"/state/berthd.db*
"$build/tests/bench_queue" --fill "$folder/state/berthd.db" 1000000
touch "$folder/state/draining"
for _ in 1 2 3; do
  from=$(now)
  start
  echo "serving after $(awk -v a="$from" -v b="$(now)" 'BEGIN {printf "%.2f", b - a}') s; $(grep VmRSS "/proc/$berthd/status" | tr -s '\t ' ' ')"
  stop
done
echo "== growth"
"$build/tests/bench_queue" --grow "$folder/grown.db" 100000
echo "== decisions"
for many in 1000 100000 1000000; do "$build/tests/bench_queue" --decide "$many"; done
