package pemfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keyagent/keyagent/internal/shell"
)

// Error says why a file was not read, and in which line.
type Error struct {
	File    string // its path, put there by [Named]; empty: not known
	Line    int    // from 1; 0: the whole file
	Problem string
	Command string // a shell command that writes a readable file "unwrapped.pem", with FILE for the path; may be empty
}

// Error is one line: the fault, its place, and the command.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ": ")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	b.WriteString(e.Problem)
	if e.Command != "" {
		b.WriteString("; unwrap it: " + e.command())
	}
	return b.String()
}

func (e *Error) command() string {
	if e.File == "" || e.File == standardInput {
		return e.Command
	}
	return strings.ReplaceAll(e.Command, "FILE", shell.Word(e.File))
}

// standardInput is what messages call the file "-".
const standardInput = "standard input"

// Named gives an error of this package the path of the file, so that the command in it can be
// pasted. Other errors get it in front. The path "-" is standard input.
func Named(path string, err error) error {
	if err == nil {
		return nil
	}
	if path == "-" {
		path = standardInput
	}
	if e, ok := errors.AsType[*Error](err); ok {
		named := *e
		named.File = path
		return &named
	}
	return fmt.Errorf("%s: %w", path, err)
}
