#!/usr/bin/env bash
# Compiles the AssemblyScript programs beside it, and writes down what was made
# of what. It needs Node.js; the results are committed, so nothing else does.
set -euo pipefail
cd "$(dirname "$0")"
for program in sha256 sort json; do
  npx --yes --package assemblyscript@0.28.20 asc "$program.ts" --outFile "$program.wasm" \
    --runtime stub --use abort= -O3 --noAssert
done
sha256sum ./{json,sha256,sort}.{ts,wasm} >SHA256SUMS
