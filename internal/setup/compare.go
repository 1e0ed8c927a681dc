package setup

import (
	"slices"
	"strings"
)

// Changes shows how a text would become another: every line, with "-" before those that would go,
// "+" before those that would come and " " before the others. It is nil if nothing would change.
func Changes(from, to string) []string {
	if from == to {
		return nil
	}
	a, b := lines(from), lines(to)
	common := commonLines(a, b)
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

// maxCompared bounds the table of [commonLines]: configurations have some dozens of lines.
const maxCompared = 2000

func lines(text string) []string {
	all := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(all) > maxCompared {
		all = append(slices.Clone(all[:maxCompared]), "…")
	}
	return all
}

// commonLines has at [i][j] how many lines a[i:] and b[j:] have in common, in their order.
func commonLines(a, b []string) [][]int {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	return common
}
