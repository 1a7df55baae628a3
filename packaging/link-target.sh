#!/bin/bash
# link-target.sh: makes target-link point to cargo's target directory, wherever CARGO_TARGET_DIR puts it
set -euo pipefail
ln -sfn "${CARGO_TARGET_DIR:-target}" target-link
