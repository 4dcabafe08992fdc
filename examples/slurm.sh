#!/bin/bash
# Segment on the nodes of one SLURM job; give the same command again to go on after the time limit.
#
#     sbatch examples/slurm.sh IMAGE OUT [options of cellseg3d-dist segment]
#
# IMAGE, OUT and the folder of submission must be visible from all nodes, and the virtual
# environment active. Adapt the lines below to the cluster.
#SBATCH --job-name=cellseg3d-dist
#SBATCH --ntasks=32
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=6G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
image=$1 out=$(realpath -m "$2")
shift 2
memory=5GB # per worker, somewhat below --mem-per-cpu
scheduler=$out.scheduler.json # the same in every job, as resume reads it from OUT/run.yaml
scratch=${TMPDIR:-/tmp}
export OMP_NUM_THREADS=1

rm -f "$scheduler"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$scheduler"' EXIT
dask scheduler --scheduler-file "$scheduler" --port 0 --no-dashboard &
until [ -s "$scheduler" ]; do sleep 1; done
srun dask worker --scheduler-file "$scheduler" --nthreads 1 --memory-limit "$memory" \
  --local-directory "$scratch" --death-timeout 60 --no-dashboard &

if [ -e "$out/run.json" ]; then
  cellseg3d-dist resume "$out" &
else
  cellseg3d-dist segment "$image" "$out" --scheduler "$scheduler" "$@" &
fi
run=$!
# near the time limit: finish and note the blocks in flight, then end
trap 'kill -TERM $run' TERM
code=0
wait "$run" || code=$?
if kill -0 "$run" 2>/dev/null; then
  code=0
  wait "$run" || code=$?
fi
exit "$code"
