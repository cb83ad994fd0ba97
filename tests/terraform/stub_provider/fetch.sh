#!/usr/bin/env bash
# Fetch the package that the schema is generated from, and generate it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm pack --silent @cdktf/provider-aws@21.22.1
echo "d1446ab6ac6526c6fab4b28a5ebefdd90c0ce56203949925d35a4d286c05cbbf  cdktf-provider-aws-21.22.1.tgz" | sha256sum --check --quiet
tar xzf cdktf-provider-aws-21.22.1.tgz
python3 "$here/generate.py" "$folder/package"
