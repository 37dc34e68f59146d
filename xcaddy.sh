#!/bin/sh
# Builds Caddy with the modules of this checkout, as one static program.
#
#   ./xcaddy.sh [output] [--with module[@version][=path]]...
#
# output is bin/caddy-doku beside this script, unless given. --with adds another module of Caddy's,
# such as a rate limit.
#
# Needs Go and, the first time, the network. Caddy's version is the one in go.mod, xcaddy's the
# one in tools/go.mod. To build for another system, set GOOS and GOARCH.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
module=github.com/caddy-doku/caddy-doku

fail() {
	echo "xcaddy.sh: $*" >&2
	exit 1
}

# version names what is built in `list-modules --versions` and `build-info`: the tag or, between
# tags, the commit with its time, as Go does it; "dirty" is added if files differ from it.
version() {
	top=$(git -C "$root" rev-parse --show-toplevel 2>/dev/null) || top=
	if [ "$top" != "$root" ] || ! commit=$(git -C "$root" rev-parse --short=12 --verify -q HEAD); then
		echo v0.0.0
		return
	fi
	dirty=$(git -C "$root" status --porcelain)
	tag=$(git -C "$root" describe --tags --exact-match --match 'v[01].*.*' 2>/dev/null) || tag=
	if [ -n "$tag" ] && [ -z "$dirty" ]; then
		echo "$tag"
		return
	fi
	time=$(TZ=UTC git -C "$root" log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S)
	echo "v0.0.0-$time-$commit${dirty:+.dirty}"
}

output=$root/bin/caddy-doku
case ${1:---with} in
-*) ;;
*)
	output=$1
	shift
	;;
esac
# What is left is checked here and handed to xcaddy as it is.
expected=--with
for argument; do
	case $expected:$argument in
	--with:--with) expected=module ;;
	module:[!-]*) expected=--with ;;
	*) fail "expected [output] [--with module[@version][=path]]..., found '$argument'" ;;
	esac
done
[ "$expected" = --with ] || fail "expected a module after --with"
case $output in
/*) ;;
*) output=$PWD/$output ;;
esac
[ ! -d "$output" ] || fail "$output is a directory; give the name of the program to write"

cd "$root"
needed=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)
command -v go >/dev/null ||
	fail "Go $needed or later is needed and no 'go' is in PATH; see https://go.dev/doc/install"
# Asked inside the module, so that a go command that may fetch newer toolchains has done so.
found=$(go env GOVERSION) || fail "'go env' failed; Go $needed or later is needed"
echo "$found" | awk -v needed="$needed" '
	BEGIN { split(needed, want, ".") }
	match($0, /go[0-9]+\.[0-9]+/) {
		split(substr($0, RSTART + 2, RLENGTH - 2), have, ".")
		ok = have[1] > want[1] || have[1] == want[1] && have[2] + 0 >= want[2] + 0
	}
	END { exit !ok }' ||
	fail "Go $needed or later is needed, found $found ($(command -v go)); see https://go.dev/doc/install"

# What GOFLAGS and GOWORK say of a module's files is meant for the caller's own module; xcaddy
# makes a temporary one, in which -mod=vendor or a workspace cannot work.
others=$(go env GOFLAGS | sed -E 's/(^| )--?(mod|modfile)=[^ ]*//g')
export GOFLAGS="-mod=mod $others" GOWORK=off

caddy=$(GOFLAGS="-mod=readonly $others" go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
version=$(version)
work=$(mktemp -d "${TMPDIR:-/tmp}/caddy-doku-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$(dirname -- "$output")" bin/tools
echo "xcaddy.sh: building xcaddy"
GOFLAGS="-mod=readonly $others" GOOS=$(go env GOHOSTOS) GOARCH=$(go env GOHOSTARCH) \
	go build -C tools -o "$root/bin/tools/xcaddy" github.com/caddyserver/xcaddy/cmd/xcaddy

echo "xcaddy.sh: building Caddy $caddy with $module $version (minutes the first time, seconds later)"
if ! XCADDY_PRINT_VERSION=0 bin/tools/xcaddy build "$caddy" --output "$work/caddy-doku" \
	--with "$module@$version=$root" "$@" >"$work/log" 2>&1 || [ ! -f "$work/caddy-doku" ]; then
	cat "$work/log" >&2
	fail "the build failed; what xcaddy and Go said is above"
fi
# Moved beside it first, then renamed over it: a running program is replaced, never half-written.
mv -f "$work/caddy-doku" "$output.new"
mv -f "$output.new" "$output"
echo "xcaddy.sh: wrote $output"
