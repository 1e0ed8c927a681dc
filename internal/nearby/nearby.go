// Package nearby finds the name that somebody meant who wrote another one. It is pure.
package nearby

import "strings"

// Letters is how many letters a name may be away from the one that is suggested.
const Letters = 2

// Names returns those of the names that are closest to the one that was given, and no further away
// than [Letters], in their order.
func Names(given string, names []string) []string {
	var found []string
	closest := Letters
	for _, name := range names {
		far := Distance(strings.ToLower(given), strings.ToLower(name))
		if far < closest {
			found, closest = nil, far
		}
		if far == closest {
			found = append(found, name)
		}
	}
	return found
}

// Distance is how many letters have to be put in, taken out, replaced or swapped with the next to
// make b of a (optimal string alignment).
func Distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			replaced := row[j]
			if a[i] != b[j] {
				replaced++
			}
			next[j+1] = min(replaced, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
