#!/usr/bin/env bash
# Write requirements.lock anew: install pyproject.toml with its dev extra into a fresh environment and freeze it.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --upgrade pip
git archive HEAD | tar x -C "$scratch"  # away from here: setuptools leaves a build folder where it works
cp pyproject.toml "$scratch"
"$scratch/venv/bin/python" -m pip install --quiet "$scratch[dev]"
{
  echo "# Written by \`make lock\` from pyproject.toml. Models and data: requirements-data.lock."
  "$scratch/venv/bin/python" -m pip freeze --exclude reseed --exclude pip --exclude setuptools | sed -E 's/\+cpu$//' | grep -vE '^(nvidia-|triton==)'
} > requirements.lock
