# Reads the output of `go test -v` and prints how many seconds each package took, its name, and the test
# in it that took longest. Tests that are parts of others are in the time of these.

/^--- (PASS|FAIL): / {
	seconds = substr($4, 2) + 0
	if (seconds >= longest) { longest = seconds; name = $3 }
}

/^(ok  |FAIL)\t/ && $3 ~ /s$/ {
	if (longest > 0) test = sprintf("%s (%.1f)", name, longest)
	printf "%8.1f  %-52s %s\n", $3 + 0, $2, test
}

/^(ok  |FAIL|\?   )\t/ { longest = 0; name = test = "" }
