# Reads the output of `go test -v` and prints what go test prints without -v: a line for
# each package, and all that a failing package said. The skipped tests and their reasons
# are added to the file that the variable skips names, because a skip that nobody sees is
# a test that nobody has. What is no test by itself (tooltest.Entry) is not counted.

# The reason of a skip is the last log line before it.
/^ +[^ ]+\.go:[0-9]+: / { reason = $0; sub(/^ +[^ ]+: /, "", reason) }

/^ *--- SKIP: / {
	if (reason != "not a test: other tests start it") print $3 ": " reason >>skips
	reason = ""
}

# Progress marks and passed tests are of no use to someone who looks for a failure.
/^=== (RUN|PAUSE|CONT|NAME) / || /^ *--- (PASS|SKIP): / || /^PASS$/ { next }

/^ok  ?\t/ || /^\?   ?\t/ || /^\t[^ \t]+\t+coverage: / { print; fflush(); held = 0; next }

/^FAIL\t/ {
	for (i = 1; i <= held; i++) print hold[i]
	print
	fflush()
	held = 0
	next
}

{ hold[++held] = $0 }

END {
	for (i = 1; i <= held; i++) print hold[i]
}
