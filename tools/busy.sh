#!/bin/sh
# Runs the tests while every core is busy with two endless loops: no test may depend on how
# fast the machine is.
#
#   tools/busy.sh                 make test, make race, and 20 times the packages that wait for time
#   tools/busy.sh COMMAND [ARG…]  this command instead
#
# It takes hours. BUSY_COUNT (20) is how often the packages that wait for time are tested,
# BUSY_LOOPS (2) the number of loops per core, and BUSY_TIMEOUT (3h) the limit of each step.
# The loops end with this script, even if it is killed. It exits 1 if a step has failed.
set -u
cd "$(dirname -- "$0")/.." || exit 1

loops=$(($(getconf _NPROCESSORS_ONLN) * ${BUSY_LOOPS:-2}))
timeout=${BUSY_TIMEOUT:-3h}
pids=

end() {
	# shellcheck disable=SC2086 # several words
	[ -z "$pids" ] || kill $pids 2>/dev/null
	pids=
	wait
}
trap end EXIT
trap 'exit 1' HUP INT TERM

# loop keeps a core busy until this script has ended, which $$ is the id of.
loop() {
	while kill -0 $$ 2>/dev/null; do
		i=0
		while [ $i -lt 100000 ]; do i=$((i + 1)); done
	done
}

# waiting lists the packages whose tests wait for time or for other programs. Those against
# the built binary are not among them: they take minutes, and make test and race run them.
waiting() {
	grep -rlE --include='*_test.go' 'testing/synctest|time\.(Sleep|After|NewTimer|NewTicker)|StartRedis|doktest\.Eventually' . |
		grep -vE '^\./(integration|tools)/' | xargs -n 1 dirname | sort -u
}

failed=
step() {
	echo "busy.sh: $*"
	"$@" || failed="$failed
  $*"
}

while [ "$loops" -gt 0 ]; do
	loop &
	pids="$pids $!"
	loops=$((loops - 1))
done

if [ $# -gt 0 ]; then
	step "$@"
else
	step make test TIMEOUT="$timeout"
	step make race TIMEOUT="$timeout"
	# shellcheck disable=SC2046 # one word each
	step go test -count="${BUSY_COUNT:-20}" -timeout="$timeout" $(waiting)
fi
[ -z "$failed" ] && exit 0
echo "busy.sh: these steps have failed:$failed"
exit 1
