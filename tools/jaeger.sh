#!/bin/sh
# Builds the Jaeger that is pinned in tools/jaeger, and runs the tests that need one.
#
#   tools/jaeger.sh path/to/write/it command [argument]...
#
# The command finds it in CADDY_DOKU_JAEGER. If the modules that Jaeger is made of cannot be
# downloaded, this exits 0 and says that nothing was checked, or fails if DOKU_REQUIRE_PROGRAMS
# (comma-separated) names jaeger.
set -u

output=$1
shift
package=github.com/jaegertracing/jaeger/cmd/all-in-one

# Listing what it is made of downloads it, too.
if ! report=$(go list -C tools/jaeger -mod=readonly -deps -f '' "$package" 2>&1); then
	echo "$report" | tail -20
	case $report,${DOKU_REQUIRE_PROGRAMS:-}, in
	*"SECURITY ERROR"* | *"go.sum entry"* | *"updates to go.mod needed"* | *,jaeger,*) exit 1 ;;
	esac
	echo
	echo "Jaeger's modules cannot be downloaded from here: NOTHING WAS CHECKED with a real backend for traces."
	echo "Run 'make test-tracing' where the network allows it, or with GOPROXY set to a proxy that can be reached."
	exit 0
fi
echo "jaeger.sh: building Jaeger (minutes the first time, seconds later)"
mkdir -p "$(dirname -- "$output")"
go build -C tools/jaeger -mod=readonly -o "$output" "$package" || exit 1
CADDY_DOKU_JAEGER=$output exec "$@"
