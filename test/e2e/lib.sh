# shellcheck shell=bash
# Sourced by the scripts beside it: a table of what was shown.

shown=() failures=0

# check SENTENCE COMMAND... notes whether the command holds what the sentence says.
check() {
	local sentence=$1 out
	shift
	if out=$("$@" 2>&1); then
		note ok "$sentence"
		return
	fi
	note FAILED "$sentence"
	failures=$((failures + 1))
	printf '%s\n' "${out:0:2000}" | sed 's/^/    /'
}

note() {
	local line
	line=$(printf '%-7s %s' "$1" "$2")
	shown+=("$line")
	printf '%s\n' "$line"
}

not() { ! "$@"; }

# says TEXT COMMAND... holds if the command prints the text.
says() {
	local text=$1 said
	shift
	said=$("$@" 2>&1)
	case $said in
	*"$text"*) ;;
	*)
		printf '%s\n' "$said"
		return 1
		;;
	esac
}

# table prints all of it once more, and ends the script.
table() {
	printf '\n%s\n' "$1"
	printf '  %s\n' "${shown[@]}"
	printf '%d passed, %d failed\n' "$((${#shown[@]} - failures))" "$failures"
	[ "$failures" = 0 ]
}
