#!/bin/bash
# build-program.sh NAME MODULE VERSION [PACKAGE]: builds one command of a Go module into $KIT_WORK/programs once, and prints where the module's
# files are (its CRDs among them): a copy without the replace lines that name folders which the published module does not have.
# NEEDS=FILE: made empty before, for modules that embed what their own build makes. ADD=FOLDER: its files are added, for modules whose commands
# are modules of their own that the proxy does not have.
set -euo pipefail; . "$(dirname "$0")/kit.env"
name=$1 module=$2 version=$3 package=${4:-.}
out=$KIT_WORK/programs; source=$KIT_WORK/build/program-$name-$version; mkdir -p "$out" "$KIT_WORK/build"
export GOFLAGS="-buildvcs=false -mod=mod" CGO_ENABLED=0
if [ ! -e "$source/go.mod" ]; then
  rm -rf "$source.new"; cp -r "$(cd / && go mod download -json "$module@$version" | jq -r .Dir)" "$source.new"; chmod -R u+w "$source.new"
  (cd "$source.new" && go mod edit -json | jq -r '.Replace[]? | select(.New.Version == null) | .Old.Path' | while read -r path; do go mod edit -dropreplace="$path"; done)
  [ -z "${NEEDS:-}" ] || { mkdir -p "$source.new/$(dirname "$NEEDS")"; touch "$source.new/$NEEDS"; }
  mv "$source.new" "$source"
fi
if [ -n "${ADD:-}" ]; then
  cp -r "$ADD/." "$source"; [ -z "$(find "$ADD" -type f -newer "$out/$name-$version" 2> /dev/null)" ] || rm -f "$out/$name-$version"
fi
[ -x "$out/$name-$version" ] || { cd "$source" && go build -trimpath -ldflags '-s -w' -o "$out/$name-$version" "$package"; }
ln -sf "$name-$version" "$out/$name"
echo "$source"
