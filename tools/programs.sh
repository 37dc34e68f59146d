#!/bin/sh
# Installs what tests start besides the sidecar: python3, node, php and a JDK for the small apps in
# these languages, ruby, redis-server for the shared store, and chromium as a web page's browser; and,
# from Debian's packages, the HTTP clients php-curl, python3-requests and node-axios.
#
# It takes them from the system's package manager where that needs no password, and never asks
# anything. A program that cannot be had is no error: its tests say that they were skipped, and
# fail instead if DOKU_REQUIRE_PROGRAMS names it (python3, node, php, ruby, javac,
# redis-server, chromium; comma-separated). DOKU_INSTALL_PROGRAMS=no leaves the system as it is.
set -u

# works tells whether a program runs; macOS has a javac that only says it is none.
works() {
	case $1 in
	javac) javac -version ;;
	php-curl) php -r 'exit(function_exists("curl_init") ? 0 : 1);' ;;
	python3-requests) /usr/bin/python3 -c 'import requests' ;;
	node-axios) NODE_PATH=/usr/share/nodejs node -e 'require("axios")' ;;
	*) "$1" --version ;;
	esac >/dev/null 2>&1 </dev/null
}

missing=
for program in python3 node php ruby javac redis-server chromium php-curl python3-requests node-axios; do
	works "$program" || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

skipped() {
	for program in $missing; do
		works "$program" || echo "The tests that need $program will be skipped: it is not installed, and $1."
	done
	exit 0
}

[ "${DOKU_INSTALL_PROGRAMS:-yes}" != no ] || skipped "DOKU_INSTALL_PROGRAMS=no keeps make from installing it"

root=
[ "$(id -u)" = 0 ] || root="sudo -n"
refresh() { :; }
if command -v apt-get >/dev/null; then
	refresh() { $root apt-get update -q; }
	install() { $root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qy --no-install-recommends "$1"; }
	names="python3:python3 node:nodejs php:php-cli ruby:ruby javac:default-jdk-headless redis-server:redis-server chromium:chromium"
	names="$names php-curl:php-curl python3-requests:python3-requests node-axios:node-axios"
elif command -v apk >/dev/null; then
	install() { $root apk add --no-cache "$1"; }
	names="python3:python3 node:nodejs php:php ruby:ruby javac:openjdk21-jdk redis-server:redis chromium:chromium"
elif command -v dnf >/dev/null; then
	install() { $root dnf install -qy "$1"; }
	names="python3:python3 node:nodejs php:php-cli ruby:ruby javac:java-devel redis-server:redis chromium:chromium"
elif command -v brew >/dev/null; then
	root=
	install() { HOMEBREW_NO_AUTO_UPDATE=1 brew install -q "$1"; }
	names="python3:python node:node php:php ruby:ruby javac:openjdk redis-server:redis"
else
	skipped "none of apt-get, apk, dnf and brew is here to install it with"
fi
# shellcheck disable=SC2086 # "sudo -n" is two words
if [ -n "$root" ] && ! $root true 2>/dev/null; then
	skipped "installing it needs root or a sudo that asks no password"
fi

output=$(refresh 2>&1 </dev/null) || echo "$output"
for program in $missing; do
	for name in $names; do
		[ "${name%%:*}" = "$program" ] || continue
		echo "Installing ${name#*:} for the tests"
		output=$(install "${name#*:}" 2>&1 </dev/null) || echo "$output"
	done
done
skipped "installing it failed"
