#!/bin/sh
# Looks for known vulnerabilities in what this module's code calls, with the govulncheck given.
#
#   tools/vuln.sh path/to/govulncheck
#
# Exits 0 if there are none, and also if the database cannot be reached: it then says that
# nothing was checked. GOVULNDB may name another database.
set -u

report=$("$1" ${GOVULNDB:+-db "$GOVULNDB"} ./... 2>&1) && status=0 || status=$?
echo "$report"
case $status:$report in
0:*) ;;
*:*"fetching vulnerabilities:"*)
	echo
	echo "The vulnerability database cannot be reached from here: NOTHING WAS CHECKED for vulnerabilities."
	echo "Run 'make vuln' where the network allows it, or set GOVULNDB to a database that can be reached."
	;;
*) exit "$status" ;;
esac
