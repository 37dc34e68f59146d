#!/bin/sh
# Writes testdata/earlier anew: what the version at a revision, by default the last commit, leaves in
# an inbox file and in Redis.
#
#	tools/earlier.sh [<revision>]
#
# Tokens and records end with a time of their own, so they are made in 2066: by a sidecar and a test
# whose clock, in Go's package time, is 40 years ahead. Building them takes some minutes. It needs
# redis-server.
set -eu
cd "$(dirname "$0")/.."
revision=$(git rev-parse "${1:-HEAD}")
dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/source" 2>/dev/null; rm -rf "$dir"' EXIT

clock=$(go env GOROOT)/src/time/time.go
sed 's/sec, nsec, mono := runtimeNow()$/&; sec += 40 * 365 * 24 * 3600/' "$clock" >"$dir/time.go"
! cmp -s "$clock" "$dir/time.go" || { echo "time.Now is not as expected in $clock" >&2; exit 1; }
echo "{\"Replace\": {\"$clock\": \"$dir/time.go\"}}" >"$dir/overlay.json"

git worktree add --quiet --detach "$dir/source" "$revision"
go build -C "$dir/source" -buildvcs=false -overlay "$dir/overlay.json" -o "$dir/caddy-doku" ./cmd/caddy

mkdir -p testdata/earlier
CADDY_DOKU_BIN=$dir/caddy-doku DOKU_RECORD_EARLIER=yes \
	go test -overlay "$dir/overlay.json" -count=1 -v -run '^TestWhatTheVersionBeforeHasLeftIsUsed$' ./integration
