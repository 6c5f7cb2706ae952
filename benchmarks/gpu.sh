#!/usr/bin/env bash
# Everything worth knowing about one GPU, on a machine without a network: see benchmarks/gpu.py.
#
#   benchmarks/gpu.sh wheels [3.12]   where there is a package index: fills .wheels/ (12 MB) with
#                                     what a machine with PyTorch and transformers still lacks
#   benchmarks/gpu.sh [OPTIONS]       on the GPU machine, .wheels/ carried along; the options are
#                                     those of `python -m benchmarks.gpu`
#   benchmarks/gpu.sh --tiny          the same on a CPU with toy sizes, to try it
#
# PY names the Python to use, OUT the folder for results (default: gpu-out).
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PY:-}" ]; then
    PY=python3
    [ -x .venv/bin/python ] && PY=.venv/bin/python
fi

if [ "${1:-}" = wheels ]; then
    lacking='diffusers|piq|open_clip_torch|ftfy|wcwidth|pluggy|pydantic|pydantic_core'
    lacking="$lacking|annotated-types|typing-inspection|typing_extensions|tomli_w"
    lacking="$lacking|importlib_metadata|zipp|lazy-importer"
    mkdir -p .wheels
    rm -f .wheels/*.whl
    grep -iE "^($lacking)==" constraints.txt | "$PY" -m pip download -q --no-deps \
        --only-binary=:all: --python-version "${2:-3.12}" --platform manylinux2014_x86_64 \
        --platform manylinux_2_28_x86_64 --platform any -d .wheels -r /dev/stdin
    du -sh .wheels
    exit
fi

export OUT=${OUT:-$PWD/gpu-out} HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
# Sixteen threads for tensors of this size waited for each other: 100 s in place of 5.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
export PYTHONPATH=$PWD:$PWD/plugins${PYTHONPATH:+:$PYTHONPATH}
if ! "$PY" -c 'import apdm_cli.cli.main, diffusers; from importlib.metadata import version
version("apdm")' 2>/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PY" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" $(ls .wheels/*.whl | grep -v '/apdm-')
    # The project runs from its folder; what an installation would add are its entry points.
    SITE=$site "$PY" - <<'PYTHON'
import os, pathlib, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
folder = pathlib.Path(os.environ["SITE"], f"apdm-{project['version']}.dist-info")
folder.mkdir()
head = f"Metadata-Version: 2.1\nName: apdm\nVersion: {project['version']}\n"
(folder / "METADATA").write_text(head)
lines = ["[apdm]", *(f"{k} = {v}" for k, v in project["entry-points"]["apdm"].items())]
(folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
PYTHON
    export PYTHONPATH=$PYTHONPATH:$site
fi
"$PY" -m benchmarks.gpu --out "$OUT" "$@"
