#!/bin/sh
# Installs what the any-language tests run their small apps with: python3, node, php and a JDK.
#
# It takes them from the system's package manager where that needs no password, and never asks
# anything. A language that cannot be had is no error: its tests say that they were skipped, and
# fail instead if DOKU_REQUIRE_LANGUAGES names its program (python3, node, php, javac; comma-separated).
# DOKU_INSTALL_LANGUAGES=no leaves the system as it is.
set -u

# works tells whether a language's program runs; macOS has a /usr/bin/java that only says it is none.
works() {
	case $1 in
	java) javac -version ;; # the tests start a source file, which takes a compiler
	*) "$1" --version ;;
	esac >/dev/null 2>&1 </dev/null
}

missing=
for language in python3 node php java; do
	works "$language" || missing="$missing $language"
done
[ -n "$missing" ] || exit 0

skipped() {
	for language in $missing; do
		works "$language" || echo "The tests with an app in $language will be skipped: it is not installed, and $1."
	done
	exit 0
}

[ "${DOKU_INSTALL_LANGUAGES:-yes}" != no ] || skipped "DOKU_INSTALL_LANGUAGES=no keeps make from installing it"

root=
[ "$(id -u)" = 0 ] || root="sudo -n"
refresh() { :; }
if command -v apt-get >/dev/null; then
	refresh() { $root apt-get update -q; }
	install() { $root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qy --no-install-recommends "$1"; }
	names="python3:python3 node:nodejs php:php-cli java:default-jdk-headless"
elif command -v apk >/dev/null; then
	install() { $root apk add --no-cache "$1"; }
	names="python3:python3 node:nodejs php:php java:openjdk21-jdk"
elif command -v dnf >/dev/null; then
	install() { $root dnf install -qy "$1"; }
	names="python3:python3 node:nodejs php:php-cli java:java-devel"
elif command -v brew >/dev/null; then
	root=
	install() { HOMEBREW_NO_AUTO_UPDATE=1 brew install -q "$1"; }
	names="python3:python node:node php:php java:openjdk"
else
	skipped "none of apt-get, apk, dnf and brew is here to install it with"
fi
# shellcheck disable=SC2086 # "sudo -n" is two words
if [ -n "$root" ] && ! $root true 2>/dev/null; then
	skipped "installing it needs root or a sudo that asks no password"
fi

output=$(refresh 2>&1 </dev/null) || echo "$output"
for language in $missing; do
	for name in $names; do
		[ "${name%%:*}" = "$language" ] || continue
		echo "Installing ${name#*:} for the tests with an app in $language"
		output=$(install "${name#*:}" 2>&1 </dev/null) || echo "$output"
	done
done
skipped "installing it failed"
