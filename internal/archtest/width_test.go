package archtest_test

import (
	"go/ast"
	"regexp"
	"strings"
	"testing"
)

const (
	maxCommentColumns = 100
	tabColumns        = 4
)

var (
	// directive is a comment for a tool, which reads it as one line.
	directive = regexp.MustCompile(`^//[a-z]+(:|$|\s*//)`)
	// exampleOutput begins what an example prints, line by line.
	exampleOutput = regexp.MustCompile(`(?i)^//\s*(unordered )?output:`)
)

// One width lets a page of comments be read in any editor and beside another file. Code is not
// limited: gofmt does not break lines, and nor does a comment behind code count.
func TestNoCommentIsWiderThan100Columns(t *testing.T) {
	for _, s := range sourcesOfAllModules(t) {
		lines := strings.Split(string(s.bytes), "\n")
		for _, group := range s.file.Comments {
			for _, c := range proseOf(group) {
				for n := s.line(c); n <= s.fset.Position(c.End()).Line; n++ {
					if columns := tooWide(lines[n-1]); columns > 0 {
						t.Errorf("%s:%d: the comment has %d columns, at most %d: %s",
							s.path, n, columns, maxCommentColumns, strings.TrimSpace(lines[n-1]))
					}
				}
			}
		}
	}
}

// proseOf returns the comments of a group that are neither directives nor an example's output.
func proseOf(group *ast.CommentGroup) []*ast.Comment {
	var prose []*ast.Comment
	for _, c := range group.List {
		if exampleOutput.MatchString(c.Text) {
			break
		}
		if !directive.MatchString(c.Text) {
			prose = append(prose, c)
		}
	}
	return prose
}

// tooWide returns the width of a line that is a comment and wider than allowed, else 0. A line of
// one word, such as a URL, cannot be broken.
func tooWide(line string) int {
	text := strings.TrimSpace(line)
	words := strings.Fields(strings.TrimPrefix(text, "//"))
	columns := columnsOf(strings.TrimRight(line, " \t\r"))
	if !strings.HasPrefix(text, "//") || len(words) < 2 || columns <= maxCommentColumns {
		return 0
	}
	return columns
}

func columnsOf(line string) int {
	columns := 0
	for _, r := range line {
		if r == '\t' {
			columns += tabColumns - columns%tabColumns
		} else {
			columns++
		}
	}
	return columns
}

func TestWidthOfComments(t *testing.T) {
	long := strings.Repeat("word ", 19) // 95 columns
	for _, tt := range []struct {
		name, line string
		want       int
	}{
		{"of 100 columns", "// " + long + "it", 0},
		{"of 101 columns", "// " + long + "all", 101},
		{"with a tab", "\t// " + long[:90], 0},
		{"with a tab, of 102 columns", "\t// " + long[:94] + "!", 102},
		{"of letters outside ASCII", "// " + long + "äö", 0},
		{"of one word", "// https://example.com/" + strings.Repeat("x", 100), 0},
		{"of a table", "//\t" + long + "all", 102},
		{"behind code", "x := 1 // " + long, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tooWide(tt.line); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
