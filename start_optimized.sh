#!/usr/bin/env bash
# Sets everything up and starts GenServe. The first run makes .venv and installs (see
# scripts/setup-venv); later runs only start. Arguments go to `genserve serve`:
#
#   ./start_optimized.sh --port 8000 --config my.yaml
#
# API keys may be declared here or, better, in .env (see .env.example):
#   export API_KEY_1="abc123def456:developer:generation,readonly"
#
# The environment below makes torch fast and steady. A value that is set already is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup-venv

# One growable segment for each pool of GPU memory instead of many fixed ones: pictures of changing
# sizes then do not end in "out of memory" while memory is free but in pieces.
: "${PYTORCH_CUDA_ALLOC_CONF:=${PYTORCH_ALLOC_CONF:-expandable_segments:True}}"

# GPU numbers as nvidia-smi shows them, so that `pool.devices: [0, 1]` means those.
: "${CUDA_DEVICE_ORDER:=PCI_BUS_ID}"

# Compute threads: as many as there are cores, since more only take turns. The server divides them
# among its worker processes (`pool.threads`).
: "${OMP_NUM_THREADS:=$(nproc)}"
: "${MKL_NUM_THREADS:=$OMP_NUM_THREADS}"

# What torch compiled is kept between starts, beside the rest of what the server writes.
cache="${GENSERVE_DATA_DIR:-data}/cache"
[[ "$cache" == /* ]] || cache="$PWD/$cache"
: "${TORCHINDUCTOR_CACHE_DIR:=$cache/torchinductor}"
: "${TRITON_CACHE_DIR:=$cache/triton}"

# Two heaps for malloc instead of eight for each core: long-running processes with many threads
# otherwise keep hundreds of megabytes that nobody uses.
: "${MALLOC_ARENA_MAX:=2}"

# A prompt is one line of text: threads in the tokenizer only get in the way.
: "${TOKENIZERS_PARALLELISM:=false}"

# Weights are read from models/ alone; nothing is ever looked up on the network.
: "${HF_HUB_OFFLINE:=1}"

export PYTORCH_CUDA_ALLOC_CONF CUDA_DEVICE_ORDER OMP_NUM_THREADS MKL_NUM_THREADS \
  TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR MALLOC_ARENA_MAX TOKENIZERS_PARALLELISM HF_HUB_OFFLINE

exec .venv/bin/python -m genserve serve "$@"
